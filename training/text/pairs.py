"""Sentence pairs for next-sentence prediction, built from documents (Devlin et al. 2018)."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from pathlib import Path

import numpy as np
from rich.console import Console

from gsgd.commands.console import bar
from training.data.cache import cached_folder, read_array
from training.text.tokens import Tokens

VERSION = 1
"""Counts up whenever the same tokens and arguments give other pairs."""
SPECIAL = 3
"""[CLS], [SEP] and [SEP] of each row."""
ROW = np.dtype([("a", "<i8"), ("b", "<i8"), ("a_length", "<u2"), ("b_length", "<u2"), ("random", "u1")])
"""A pair: where its segments start in `Tokens.ids`, how long they are, and whether B is random."""
_BLOCK = 2**16


def sentence_pairs(
    tokens: Tokens, documents: np.ndarray, *, sequence_length: int, short_share: float, seed: int, cache: Path
) -> np.ndarray:
    """`build_pairs` from the cache, as a read-only memory map.

    Raises:
        ValueError: as `build_pairs` does.
    """
    inputs = {
        "tokens": tokens.name,
        "documents": _digest(documents),
        "sequence_length": sequence_length,
        "short_share": short_share,
        "seed": seed,
        "version": VERSION,
    }

    def build(folder: Path) -> None:
        rows = build_pairs(tokens, documents, sequence_length=sequence_length, short_share=short_share, seed=seed)
        np.save(folder / "rows.npy", rows)

    return read_array(cached_folder(cache, "pairs", inputs, build) / "rows.npy")


def build_pairs(
    tokens: Tokens, documents: np.ndarray, *, sequence_length: int, short_share: float, seed: int
) -> np.ndarray:
    """The pairs (n,) of the given documents, of dtype `ROW`, in the order of the documents.

    A document is cut into chunks of consecutive sentences that reach a target length. The first sentences of a chunk,
    at least one of them and not all, are segment A. With probability 1/2 the rest is segment B, the actual next
    sentences; otherwise, and always if the chunk is one sentence, B is a run of sentences of another document drawn
    uniformly, and the next chunk begins with the rest. If A and B are longer than sequence_length - 3 together, tokens
    go from the longer one, each from its front or its back with probability 1/2.

    The target is sequence_length - 3, and for a share `short_share` of rows a number in 2..sequence_length - 3.

    # Devlin et al. draw the target once per document; here: once per row, because a document may be a whole book.
    # Paper: silent; here: pairs are built once per seed and only masks change from epoch to epoch, because building
    # them anew would cost a pass over the corpus.

    Args:
        documents: (m,), which documents of `tokens`; random segments come from them, too.
        sequence_length: >= 8.
        short_share: in [0, 1].
        seed: >= 0.

    Raises:
        ValueError: if there are fewer than two documents, or an argument is out of range.
    """
    if not 8 <= sequence_length < 2**16:
        raise ValueError(f"sequence_length = {sequence_length!r} must be a whole number in 8..65535")
    if not 0 <= short_share <= 1:
        raise ValueError(f"short_share = {short_share!r} must lie in [0, 1]")
    if len(documents) < 2:
        raise ValueError(
            f"sentence pairs need at least 2 documents, so that a random segment can come from another one, but there "
            f"are {len(documents)}: give more data (in a text file two blank lines end a document), or, if they went "
            "to other splits, as equal ones go together, change validation_share or test_share"
        )
    longest = sequence_length - SPECIAL
    rng = np.random.default_rng([seed, 0x9A125])
    drawn: list[list[float]] = []
    chunks: list[tuple[int, int, int, int, int]] = []
    blocks: list[np.ndarray] = []
    total = int((tokens.documents[documents + 1] - tokens.documents[documents]).sum())
    with bar(Console(stderr=True), "pairing", total, "sentences") as progress:
        for position, document in enumerate(documents.tolist()):
            first, last = tokens.documents[document : document + 2].tolist()
            ends = tokens.sentences[first : last + 1].tolist()
            count = last - first
            start = 0
            while start < count:
                if not drawn:
                    drawn = rng.random((_BLOCK, 4)).tolist()
                short, length, cut, coin = drawn.pop()
                target = 2 + int(length * (longest - 1)) if short < short_share else longest
                stop = bisect_left(ends, ends[start] + target, start + 1, count)
                middle = start + 1 + int(cut * (stop - start - 1))
                if stop == start + 1 or coin < 0.5:
                    chunks.append((position, ends[start], ends[middle], -1, target - (ends[middle] - ends[start])))
                    start = middle
                else:
                    chunks.append((position, ends[start], ends[middle], ends[middle], ends[stop]))
                    start = stop
            progress.advance(count)
            if len(chunks) >= _BLOCK:
                blocks.append(_finish(np.array(chunks), tokens, documents, longest, rng))
                chunks = []
    if chunks:
        blocks.append(_finish(np.array(chunks), tokens, documents, longest, rng))
    return np.concatenate(blocks)


def _finish(
    chunks: np.ndarray, tokens: Tokens, documents: np.ndarray, longest: int, rng: np.random.Generator
) -> np.ndarray:
    """Rows from chunks (n, 5): position of the document, span of A, and span of B or (-1, length wanted of B)."""
    position, a, a_end, b, b_end = chunks.T.copy()
    random = b < 0
    b[random], b_end[random] = _random_segments(position[random], b_end[random], tokens, documents, rng)
    a, a_length, b, b_length = truncate(a, a_end - a, b, b_end - b, longest, rng)
    rows = np.empty(len(chunks), ROW)
    for name, values in {"a": a, "b": b, "a_length": a_length, "b_length": b_length, "random": random}.items():
        rows[name] = values
    return rows


def _random_segments(
    position: np.ndarray, wanted: np.ndarray, tokens: Tokens, documents: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Spans of whole sentences, each from a document other than its own, of the wanted length if that is so long."""
    other = rng.integers(len(documents) - 1, size=len(position))
    other += other >= position
    first, last = tokens.documents[documents[other]], tokens.documents[documents[other] + 1]
    start = tokens.sentences[rng.integers(first, last)]
    stop = np.searchsorted(tokens.sentences, start + np.maximum(wanted, 1))
    return start, tokens.sentences[np.minimum(stop, last)]


def truncate(
    a: np.ndarray, a_length: np.ndarray, b: np.ndarray, b_length: np.ndarray, longest: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Starts and lengths after taking tokens from the longer segment, from B at a tie, until `longest` are left.

    Each token goes from the front or the back of its segment with probability 1/2. All arrays are (n,).
    """
    excess = np.maximum(a_length + b_length - longest, 0)
    level = np.minimum(excess, np.abs(a_length - b_length))
    rest = excess - level
    from_a = np.where(a_length > b_length, level, 0) + rest // 2
    from_b = np.where(a_length > b_length, 0, level) + rest - rest // 2
    front_a, front_b = rng.binomial(from_a, 0.5), rng.binomial(from_b, 0.5)
    return a + front_a, a_length - from_a, b + front_b, b_length - from_b


def _digest(documents: np.ndarray) -> str:
    return hashlib.sha256(documents.astype("<i8").tobytes()).hexdigest()
