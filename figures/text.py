"""Tables as text: cells that are read by people, and Markdown."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd

DASH = "—"
"""Where there is no value."""
HALF_WIDTH = "_half_width"


def headings(table: pd.DataFrame) -> list[str]:
    """The columns as they are shown: a half-width stands in its mean's column."""
    shown = [str(name) for name in table.columns if not str(name).endswith(HALF_WIDTH)]
    return [re.sub(r"\bpaper$", "the paper's", name.replace("_", " ")) for name in shown]


def cells(table: pd.DataFrame) -> list[list[str]]:
    """The rows as they are shown: "0.6599 ± 0.0010" for a mean with its half-width, a dash for what there is not.

    Decimals are those in `table.attrs["digits"]`, column by column; else as many as a number needs.
    """
    digits = table.attrs.get("digits", {})
    shown = []
    for _, row in table.iterrows():
        line = []
        for name in table.columns:
            if str(name).endswith(HALF_WIDTH):
                continue
            text = _cell(row[name], digits.get(name))
            half = row.get(f"{name}{HALF_WIDTH}", math.nan)
            line.append(text if text == DASH or pd.isna(half) else f"{text} ± {_cell(half, digits.get(name))}")
        shown.append(line)
    return shown


def _cell(value: Any, digits: int | None) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return DASH
    if digits is not None:
        return f"{value:.{digits}f}"
    return f"{value:.10g}"


def markdown(table: pd.DataFrame, title: str) -> str:
    """A heading and the table in Markdown; numbers to the right."""
    names, rows = headings(table), cells(table)
    columns = [name for name in table.columns if not str(name).endswith(HALF_WIDTH)]
    marks = ["---:" if pd.api.types.is_numeric_dtype(table[name]) else "---" for name in columns]
    lines = [" | ".join(_escape(cell) for cell in line) for line in (names, *rows)]
    lines.insert(1, " | ".join(marks))
    return "\n".join([f"# {title}", "", *(f"| {line} |" for line in lines), ""])


def _escape(text: str) -> str:
    for character in "\\|<>*_`[]":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
