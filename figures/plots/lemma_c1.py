"""The constant 0.72 of Lemma C.1 against the least one that would do."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.plots.noise import SIGMA_LIMIT
from figures.statistics import curves_of

PRINTED = 0.72
BEST = 0.51114550441745910941
"""c*, the supremum of the ratio over the lemma's range of sigma, to 20 digits."""


def draw(table: pd.DataFrame) -> Figure:
    """max_t h(t; sigma) / (1 - e^{-sqrt2 sigma}) against sigma, with 0.72 and c* (Lemma C.1)."""
    figure, axes = style.new(1, 2, width=style.DOUBLE_IN, height=2.7)
    near, far = axes[0]
    curve = curves_of(table, "sigma")["ratio"]
    for ax in (near, far):
        ax.plot(curve, color=style.BLUE, label="least constant that does")
        ax.axhline(PRINTED, color=style.VERMILLION, linestyle=(0, (5, 2)), label="0.72, as printed")
        ax.axhline(BEST, color=style.GREEN, linestyle=style.DOTTED, label=rf"$c^* = {BEST:.6f}$")
        ax.axvspan(0, SIGMA_LIMIT, color="#F1F1F1", zorder=0)
        ax.set(xlabel=r"noise level $\sigma$", ylabel=r"$\max_t h(t;\sigma)\, /\, (1 - e^{-\sqrt{2}\sigma})$")
    inside = curve[curve.index <= SIGMA_LIMIT]
    near.set(xlim=(0, 1.12 * SIGMA_LIMIT), ylim=(min(0.499, inside.min()), 1.02 * max(BEST, inside.max()) - 0.005))
    style.note(near, r"shaded: $\sigma \leq 1/(2\sqrt{2})$")
    far.set(xlim=(0, curve.index.max()))
    half = (style.DOUBLE_IN - 0.1) / 2
    style.title(near, _title(inside), width=half)
    crossing = where_it_reaches(curve, PRINTED)
    said = "0.72 stays valid wherever the ratio was computed"
    if crossing is not None:
        far.axvline(crossing, color=style.GREY, linewidth=0.8)
        style.note(far, rf"$\sigma = {crossing:.2f}$", x=crossing - 0.06, y=0.45, transform=far.get_xaxis_transform())
        times = crossing / SIGMA_LIMIT
        said = f"0.72 stays valid up to $\\sigma$ = {crossing:.2f}, {times:.1f} times the lemma's range"
    style.title(far, said, width=half)
    style.legend_below(figure, axes, columns=3)
    return figure


def where_it_reaches(curve: pd.Series, level: float) -> float | None:
    """The place where a growing curve first reaches `level`, linear between its points; None if it never does."""
    if curve.iloc[0] >= level:
        return float(curve.index[0])
    # Beyond a growing curve's last value there is no place.
    place = float(np.interp(level, curve, curve.index, right=math.nan))
    return None if math.isnan(place) else place


def _title(inside: pd.Series) -> str:
    if inside.max() > PRINTED:
        return f"0.72 is too small: the ratio reaches {inside.max():.4f}"
    if inside.max() > BEST:
        return f"The ratio reaches {inside.max():.4f}, above c*: 0.72 holds, c* does not"
    return f"In the lemma's range {math.ceil(1e4 * BEST) / 1e4} does in place of 0.72"
