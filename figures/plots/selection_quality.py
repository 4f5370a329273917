"""The overlap of picked rows with those that exact losses would have picked, over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from figures import style
from figures.checked import Missing
from figures.methods import in_order, labels_in_order, look
from figures.plots import seeds
from figures.statistics import groups_of, to_draw

MEASURES = (("overlap", "overlap with the exact top rows"), ("rank_correlation", "rank correlation with exact losses"))


def draw(evaluations: pd.DataFrame) -> Figure:
    """Overlap with the exact top rows and Spearman's correlation, one row a group, means and how far seeds are apart.

    The dotted line is what random rows reach: the kept share, and no correlation. Of the methods that score by the
    exact loss itself only the first is drawn, as they all reach everything.

    Raises:
        Missing: if no run recorded its selection's quality.
    """
    scored = evaluations[evaluations["overlap"].notna()]
    if scored.empty:
        raise Missing("no run recorded the quality of its selection (train with --quality_batches 2, say)")
    groups = groups_of(scored)
    figure, axes = style.new(len(groups), 2, width=style.DOUBLE_IN, height=2.4 * len(groups) + 0.7)
    for panels, rows in zip(axes, groups.values(), strict=True):
        exact = exact_ones(rows)
        methods, remarks = to_draw(rows[~rows["method"].isin(exact[1:])])
        if len(exact) > 1:
            others = "another" if len(exact) == 2 else f"{len(exact) - 1} more"
            remarks.append(f"exact as {look(exact[0]).brief}: {others}")
        for number, (ax, (measure, label)) in enumerate(zip(panels, MEASURES, strict=True)):
            found = _panel(ax, rows, methods, measure, remarks if number == 0 else [])
            ax.set(xlabel="backpropagated samples", ylabel=label)
            ends = {each.method: each.last for each in found}
            style.title(ax, f"{style.group(rows)}: {_title(ends, measure)}", width=style.DOUBLE_IN / 2)
    style.legend_below(figure, axes, columns=4, order=labels_in_order(scored["method"]))
    return figure


def exact_ones(rows: pd.DataFrame) -> list[str]:
    """Methods that picked and ranked exactly, always: those whose score is the exact loss."""
    worst = rows.groupby("method")[["overlap", "rank_correlation"]].min().min(axis=1)
    return [method for method in in_order(rows["method"]) if worst[method] >= 1 - 1e-9]


def _panel(
    ax: Axes, rows: pd.DataFrame, methods: Sequence[str], measure: str, remarks: Sequence[str]
) -> list[seeds.Drawn]:
    measured = {method: rows[(rows["method"] == method) & rows[measure].notna()] for method in methods}
    found = [
        seeds.curve(ax, of_method, method, "backprop_samples", measure)
        for method, of_method in measured.items()
        if len(of_method)
    ]
    chance = sorted(rows[rows["method"].isin(methods)]["keep"].unique()) if measure == "overlap" else [0.0]
    dotted: Any = {"color": "black", "linestyle": style.DOTTED, "linewidth": 0.8}
    for level in chance:
        ax.axhline(level, label="what random rows reach", **dotted)
    lowest = min([0.0, *(seeds.limits(found) if found else ())])
    # Marks at 1 stay whole.
    ax.set(xlim=(0, None), ylim=(0.0 if measure == "overlap" else max(-1.05, lowest), 1.05))
    ax.xaxis.set_major_formatter(lambda value, _: style.thousands(value))
    if measure == "overlap":
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        counted = [seeds.remark(found, ax.get_ylim())] if found else []
        style.note(ax, "\n".join([*remarks, *counted]), paled=True)
    return found


def _title(ends: dict[str, float], measure: str) -> str:
    if not ends:
        return "not recorded"
    best, worst = max(ends, key=lambda m: ends[m]), min(ends, key=lambda m: ends[m])
    shown = (lambda v: f"{v:.0%}") if measure == "overlap" else (lambda v: f"{v:.2f}".replace("-", "\N{MINUS SIGN}"))
    last = f"{look(best).brief} ends at {shown(ends[best])}"
    return last if best == worst else f"{last}, {look(worst).brief} at {shown(ends[worst])}"
