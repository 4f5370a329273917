"""The time and samples that each method took to the comparison's target accuracy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.methods import in_order, look
from figures.plots import method_rows
from figures.statistics import groups_of

NOTE_LINE_IN = 0.11


def draw(summaries: pd.DataFrame) -> Figure:
    """Seconds and backpropagated samples to the target, means with 95% intervals, one row of panels a comparison.

    Comparisons in which no method got there in every run have no panels, but a sentence below them.
    """
    groups = {name: _ordered(rows) for name, rows in groups_of(summaries).items()}
    reached = [rows for rows in groups.values() if rows["seconds_to_target"].notna().any()]
    rest = [rows for rows in groups.values() if rows["seconds_to_target"].isna().all()]
    told = [
        style.wrapped(_nowhere(rows), style.POINTS / (style.POINTS - 1.5) * (style.DOUBLE_IN - 0.1)) for rows in rest
    ]
    below = NOTE_LINE_IN * sum(text.count("\n") + 1 for text in told) + (0.13 if told else 0.0)
    figure, axes = _layout(reached, below)
    width = 2 * method_rows.panel_width([method for rows in reached for method in rows.index]) if reached else 0.0
    for panels, rows in zip(axes, reached, strict=False):
        _panels(panels, rows)
        target = f"target {rows['target'].iloc[0]:.1%}"
        style.title(panels[0], f"{style.group(rows)}, {target}: {_title(rows)}", width=width, left=0)
    if told:
        place = axes[-1][0]
        place.set_axis_off()
        told.insert(0, "No method reached the target in every run:")
        style.note(place, "\n".join(told), x=0.0, y=1.0, ha="left", va="top")
    return figure


def _layout(reached: list[pd.DataFrame], below: float) -> tuple[Figure, list[list[Axes]]]:
    """(figure, two panels for each of `reached`, and, if there are sentences, one place for them, last)."""
    heights = [method_rows.inches(rows.index) for rows in reached]
    if not below:
        figure, axes = method_rows.panels([rows.index for rows in reached], 0.85, sharey="row")
        return figure, [list(pair) for pair in axes]
    figure, whole = style.new(
        len(heights) + 1,
        1,
        width=style.DOUBLE_IN,
        height=sum(height + 0.85 for height in heights) + below,
        gridspec_kw={"height_ratios": [*(height + 0.4 for height in heights), below]},
    )
    found = []
    for (ax,) in whole[:-1]:
        spec = ax.get_subplotspec().subgridspec(1, 2)
        ax.remove()
        left = figure.add_subplot(spec[0])
        found.append([left, figure.add_subplot(spec[1], sharey=left)])
    return figure, [*found, [whole[-1][0]]]


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.set_index("method")
    return rows.loc[in_order(rows.index)]


def _panels(panels: list[Axes], rows: pd.DataFrame) -> None:
    clock = "reference time" if rows["reference_s"].notna().all() else "real clock"
    longest = float(np.nanmax(rows["seconds_to_target"]))
    unit, seconds = ("h", 3600) if longest > 2 * 3600 else ("s", 1)
    label = f"{clock} to the target ({unit})"
    _panel(panels[0], rows, "seconds_to_target", label, 1 / seconds, "{:,g}".format)
    _panel(panels[1], rows, "samples_to_target", "backpropagated samples to the target", 1.0, style.thousands)
    panels[1].tick_params(axis="y", labelleft=False)


def _panel(ax: Axes, rows: pd.DataFrame, column: str, label: str, scale: float, number: Callable[[float], str]) -> None:
    methods = list(rows.index)
    means, halves = list(scale * rows[column]), list(scale * rows[f"{column}_half_width"])
    shown = (0.0, method_rows.limits(means, halves)[1])
    method_rows.rows(ax, methods, means, halves, shown, lambda half: number(float(f"{half:.3g}")))
    method_rows.label(ax, methods)
    for row, (_, entry) in enumerate(rows.iterrows()):
        if pd.isna(entry[column]):
            method_rows.remark(ax, row, f"reached by {entry['reached']:.0f} of {entry['runs']:.0f} runs")
    ax.xaxis.set_major_formatter(lambda value, _: number(value))
    ax.set_xlabel(label)


def _title(rows: pd.DataFrame) -> str:
    reached = rows["seconds_to_target"].dropna()
    if len(reached) == 1:
        return f"only {look(str(reached.index[0])).brief} got there in every run"
    return f"{len(reached)} of {len(rows)} got there in every run, {look(str(reached.idxmin())).brief} first on average"


def _nowhere(rows: pd.DataFrame) -> str:
    """A sentence on a comparison in which no method got there in every run."""
    said = [
        f"{look(str(method)).brief} in {entry['reached']:.0f} of {entry['runs']:.0f}"
        for method, entry in rows.iterrows()
        if entry["reached"]
    ]
    none = len(rows) - len(said)
    if none:
        said.append(f"the {'others' if none > 1 else 'other'} in none" if said else "no method in any run")
    return f"{style.group(rows)}, target {rows['target'].iloc[0]:.1%}: {', '.join(said)}"
