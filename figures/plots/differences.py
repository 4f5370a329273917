"""Differences of each method's final accuracy to the baseline and to the random control."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.methods import look
from figures.plots import method_rows
from figures.statistics import LUCK, OTHERS, groups_of


def draw(summaries: pd.DataFrame) -> Figure:
    """Differences of the final validation accuracy with 95% intervals, sorted, one row of panels a comparison."""
    groups = groups_of(summaries)
    names = [rows["method"] for rows in groups.values()]
    figure, axes = method_rows.panels(names, 0.95, 0.2, sharey="row")
    style.headline(figure, "Final validation accuracy against the baseline and against random rows, 95% intervals")
    width = method_rows.panel_width(summaries["method"])
    for panels, of_group in zip(axes, groups.values(), strict=True):
        rows = in_rows(of_group)
        for number, (ax, (column, other, name)) in enumerate(zip(panels, OTHERS, strict=True)):
            points, half = list(100 * rows[column]), list(100 * rows[f"{column}_half_width"])
            ax.axvline(0, color="black", linewidth=0.8, zorder=0.9)
            method_rows.rows(ax, list(rows["method"]), points, half, method_rows.limits(points, half))
            method_rows.label(ax, list(rows["method"]))
            for row, (_, entry) in enumerate(rows.iterrows()):
                if pd.isna(entry[column]):
                    method_rows.remark(ax, row, _why_none(entry, other))
            ax.xaxis.set_major_formatter(_signed)
            ax.set_xlabel(f"percentage points above {name}")
            said = sentence(rows, column, name)
            text = f"{style.group(rows)}: {said}" if number == 0 else said.capitalize()
            style.title(ax, text, width=width, left=0)
    return figure


def _signed(value: float, _: int) -> str:
    return f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def in_rows(summaries: pd.DataFrame) -> pd.DataFrame:
    """The rows with the best difference to the baseline on top, and those without a difference last."""
    key = "over_baseline" if summaries["over_baseline"].notna().any() else "val_accuracy"
    order = sorted(summaries.index, key=lambda i: look(summaries.loc[i, "method"]).order)
    return summaries.loc[order].sort_values(key, ascending=False, na_position="last", kind="stable")


def sentence(rows: pd.DataFrame, column: str, name: str) -> str:
    """A sentence on how many methods are above and below, as far as their intervals tell."""
    known = rows[rows[column].notna()]
    if known.empty:
        return f"no difference to {name} was recorded"
    if known[f"{column}_half_width"].isna().all():
        return LUCK
    sure = known[known[column].abs() > known[f"{column}_half_width"]]
    above, below = int((sure[column] > 0).sum()), int((sure[column] < 0).sum())
    if not above and not below:
        return f"no difference from {name} shown"
    return f"{above} of {len(known)} above {name}, {below} below"


def _why_none(entry: pd.Series, other: str) -> str:
    if entry["method"] == other:
        return "compared with itself"
    if entry["diverged"]:
        return f"{entry['diverged']} of {entry['runs']} runs diverged"
    return "not compared"
