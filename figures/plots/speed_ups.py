"""What a method is worth in budget: accuracies over a ladder of budgets, and the factors below."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from figures import style
from figures.methods import in_order, labels_in_order, look
from figures.statistics import groups_of

DODGE = 0.04
"""Methods stand beside each other at a rung, so many octaves apart."""
LEAST, MOST = 0.25, 4.0
"""Factors that the axes show at most."""


def draw(ladders: pd.DataFrame, claims: pd.DataFrame | None) -> Figure:
    """Accuracy against budget with 95% intervals, and below it the speed-ups, two panels a ladder.

    Args:
        ladders, claims: the tables of those names.
    """
    groups = groups_of(ladders)
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    width = style.SINGLE_IN if columns == 1 else style.DOUBLE_IN
    figure, axes = style.new(2 * rows, columns, width=width, height=4.6 * rows + 0.5)
    for number, (name, of_group) in enumerate(groups.items()):
        row, column = divmod(number, columns)
        above, below = axes[2 * row][column], axes[2 * row + 1][column]
        _values(above, of_group)
        of_claims = None if claims is None else claims[(claims["group"] == name) & (claims["measure"] == "accuracy")]
        _factors(below, of_group)
        # The two lines beside the lower axes stand left of the upper ones, too.
        style.title(above, f"{style.group(of_group)}: {sentence(of_claims)}", width=width / columns, left=0.8)
    for place in range(len(groups), rows * columns):
        row, column = divmod(place, columns)
        axes[2 * row][column].set_axis_off()
        axes[2 * row + 1][column].set_axis_off()
    style.legend_below(figure, axes, columns=2 * columns, order=labels_in_order(ladders["method"]))
    return figure


def sentence(claims: pd.DataFrame | None, what: str = "budget") -> str:
    """What is claimed by one measure: the methods whose whole interval lies on one side of 1, and so much of `what`."""
    if claims is None or claims.empty:
        return "no factor could be measured"
    sure = claims[(claims["low"] > 1) | (claims["high"] < 1)]
    if sure.empty:
        return "no speed-up over plain training shown"
    parts = []
    for method in in_order(sure["method"]):
        entry = sure[sure["method"] == method].iloc[0]
        bound = "" if entry["place"] == "on the ladder" else "at least " if entry["low"] > 1 else "at most "
        parts.append(f"{look(method).brief} {bound}{entry['factor']:.2f} times")
    return f"{what} worth against plain training: {', '.join(parts)}"


def _at(rows: pd.DataFrame, place: float) -> np.ndarray:
    return rows["budget"].to_numpy(float) * 2.0 ** (DODGE * place)


def _values(ax: Axes, rows: pd.DataFrame) -> None:
    methods = in_order(rows["method"])
    for number, method in enumerate(methods):
        own = rows[rows["method"] == method].sort_values("budget")
        looks = look(method)
        at = _at(own, number - (len(methods) - 1) / 2)
        ax.plot(at, own["accuracy"], zorder=2.5, **looks.curve)
        ax.vlines(
            at,
            own["accuracy"] - own["accuracy_half_width"],
            own["accuracy"] + own["accuracy_half_width"],
            color=looks.colour,
            linewidth=1.1,
        )
    _budgets(ax, rows)
    ax.set_ylabel(f"{rows['split'].iloc[0]} accuracy")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}%"))
    if rows["diverged"].any():
        names = in_order(rows[rows["diverged"] > 0]["method"])
        style.note(ax, "\n".join(f"{look(name).brief}: diverged" for name in names), paled=True)


def _factors(ax: Axes, rows: pd.DataFrame) -> None:
    ax.set_yscale("log", base=2)
    least, most = rows["budget"].min(), rows["budget"].max()
    methods = [method for method in in_order(rows["method"]) if method != "baseline"]
    known = rows[["by_accuracy_factor", "by_accuracy_low", "by_accuracy_high"]].to_numpy(float).ravel()
    known = np.clip(known[np.isfinite(known) & (known > 0)], LEAST, MOST)
    low, high = min([0.8, *(known / 1.1)]), max([1.25, *(known * 1.1)])
    budgets = np.geomspace(least / 1.3, most * 1.3, 100)
    ax.fill_between(budgets, most / budgets, 64, color="#EEEEEE", linewidth=0, zorder=0.5)
    ax.fill_between(budgets, 1 / 64, least / budgets, color="#EEEEEE", linewidth=0, zorder=0.5)
    ax.axhline(1, color="black", linewidth=0.8, zorder=0.9)
    for number, method in enumerate(methods):
        own = rows[rows["method"] == method].sort_values("budget")
        looks = look(method)
        for at, (_, entry) in zip(_at(own, number - (len(methods) - 1) / 2), own.iterrows(), strict=True):
            ends = entry["by_accuracy_low"], entry["by_accuracy_high"]
            if math.isnan(ends[0]):
                continue
            shown = np.clip(ends, low, high)
            ax.vlines([at], shown[:1], shown[1:], color=looks.colour, linewidth=1.3)
            for end, edge, arrow in zip(ends, shown, "v^", strict=True):
                marker = "_" if end == edge else arrow
                ax.plot([at], [edge], marker, color=looks.colour, markersize=4, clip_on=False)
            if low <= entry["by_accuracy_factor"] <= high:
                filled = looks.colour if looks.filled else "white"
                (mark,) = ax.plot([at], [entry["by_accuracy_factor"]], looks.marker, color=looks.colour, zorder=3)
                mark.set_markerfacecolor(filled)
    _budgets(ax, rows)
    ax.set_ylim(low, high)
    factors(ax.yaxis)
    ax.set_ylabel("plain training's budget\nfor the same accuracy")


def factors(axis: Axis) -> None:
    """Mark factors on a logarithmic axis."""
    style.ticks(axis, [0.25, 0.5, 0.7, 1, 1.4, 2, 2.8, 4], "{x:g}\N{MULTIPLICATION SIGN}")


def _budgets(ax: Axes, rows: pd.DataFrame) -> None:
    budgets = sorted(rows["budget"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xlim(budgets[0] / 1.25, budgets[-1] * 1.25)
    ax.xaxis.set_major_locator(FixedLocator(budgets))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: style.thousands(value)))
    unit = {"work": "work: forward passes of a row", "s": "reference time (s)"}
    ax.set_xlabel(f"budget ({unit.get(rows['unit'].iloc[0], rows['unit'].iloc[0])})")
