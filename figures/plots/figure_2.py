"""Figure 2: validation accuracy against time."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.methods import labels_in_order
from figures.plots import accuracy
from figures.statistics import groups_of


def draw(evaluations: pd.DataFrame) -> Figure:
    """One row a comparison: against reference time where there is one, and against the real clock (Figure 2).

    Reference time charges every step its method's median cost, measured before the runs; the real clock is what this
    machine showed, with whatever else it did.
    """
    groups = groups_of(evaluations)
    figure, axes = style.new(len(groups), 2, width=style.DOUBLE_IN, height=2.6 * len(groups) + 0.7)
    half = style.DOUBLE_IN / 2
    for (left, right), rows in zip(axes, groups.values(), strict=True):
        unit, seconds = ("h", 3600) if rows["wall_clock_s"].max() > 2 * 3600 else ("s", 1)
        timed = rows.assign(wall=rows["wall_clock_s"] / seconds, reference=rows["reference_s"] / seconds)
        if timed["reference"].notna().all():
            label = f"reference time ({unit}): steps at measured costs"
            accuracy.panel(left, timed, "reference", label, "at equal reference time", width=half)
        else:
            left.set_axis_off()
            style.note(left, "no reference time:\ncosts were not measured", x=0.5, y=0.5, ha="center", va="center")
        accuracy.panel(right, timed, "wall", f"real clock ({unit})", "at equal real time", width=half)
    style.legend_below(figure, axes, columns=4, order=labels_in_order(evaluations["method"]))
    return figure
