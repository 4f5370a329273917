"""The share of the better half of a batch that an early exit keeps, against beta."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.statistics import curves_of

PREFIX = "top-half overlap, "


def draw(table: pd.DataFrame) -> Figure:
    """Share of the top half that an early exit keeps: its limit for large batches, and simulated (beyond Theorem 6.2).

    The lower axes show the simulated points' distance from the limit, moved apart a little.
    """
    figure, axes = style.new(2, 1, height=3.9, sharex=True, gridspec_kw={"height_ratios": [1.7, 1]})
    top, bottom = axes[:, 0]
    limit = curves_of(table, "beta")[f"{PREFIX}limit"]
    top.plot(limit, color=style.BLUE, label=r"limit $B \to \infty$")
    bottom.axhline(0, color=style.BLUE)
    batches = batch_sizes(table)
    for number, (B, rows) in enumerate(batches.items()):
        colour, marker = style.LOOKS[1 + number % 4]
        style.simulated(top, rows, rows["beta"], colour=colour, marker=marker, label=f"simulated, $B = {B}$")
        # Side by side, or they would hide each other.
        beside = rows["beta"] + 0.013 * (number - (len(batches) - 1) / 2)
        gap = rows["value"] - np.interp(rows["beta"], limit.index, limit)
        style.simulated(bottom, rows, beside, y=gap, colour=colour, marker=marker)
    top.set(ylabel="overlap of the top halves", ylim=(min(0.48, limit.min()), 1.02))
    bottom.set(xlabel=r"correlation $\beta_j$ of early and full margins", ylabel="minus limit", xlim=(0, 1))
    style.title(top, _title(limit, batches))
    style.legend_below(figure, axes, columns=2)
    return figure


def batch_sizes(table: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """B -> its simulated rows."""
    names = [name for name in table["quantity"].unique() if name.startswith(f"{PREFIX}B = ")]
    found = {int(name.removeprefix(f"{PREFIX}B = ")): table[table["quantity"] == name] for name in names}
    return dict(sorted(found.items()))


def _title(limit: pd.Series, batches: dict[int, pd.DataFrame]) -> str:
    high = limit.index[limit >= 0.8]
    need = "No $\\beta$ keeps 80% of the top half"
    if len(high):
        need = f"Keeping 80% of the top half takes $\\beta$ ≥ {high.min():.2f}"
    if not batches:
        return need
    gaps = [np.abs(rows["value"] - np.interp(rows["beta"], limit.index, limit)).max() for rows in batches.values()]
    return f"{need}; batches of {min(batches)} to {max(batches)} are within {max(gaps):.3f} of the limit"
