"""Readings of the scores during training beside the theorems: overlap, agreement, selected losses and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from figures import style
from figures.methods import in_order, labels_in_order, look
from figures.plots import seeds
from figures.statistics import MOST_CURVES, band, groups_of, mean_and_half_width

WIDEST_GAP = 0.12
"""The widest gap of beta over which a curve goes on in a straight line."""
MOST_POINTS = 300
"""So many readings of a method are drawn one by one; of more, every second, third, ..."""
MOST_PLACES = 40
"""Readings of a run at more steps are averaged in as many intervals."""
LAWS, LAW_LINES = ("Gaussian margins", "Gaussian margins, large batch"), ("-", style.DOTTED)
LEVELS = (
    ("sigma_max", (0, (4, 2)), "largest noise, Corollary 5.16"),
    ("sigma_max_sharp", (0, (3, 1, 1, 1)), "the same, sharp"),
)
"""Noise below which the corollary promises a gain."""
PRINTED_LIMIT = np.sqrt(2) / 4
"""The largest sigma of Theorem 5.15, and so of the proof of Corollary 5.16 as printed."""


def draw(readings: pd.DataFrame) -> Figure:
    """Measurements of the scores beside the formulas, four panels a group (Theorems 5.15, 6.2, Corollary 5.16).

    The overlap with the exact top rows and the share of pairs ordered alike against the measured correlation beta of
    the margins; the selected rows' mean loss and the noise along training. Methods whose score is the exact loss are
    left out, unless there are no others.
    """
    groups = groups_of(readings)
    figure, axes = style.new(2 * len(groups), 2, width=style.DOUBLE_IN, height=4.6 * len(groups) + 0.8)
    for number, rows in enumerate(groups.values()):
        methods = shown(rows)
        name = style.group(rows)
        (overlap, pairs), (losses, noise) = axes[2 * number : 2 * number + 2]
        said = _against_beta(overlap, rows, methods, "overlap", ("overlap_finite", "overlap_limit"))
        style.title(overlap, f"{name}: overlap {said}", width=style.DOUBLE_IN / 2)
        overlap.set(xlabel=r"measured $\beta$ of the margins", ylabel="overlap with the exact top rows")
        overlap.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        said = _against_beta(pairs, rows, methods, "pairwise_agreement", ("agreement_predicted",))
        style.title(pairs, f"{name}: $p_j$ {said}", width=style.DOUBLE_IN / 2)
        pairs.set(xlabel=r"measured $\beta$ of the margins", ylabel="pairs ordered alike, $p_j$")
        _losses(losses, rows, methods, name)
        _noise(noise, rows, methods, name)
        for ax in (losses, noise):
            ax.set(xlabel="step", xlim=(0, None))
            ax.xaxis.set_major_formatter(lambda value, _: style.thousands(value))
    style.legend_below(figure, axes, columns=4, order=labels_in_order(readings["method"]))
    return figure


def shown(rows: pd.DataFrame) -> list[str]:
    """The methods of a group to draw: those that approximate anything, or else all."""
    methods = in_order(rows["method"])
    worst = rows.groupby("method")["overlap"].min()
    noisy = [method for method in methods if worst[method] < 1]
    return (noisy or methods)[:MOST_CURVES]


def difference(rows: pd.DataFrame, measured: str, predicted: str) -> tuple[float, float]:
    """Mean of measured - predicted over readings, with the half-width of its 95% interval."""
    return mean_and_half_width((rows[measured] - rows[predicted]).dropna())


def averaged(rows: pd.DataFrame) -> pd.DataFrame:
    """Readings of a method, of each run at most `MOST_PLACES`: means in intervals of steps, at their middles."""
    if rows["step"].nunique() <= MOST_PLACES:
        return rows
    low, high = rows["step"].min(), rows["step"].max()
    width = (high - low) / MOST_PLACES
    place = np.minimum((rows["step"] - low) // width, MOST_PLACES - 1)
    means = rows.assign(place=place).groupby(["run", "place"], as_index=False).mean(numeric_only=True)
    return means.assign(step=low + (means["place"] + 0.5) * width)


def _against_beta(ax: Axes, rows: pd.DataFrame, methods: Sequence[str], measured: str, laws: tuple[str, ...]) -> str:
    """Draw readings, means and the law against beta; returns in words how far they are from it."""
    apart: dict[str, tuple[float, float]] = {}
    for method in methods:
        of_method = rows[(rows["method"] == method) & rows["margin_correlation"].notna() & rows[measured].notna()]
        if of_method.empty:
            continue
        looks = look(method)
        some = of_method.iloc[:: -(-len(of_method) // MOST_POINTS)]
        dots: dict[str, Any] = {"linestyle": "none", "marker": ".", "markeredgewidth": 0, "alpha": 0.5}
        ax.plot(some["margin_correlation"], some[measured], color=looks.colour, label="_readings", **dots)
        mean, half = mean_and_half_width(of_method[measured])
        mark = {**looks.curve, "linestyle": "none", "zorder": 4, "capsize": 2}
        ax.errorbar(of_method["margin_correlation"].mean(), mean, half, **mark)
        apart[method] = difference(of_method, measured, laws[0])
    known = rows[rows["method"].isin(methods)].dropna(subset=["margin_correlation"])
    for law, line, label in zip(laws, LAW_LINES, LAWS, strict=False):
        curve = known.dropna(subset=[law]).sort_values("margin_correlation")
        # Of batches of several sizes the curve is that of the most common.
        sizes = curve.groupby(["rows", "kept"]).size()
        if len(sizes):
            common = sizes.idxmax()
            curve = curve[(curve["rows"] == common[0]) & (curve["kept"] == common[1])]
        x, y = _with_gaps(curve["margin_correlation"].to_numpy(), curve[law].to_numpy())
        ax.plot(x, y, color="black", linestyle=line, label=label, zorder=3)
    style.note(ax, "dots: readings; marks: their means", paled=True)
    return _apart(apart)


def _with_gaps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve that is known at the sorted `x` only, broken where the next is far: a straight line is not the law."""
    wide = np.flatnonzero(np.diff(x) > WIDEST_GAP) + 1
    return np.insert(x.astype(float), wide, np.nan), np.insert(y.astype(float), wide, np.nan)


