"""Rows of values with 95% intervals, one a method, labelled once: what comparisons of many methods are drawn with."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.methods import look


def panels(summaries: pd.DataFrame, above_in: float, headline_in: float = 0.0) -> tuple[Figure, np.ndarray, list[str]]:
    """A figure with two panels for each comparison, as high as it has methods: (figure, axes (groups, 2), groups).

    Args:
        summaries: the table of that name.
        above_in: inches of a row of panels beside its methods' own.
        headline_in: inches for a headline over all of them.
    """
    groups = list(dict.fromkeys(summaries["group"]))
    counts = [int((summaries["group"] == group).sum()) for group in groups]
    figure, axes = style.new(
        len(groups),
        2,
        width=style.DOUBLE_IN,
        height=sum(0.21 * count + above_in for count in counts) + headline_in,
        sharey="row",
        gridspec_kw={"height_ratios": [0.21 * count + 0.4 for count in counts]},
    )
    return figure, axes, groups


def rows(ax: Axes, methods: Sequence[str], means: Sequence[float], half_widths: Sequence[float]) -> None:
    """A mark with its interval in the row of each method; hollow without an interval, nothing for NaN."""
    for row, (method, mean, half) in enumerate(zip(methods, means, half_widths, strict=True)):
        if math.isnan(mean):
            continue
        looks = look(method)
        alone = math.isnan(half)
        ax.errorbar(
            [mean],
            [row],
            xerr=None if alone else [half],
            color=looks.colour,
            marker=looks.marker,
            markerfacecolor="white" if alone or not looks.filled else looks.colour,
            markersize=4.2 * style.scale(),
            capsize=2 * style.scale(),
            linestyle="none",
        )


def label(ax: Axes, methods: Sequence[str]) -> None:
    """The methods' names beside their rows, the first one on top."""
    ax.set_yticks(range(len(methods)), [style.verbatim(_lines(method)) for method in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def panel_width(methods: Iterable[str]) -> float:
    """Printed inches that the methods' names leave to each of two panels, about."""
    longest = max(len(line) for method in methods for line in _lines(method).split("\n"))
    return (style.DOUBLE_IN - 0.062 * longest) / 2 + 0.3


def _lines(method: str) -> str:
    # Broken between a method's changes, not within one.
    parts = look(method).label.replace(" ", "\N{NO-BREAK SPACE}").replace(",\N{NO-BREAK SPACE}", ", ")
    return "\n".join(textwrap.wrap(parts, 36, break_long_words=False)).replace("\N{NO-BREAK SPACE}", " ")


def remark(ax: Axes, row: int, text: str) -> None:
    """Words in the row of a method that has no value."""
    ax.text(
        0.02,
        row,
        text,
        transform=ax.get_yaxis_transform(),
        va="center",
        color="#555555",
        fontsize=(style.POINTS - 1.5) * style.scale(),
    )
