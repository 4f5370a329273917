"""Validation accuracy along training, what Figures 1 and 2 have in common."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from figures import style
from figures.curves import band, differences, drawn, statement
from figures.methods import look


def panel(ax: Axes, rows: pd.DataFrame, x: str, label: str, where: str, *, width: float) -> None:
    """Mean validation accuracy of each method against `x`, with 95% bands over seeds, under what it shows.

    Args:
        rows: evaluations of one group.
        x: the column to draw against.
        label: of the axis.
        where: at what the statement compares the methods, such as "at equal samples".
        width: of the panel in printed inches.
    """
    methods, remarks = drawn(rows)
    lowest, highest = [], []
    for method in methods:
        curve = band(rows[rows["method"] == method], x, "val_accuracy")
        looks = look(method)
        every = max(1, len(curve) // 8)
        ax.plot(curve["x"], curve["mean"], markevery=every, **looks.curve)
        if curve["half_width"].notna().any():
            low, high = curve["mean"] - curve["half_width"], curve["mean"] + curve["half_width"]
            # Of two seeds a band is as wide as the picture: it is still drawn, but may not hide the means.
            alpha = 0.13 if curve["runs"].iloc[0] > 2 else 0.06
            ax.fill_between(curve["x"], low, high, color=looks.colour, alpha=alpha, linewidth=0)
        lowest.append(curve["mean"].min())
        highest.append(curve["mean"].max())
    if methods:
        # Few seeds have wide bands: they may leave the picture, the means may not.
        margin = 0.08 * (max(highest) - min(lowest)) + 1e-3
        ax.set_ylim(max(0.0, min(lowest) - margin), min(1.0, max(highest) + margin) + 1e-9)
    ax.set(xlabel=label, ylabel="validation accuracy")
    ax.set_xlim(left=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    finished = rows[rows["method"].isin(methods)]
    counts = finished.groupby("method")["run"].nunique()
    seeds = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    remarks.append("1 seed" if seeds == "1" else f"{seeds} seeds, 95% bands")
    style.note(ax, "\n".join(remarks))
    style.title(ax, f"{style.group(rows)}: {statement(differences(finished, x), where)}", width=width)


def thousands(value: float) -> str:
    """1500000 as "1.5M", 20000 as "20k"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
