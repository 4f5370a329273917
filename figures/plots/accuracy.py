"""Panels of validation accuracy along training, which Figures 1 and 2 have in common."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from figures import style
from figures.plots import seeds
from figures.statistics import differences, sentence, to_draw


def panel(ax: Axes, rows: pd.DataFrame, x: str, label: str, where: str, *, width: float) -> None:
    """Draw each method's mean validation accuracy against `x`, and its seeds, under a sentence on the differences.

    Args:
        rows: evaluations of one group.
        x: the column to draw against.
        label: of the axis.
        where: at what the sentence compares the methods, such as "at equal samples".
        width: of the panel in printed inches.
    """
    methods, remarks = to_draw(rows)
    curves = [seeds.curve(ax, rows[rows["method"] == method], method, x, "val_accuracy") for method in methods]
    ax.set(xlabel=label, ylabel="validation accuracy")
    ax.set_xlim(left=0)
    if curves:
        low, high = seeds.limits(curves)
        ax.set_ylim(max(0.0, low), min(1.0, high) + 1e-9)
        remarks.append(seeds.remark(curves, ax.get_ylim()))
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g}%")
    ax.xaxis.set_major_formatter(lambda value, _: style.thousands(value) if x == "backprop_samples" else f"{value:,g}")
    # Accuracy rises to the right, so that the corner below is free.
    style.note(ax, "\n".join(remarks), paled=True)
    finished = rows[rows["method"].isin(methods)]
    style.title(ax, f"{style.group(rows)}: {sentence(differences(finished, x), where)}", width=width)
