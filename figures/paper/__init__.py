"""The paper's own numbers, as it prints them, each with its source. Whatever shows them calls them the paper's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from figures.checked import Cell, read_table

_FOLDER = Path(__file__).parent
_RESNET = {"max_lr": Cell.NUMBER, "method": Cell.TEXT, "test_accuracy_percent": Cell.OPTIONAL, "source": Cell.TEXT}
TABLES: dict[str, dict[str, Cell]] = {
    "table_1": {"method": Cell.TEXT, "val_accuracy": Cell.NUMBER, "source": Cell.TEXT},
    **{f"table_{number}": _RESNET for number in (2, 3, 4, 5)},
    "table_6": {
        "method": Cell.TEXT,
        **dict.fromkeys(("selection_h", "forward_h", "backward_h"), Cell.NUMBER),
        "source": Cell.TEXT,
    },
    "crossing": {"method": Cell.TEXT, "target": Cell.NUMBER, "hours": Cell.NUMBER, "source": Cell.TEXT},
}
"""Table -> its columns. Methods are called as our runs of them are; an empty accuracy did not converge."""


def table(name: str) -> pd.DataFrame:
    """One of TABLES, rows in the paper's order."""
    return read_table(_FOLDER / f"{name}.csv", TABLES[name])


def identity(family: str) -> dict[str, Any]:
    """The values by which a run is one of the paper's: key of a configuration -> value.

    `samples_per_step` is no key, but the rows that all devices together train on in a step.

    Args:
        family: "bert-base", "cifar100" or "food101".
    """
    columns = {"family": Cell.TEXT, "key": Cell.TEXT, "value": Cell.TEXT, "source": Cell.TEXT}
    rows = read_table(_FOLDER / "runs.csv", columns)
    own = rows[rows["family"] == family]
    return {str(key): json.loads(value) for key, value in zip(own["key"], own["value"], strict=True)}
