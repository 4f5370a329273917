"""What methods are worth by the clock, beside what they are worth in the budget that all were given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.methods import in_order, look
from figures.plots import method_rows
from figures.plots.speed_ups import LEAST, MOST, factors, sentence
from figures.statistics import groups_of

APART = 0.17
"""The two factors of a method stand so far above and below the middle of its row."""


def draw(by_clock: pd.DataFrame, claims: pd.DataFrame | None) -> Figure:
    """Claimed factors with 95% intervals, in seconds and in the ladder's budget, by accuracy and by loss.

    Args:
        by_clock: the table "claims_in_seconds". claims: the table "claims".
    """
    groups = groups_of(by_clock)
    figure, axes = method_rows.panels([in_order(rows["method"]) for rows in groups.values()], 1.1, 0.5, sharey="row")
    width = method_rows.panel_width(by_clock["method"])
    for panels, (name, rows) in zip(axes, groups.items(), strict=True):
        in_budget = rows[:0] if claims is None else claims[claims["group"] == name]
        for ax, measure in zip(panels, ("accuracy", "loss"), strict=True):
            measured = [table[table["measure"] == measure] for table in (in_budget, rows)]
            _panel(ax, in_order(rows["method"]), *measured)
            ax.set_xlabel(f"what plain training needs for the same {measure}")
            said = f"{measure} by the clock: {sentence(measured[1], 'time')}"
            style.title(ax, f"{style.group(rows)}, {said}" if measure == "accuracy" else said, width=width, left=0)
    style.legend_below(figure, axes, columns=2)
    return figure


def _panel(ax: Axes, methods: list[str], in_budget: pd.DataFrame, by_clock: pd.DataFrame) -> None:
    ends = pd.concat([in_budget, by_clock])[["factor", "low", "high"]].to_numpy(float).ravel()
    known = np.clip(ends[np.isfinite(ends) & (ends > 0)], LEAST, MOST)
    shown = min([0.8, *(known / 1.1)]), max([1.25, *(known * 1.1)])
    ax.set_xscale("log", base=2)
    ax.set_xlim(*shown)
    ax.axvline(1, color="black", linewidth=0.8, zorder=0.9)
    for table, offset, hollow in ((in_budget, -APART, False), (by_clock, APART, True)):
        for row, method in enumerate(methods):
            for _, claim in table[table["method"] == method].iterrows():
                _claim(ax, row + offset, claim, shown, hollow)
    for label, face in (("in the budget that all were given", "black"), ("in seconds by the clock", "white")):
        ax.plot([], [], "o", color="black", markerfacecolor=face, markersize=4.2, linestyle="none", label=label)
    method_rows.label(ax, methods)
    factors(ax.xaxis)


def _claim(ax: Axes, row: float, claim: pd.Series, shown: tuple[float, float], hollow: bool) -> None:
    """A factor's interval, which ends in an arrow where it leaves the axes, and its mark where there is a factor."""
    looks = look(claim["method"])
    ends = np.clip([claim["low"], claim["high"]], *shown)
    ax.hlines([row], ends[:1], ends[1:], color=looks.colour, linewidth=1.3)
    for end, edge, arrow in zip((claim["low"], claim["high"]), ends, "<>", strict=True):
        ax.plot([edge], [row], "|" if end == edge else arrow, color=looks.colour, markersize=4, clip_on=False)
    if shown[0] <= claim["factor"] <= shown[1]:
        face: Any = "white" if hollow else looks.colour
        ax.plot([claim["factor"]], [row], looks.marker, color=looks.colour, markerfacecolor=face, markersize=4.2)
