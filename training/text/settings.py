"""The settings of a run on text: what a configuration's keys may be."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from training.data.alterations import AlterationSettings
from training.keys import Natural, Positive, Share, ShareBelowOne, Words, check_shares, key


@dataclass(frozen=True)
class BertSettings:
    """A BERT's size and vocabulary, and where its prepared text is kept.

    Raises:
        ValueError: for a value out of range or a combination that cannot be, naming the keys.
    """

    vocabulary: str = key("", "a vocab.txt or its folder; empty means the shipped one of bert-base-uncased")
    vocab_limit: Natural = key(
        0,
        "the size of a smaller vocabulary for small machines, or 0: the special tokens and the most frequent ones of "
        "the training documents; all others become [UNK], which is never masked. Accuracies with another vocabulary "
        "are those of another task, so say it beside them",
    )
    sequence_length: Annotated[Positive, Field(ge=8, le=65535)] = key(
        512, "tokens of a row, special ones included; shorter rows are padded to it"
    )
    layers: Positive = key(12, "of the model")
    hidden_size: Positive = key(768, "of the model")
    heads: Positive = key(12, "of the model's attention; divides `hidden_size`")
    intermediate_size: Positive = key(3072, "of the model")
    dropout: ShareBelowOne = key(0.1, "of the model")
    cache_dir: str = key(
        "",
        "where tokens and pairs are kept; empty means $XDG_CACHE_HOME/gsgd or ~/.cache/gsgd. The full corpora take "
        "about 10 GB",
    )

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size = {self.hidden_size!r} must be a multiple of heads = {self.heads!r}")
        if 0 < self.vocab_limit < 6:
            raise ValueError(f"vocab_limit = {self.vocab_limit!r} must be 0 (off), or more than the 5 special tokens")


@dataclass(frozen=True)
class TextSettings(BertSettings):
    """Data and model of BERT's pretraining; the defaults are the paper's model on the embedded text.

    Raises:
        ValueError: for a value out of range or a combination that cannot be, naming the keys.
    """

    data: Annotated[Words, Field(min_length=1)] = key(
        ("embedded",),
        "sources of documents: embedded, paths, datasets of the hub, see `training.text.documents.parse_source`. The "
        'paper\'s: ["bookcorpus", "wikimedia/wikipedia:20231101.en"]',
    )
    validation_data: Words = key(
        (), "sources of the validation documents; empty holds out `validation_share` of `data`"
    )
    validation_share: ShareBelowOne = key(
        0.05,
        "share of the documents of `data` to validate on, chosen by a hash of the document alone; with test_share less "
        "than 1. With `validation_data` only `test_share` counts",
    )
    test_share: ShareBelowOne = key(0.0, "share of the documents of `data` to test on, likewise")
    max_validation_rows: Natural = key(
        8192, "at most this many rows are validated on, evenly spaced over all; 0 means all"
    )
    mask_share: Annotated[Share, Field(gt=0)] = key(0.15, "of the tokens that are not special, in (0, 1]")
    short_share: Share = key(0.1, "of rows with a shorter target length, in [0, 1]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self.validation_share, self.test_share, "documents", validated=False)


@dataclass(frozen=True)
class PassageSettings(BertSettings, AlterationSettings):
    """Data and model of passages that are classified by the document that they are from.

    Raises:
        ValueError: for a value out of range or a combination that cannot be, naming the keys.
    """

    data: Annotated[str, Field(min_length=1)] = key(
        "embedded",
        "embedded (a novel and speeches that come with the package), or a parquet file or a folder of such files, a "
        "document a row, with a column `text`",
    )
    label_column: str = key("title", "of the table: what a document is called, and with it the class of its passages")
    label_pattern: str = key(
        "",
        "a regular expression: the class is what it finds first in a document's name, so that chapters may be of one "
        "book; empty for the whole name",
    )
    validation_share: ShareBelowOne = key(
        0.1, "share of the passages that is held out for validation, in (0, 1): of each class, the same for all seeds"
    )
    test_share: ShareBelowOne = key(0.1, "share of the passages that is held out for the test, likewise")
    max_held_out_rows: Natural = key(
        4096, "at most this many passages of each held-out split are judged, evenly spaced over all; 0 means all"
    )
    train_limit: Natural = key(0, "train on so many passages only, the same number of each class; 0 for all")
    proxy_size: Positive = key(32, "hidden units of the BERT of one layer and one head of method proxy")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self.validation_share, self.test_share, "passages")
        try:
            re.compile(self.label_pattern)
        except re.error as error:
            raise ValueError(f"label_pattern = {self.label_pattern!r} must be a regular expression: {error}") from error
