"""How well each method's scores agree with exact losses over training: overlap, and what bounds their loss."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from figures import style
from figures.methods import labels_in_order, look
from figures.plots import seeds
from figures.plots.readings import averaged, shown
from figures.statistics import groups_of

AT_AN_END = 0.25
"""Share of a run's readings whose means are compared, the first of them and the last."""


def draw(readings: pd.DataFrame) -> Figure:
    """Overlap with the exact choice, and delta_S + delta_S* over training, two panels a group, a line a method.

    Of the rows that a score keeps, the root of the mean exact loss is at least that of the hardest rows less the
    deltas (`theory.formulas.stale`). The dotted line is the overlap of rows at random. Methods whose score is the exact
    loss are left out, unless there are no others.
    """
    groups = groups_of(readings)
    figure, axes = style.new(len(groups), 2, width=style.DOUBLE_IN, height=2.4 * len(groups) + 0.8)
    for (overlap, delta), rows in zip(axes, groups.values(), strict=True):
        rows = rows.assign(delta=rows["delta_chosen"] + rows["delta_hardest"])
        methods, name = shown(rows), style.group(rows)
        _panel(overlap, rows, methods, "overlap")
        for share in sorted(set((rows["kept"] / rows["rows"]).round(2))):
            overlap.axhline(share, color="black", linestyle=style.DOTTED, linewidth=0.8, label="_chance")
        overlap.set(ylabel="overlap with the exact top rows", ylim=(0, 1.05))
        overlap.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        style.note(overlap, "dotted: rows at random", paled=True)
        style.title(overlap, f"{name}: {change(rows, methods)}", width=style.DOUBLE_IN / 2)
        _panel(delta, rows, methods, "delta")
        delta.set(ylabel=r"$\delta_S + \delta_{S^*}$", ylim=(0, None))
        known = rows[rows["method"].isin(methods)]["delta"].notna().any()
        said = "what a choice loses of the root of the mean loss, at most" if known else "deltas were not recorded"
        style.title(delta, f"{name}: {said}", width=style.DOUBLE_IN / 2)
    style.legend_below(figure, axes, columns=4, order=labels_in_order(readings["method"]))
    return figure


def change(rows: pd.DataFrame, methods: Sequence[str]) -> str:
    """In words, whose overlap rises or falls the most between the first and the last quarter of the readings."""
    moved = {}
    for method in methods:
        of_method = rows[(rows["method"] == method) & rows["overlap"].notna()]
        first, last = of_method["step"].quantile([AT_AN_END, 1 - AT_AN_END])
        early, late = of_method[of_method["step"] <= first], of_method[of_method["step"] >= last]
        if first < last:
            moved[method] = early["overlap"].mean(), late["overlap"].mean()
    if not moved:
        return "too few readings"
    most = max(moved, key=lambda method: abs(moved[method][1] - moved[method][0]))
    early, late = moved[most]
    verb = "falls" if late < early else "rises"
    return f"overlap of {look(most).brief} {verb} from {early:.0%} to {late:.0%}"


def _panel(ax: Axes, rows: pd.DataFrame, methods: Sequence[str], measure: str) -> None:
    for method in methods:
        of_method = averaged(rows[(rows["method"] == method) & rows[measure].notna()])
        if len(of_method):
            seeds.curve(ax, of_method, method, "step", measure)
    ax.set(xlabel="step", xlim=(0, None))
    ax.xaxis.set_major_formatter(lambda value, _: style.thousands(value))
