"""The parts of a training step's time, and what selection adds to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from figures import style
from figures.checked import Missing
from figures.methods import in_order, look
from figures.plots import method_rows
from figures.statistics import groups_of

PARTS = (
    ("selection_s", "scoring", style.VERMILLION, ""),
    ("forward_s", "forward", style.SKY, "////"),
    ("backward_s", "backward", style.BLUE, ""),
    ("other_s", "optimizer and the rest", "#D9D9D9", ""),
)


def draw(runs: pd.DataFrame, costs: pd.DataFrame | None = None) -> Figure:
    """Shares of the training time, and a step's median cost beside the plain one's where it was measured, by group.

    Raises:
        Missing: if no run was evaluated.
    """
    shares = shares_of(runs)
    if shares.empty:
        raise Missing("no run has got to an evaluation")
    groups = groups_of(shares)
    figure, axes = method_rows.panels([rows["method"] for rows in groups.values()], 1.05, 0.5, gap=0.08)
    width = method_rows.panel_width(shares["method"])
    for (left, right), rows in zip(axes, groups.values(), strict=True):
        before = pd.Series(0.0, index=rows.index)
        for column, label, colour, hatch in PARTS:
            fill: Any = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            left.barh(range(len(rows)), rows[column], left=before, height=0.7, label=label, **fill)
            before = before + rows[column]
        for row, share in enumerate(rows["selection_s"]):
            if share > 0.06:
                left.text(
                    share / 2, row, f"{share:.0%}", ha="center", va="center", color="white", fontsize=style.POINTS - 1.5
                )
        left.set(xlim=(0, 1), xlabel="share of training time")
        left.xaxis.set_major_formatter(PercentFormatter(1.0))
        method_rows.label(left, list(rows["method"]))
        dearest = rows.loc[rows["selection_s"].idxmax()]
        said = f"{look(dearest['method']).brief} spends {dearest['selection_s']:.0%} on scoring"
        style.title(left, f"{style.group(rows)}: {said}", width=width, left=0)
        _step_costs(right, rows, costs, width)
    style.legend_below(figure, axes, columns=3)
    return figure


def shares_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Shares of a method's time that went into scoring, forward and backward passes and the rest, means over runs.

    Returns:
        Columns group, method, selection_s, forward_s, backward_s, other_s; the last four add up to 1.
    """
    timed = runs[runs["wall_clock_s"] > 0]
    rows = []
    for group, of_group in groups_of(timed).items():
        for method in in_order(of_group["method"]):
            of_method = of_group[of_group["method"] == method]
            parts = [float((of_method[name] / of_method["wall_clock_s"]).mean()) for name, *_ in PARTS[:-1]]
            rows.append((group, method, *parts, max(0.0, 1 - math.fsum(parts))))
    return pd.DataFrame(rows, columns=["group", "method", *(name for name, *_ in PARTS)])


def _step_costs(ax: Axes, rows: pd.DataFrame, costs: pd.DataFrame | None, width: float) -> None:
    measured = None if costs is None else costs[costs["group"] == rows["group"].iloc[0]].set_index("method")
    if measured is None or not set(rows["method"]) & set(measured.index):
        ax.set_axis_off()
        style.note(ax, "costs were not measured", x=0.5, y=0.5, ha="center", va="center")
        return
    found = 1e3 * measured[["plain_s", "selecting_s"]].reindex(rows["method"])
    plain = found["plain_s"].to_numpy()
    # The baseline has no selecting steps to pay for.
    selecting = found["selecting_s"].where(found.index != "baseline").to_numpy()
    ax.hlines(range(len(rows)), plain, selecting, color=style.GREY, linewidth=1)
    ax.plot(plain, range(len(rows)), "o", color="black", markerfacecolor="white", label="plain step", linestyle="none")
    ax.plot(selecting, range(len(rows)), "s", color=style.VERMILLION, label="selecting step", linestyle="none")
    beside: Any = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": style.POINTS - 1.5}
    for row, (ratio, dear) in enumerate(zip(selecting / plain, np.fmax(plain, selecting), strict=True)):
        if not math.isnan(ratio):
            ax.annotate(rf"$\times${ratio:.2f}", (dear, row), **beside)
    ax.set(xlim=(0, 1.25 * float(found.max().max())), xlabel="median step (ms)")
    method_rows.label(ax, list(rows["method"]))
    ax.set_yticklabels([])
    style.title(ax, _dearest(selecting / plain), width=width, left=0)


def _dearest(ratios: np.ndarray) -> str:
    if np.isnan(ratios).all():
        return "No method selects"
    return f"Selecting costs up to {np.nanmax(ratios):.2f} plain steps"
