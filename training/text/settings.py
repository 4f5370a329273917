"""The settings of a run on text: what a configuration's keys may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextSettings:
    """Data and model of BERT's pretraining; the defaults are the paper's model on the embedded text.

    Attributes:
        data: sources of documents, see `documents.parse_source`. The paper's: ("bookcorpus",
            "wikimedia/wikipedia:20231101.en").
        validation_data: sources of the validation documents; empty holds out `validation_share` of `data`.
        validation_share, test_share: shares of the documents of `data`, chosen by a hash of the document alone, in
            [0, 1) and together less than 1. With `validation_data` only `test_share` counts.
        max_validation_rows: at most this many rows are validated on, evenly spaced over all; 0 means all.
        vocabulary: a vocab.txt or its folder; empty means the shipped one of bert-base-uncased.
        vocab_limit: 0, or the size of a smaller vocabulary for small machines: the special tokens and the most
            frequent ones of the training documents; all others become [UNK], which is never masked. Accuracies with
            another vocabulary are those of another task, so say it beside them.
        sequence_length: tokens of a row, special ones included; shorter rows are padded to it.
        mask_share: of the tokens that are not special, in (0, 1].
        short_share: of rows with a shorter target length, in [0, 1].
        layers, hidden_size, heads, intermediate_size, dropout: of the model; `heads` divides `hidden_size`.
        cache_dir: where tokens and pairs are kept; empty means $XDG_CACHE_HOME/gsgd or ~/.cache/gsgd. The full
            corpora take about 10 GB.

    Raises:
        ValueError: for a value out of range.
    """

    data: tuple[str, ...] = ("embedded",)
    validation_data: tuple[str, ...] = ()
    validation_share: float = 0.05
    test_share: float = 0.0
    max_validation_rows: int = 8192
    vocabulary: str = ""
    vocab_limit: int = 0
    sequence_length: int = 512
    mask_share: float = 0.15
    short_share: float = 0.1
    layers: int = 12
    hidden_size: int = 768
    heads: int = 12
    intermediate_size: int = 3072
    dropout: float = 0.1
    cache_dir: str = ""

    def __post_init__(self) -> None:
        for name in ("data", "validation_data"):
            sources = getattr(self, name)
            if isinstance(sources, str) or not all(isinstance(source, str) and source for source in sources):
                raise ValueError(f"{name} = {sources!r} must be a list of sources, none of them empty")
            object.__setattr__(self, name, tuple(sources))
        if not self.data:
            raise ValueError("data = () must name at least one source: 'embedded', a path, or a dataset of the hub")
        for name, least, most in (
            ("max_validation_rows", 0, None),
            ("vocab_limit", 0, None),
            ("sequence_length", 8, 65535),
            ("layers", 1, None),
            ("hidden_size", 1, None),
            ("heads", 1, None),
            ("intermediate_size", 1, None),
        ):
            _check_whole(name, getattr(self, name), least, most)
        for name in ("validation_share", "test_share", "dropout"):
            _check_share(name, getattr(self, name), "[0, 1)", lambda value: 0 <= value < 1)
        _check_share("short_share", self.short_share, "[0, 1]", lambda value: 0 <= value <= 1)
        _check_share("mask_share", self.mask_share, "(0, 1]", lambda value: 0 < value <= 1)
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share = {self.validation_share!r} and test_share = {self.test_share!r} must together be "
                "less than 1, to leave documents to train on"
            )
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size = {self.hidden_size!r} must be a multiple of heads = {self.heads!r}")
        if 0 < self.vocab_limit < 6:
            raise ValueError(f"vocab_limit = {self.vocab_limit!r} must be 0 (off), or more than the 5 special tokens")


def _check_whole(name: str, value: Any, least: int, most: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        rule = f"of at least {least}" if most is None else f"in {least}..{most}"
        raise ValueError(f"{name} = {value!r} must be a whole number {rule}")


def _check_share(name: str, value: Any, rule: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not holds(value):
        raise ValueError(f"{name} = {value!r} must be a number in {rule}")
