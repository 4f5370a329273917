"""Which documents are trained on, and which are held out."""

from __future__ import annotations

import numpy as np

from training.text.tokens import Tokens


def split_documents(hashes: np.ndarray, *, validation_share: float, test_share: float) -> dict[str, np.ndarray]:
    """The documents of "train", "validation" and "test", each an ascending array of their numbers.

    A document's hash alone decides, uniform in [0, 2^64): the lowest share is validation, the highest is test. So
    equal documents share a split, and documents that are added or removed move none of the others.

    Args:
        hashes: (documents,), uint64.
        validation_share, test_share: >= 0, together less than 1.
    """
    # The upper 53 bits: all 64 may round up to 1, and then be beyond every share.
    place = (hashes >> np.uint64(11)) / 2.0**53
    validation = place < validation_share
    test = place >= 1 - test_share
    parts = {"train": ~validation & ~test, "validation": validation, "test": test}
    return {name: np.flatnonzero(part) for name, part in parts.items()}


def without(tokens: Tokens, documents: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Of the given documents those whose text is not also held out, by hashes (n,)."""
    return documents[~np.isin(tokens.hashes[documents], held_out)]


def token_counts(tokens: Tokens, documents: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """(vocabulary_size,), how often each token occurs in the given documents."""
    counts = np.zeros(vocabulary_size, dtype=np.int64)
    for first, last in zip(tokens.documents[documents], tokens.documents[documents + 1], strict=True):
        counts += np.bincount(tokens.ids[tokens.sentences[first] : tokens.sentences[last]], minlength=vocabulary_size)
    return counts
