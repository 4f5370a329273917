"""Which rows are held out: the same ones for every seed, balanced over classes."""

from __future__ import annotations

import numpy as np

from training.data.draws import uniforms

# Fixed apart from any run's seed: methods and seeds are compared on one split.
PURPOSES = {"test": 1, "validation": 2, "limit": 3, "long tail": 4, "wrong labels": 5}


def hold_out(labels: np.ndarray, rows: np.ndarray, share: float, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """(rows kept, rows held out), both ascending: of every class with n rows, round(share * n) are held out.

    Which ones depends on the row's number and the purpose alone.

    Args:
        labels: (N,), classes of all rows.
        rows: (M,), the rows to split, ascending.
        share: in [0, 1).
        purpose: "test" or "validation"; splits for different purposes are independent.

    Raises:
        ValueError: if the share is out of range, or no row would be left or none held out though the share is not 0.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share = {share!r} to hold out for {purpose} must lie in [0, 1)")
    rank, size = rank_within_class(labels[rows], rows, purpose)
    held = rank < np.floor(share * size + 0.5)
    if share and (held.all() or not held.any()):
        raise ValueError(
            f"share = {share:g} of {len(rows)} rows for {purpose} leaves {int((~held).sum())} and holds out "
            f"{int(held.sum())}, but there must be at least 1 of both: classes have "
            f"{int(size.min(initial=0))}..{int(size.max(initial=0))} rows"
        )
    return rows[~held], rows[held]


def limited(labels: np.ndarray, rows: np.ndarray, limit: int, what: str) -> np.ndarray:
    """The training rows, or where the setting `train_limit` is one, so many of them, `balanced`.

    Raises:
        ValueError: if there are fewer of `what` they are.
    """
    if limit > len(rows):
        raise ValueError(f"train_limit = {limit} but there are {len(rows)} training {what}")
    return balanced(labels, rows, limit) if limit else rows


def balanced(labels: np.ndarray, rows: np.ndarray, limit: int) -> np.ndarray:
    """`limit` of the rows, ascending, with as equal numbers of all classes as there are; a larger limit adds rows.

    Raises:
        ValueError: if there are fewer rows than `limit`, or it is not at least 1.
    """
    if not 1 <= limit <= len(rows):
        raise ValueError(f"a limit of {limit} rows must lie in 1..{len(rows)}, the rows that there are")
    rank, _ = rank_within_class(labels[rows], rows, "limit")
    first = np.lexsort((labels[rows], rank))[:limit]
    return rows[np.sort(first)]


def rank_within_class(
    labels: np.ndarray, rows: np.ndarray, purpose: str, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(place of each row among its class in a shuffled order, rows of its class), both (M,).

    Args:
        labels: (M,), of the rows.
        rows: (M,), their numbers, by which the order is drawn.
        purpose: one of `PURPOSES`; orders for different purposes are independent.
        seed: >= 0, of another order for the same purpose.
    """
    shuffled = np.lexsort((rows, uniforms(PURPOSES[purpose], seed, rows, 1)[:, 0], labels))
    _, starts, sizes = np.unique(labels[shuffled], return_index=True, return_counts=True)
    rank, size = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int64)
    rank[shuffled] = np.arange(len(rows)) - np.repeat(starts, sizes)
    size[shuffled] = np.repeat(sizes, sizes)
    return rank, size
