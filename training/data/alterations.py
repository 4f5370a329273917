"""Training sets that are made harder, or emptier, on purpose: long tails of classes, wrong labels, copies of rows.

What is held out is never altered: it judges. Alterations are the same for all methods and all seeds of a run, as splits
are, so that runs are compared on one training set.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as settings_dataclass

from training.data.draws import uniforms
from training.data.splits import PURPOSES, rank_within_class
from training.keys import Natural, Number, Positive, ShareBelowOne, key


@settings_dataclass(frozen=True)
class AlterationSettings:
    """How the training rows are altered, in this order; by default they are not."""

    imbalance: Annotated[Number, Field(ge=1)] = key(
        1.0,
        "the largest training class over the smallest, at least 1: class c of C keeps imbalance^(-c / (C - 1)) of the "
        "size of the largest (a long tail, as of Cui et al., arXiv:1901.05555)",
    )
    wrong_labels: ShareBelowOne = key(
        0.0, "share of each class's training rows that get the label of another class, uniformly drawn, in [0, 1)"
    )
    copies: Positive = key(
        1,
        "how often each training row is there, every time under a number of its own; with train_limit = a tenth of the "
        "rows and 10 copies a tenth of the data ten times",
    )
    alteration_seed: Natural = key(
        0, "which rows a long tail keeps, and which get which wrong label; the run's own seed changes neither"
    )

    @property
    def alters(self) -> bool:
        """Whether anything is altered."""
        return self.imbalance > 1 or self.wrong_labels > 0 or self.copies > 1


@dataclass(frozen=True)
class AlteredRows:
    """A training set's rows, (M,) each: what row m of training is.

    Attributes:
        rows: numbers of rows of the data, with repetitions where there are copies.
        labels: the classes that are trained on, int64.
        draws: numbers by which augmentation draws, of which no two are equal.
        description: for the header of a run; empty if nothing was altered.
    """

    rows: np.ndarray
    labels: np.ndarray
    draws: np.ndarray
    description: dict[str, Any]

    def content(self, of_data: str) -> str:
        """The digest of the training set, of that of the data: theirs, where nothing was altered."""
        if not self.description:
            return of_data
        digest = hashlib.sha256(of_data.encode())
        digest.update(self.rows.astype("<i8").tobytes())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def altered(settings: AlterationSettings, labels: np.ndarray, rows: np.ndarray, classes: int) -> AlteredRows:
    """The rows to train on, as the settings alter them.

    Args:
        labels: (N,), classes of all rows, in 0..classes - 1.
        rows: (M,), the rows to begin with, ascending.

    Raises:
        ValueError: if there are fewer than two classes to draw a wrong label or a tail from.
    """
    if (settings.imbalance > 1 or settings.wrong_labels) and classes < 2:
        name = "imbalance" if settings.imbalance > 1 else "wrong_labels"
        raise ValueError(f"{name} = {getattr(settings, name):g} needs at least 2 classes, but the data have {classes}")
    seed = settings.alteration_seed
    if settings.imbalance > 1:
        rows = long_tailed(labels, rows, settings.imbalance, classes, seed)
    given = labels[rows].astype(np.int64)
    noisy = with_wrong_labels(given, rows, settings.wrong_labels, classes, seed)
    copy = np.repeat(np.arange(settings.copies), len(rows))
    described = {
        "class_sizes": np.bincount(noisy, minlength=classes).tolist(),
        "wrong_labels": int((noisy != given).sum()),
        "distinct_rows": len(rows),
    }
    return AlteredRows(
        rows=np.tile(rows, settings.copies),
        labels=np.tile(noisy, settings.copies),
        draws=np.tile(rows, settings.copies) + copy * len(labels),
        description=described if settings.alters else {},
    )


def long_tailed(labels: np.ndarray, rows: np.ndarray, imbalance: float, classes: int, seed: int) -> np.ndarray:
    """The rows, ascending, of which classes of higher numbers are left fewer, see `long_tailed_sizes`."""
    sizes = np.bincount(labels[rows], minlength=classes)
    rank, _ = rank_within_class(labels[rows], rows, "long tail", seed)
    return rows[rank < long_tailed_sizes(sizes, imbalance)[labels[rows]]]


def long_tailed_sizes(sizes: np.ndarray, imbalance: float) -> np.ndarray:
    """Rows that are left of each class: exponentially fewer, the last 1 / imbalance of the first.

        n_c  =  floor( max n * imbalance^(-c / (C - 1)) ),   at least 1, and at most what there is

    Args:
        sizes: (C,), rows of each class, C >= 2.
        imbalance: >= 1.

    Reference:
        Cui, Jia, Lin, Song, Belongie: Class-Balanced Loss Based on Effective Number of Samples. CVPR 2019.
    """
    places = np.arange(len(sizes)) / (len(sizes) - 1)
    wanted = np.floor(sizes.max() * imbalance**-places + 1e-9).astype(np.int64)
    return np.minimum(np.maximum(wanted, 1), sizes)


def with_wrong_labels(labels: np.ndarray, rows: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """Labels (M,), of which in each class of n rows round(share * n) are those of another class.

    Which rows, and which of the other classes, all equally likely, depends on the row's number and the seed.

    Args:
        labels: (M,) int64. rows: (M,), their numbers.
        share: in [0, 1).
    """
    rank, size = rank_within_class(labels, rows, "wrong labels", seed)
    wrong = rank < np.floor(share * size + 0.5)
    # The order within a class was made of each row's first draw.
    draws = uniforms(PURPOSES["wrong labels"], seed, rows, 2)[:, 1]
    others = (labels + 1 + np.floor(draws * (classes - 1)).astype(np.int64)) % classes
    return np.where(wrong, others, labels)
