"""What it took each method to reach the comparison's target accuracy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from figures import forest, style
from figures.accuracy import thousands
from figures.methods import in_order, look


def draw(summaries: pd.DataFrame) -> Figure:
    """Seconds and backpropagated samples to the target, means with 95% intervals, one row of panels a comparison.

    Args:
        summaries: the table of that name.
    """
    figure, axes, groups = forest.panels(summaries, 1.05)
    for panels, group in zip(axes, groups, strict=True):
        rows = summaries[summaries["group"] == group].set_index("method")
        rows = rows.loc[in_order(rows.index)]
        clock = "reference time" if rows["reference_s"].notna().all() else "real clock"
        longest = float(np.nanmax([*rows["seconds_to_target"], 0.0]))
        unit, seconds = ("h", 3600) if longest > 2 * 3600 else ("s", 1)
        for ax, column, scale, label in (
            (panels[0], "seconds_to_target", 1 / seconds, f"{clock} to the target ({unit})"),
            (panels[1], "samples_to_target", 1.0, "backpropagated samples to the target"),
        ):
            means, halves = scale * rows[column], scale * rows[f"{column}_half_width"]
            forest.rows(ax, list(rows.index), list(means), list(halves))
            forest.label(ax, list(rows.index))
            for row, (_, entry) in enumerate(rows.iterrows()):
                if pd.isna(entry[column]):
                    forest.remark(ax, row, f"reached by {entry['reached']:.0f} of {entry['runs']:.0f} runs")
            ax.set_xlim(0, 1.1 * float(np.nanmax([*(means + halves.fillna(0)), 1e-9])))
            if not means.notna().any():
                ax.set_xticks([])
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
            ax.set_xlabel(label)
        target = f"target {rows['target'].iloc[0]:.1%}"
        text = f"{style.group(rows)}, {target}: {_statement(rows)}"
        style.title(panels[0], text, width=2 * forest.panel_width(rows.index) - 0.3)
    return figure


def _statement(rows: pd.DataFrame) -> str:
    reached = rows["seconds_to_target"].dropna()
    if reached.empty:
        return "no method got there in every run"
    if len(reached) == 1:
        return f"only {look(str(reached.index[0])).label} got there in every run"
    return f"{len(reached)} of {len(rows)} got there in every run, {look(str(reached.idxmin())).label} first on average"
