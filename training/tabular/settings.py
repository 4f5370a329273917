"""The settings of a run on a table: what a configuration's keys may be."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from training.data.alterations import AlterationSettings
from training.keys import Natural, Positive, ShareBelowOne, Sizes, Words, check_shares, key


@dataclass(frozen=True)
class TabularSettings(AlterationSettings):
    """A table, its splits, and a multi-layer perceptron.

    Raises:
        ValueError: for a value out of range or a combination that cannot be, naming the keys.
    """

    data: Annotated[str, Field(min_length=1)] = key(
        "synthetic",
        "synthetic (60,000 made-up rows of 30 columns, 2% of them of class 1, see `training.tabular.synthetic`), or a "
        "parquet or CSV file with a heading",
    )
    target: str = key("target", "the column of the classes: whole numbers or strings")
    columns: Words = key((), "the columns that are read, all of numbers; empty for all but the target")
    positive: str = key(
        "",
        "a class: its average precision on held-out rows takes the place of accuracy everywhere, since of a rare class "
        "accuracy says little; empty for accuracy",
    )
    validation_share: ShareBelowOne = key(
        0.15, "share of the rows that is held out for validation, in (0, 1): of each class, the same for all seeds"
    )
    test_share: ShareBelowOne = key(0.25, "share of the rows that is held out for the test, likewise")
    train_limit: Natural = key(0, "train on so many rows only, the same number of each class; 0 for all")
    hidden_sizes: Sizes = key((128, 128), "units of the hidden layers")
    proxy_size: Positive = key(32, "units of the hidden layer of the network of method proxy")

    def __post_init__(self) -> None:
        check_shares(self.validation_share, self.test_share, "rows")
