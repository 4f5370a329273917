"""Tables as text: cells that are read by people, and Markdown."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

DASH = "—"
"""The cell of a value that is not there."""
HALF_WIDTH = "_half_width"


@dataclass(frozen=True)
class Column:
    """A column of a table as it is shown: the table's name of it, its heading, and its cells."""

    name: str
    heading: str
    numeric: bool
    cells: list[str]


def columns(table: pd.DataFrame) -> list[Column]:
    """The table as it is shown: "0.6599 ± 0.0010" for a mean with its half-width, a dash for what there is not.

    Decimals are those in `table.attrs["digits"]`, column by column; else as many as a number needs.
    """
    shown = []
    for name in table.columns:
        if name.endswith(HALF_WIDTH):
            continue
        digits = table.attrs.get("digits", {}).get(name)
        halves = table.get(f"{name}{HALF_WIDTH}", [math.nan] * len(table))
        cells = [_cell(value, half, digits) for value, half in zip(table[name], halves, strict=True)]
        heading = re.sub(r"\bpaper$", "the paper's", name.replace("_", " "))
        shown.append(Column(name, heading, pd.api.types.is_numeric_dtype(table[name]), cells))
    return shown


def _cell(value: Any, half: float, digits: int | None) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return DASH
    number = f".{digits}f" if digits is not None else ".10g"
    return f"{value:{number}}" if pd.isna(half) else f"{value:{number}} ± {half:{number}}"


def markdown(table: pd.DataFrame, title: str) -> str:
    """A heading and the table in Markdown; numbers to the right."""
    shown = columns(table)
    lines = [
        [column.heading for column in shown],
        ["---:" if column.numeric else "---" for column in shown],
        *zip(*(column.cells for column in shown), strict=True),
    ]
    rows = [" | ".join(_escape(cell) for cell in line) for line in lines]
    return "\n".join([f"# {title}", "", *(f"| {row} |" for row in rows), ""])


def _escape(text: str) -> str:
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", text).replace("\n", " ")
