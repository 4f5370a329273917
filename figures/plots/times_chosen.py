"""How often each row of the data was chosen in a run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from figures import style
from figures.methods import in_order, labels_in_order, look
from figures.statistics import MOST_CURVES, groups_of

MOST_BINS = 40


def draw(chosen: pd.DataFrame) -> Figure:
    """Histograms of how often rows were chosen, one panel a group, over all runs of a method."""
    groups = groups_of(chosen)
    figure, axes = style.new(len(groups), 1, width=style.DOUBLE_IN, height=2.4 * len(groups) + 0.6)
    for (ax,), rows in zip(axes, groups.values(), strict=True):
        methods = in_order(rows["method"])[:MOST_CURVES]
        edges = bins(rows["chosen"].to_numpy())
        for method in methods:
            _steps(ax, rows[rows["method"] == method]["chosen"].to_numpy(), edges, method)
        ax.set(xlabel="times a row was chosen", ylabel="share of the rows", xlim=(edges[0], edges[-1]), ylim=(0, None))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        said = ", ".join(f"{look(method).brief} {_half(rows[rows['method'] == method]):.0%}" for method in methods[:3])
        style.title(
            ax, f"{style.group(rows)}: half of all choices fall on this share of rows: {said}", width=style.DOUBLE_IN
        )
    style.legend_below(figure, axes, columns=4, order=labels_in_order(chosen["method"]))
    return figure


def bins(times: np.ndarray) -> np.ndarray:
    """Edges between whole numbers, at most `MOST_BINS` bins of one width."""
    width = -(-(int(times.max()) + 1) // MOST_BINS)
    return np.arange(0, int(times.max()) + 1 + width, width) - 0.5


def _steps(ax: Axes, times: np.ndarray, edges: np.ndarray, method: str) -> None:
    looks = look(method)
    counted, _ = np.histogram(times, edges)
    shares = counted / len(times)
    ax.stairs(shares, edges, color=looks.colour, linestyle=looks.line, label=looks.curve["label"])


def _half(rows: pd.DataFrame) -> float:
    """The smallest share of the rows that has half of the choices; NaN if nothing was chosen."""
    times = np.sort(rows["chosen"].to_numpy())[::-1]
    if times.sum() == 0:
        return float("nan")
    return (int(np.searchsorted(np.cumsum(times), times.sum() / 2)) + 1) / len(times)
