"""What pays where: a row for each ladder's setting, a column for each method, and the factor in every cell."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from figures import style
from figures.checked import Missing
from figures.methods import in_order, look

SETTINGS = Path(__file__).with_name("map.toml")
LEFT_IN, CELL_IN, NARROWEST_IN = 2.2, 0.95, 0.62
"""Printed inches of the settings' column at least, and of a cell at most and at least."""
BOLD = 1.2
"""Bold type is so many times as wide."""
SMALL, TINY = style.POINTS - 1.5, style.POINTS - 2
"""Points of the sentences, and of intervals."""
LINE_IN = 1.25 / 72
"""Inches of a line for each point of its type."""
GAP_IN = 0.04


@dataclass(frozen=True)
class Verdict:
    """What an interval says of a factor, with the colours of its cell: dark, paler and white on grey paper, too."""

    says: str
    fill: str
    ink: str


PAYS = Verdict("pays: the interval lies above 1", style.BLUE, "white")
LOSES = Verdict("loses: it lies below 1", "#EBA27A", "black")
UNDECIDED = Verdict("not decided: it holds 1", "#FFFFFF", "#333333")


def verdict(low: float, high: float) -> Verdict:
    """What an interval of a factor says."""
    return PAYS if low > 1 else LOSES if high < 1 else UNDECIDED


def draw(claims: pd.DataFrame) -> Figure:
    """Methods by settings: the budget that plain training needs for a method's accuracy, as a multiple of its own.

    Args:
        claims: the table of that name.
    """
    claims = claims[claims["measure"] == "accuracy"]
    if claims.empty:
        raise Missing("no ladder claims a factor by accuracy")
    known = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    rows = _in_order(claims, known)
    methods = in_order(claims["method"])
    cell = max(NARROWEST_IN, min(CELL_IN, (style.DOUBLE_IN - LEFT_IN - 0.1) / len(methods)))
    width = max(style.DOUBLE_IN, LEFT_IN + cell * len(methods) + 0.1)
    left = width - cell * len(methods) - 0.1
    headings = [_wrapped(look(method).brief, cell - 0.08, style.POINTS - 1) for method in methods]
    labels = [_label(group, known, left - 0.25) for group in rows]
    title = _wrapped(headline(claims, rows), (width - 0.2) / BOLD, style.POINTS + 1)
    heights = [max(0.44, 0.1 + _height(1, style.POINTS) + _height(_lines(why), SMALL)) for _, why in labels]
    above = 0.08 + _height(_lines(title), style.POINTS + 1)
    top = above + 0.06 + max(_height(_lines(heading), style.POINTS - 1) for heading in headings)
    height = top + sum(heights) + 0.52
    figure = Figure(figsize=(width, height))
    # In inches from the upper left corner, so that nothing of it depends on how wide the figure is.
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    ax.text(0.1, 0.08, title, va="top", fontsize=style.POINTS + 1, fontweight="bold")
    for number, heading in enumerate(headings):
        at = left + cell * (number + 0.5)
        ax.text(at, top - 0.05, heading, ha="center", va="bottom", fontsize=style.POINTS - 1)
    y = top
    for group, (name, why), row_height in zip(rows, labels, heights, strict=True):
        ax.text(0.1, y + 0.07, name, va="top", fontweight="bold", fontsize=style.POINTS)
        ax.text(0.1, y + 0.1 + _height(1, style.POINTS), why, va="top", fontsize=SMALL, color="#444444")
        of_row = claims[claims["group"] == group].set_index("method")
        for number, method in enumerate(methods):
            claim = of_row.loc[method] if method in of_row.index else None
            _draw_cell(ax, (left + cell * number, y, cell, row_height), claim)
        y += row_height
    _draw_legend(ax, y + 0.12, width)
    return figure


def headline(claims: pd.DataFrame, rows: list[str]) -> str:
    """In how many of the settings that it was tried in each method pays, those that do so most often first."""
    found = []
    for method in in_order(claims["method"]):
        own = claims[claims["method"] == method]
        wins = sum(verdict(low, high) is PAYS for low, high in zip(own["low"], own["high"], strict=True))
        if wins:
            found.append((-wins, f"{look(method).brief} in {wins} of {len(own)}"))
    if not found:
        several = f"{len(rows)} settings" if len(rows) > 1 else "1 setting"
        return f"In {several} no method is shown to pay against tuned plain training"
    (_, first), *others = sorted(found, key=lambda each: each[0])
    best = [f"{first} settings", *(text for _, text in others[:2])]
    return f"What pays against plain training that is tuned alike: {', '.join(best)}"


