"""Rows of values with 95% intervals, one a method, for comparisons of many methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.methods import look

ROW_IN, LINE_IN = 0.21, 0.125
"""Inches of a method's row, and of every line of a name that has several."""
TOO_WIDE = 4.0
"""Intervals beyond so many times what the values span, and the narrowest interval's half, are cut at the axes."""


def panels(
    groups: Iterable[Iterable[str]], above_in: float, more_in: float = 0.0, gap: float | None = None, **axes: Any
) -> tuple[Figure, np.ndarray]:
    """A figure with two panels for each of some groups of methods: (figure, axes (groups, 2)).

    Args:
        above_in: inches of a row of panels beside its methods' own.
        more_in: inches for what stands above or below all of them.
        gap: between the two panels, as a share of their width; by default the style's.
        axes: as of `Figure.subplots`.
    """
    heights = [inches(methods) for methods in groups]
    ratios = {"height_ratios": [height + 0.4 for height in heights], "wspace": gap}
    height = sum(each + above_in for each in heights) + more_in
    return style.new(len(heights), 2, width=style.DOUBLE_IN, height=height, gridspec_kw=ratios, **axes)


def inches(methods: Iterable[str]) -> float:
    """The height of these methods' rows."""
    names = [_name(method) for method in methods]
    return len(names) * max(ROW_IN, LINE_IN * (1 + max(name.count("\n") for name in names)))


def limits(means: Sequence[float], half_widths: Sequence[float], too_wide: float = TOO_WIDE) -> tuple[float, float]:
    """The range of axes that shows 0, all values, and the intervals that would not dwarf them.

    Args:
        means, half_widths: NaN where there is none; a mean without a half-width stands alone.
        too_wide: see `TOO_WIDE`.
    """
    known = [(mean, half) for mean, half in zip(means, half_widths, strict=True) if not math.isnan(mean)]
    if not known:
        return -1.0, 1.0
    values = [0.0, *(mean for mean, _ in known)]
    span = max(values) - min(values)
    halves = [half for _, half in known if not math.isnan(half)]
    most = too_wide * max(span, min(halves, default=0.0))
    shown = [(mean, half if half <= most else 0.0) for mean, half in known]
    low = min([0.0, *(mean - half for mean, half in shown if not math.isnan(half)), *values])
    high = max([0.0, *(mean + half for mean, half in shown if not math.isnan(half)), *values])
    if any(half > most for half in halves):
        # Cut ones are seen to go on.
        low, high = low - 0.25 * (high - low), high + 0.25 * (high - low)
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def rows(
    ax: Axes,
    methods: Sequence[str],
    means: Sequence[float],
    half_widths: Sequence[float],
    shown: tuple[float, float],
    number: Callable[[float], str] | None = "{:.3g}".format,
    at: Sequence[float] | None = None,
) -> None:
    """Draw a mark with its interval in the row of each method; hollow without an interval, nothing for NaN.

    An interval that leaves the axes ends there in an arrow, with its half-width as a number, if that is worded.

    Args:
        shown: the range of the axes, which is set.
        number: words a half-width.
        at: where the rows stand; by default at 0, 1, and so on.
    """
    ax.set_xlim(*shown)
    places = range(len(methods)) if at is None else at
    for row, method, mean, half in zip(places, methods, means, half_widths, strict=True):
        if math.isnan(mean):
            continue
        looks = look(method)
        alone = math.isnan(half)
        if not alone:
            _interval(ax, row, mean, half, shown, looks.colour)
            if number is not None and (mean - half < shown[0] or mean + half > shown[1]):
                _cut(ax, row, mean + half > shown[1], shown, f"\N{PLUS-MINUS SIGN}{number(half)}", looks.colour)
        face = "white" if alone or not looks.filled else looks.colour
        ax.plot([mean], [row], looks.marker, color=looks.colour, markerfacecolor=face, markersize=4.2)


def _interval(ax: Axes, row: float, mean: float, half: float, shown: tuple[float, float], colour: str) -> None:
    ends = [max(mean - half, shown[0]), min(mean + half, shown[1])]
    ax.hlines([row], ends[:1], ends[1:], color=colour, linewidth=1.3)
    for end, edge, arrow in zip(ends, shown, "<>", strict=True):
        marker = arrow if end == edge else "|"
        ax.plot([end], [row], marker, color=colour, markersize=4, clip_on=False)


def _cut(ax: Axes, row: float, right: bool, shown: tuple[float, float], text: str, colour: str) -> None:
    ax.annotate(
        text,
        (shown[1] if right else shown[0], row),
        xytext=(-5 if right else 5, 1.5),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom",
        color=colour,
        fontsize=style.POINTS - 2,
    )


def label(ax: Axes, methods: Sequence[str]) -> None:
    """Write the methods' names beside their rows, the first one on top."""
    ax.set_yticks(range(len(methods)), [_name(method) for method in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0, pad=5.5)


def panel_width(methods: Iterable[str]) -> float:
    """Printed inches that the methods' names leave to each of two panels, about."""
    lines = [line for method in methods for line in _name(method).split("\n")]
    return (style.DOUBLE_IN - 0.2 - max(style.inches(line, style.POINTS - 1) for line in lines)) / 2


def _name(method: str) -> str:
    return style.broken(look(method).label, width=36)


def remark(ax: Axes, row: int, text: str) -> None:
    """Write words into the row of a method that has no value."""
    style.note(ax, text, x=0.02, y=row, transform=ax.get_yaxis_transform(), ha="left", va="center", paled=True)
