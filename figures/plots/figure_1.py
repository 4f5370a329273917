"""Figure 1: validation accuracy against the number of samples that were backpropagated."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.methods import labels_in_order
from figures.plots import accuracy
from figures.statistics import groups_of


def draw(evaluations: pd.DataFrame) -> Figure:
    """Means over seeds and how far these are apart, one panel a comparison (Figure 1)."""
    groups = groups_of(evaluations)
    columns = 1 if len(groups) == 1 else 2
    rows = -(-len(groups) // columns)
    width = style.SINGLE_IN if columns == 1 else style.DOUBLE_IN
    figure, axes = style.new(rows, columns, width=width, height=2.6 * rows + (0.7 if len(groups) % columns == 0 else 0))
    for ax, of_group in zip(axes.flat, groups.values(), strict=False):
        label = "backpropagated samples"
        accuracy.panel(ax, of_group, "backprop_samples", label, "at equal samples", width=width / columns)
    order = labels_in_order(evaluations["method"])
    if len(groups) < axes.size:
        style.legend_in(axes.flat[-1], axes, order=order)
    else:
        style.legend_below(figure, axes, columns=2 * columns, order=order)
    return figure