def texts(claim: Any) -> tuple[str, str]:
    """(the factor, its interval) as a cell shows them; where the ladder ends they are bounds."""
    factor, low, high = (float(claim[name]) for name in ("factor", "low", "high"))
    sign = {"above the ladder": "≥", "below the ladder": "≤"}.get(str(claim["place"]), "")
    main = "?" if math.isnan(factor) else f"{sign}{factor:.2f}\N{MULTIPLICATION SIGN}"
    if low <= 0 and math.isinf(high):
        return main, "no bounds"
    if low <= 0:
        return main, f"below {high:.2f}"
    if math.isinf(high):
        return main, f"above {low:.2f}"
    return main, f"{low:.2f} \N{EN DASH} {high:.2f}"


def _in_order(claims: pd.DataFrame, known: dict[str, Any]) -> list[str]:
    """The groups: those that have names, in the order of these, then the others in that of the table."""
    groups = [str(group) for group in claims["group"].unique()]
    place = {folder: number for number, folder in enumerate(known)}
    return sorted(groups, key=lambda group: place.get(Path(group).name, len(place)))


def _label(group: str, known: dict[str, Any], width: float) -> tuple[str, str]:
    """(name, sentence) of a setting, the sentence in lines of this width."""
    entry = known.get(Path(group).name)
    if entry is None:
        return style.verbatim(style.shortened(Path(group).name, 32)), ""
    return entry["name"], _wrapped(entry["why"], width, SMALL)


def _wrapped(text: str, width: float, points: float) -> str:
    """Lines of at most `width` printed inches of type of this size."""
    return style.wrapped(text, width * style.POINTS / points)


def _lines(text: str) -> int:
    return len(text.split("\n")) if text else 0


def _height(lines: int, points: float) -> float:
    """Printed inches of so many lines."""
    return lines * points * LINE_IN


def _draw_cell(ax: Axes, box: tuple[float, float, float, float], claim: Any) -> None:
    """One cell.

    Args:
        box: (left, top, width, height) in inches.
        claim: a row of claims; None where the method was not run.
    """
    left, top, width, height = box
    middle = left + width / 2, top + height / 2
    if claim is None:
        ax.text(*middle, "\N{EN DASH}", ha="center", va="center", color="#AAAAAA")
        return
    found = verdict(float(claim["low"]), float(claim["high"]))
    _patch(ax, (left + GAP_IN / 2, top + GAP_IN / 2), (width - GAP_IN, height - GAP_IN), found)
    factor, interval = texts(claim)
    ax.text(
        middle[0],
        middle[1] - 0.06,
        factor,
        ha="center",
        va="center",
        color=found.ink,
        fontsize=style.POINTS + 0.5,
        fontweight="normal" if found is UNDECIDED else "bold",
    )
    ax.text(middle[0], middle[1] + 0.1, interval, ha="center", va="center", color=found.ink, fontsize=TINY)


def _patch(ax: Axes, corner: tuple[float, float], size: tuple[float, float], found: Verdict) -> None:
    edge = "#BBBBBB" if found is UNDECIDED else found.fill
    ax.add_patch(Rectangle(corner, *size, facecolor=found.fill, edgecolor=edge, linewidth=0.6))


def _draw_legend(ax: Axes, y: float, width: float) -> None:
    x = 0.1
    for found in (PAYS, LOSES, UNDECIDED):
        _patch(ax, (x, y - 0.05), (0.18, 0.1), found)
        ax.text(x + 0.24, y, found.says, va="center", fontsize=SMALL)
        x += 0.24 + style.inches(found.says, SMALL) + 0.25
    says = (
        "A factor is the budget that plain training needs for the method's accuracy over the method's own, with its "
        "95% interval; ≥ and ≤ where the ladder of budgets ends."
    )
    ax.text(0.1, y + 0.12, _wrapped(says, width - 0.2, SMALL), va="top", fontsize=SMALL, color="#444444")
