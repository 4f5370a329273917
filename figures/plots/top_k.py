"""The gain of keeping the k largest of B losses, against the share that is kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.statistics import curves_of

LOOKS = (("-", "o"), ((0, (5, 1.5)), "^"), ((0, (3, 1, 1, 1)), "s"), (style.DOTTED, "D"))
COLOURS = (style.SKY, style.GREEN, style.BLUE, style.PURPLE)


def draw(table: pd.DataFrame) -> Figure:
    """rho_{B,k} of exponential losses against k / B, with its limit by CVaR (beyond Theorem 5.7)."""
    figure, axes = style.new(height=3.0)
    ax = axes[0, 0]
    limit = curves_of(table, "keep")["CVaR limit"]
    rho = table[table["quantity"] == "rho"]
    for number, (B, rows) in enumerate(rho.groupby("B")):
        rows = rows.sort_values("keep")
        line, marker = LOOKS[number % len(LOOKS)]
        colour = COLOURS[number % len(COLOURS)]
        every = [int(i) for i in np.unique(np.geomspace(1, len(rows), 8).astype(int) - 1)]
        curve = rows.set_index("keep")["value"]
        look = {"color": colour, "linestyle": line, "marker": marker, "markersize": 3.2, "markevery": every}
        ax.plot(curve, label=f"$B = {B:g}$", **look)
    ax.plot(limit, color="black", linewidth=0.9, label="limit (CVaR)")
    ax.axhline(1, color="black", linewidth=0.6)
    ax.set(xscale="log", xlabel="kept share $k/B$", ylabel=r"$\rho_{B,k}$", ylim=(0.8, None))
    ticks = [tick for tick in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if tick >= 0.9 * table["keep"].min()]
    style.ticks(ax.xaxis, ticks, lambda share, _: f"{100 * share:g}%")
    style.title(ax, _title(rho, limit))
    style.legend_below(figure, axes, columns=3)
    return figure


def _title(rho: pd.DataFrame, limit: pd.Series) -> str:
    at_half = rho[np.isclose(rho["keep"], 0.5)].set_index("B")["value"].sort_index()
    if at_half.empty:
        return "The fewer of a batch are kept, the larger their mean loss"
    half = float(np.interp(0.5, limit.index, limit))
    return (
        f"Keeping half of a batch gains a factor of {at_half.iloc[0]:.2f} at B = {at_half.index[0]:g} already, "
        f"and at most {half:.2f}"
    )
