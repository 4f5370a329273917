"""rho_R under Gaussian errors, exact, against the bound of Theorem 5.18."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from figures import style


def draw(table: pd.DataFrame) -> Figure:
    """rho_R exact and bounded from below against R, and the share of it that the bound gets (Theorem 5.18)."""
    figure, axes = style.new(1, 2, width=style.DOUBLE_IN, height=2.9)
    left, right = axes[0]
    both = table.pivot_table(index=["eps_over_delta", "R"], columns="quantity", values="value")
    share = (both["bound"] / both["exact"]).dropna()
    for number, ratio in enumerate(sorted(table["eps_over_delta"].unique())):
        colour, marker = style.LOOKS[number % len(style.LOOKS)]
        curve = both.loc[ratio]
        exact, bound = curve["exact"].dropna(), curve["bound"].dropna()
        every = max(1, len(exact) // 6)
        label = rf"$\varepsilon/\delta = {ratio:g}$"
        marks = {"color": colour, "marker": marker, "markevery": every, "markersize": 3}
        left.plot(exact, label=label, **marks)
        left.plot(bound, color=colour, linestyle=(0, (4, 2)), linewidth=1.0)
        if ratio in share.index:
            right.plot(share.loc[ratio], **marks)
    left.plot([], [], color="black", label="exact")
    left.plot([], [], color="black", linestyle=(0, (4, 2)), label="Theorem 5.18's bound")
    left.set(xscale="log", yscale="log", xlabel="candidates $R$", ylabel=r"$\rho_R$")
    top = float(table["value"].max())
    style.ticks(left.yaxis, [tick for tick in (0.5, 1, 2, 5, 10, 20, 50) if tick < 1.3 * top])
    left.set_ylim(0.4, 1.3 * top)
    left.axhline(1, color="black", linewidth=0.6)
    style.note(left, "1: nothing gained over SGD", y=0.96, x=1.0, va="top", transform=left.get_yaxis_transform())
    right.set(xscale="log", xlabel="candidates $R$", ylabel="bound / exact", ylim=(0, max(1.05, 1.05 * share.max())))
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.axhline(1, color="black", linewidth=0.6)
    half = (style.DOUBLE_IN - 0.1) / 2
    style.title(left, _gain(both["exact"]), width=half)
    style.title(right, _title(share), width=half)
    style.legend_below(figure, axes, columns=4)
    return figure


def _gain(exact: pd.Series) -> str:
    R = exact.index.get_level_values("R").max()
    last = exact.xs(R, level="R")
    return f"The largest of R = {R:,.0f} losses is {last.min():.1f} to {last.max():.0f} times the mean"


def _title(share: pd.Series) -> str:
    if (share > 1).any():
        return f"The bound exceeds the exact value by up to {share.max() - 1:.2%}: it does not hold"
    return f"Theorem 5.18's bound holds and gets {share.min():.0%} to {share.max():.0%} of the exact value"
