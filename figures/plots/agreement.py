"""The share of pairs of which an early exit picks the same one: p_j of Theorem 6.2 and its bounds."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.statistics import curves_of

CURVES = {
    "closed form": (style.BLUE, "-", "closed form, $1 - \\arccos(\\beta)/\\pi$"),
    "sharper bound": (style.GREEN, (0, (5, 2)), "sharper bound"),
    "Equation 14": (style.VERMILLION, style.DOTTED, "bound (14), as printed"),
}


def draw(table: pd.DataFrame) -> Figure:
    """p_j against beta_j: closed form, Eq. (14), the sharper bound, and simulated pairs (Theorem 6.2)."""
    figure, axes = style.new(height=3.1)
    ax = axes[0, 0]
    curves = curves_of(table, "beta")
    for name, (colour, line, label) in CURVES.items():
        ax.plot(curves[name], color=colour, linestyle=line, label=label)
    rows = table[table["quantity"] == "simulated"]
    style.simulated(ax, rows, rows["beta"], colour="black", marker="o", label="simulated pairs")
    ax.set(
        xlabel=r"correlation $\beta_j$ of early and full margins",
        ylabel="probability of the same pick, $p_j$",
        xlim=(0, 1),
        ylim=(min(-0.02, table["value"].min()), 1.02),
    )
    style.title(ax, _title(curves))
    style.legend_below(figure, axes, columns=2)
    return figure


def _title(curves: dict[str, pd.Series]) -> str:
    exact = curves["closed form"]
    broken = [name for name in ("Equation 14", "sharper bound") if (curves[name] > exact + 1e-12).any()]
    if broken:
        return f"{' and '.join(broken)} exceed the exact probability: no bound"
    below = curves["Equation 14"][curves["Equation 14"] < 0.5]
    said = f"Equation (14) says less than chance up to $\\beta$ = {below.index.max():.2f}; " if len(below) else ""
    loss = (exact - curves["sharper bound"]).max()
    return f"{said}the sharper bound stays within {loss:.2f} of the exact probability"
