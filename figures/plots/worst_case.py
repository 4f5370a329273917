"""How tight the convergence bounds are: printed, ours and the largest value found, over the proved worst case."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.checked import Missing

BOUNDS = (("bound", "as printed", "-", True), ("sharper_bound", "sharper bound", (0, (3, 1.5)), False))
"""(column, label, line, whether its marks are filled)."""
KINDS = {
    "Theorem 5.7": "Theorem 5.7 (GSGD)",
    "Theorem 5.8": "Theorem 5.8 (SGD)",
    "Theorem 5.14": "Theorem 5.14 (noisy)",
    "Beyond 5.7": "$k$ of $B$ (beyond 5.7)",
}
SETTING = ["n", "R", "k", "sigma", "rho", "Delta"]


def draw(table: pd.DataFrame) -> Figure:
    """Bound over worst case against eta L, a panel a theorem, colours by K, a line a setting (Theorems 5.7, 5.8, 5.14).

    The worst case is a proved upper bound over all problems of the class, so a bound is at least as loose as drawn.
    Crosses are problems: the largest value that a search found, over the worst case. K = 1 is left out: there F(w_0)
    is the bound, and the sharper one is attained.

    Raises:
        Missing: if no worst case was solved.
    """
    solved = table[table["worst_case"].notna() & (table["K"] > 1)]
    if solved.empty:
        raise Missing("no worst case was solved (gsgd verify says why)")
    theorems = list(dict.fromkeys(solved["theorem"]))
    figure, axes = style.new(1, len(theorems), width=style.DOUBLE_IN, height=3.1, sharey=True)
    looks = dict(zip(sorted(solved["K"].unique()), style.LOOKS, strict=False))
    factors = loosenesses(solved)
    for ax, theorem in zip(axes[0], theorems, strict=True):
        _panel(ax, factors[factors["theorem"] == theorem], looks)
        of_theorem = solved[solved["theorem"] == theorem]
        ax.set_title(
            f"{KINDS.get(theorem, style.verbatim(theorem))}\n{_settings(of_theorem)}", fontsize=style.POINTS - 1
        )
    first = axes[0, 0]
    first.set(yscale="log", ylabel="bound / worst case")
    values = factors[[*(column for column, *_ in BOUNDS), "found"]].stack()
    low, high = 0.9 * min(1.0, values.min()), 1.15 * values.max()
    first.set_ylim(low, high)
    style.ticks(first.yaxis, [tick for tick in (0.2, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50) if low <= tick <= high])
    for K, (colour, marker) in looks.items():
        first.plot([], [], color=colour, marker=marker, label=f"$K = {K}$")
    for _, label, line, filled in BOUNDS:
        face = {} if filled else {"markerfacecolor": "white"}
        first.plot([], [], color="black", marker="o", linestyle=line, label=label, **face)
    first.plot([], [], color="black", marker="x", linestyle="none", label="largest found")
    style.headline(figure, _title(factors))
    style.legend_below(figure, axes, columns=len(looks) + len(BOUNDS) + 1)
    return figure


def loosenesses(solved: pd.DataFrame) -> pd.DataFrame:
    """The table with its bounds as multiples of the worst case."""
    columns = (*(column for column, *_ in BOUNDS), "found")
    return solved.assign(**{column: solved[column] / solved["worst_case"] for column in columns})


def _panel(ax: Axes, factors: pd.DataFrame, looks: dict[int, tuple[str, str]]) -> None:
    ax.axhline(1, color="black", linewidth=0.6)
    for _, of_setting in factors.groupby(SETTING, sort=False):
        for K, rows in of_setting.groupby("K"):
            colour, marker = looks.get(K, (style.GREY, "X"))
            rows = rows.sort_values("eta")
            for column, _, line, filled in BOUNDS:
                marks: Any = {"marker": marker, "markersize": 3, "markerfacecolor": colour if filled else "white"}
                ax.plot(rows["eta"], rows[column], color=colour, linestyle=line, linewidth=0.9, **marks)
            ax.plot(rows["eta"], rows["found"], color=colour, linestyle="none", marker="x", markersize=3)
    ax.set(xlabel=r"step size $\eta L$", xlim=(0, 1))
    style.ticks(ax.xaxis, [0, 0.25, 0.5, 0.75, 1])


def _settings(rows: pd.DataFrame) -> str:
    """The settings of a panel's lines, such as "n = 2, 3, rho = 1, 1.2"."""
    told = []
    for column, symbol, usual in (("n", "n", None), ("rho", r"\rho", 1.0), ("sigma", r"\sigma", 0.0)):
        values = sorted(rows[column].unique())
        if values != [usual]:
            told.append(f"${symbol} = {', '.join(f'{value:g}' for value in values)}$")
    return "; ".join(told)


def _title(factors: pd.DataFrame) -> str:
    broken = [label for column, label, *_ in BOUNDS if (factors[column] < 1 - 1e-6).any()]
    if broken:
        return f"The worst case exceeds the {' and the '.join(broken).replace('as printed', 'printed bound')}: no bound"
    printed, sharper = factors["bound"], factors["sharper_bound"]
    return (
        f"The printed bounds are {printed.min():.1f} to {printed.max():.0f} times the worst case, "
        f"the sharper bound at most {sharper.max():.1f}; problems reach {factors['found'].max():.0%} of the worst case"
    )
