"""The map of a comparison: how far each method ends from the baseline and from the random control."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from figures import forest, style
from figures.methods import look

OTHERS = (("over_baseline", "baseline", "the baseline"), ("over_random", "random", "random rows"))


def draw(summaries: pd.DataFrame) -> Figure:
    """Differences of the final validation accuracy with 95% intervals, sorted, one row of panels a comparison.

    Args:
        summaries: the table of that name.
    """
    figure, axes, groups = forest.panels(summaries, 0.95, headline_in=0.2)
    style.headline(figure, "Final validation accuracy against the baseline and against random rows, 95% intervals")
    for panels, group in zip(axes, groups, strict=True):
        rows = in_rows(summaries[summaries["group"] == group])
        for number, (ax, (column, other, name)) in enumerate(zip(panels, OTHERS, strict=True)):
            ax.axvline(0, color="black", linewidth=0.8 * style.scale())
            points, half = 100 * rows[column], 100 * rows[f"{column}_half_width"]
            forest.rows(ax, list(rows["method"]), list(points), list(half))
            forest.label(ax, list(rows["method"]))
            for row, (_, entry) in enumerate(rows.iterrows()):
                if pd.isna(entry[column]):
                    forest.remark(ax, row, _why_none(entry, other))
            reach = float(np.nanmax([*(points.abs() + half.fillna(0)), 1e-3]))
            if rows[column].notna().any():
                ax.set_xlim(-1.08 * reach, 1.08 * reach)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
            ax.set_xlabel(f"points above {name}")
            said = statement(rows, column, name)
            text = f"{style.group(rows)}: {said}" if number == 0 else said.capitalize()
            style.title(ax, text, width=forest.panel_width(rows["method"]))
    return figure


def in_rows(summaries: pd.DataFrame) -> pd.DataFrame:
    """Best difference to the baseline on top; then the baseline itself and what has no difference."""
    key = "over_baseline" if summaries["over_baseline"].notna().any() else "val_accuracy"
    order = sorted(summaries.index, key=lambda i: look(summaries.loc[i, "method"]).order)
    return summaries.loc[order].sort_values(key, ascending=False, na_position="last", kind="stable")


def statement(rows: pd.DataFrame, column: str, name: str) -> str:
    """How many methods are above and below, as far as their intervals tell."""
    known = rows[rows[column].notna()]
    if known.empty:
        return f"no difference to {name} was recorded"
    if known[f"{column}_half_width"].isna().all():
        return "one seed each, so luck may be all there is to see"
    sure = known[known[column].abs() > known[f"{column}_half_width"]]
    above, below = int((sure[column] > 0).sum()), int((sure[column] < 0).sum())
    return f"{above} of {len(known)} above {name}, {below} below"


def _why_none(entry: pd.Series, other: str) -> str:
    if entry["method"] == other:
        return "compared with itself"
    if entry["diverged"]:
        return f"{entry['diverged']} of {entry['runs']} runs diverged"
    return "not compared"
