"""The cost of noisy losses: p(sigma) of Theorem 5.15 against exact worst cases of three noise laws."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.statistics import curves_of

SIGMA_LIMIT = 1 / (2 * math.sqrt(2))
"""Theorem 5.15 speaks of no larger sigma."""
LAWS = {"gaussian": (style.BLUE, "o"), "laplace": (style.GREEN, "^"), "rademacher": (style.VERMILLION, "s")}


def draw(table: pd.DataFrame) -> Figure:
    """The kept share of F^_2 in the worst case, exact and simulated, over p and the sharper p (Theorem 5.15)."""
    figure, axes = style.new(height=3.3)
    ax = axes[0, 0]
    curves = curves_of(table, "sigma")
    ax.axvspan(0, SIGMA_LIMIT, color="#F1F1F1", zorder=0)
    for name in sorted(curves):
        kind, _, law = name.partition(", ")
        colour, marker = LAWS.get(law, (style.GREY, "D"))
        if kind == "exact":
            ax.plot(curves[name], color=colour, label=f"worst case, {law.capitalize()}")
        elif kind == "simulated":
            rows = table[table["quantity"] == name]
            style.simulated(ax, rows, rows["sigma"], colour=colour, marker=marker)
    ax.plot([], [], "o", color=style.GREY, markerfacecolor="white", label="simulated, with intervals")
    ax.plot(curves["p"], color="black", linestyle=style.DOTTED, label=r"$p(\sigma)$, as printed")
    ax.plot(curves["p_sharp"], color="black", linestyle=(0, (5, 2)), label=r"sharper $p(\sigma)$")
    ax.set(xlabel=r"noise level $\sigma$", ylabel=r"kept share of $\hat F_2$", xlim=(0, table["sigma"].max()))
    ax.set_ylim(min(0.48, table["value"].min() - 0.02), 1.01)
    shaded = r"shaded: $\sigma \leq 1/(2\sqrt{2})$, where Theorem 5.15 speaks"
    style.note(ax, shaded, x=0.01, ha="left")
    style.title(ax, _title(curves))
    style.legend_below(figure, axes, columns=2)
    return figure


def _title(curves: dict[str, pd.Series]) -> str:
    worst = pd.concat([curve for name, curve in curves.items() if name.startswith("exact")], axis=1).min(axis=1)
    gaps = {name: (worst - curves[name]).dropna() for name in ("p", "p_sharp")}
    broken = [name for name, gap in gaps.items() if (gap < -1e-12).any()]
    if broken:
        return f"{' and '.join(broken)} exceed what a noise law keeps: the bound does not hold"
    return (
        f"Worst cases keep up to {gaps['p'].max():.2f} more than $p(\\sigma)$ promises, "
        f"{gaps['p_sharp'][gaps['p'].index].max():.2f} more than its sharper form"
    )
