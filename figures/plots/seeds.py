"""A method's curve, with a 95% band, or with the runs themselves where they are too few for one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from figures.methods import look
from figures.statistics import band

FEWEST_FOR_A_BAND = 3
"""Of two runs an interval is 12.7 standard errors to each side: a band of it would only fill the panel."""
ROOM = 0.3
"""Bands may stretch the axes so far beyond the curves, as a share of what the curves span."""


@dataclass(frozen=True)
class Drawn:
    """The ranges of a method's means and runs, and of its band (the same without one)."""

    method: str
    runs: int
    last: float
    low: float
    high: float
    band_low: float
    band_high: float
    has_band: bool


def curve(ax: Axes, rows: pd.DataFrame, method: str, x: str, y: str) -> Drawn:
    """Draw the mean of `y` against `x` over a method's runs, over its band, or over its two runs as thin lines.

    Args:
        rows: evaluations of this method in one group.
    """
    mean = band(rows, x, y)
    looks = look(method)
    runs = [run.sort_values(x)[[x, y]].dropna() for _, run in rows.groupby("run")]
    runs = [run for run in runs if len(run)]
    # Runs may have no place in common: one evaluation each, at times of a machine that others used, too.
    has_band = len(runs) >= FEWEST_FOR_A_BAND and len(mean) > 0
    ax.plot(mean["x"], mean["mean"], markevery=max(1, len(mean) // 8), zorder=2.5, **looks.curve)
    ranges = [mean["mean"]]
    low, high = mean["mean"] - mean["half_width"], mean["mean"] + mean["half_width"]
    if has_band:
        ax.fill_between(mean["x"], low, high, color=looks.colour, alpha=0.13, linewidth=0)
    elif len(runs) > 1:
        for run in runs:
            ax.plot(run[x], run[y], color=looks.colour, linewidth=0.6, alpha=0.55, label="_run")
            ranges.append(run[y])
    seen = pd.concat(ranges)
    outer = pd.concat([low, high]) if has_band else seen
    last = mean["mean"].iloc[-1] if len(mean) else sum(run[y].iloc[-1] for run in runs) / len(runs)
    return Drawn(method, len(runs), float(last), seen.min(), seen.max(), outer.min(), outer.max(), has_band)


def limits(drawn: Iterable[Drawn]) -> tuple[float, float]:
    """The range that axes show: all means and single runs, and of the bands what `ROOM` is left for."""
    shown = list(drawn)
    low, high = min(each.low for each in shown), max(each.high for each in shown)
    margin = 0.06 * (high - low) + 1e-3
    room = ROOM * (high - low) + 1e-3
    return (
        max(low - room, min(each.band_low for each in shown)) - margin,
        min(high + room, max(each.band_high for each in shown)) + margin,
    )


def remark(drawn: Iterable[Drawn], shown: tuple[float, float]) -> str:
    """A remark on how many seeds there are, how their spread is drawn, and whether bands leave the axes.

    Args:
        shown: the range of the axes.
    """
    found = list(drawn)
    counts = sorted({each.runs for each in found})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seeds += " seed" if counts[-1] == 1 else " seeds"
    said = []
    if any(each.has_band for each in found):
        cut = any(each.has_band and (each.band_low < shown[0] or each.band_high > shown[1]) for each in found)
        said.append("95% bands, cut at the axes" if cut else "95% bands")
    if 2 in counts:
        said.append("thin lines are runs" if counts == [2] else "thin lines are runs of two")
    return f"{seeds}: {'; '.join(said)}" if said else seeds
