"""How well scores picked the rows that exact losses would have picked, over training."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from figures import style
from figures.accuracy import thousands
from figures.checked import Missing
from figures.curves import band, drawn
from figures.methods import look

MEASURES = (("overlap", "overlap with the exact top rows"), ("rank_correlation", "rank correlation with exact losses"))


def draw(evaluations: pd.DataFrame) -> Figure:
    """Overlap with the exact top rows and Spearman's correlation, one row a group, means with 95% bands.

    The dotted line is what random rows reach: the kept share, and no correlation.

    Args:
        evaluations: the table of that name.

    Raises:
        Missing: if no run recorded its selection's quality.
    """
    scored = evaluations[evaluations["overlap"].notna()]
    if scored.empty:
        raise Missing("no run recorded the quality of its selection (train with --quality_batches 2, say)")
    groups = list(dict.fromkeys(scored["group"]))
    figure, axes = style.new(len(groups), 2, width=style.DOUBLE_IN, height=2.4 * len(groups) + 0.7)
    for panels, group in zip(axes, groups, strict=True):
        rows = scored[scored["group"] == group]
        methods, remarks = drawn(rows)
        for ax, (measure, label) in zip(panels, MEASURES, strict=True):
            ends = {}
            for method in methods:
                of_method = rows[(rows["method"] == method) & rows[measure].notna()]
                if of_method.empty:
                    continue
                curve = band(of_method, "backprop_samples", measure)
                looks = look(method)
                ax.plot(curve["x"], curve["mean"], markevery=max(1, len(curve) // 8), **looks.curve)
                if curve["half_width"].notna().any():
                    low, high = curve["mean"] - curve["half_width"], curve["mean"] + curve["half_width"]
                    ax.fill_between(curve["x"], low, high, color=looks.colour, alpha=0.13, linewidth=0)
                ends[method] = float(curve["mean"].iloc[-1])
            chance = sorted(rows["keep"].unique()) if measure == "overlap" else [0.0]
            for level in chance:
                ax.axhline(level, color="black", linestyle=(0, (1.2, 1.2)), linewidth=0.8 * style.scale())
            style.note(ax, "\n".join([*remarks, "dotted: random rows"]), y=0.03 if measure == "overlap" else 0.1)
            ax.set(xlabel="backpropagated samples", ylabel=label, xlim=(0, None))
            ax.set_ylim(min(0.0, ax.get_ylim()[0]) if measure == "rank_correlation" else 0.0, 1.02)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
            if measure == "overlap":
                ax.yaxis.set_major_formatter(PercentFormatter(1.0))
            style.title(ax, f"{style.group(rows)}: {_statement(ends, measure)}", width=style.DOUBLE_IN / 2)
    style.legend_below(figure, axes, columns=4)
    return figure


def _statement(ends: dict[str, float], measure: str) -> str:
    if not ends:
        return "not recorded"
    best, worst = max(ends, key=lambda m: ends[m]), min(ends, key=lambda m: ends[m])
    shown = (lambda v: f"{v:.0%}") if measure == "overlap" else (lambda v: f"{v:.2f}")
    last = f"{look(best).label} ends at {shown(ends[best])}"
    return last if best == worst else f"{last}, {look(worst).label} at {shown(ends[worst])}"
