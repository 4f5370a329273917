"""What selection was forecast to be worth from plain training alone, against what ladders measured."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.forecasts import NEAR, errors, without_each_setting
from figures.methods import in_order, look

PLACES = (0.5, 0.7, 1, 1.4, 2, 2.8, 4)
"""Marks of the axes; what lies beyond them stands at the edge."""
HEIGHT_IN = 5.4
NAME_POINTS = style.POINTS - 2.5
WIDE = 0.6
"""Of a name's letters, at most on average, in points for each point of their type."""
HIGH = 1.25
"""A line of names, likewise."""


def draw(forecasts: pd.DataFrame) -> Figure:
    """Measured factor against forecast factor, a mark a setting and method, with both intervals.

    Args:
        forecasts: the table of that name.
    """
    figure, axes = style.new(1, 1, width=style.DOUBLE_IN, height=HEIGHT_IN)
    ax = axes[0][0]
    ends = forecasts[["factor", "low", "high", "measured", "measured_low", "measured_high"]].to_numpy(float).ravel()
    known = np.clip(ends[np.isfinite(ends) & (ends > 0)], PLACES[0], PLACES[-1])
    low, high = min(0.7, known.min()) / 1.08, max(1.4, known.max()) * 1.08
    line = np.array([low, high])
    ax.fill_between(line, line / NEAR, line * NEAR, color="#E8E8E8", linewidth=0, zorder=0.5)
    ax.plot(line, line, color="black", linewidth=0.8, zorder=0.9)
    for axis_line in (ax.axhline, ax.axvline):
        axis_line(1, color=style.GREY, linestyle=style.DOTTED, linewidth=0.8, zorder=0.8)
    for method in in_order(forecasts["method"]):
        _marks(ax, forecasts[forecasts["method"] == method], method, low, high)
    _names(ax, forecasts, low, high)
    for name in ("x", "y"):
        getattr(ax, f"set_{name}scale")("log", base=2)
        getattr(ax, f"set_{name}lim")(low, high)
        style.ticks(getattr(ax, f"{name}axis"), PLACES, "{x:g}\N{MULTIPLICATION SIGN}")
    ax.set_xlabel("forecast from plain training alone: budget it needs for as much")
    ax.set_ylabel("measured by a ladder")
    style.note(ax, f"grey: within {100 * (NEAR - 1):.0f}%; at an edge: beyond it", paled=True)
    style.title(ax, sentence(forecasts), width=style.DOUBLE_IN)
    style.legend_below(figure, axes, columns=4)
    return figure


def _marks(ax: Axes, rows: pd.DataFrame, method: str, low: float, high: float) -> None:
    looks = look(method)
    x, ends = rows["factor"].clip(low, high), [rows[f"measured_{end}"].clip(low, high) for end in ("low", "high")]
    ax.vlines(x, *ends, color=looks.colour, linewidth=1.2, zorder=2)
    ax.hlines(
        rows["measured"].clip(low, high),
        rows["low"].clip(low, high),
        rows["high"].clip(low, high),
        color=looks.colour,
        linewidth=0.5,
        zorder=2,
    )
    ax.plot(x, rows["measured"].clip(low, high), **{**looks.curve, "linestyle": "none"}, zorder=3)


def _names(ax: Axes, forecasts: pd.DataFrame, low: float, high: float) -> None:
    """The setting of each mark beside it, at the first of some places where no other name stands, if there is one."""
    octaves = math.log2(high / low)
    across, up = (0.77 * 72 * inches / octaves for inches in (style.DOUBLE_IN, HEIGHT_IN))
    taken: list[tuple[float, float, float]] = []  # of each name its left and right end and its height, in points
    x = np.log2(forecasts["factor"].clip(low, high)) * across
    y = np.log2(forecasts["measured"].fillna(forecasts["measured_low"]).clip(low, high)) * up
    for at, height, setting in sorted(zip(x, y, forecasts["setting"], strict=True), key=lambda each: each[1]):
        length = WIDE * NAME_POINTS * len(setting)
        places = [(right, above) for above in (3, -8, 11, -16, 19, -24) for right in (3, -3 - length)]

        def free(place: tuple[float, float], at: float = at, height: float = height, length: float = length) -> bool:
            left, bottom = at + place[0], height + place[1]
            return all(
                left > end or left + length < begin or abs(bottom - other) > HIGH * NAME_POINTS
                for begin, end, other in taken
            )

        right, above = next(filter(free, places), places[0])
        taken.append((at + right, at + right + length, height + above))
        ax.annotate(
            style.verbatim(setting),
            (2 ** (at / across), 2 ** (height / up)),
            (right, above),
            textcoords="offset points",
            fontsize=NAME_POINTS,
            color="#555555",
        )


def sentence(forecasts: pd.DataFrame) -> str:
    """How many forecasts are near, in and out of sample, and how many losing methods were called so."""
    near = np.log2(NEAR)
    inside, outside = np.abs(errors(forecasts)) <= near, np.abs(without_each_setting(forecasts)) <= near
    losing = forecasts["measured_high"] < 1
    called = losing & (forecasts["factor"] < 1)
    number = f"{inside.sum()} of {len(forecasts)} forecasts are within {100 * (NEAR - 1):.0f}% of what was measured"
    if forecasts["setting"].nunique() > 1:
        number += f", {outside.sum()} with the exponent that the other settings choose"
    if not losing.any():
        return number
    was = "was" if called.sum() == 1 else "were"
    return f"{number}; of {losing.sum()} that lost {called.sum()} {was} forecast to lose"
