"""The cost of selection in a model, what it keeps, and the gain of its steps, exit by exit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures import style
from figures.statistics import groups_of

STRETCH = 1.0
"""Intervals may stretch the axes so far beyond the values, as a share of what these span (and at least of 0.3)."""


def draw(diagnosis: pd.DataFrame) -> Figure:
    """Extra time of a selecting step, overlap, and gain beside break-even, against the exit; a row a diagnosis."""
    groups = groups_of(diagnosis)
    figure, axes = style.new(len(groups), 3, width=style.DOUBLE_IN, height=2.5 * len(groups) + 0.6)
    steps: list[int] = sorted(diagnosis["step"].unique())
    looks = {step: style.LOOKS[number % len(style.LOOKS)] for number, step in enumerate(steps)}
    for (cost, overlap, gain), rows in zip(axes, groups.values(), strict=True):
        name = style.group(rows).removeprefix("diagnose-")
        points = {step: rows[rows["step"] == step] for step in sorted(rows["step"].unique())}
        places = _places(points)
        for step, of_step in points.items():
            colour, marker = looks[step]
            label = f"after {step:,} steps"
            _interval(cost, places[step], of_step, "cost", colour, marker, label)
            half = of_step["overlap_half_width"].fillna(0.0)
            ends = of_step.assign(overlap_low=of_step["overlap"] - half, overlap_high=of_step["overlap"] + half)
            _interval(overlap, places[step], ends, "overlap", colour, marker, label)
            _level_marks(overlap, places[step], of_step["overlap_finite"], "black", "_law")
            _interval(gain, places[step], of_step, "gain", colour, marker, label)
            _level_marks(gain, places[step], of_step["break_even"], colour, "_break-even")
        level = float(rows["level"].iloc[0])
        overlap.axhline(level, color=style.GREY, linestyle=style.DOTTED, linewidth=0.8)
        gain.axhline(1, color="black", linestyle=style.DOTTED, linewidth=0.8)
        _frame(cost, rows, "cost", "extra time of a step")
        _frame(overlap, rows, "overlap", "overlap with the exact choice")
        _frame(gain, rows, "gain", "gain of a step")
        overlap.set_ylim(min(overlap.get_ylim()[0], level - 0.05), 1.03)
        for ax in (cost, overlap):
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        style.note(overlap, "bars: Gaussian margins", paled=True)
        style.note(gain, "bars: break-even", paled=True)
        width = style.DOUBLE_IN / 3
        style.title(cost, f"{name}: {_costs(rows)}", width=width)
        style.title(overlap, _keeps(points[max(points)]), width=width)
        style.title(gain, _verdict(points[max(points)]), width=width)
    style.legend_below(figure, axes, columns=4, order=[f"after {step:,} steps" for step in steps])
    return figure


def _places(points: dict[int, pd.DataFrame]) -> dict[int, np.ndarray]:
    """Step -> the places of its exits, which stand side by side, or they would hide each other."""
    apart = min(0.16, 0.6 / max(1, len(points)))
    middle = (len(points) - 1) / 2
    return {
        step: rows["exit_layer"].to_numpy(float) + apart * (number - middle)
        for number, (step, rows) in enumerate(points.items())
    }


def _interval(ax: Axes, x: np.ndarray, rows: pd.DataFrame, name: str, colour: str, marker: str, label: str) -> None:
    ax.plot(x, rows[name], color=colour, marker=marker, linestyle="none", label=label, zorder=3)
    # An end that is infinite is beyond any axes.
    low, high = (np.clip(rows[f"{name}_{end}"].to_numpy(float), -1e6, 1e6) for end in ("low", "high"))
    ax.vlines(x, low, high, color=colour, linewidth=1.1, zorder=2)


def _level_marks(ax: Axes, x: np.ndarray, values: pd.Series, colour: str, label: str) -> None:
    bars: dict[str, Any] = {"marker": "_", "linestyle": "none", "markersize": 9, "zorder": 4}
    ax.plot(x, values, color=colour, label=label, **bars)


def _frame(ax: Axes, rows: pd.DataFrame, name: str, label: str) -> None:
    """Fit the axes to the values, and to their intervals as far as there is room."""
    values = [rows[name].min(), rows[name].max()]
    if name == "gain":
        values += [1.0, float(rows["break_even"].min()), float(rows["break_even"].max())]
    low, high = np.nanmin(values), np.nanmax(values)
    room = STRETCH * max(high - low, 0.3)
    if f"{name}_low" in rows:
        low = max(low - room, min(low, rows[f"{name}_low"].min()))
        high = min(high + room, max(high, rows[f"{name}_high"].max()))
    margin = 0.08 * max(high - low, 0.1)
    ax.set(xlabel="exit", ylabel=label, ylim=(low - margin, high + margin))
    exits = rows["exit_layer"]
    ax.set_xlim(exits.min() - 0.5, exits.max() + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _costs(rows: pd.DataFrame) -> str:
    low, high = rows["cost"].min(), rows["cost"].max()
    if round(100 * low) == round(100 * high):
        return f"selecting adds {low:.0%} to a step"
    return f"selecting adds {low:.0%} to {high:.0%} to a step"


def _keeps(rows: pd.DataFrame) -> str:
    first = rows.sort_values("exit_layer").iloc[0]
    return f"Exit {first['exit_layer']} keeps {first['overlap']:.0%} of the exact choice"


def _verdict(rows: pd.DataFrame) -> str:
    last = rows.iloc[0]
    after = f"after {last['step']:,} steps"
    if not math.isnan(last["recommended"]):
        return f"Selection pays at exit {last['recommended']:.0f} {after}"
    return f"Selection does not pay {after}" if last["verdict"] == "does not pay" else f"Not decided {after}"