def _apart(apart: dict[str, tuple[float, float]]) -> str:
    sure = {method: mean for method, (mean, half) in apart.items() if abs(mean) > half}
    if not apart:
        return "has no law, as no margins are defined"
    if not sure:
        return "as of Gaussian margins: no difference shown"
    most = max(sure, key=lambda method: abs(sure[method]))
    side = "above" if sure[most] > 0 else "below"
    return f"of {look(most).brief} is {abs(sure[most]):.3f} {side} that of Gaussian margins"


def _losses(ax: Axes, rows: pd.DataFrame, methods: Sequence[str], name: str) -> None:
    reached = {}
    for method in methods:
        of_method = averaged(rows[(rows["method"] == method) & rows["rho_approx"].notna()])
        if of_method.empty:
            continue
        seeds.curve(ax, of_method, method, "step", "rho_approx")
        exact = band(of_method, "step", "rho")
        ax.plot(exact["x"], exact["mean"], color=look(method).colour, linestyle=(0, (4, 2)), label="_rho")
        ahead = of_method["rho"].mean() - 1
        if ahead > 0:
            reached[method] = (of_method["rho_approx"].mean() - 1) / ahead
    ax.axhline(1, color="black", linestyle=style.DOTTED, linewidth=0.8)
    ax.set_ylabel("loss of the kept rows / mean loss")
    style.note(ax, "dashed: kept by exact losses; dotted: by chance", paled=True)
    if reached:
        style.title(ax, f"{name}: {_reached(reached)}", width=style.DOUBLE_IN / 2)


def _reached(shares: dict[str, float]) -> str:
    best, worst = max(shares, key=lambda m: shares[m]), min(shares, key=lambda m: shares[m])
    percent = {method: f"{share:.0%}".replace("-", "\N{MINUS SIGN}") for method, share in shares.items()}
    said = f"{look(best).brief} brings {percent[best]} of the loss that exact choice adds"
    return said if best == worst else f"{said}, {look(worst).brief} {percent[worst]}"


def _noise(ax: Axes, rows: pd.DataFrame, methods: Sequence[str], name: str) -> None:
    noisy = rows[rows["method"].isin(methods) & rows["sigma"].notna()]
    ax.set_ylabel(r"noise $\sigma$ of log(score / loss)")
    if noisy.empty:
        style.title(ax, f"{name}: noise is not defined, as some score is 0", width=style.DOUBLE_IN / 2)
        return
    for method in in_order(noisy["method"]):
        seeds.curve(ax, averaged(noisy[noisy["method"] == method]), method, "step", "sigma")
    # The levels follow from exact losses alone, so that one line does for all methods.
    for level, line, label in LEVELS:
        finite = averaged(noisy[np.isfinite(noisy[level])]).groupby("step")[level].mean()
        ax.plot(finite.index, finite, color="black", linestyle=line, label=label)
    top = ax.get_ylim()[1]
    if top > PRINTED_LIMIT:
        ax.axhline(PRINTED_LIMIT, color=style.GREY, linewidth=0.8, label="Theorem 5.15 up to it")
    ax.set_ylim(0, top)
    kept, sharp = ((noisy["sigma"] < noisy[level]).mean() for level, _, _ in LEVELS)
    said = f"noise is low enough for Corollary 5.16 in {kept:.0%} of readings (sharp: {sharp:.0%})"
    style.title(ax, f"{name}: {said}", width=style.DOUBLE_IN / 2)
