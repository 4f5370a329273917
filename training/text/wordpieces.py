"""The vocabulary: BERT's own, shipped, or another one of the same kind; all of it, or its most frequent part."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from transformers import BertTokenizer, PreTrainedTokenizerFast

SHIPPED = Path(__file__).parent / "vocabulary" / "vocab.txt"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LARGEST = 2**16
"""Entries of a vocabulary whose ids fit the two bytes that a stored token has."""


def vocabulary_file(vocabulary: str | Path | None = None) -> Path:
    """The vocab.txt meant by a path to it or to its folder; None means the shipped bert-base-uncased.

    Raises:
        ValueError: if there is no such file.
    """
    path = SHIPPED if vocabulary is None else Path(vocabulary).expanduser()
    path = path / "vocab.txt" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"there is no vocabulary at {path}: give a vocab.txt (one WordPiece a line) or its folder")
    return path


def vocabulary_digest(vocabulary: str | Path | None = None) -> str:
    """The sha256 of the vocabulary's file, in hexadecimal."""
    return hashlib.sha256(vocabulary_file(vocabulary).read_bytes()).hexdigest()


def tokenizer(vocabulary: str | Path | None = None) -> PreTrainedTokenizerFast:
    """A fast tokenizer that lower-cases, as bert-base-uncased does.

    Args:
        vocabulary: a vocab.txt, one WordPiece a line, or a folder that holds it; None takes the shipped one of
            bert-base-uncased, 30,522 entries.

    Raises:
        ValueError: if the file is missing, repeats an entry, lacks one of BERT's five special tokens or does not begin
            with [PAD], is too large for two bytes a token, or gives a tokenizer of another size.
    """
    ids = _entries(vocabulary)
    # Not `vocab_file=`: transformers 5 ignores it and goes on with the five special tokens alone.
    made = BertTokenizer(vocab=ids, do_lower_case=True)
    if len(made) != len(ids):
        raise ValueError(f"the vocabulary has {len(ids):,} entries, but its tokenizer came out with {len(made):,}")
    return made


def vocabulary_size(vocabulary: str | Path | None = None) -> int:
    """How many entries the vocabulary has.

    Raises:
        ValueError: as `tokenizer` does.
    """
    return len(_entries(vocabulary))


def _entries(vocabulary: str | Path | None) -> dict[str, int]:
    path = vocabulary_file(vocabulary)
    try:
        entries = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text, one WordPiece a line: {error}") from error
    if entries[-1] == "":
        entries.pop()
    ids = {entry: number for number, entry in enumerate(entries)}
    if len(ids) != len(entries):
        repeated = next(entry for number, entry in enumerate(entries) if ids[entry] != number)
        raise ValueError(f"{path} holds {repeated!r} more than once, but an entry has one id: its line number")
    missing = [token for token in SPECIAL if token not in ids]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}, which a vocabulary of BERT's kind must hold")
    if ids["[PAD]"] != 0:
        raise ValueError(f"{path} must begin with [PAD], whose id is 0 in a BERT, not with {entries[0]!r}")
    if len(ids) > LARGEST:
        raise ValueError(f"{path} has {len(ids):,} entries, but at most {LARGEST:,} fit the two bytes of a token")
    return ids


def most_frequent(counts: np.ndarray, limit: int, special_ids: np.ndarray) -> np.ndarray:
    """The ids to keep, in the order of their new ids 0..limit - 1: the special ones, then the most frequent ones.

    Args:
        counts: (V,), how often each token occurs; equally frequent ones are taken by ascending id.
        limit: size of the new vocabulary, special ones included.
        special_ids: kept whatever their counts, in this order.

    Returns:
        (n,), n = min(limit, V).

    Raises:
        ValueError: if `limit` leaves no room for a token that is not special.
    """
    if limit <= len(special_ids):
        raise ValueError(f"limit = {limit!r} must be more than the {len(special_ids)} special tokens")
    order = np.argsort(-counts.astype(np.int64), kind="stable")
    others = order[~np.isin(order, special_ids)]
    return np.concatenate([special_ids, others[: limit - len(special_ids)]]).astype(np.int64)


def renumbering(kept: np.ndarray, vocabulary_size: int, unknown_id: int) -> np.ndarray:
    """The new id of every old one, (vocabulary_size,): of those not in `kept`, that of the unknown token."""
    new = np.full(vocabulary_size, int(np.flatnonzero(kept == unknown_id)[0]), dtype=np.int64)
    new[kept] = np.arange(len(kept))
    return new
