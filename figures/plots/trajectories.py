"""GSGD against SGD over iterations, with both convergence bounds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style

METHODS = {"GSGD": (style.BLUE, "o"), "SGD": (style.VERMILLION, "s")}


def draw(table: pd.DataFrame) -> Figure:
    """F of the average iterate of GSGD and SGD, each at its own best step, bounds, their crossing (Corollary 5.10)."""
    figure, axes = style.new(height=3.4)
    ax = axes[0, 0]
    means = {}
    for method, (colour, marker) in METHODS.items():
        rows = table[table["method"] == method]
        mean = rows[rows["quantity"] == "mean"].sort_values("K")
        bound = rows[rows["quantity"] == "bound"].sort_values("K")
        means[method] = mean.set_index("K")["value"]
        ax.fill_between(mean["K"], mean["low"], mean["high"], color=colour, alpha=0.25, linewidth=0)
        ax.plot(means[method], color=colour, marker=marker, markevery=4, markersize=3, label=method)
        ax.plot(bound["K"], bound["value"], color=colour, linestyle=(0, (5, 2)), label=f"bound of {method}")
    crossing = table[table["quantity"] == "crossing"].iloc[0]
    mark = {"color": "black", "markerfacecolor": "white", "linestyle": "none"}
    ax.plot(crossing["K"], crossing["value"], marker="*", markersize=8, label="the bounds cross", **mark)
    simulated = where_they_cross(means["GSGD"], means["SGD"])
    if simulated is not None:
        height = float(np.exp(np.interp(np.log(simulated), np.log(means["SGD"].index), np.log(means["SGD"]))))
        ax.plot(simulated, height, marker="X", markersize=5.5, label="the runs cross", **mark)
    highest = max(mean.max() for mean in means.values())
    # The bounds start far above: what matters is where they come down to the runs.
    ax.set(xscale="log", yscale="log", xlabel="iterations $K$", ylabel="$F$(average iterate)")
    ax.set_ylim(top=12 * highest)
    style.title(ax, _title(simulated, float(crossing["K"]), float(table["K"].max())))
    style.legend_below(figure, axes, columns=2)
    return figure


def where_they_cross(first: pd.Series, second: pd.Series) -> float | None:
    """The K from which on `first` is above `second` after having been below; None if that never happens.

    Linear in log K between the two points around it.
    """
    gap = (first - second).to_numpy()
    K = first.index.to_numpy(float)
    below = np.flatnonzero(gap < 0)
    if len(below) == 0 or below[-1] == len(gap) - 1:
        return None
    left = int(below[-1])
    share = -gap[left] / (gap[left + 1] - gap[left])
    return float(np.exp(np.log(K[left]) + share * (np.log(K[left + 1]) - np.log(K[left]))))


def _title(simulated: float | None, bounds: float, last: float) -> str:
    if simulated is None:
        return f"The bounds cross at K = {bounds:,.0f}; the runs do not up to K = {last:,.0f}"
    return f"GSGD leads until K = {simulated:,.0f}, then SGD does; the bounds put it at K = {bounds:,.0f}"
