"""Figures of many groups as several pictures, none much taller than a screen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures.checked import Missing

TALLEST_IN = 6.4
"""Printed inches; on a screen, enlarged, they are 890 CSS pixels, about one and a half screens."""


def split(draw: Callable[..., Figure], tables: list[Any]) -> list[Figure]:
    """What `draw` makes of tables, as several figures of whole groups where one would be too tall.

    Args:
        draw: makes one figure, whatever groups there are.
        tables: data frames, of which those with a column group are divided by it, as the first of them is ordered; or
            None where there is none.

    Raises:
        Missing: as `draw`.
    """
    whole = draw(*tables)
    groups: Any = next((table["group"].unique() for table in tables if table is not None and "group" in table), [])
    count = min(len(groups), math.ceil(whole.get_figheight() / TALLEST_IN))
    if count < 2:
        return [whole]
    found = []
    for part in np.array_split(groups, count):
        try:
            found += split(draw, [_of(table, part) for table in tables])
        except Missing:
            # Groups that have nothing of this figure are none of the whole one either.
            continue
    return found


def name(name: str, number: int) -> str:
    """What the picture with this number, from 1, of a figure is called."""
    return name if number == 1 else f"{name}-{number}"


def _of(table: Any, groups: np.ndarray) -> Any:
    return table[table["group"].isin(groups)] if table is not None and "group" in table else table
