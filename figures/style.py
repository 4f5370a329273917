"""One style for all figures: sizes, type, lines; colours that any eye tells apart, on white."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib import cbook
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, NullLocator

ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
"""Of the palette of Okabe and Ito."""
GREY = "#808080"
LOOKS = ((BLUE, "o"), (VERMILLION, "^"), (GREEN, "s"), (PURPLE, "D"), (ORANGE, "v"), (SKY, "p"), (GREY, "X"))
"""Colours and markers of things that have none of their own, one after the other."""
SINGLE_IN, DOUBLE_IN = 3.4, 7.0
"""Width of one printed column and of a page."""
POINTS = 8.0
DOTTED = (0, (1.2, 1.2))
SPACE_IN = 0.318 * POINTS / 72
"""The width of the space between two words."""
LONGEST_NAME = 40
"""Characters of a line; longer names are broken between a method's changes, or lose their middle."""


def sheet() -> AbstractContextManager[None]:
    """Draw, and save, in the project's style."""
    return matplotlib.style.context(Path(__file__).with_name("style.mplstyle"))


def new(rows: int = 1, columns: int = 1, *, width: float = SINGLE_IN, height: float = 2.6, **axes: Any) -> Any:
    """A figure and its axes, as an array of `rows` by `columns`.

    Args:
        width, height: in printed inches.
        axes: as of `Figure.subplots`.
    """
    # Not pyplot's: a figure of its own needs no display and stays in nobody's list of open figures.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.asarray(figure.subplots(rows, columns, squeeze=False, **axes))


def simulated(
    ax: Axes, rows: Any, x: Any, *, colour: str, marker: str, y: Any = None, label: str | None = None
) -> None:
    """Draw simulated values as hollow marks with their intervals.

    Args:
        rows: with columns value, low, high.
        x, y: where they stand; y is the value if not given, and the interval stays as wide.
    """
    errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    hollow: Any = {"linestyle": "none", "markersize": 3.5, "markerfacecolor": "white", "capsize": 1.5}
    ax.errorbar(x, rows["value"] if y is None else y, errors, color=colour, marker=marker, label=label, **hollow)


def ticks(axis: Axis, places: Sequence[float], shown: Any = "{x:g}") -> None:
    """Mark these places of an axis alone; `shown` formats them, as of `Axis.set_major_formatter`."""
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(shown)


def title(ax: Axes, text: str, *, width: float = SINGLE_IN, left: float = 0.6) -> None:
    """Write a sentence above the axes, broken where the width in printed inches ends.

    Args:
        width: of the panel, with its labels.
        left: what of it labels take on the left.
    """
    ax.set_title(wrapped(text, width - left))


def headline(figure: Figure, text: str, *, width: float = DOUBLE_IN) -> None:
    """Write a sentence above all axes of a figure, on its left."""
    figure.suptitle(wrapped(text, width - 0.2), x=0.01, ha="left")


def wrapped(text: str, width: float) -> str:
    """Lines of at most `width` printed inches of titles' type; "a = 1" and formulas between dollars stay in one."""
    words = re.findall(r"(?:\\\$|\$[^$]*\$| [=≥≤] |[^\s$])+", text)
    lines, used = [words[0]], inches(words[0])
    for word in words[1:]:
        used += SPACE_IN + inches(word)
        if used > width:
            lines.append(word)
            used = inches(word)
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)


def inches(text: str, points: float = POINTS) -> float:
    """The printed width of a line with its formulas."""
    return _points(text) * points / (72 * POINTS)


@functools.lru_cache(maxsize=4096)
def _points(text: str) -> float:
    formula = cbook.is_math_text(text)
    font = FontProperties(family="DejaVu Sans", size=POINTS, math_fontfamily="dejavusans")
    seen = text if formula else text.replace(r"\$", "$")
    return float(text_to_path.get_text_width_height_descent(seen, font, formula)[0])


def thousands(value: float) -> str:
    """A number in short: 1500000 as "1.5M", 20000 as "20k"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def group(rows: pd.DataFrame) -> str:
    """The name in titles of the group that all rows are of."""
    return verbatim(shortened(str(rows["group"].iloc[0]).removeprefix("compare-"), LONGEST_NAME))


def verbatim(name: str) -> str:
    """A name that came from results, in which a dollar begins no formula."""
    return name.replace("$", r"\$")


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters: a longer one loses its middle to an ellipsis."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - tail :]}"


def broken(name: str, width: int = LONGEST_NAME, lines: int = 3) -> str:
    """A name of parts between commas in lines of at most `width` characters, verbatim.

    A part that is longer loses its middle; of more lines than `lines` those before the last are left out.
    """
    parts = [shortened(part, width - 1) for part in name.split(", ")]
    found = [parts[0]]
    for part in parts[1:]:
        if len(f"{found[-1]}, {part}") < width:
            found[-1] += f", {part}"
        else:
            found[-1] += ","
            found.append(part)
    if len(found) > lines:
        found = [*found[: lines - 1], f"\N{HORIZONTAL ELLIPSIS} {found[-1]}"]
    return verbatim("\n".join(found))


def note(ax: Axes, text: str, *, x: float = 0.98, y: float = 0.03, paled: bool = False, **options: Any) -> None:
    """Write a remark inside the axes, by default in their lower right corner; `paled` fades what is behind it."""
    options = {"ha": "right", "va": "bottom", "color": "#555555", "fontsize": POINTS - 1.5, **options}
    if paled:
        options["bbox"] = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.0}
    ax.text(x, y, text, **{"transform": ax.transAxes, **options})


def legend_below(
    figure: Figure, axes: Any, *, columns: int, heading: str | None = None, order: Sequence[str] = ()
) -> None:
    """Draw one legend under all axes, each label once, in as many of `columns` as the figure has room for.

    Args:
        order: labels that come first, in their order.
    """
    handles = _labelled(axes, order)
    if handles:
        width = float(figure.get_size_inches()[0])
        figure.legend(
            list(handles.values()),
            [_in_legend(label) for label in handles],
            loc="outside lower center",
            ncols=_fitting([_in_legend(label) for label in handles], columns, width),
            title=heading,
        )


def legend_in(place: Axes, axes: Any, *, order: Sequence[str] = ()) -> None:
    """Draw the same legend in axes that nothing else is drawn in."""
    handles = _labelled(axes, order)
    place.set_axis_off()
    place.legend(list(handles.values()), [_in_legend(label) for label in handles], loc="center")


def _labelled(axes: Any, order: Sequence[str]) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for ax in np.ravel(axes):
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    ranks = {label: rank for rank, label in enumerate(order)}
    return dict(sorted(handles.items(), key=lambda item: ranks.get(item[0], len(ranks))))


def _in_legend(label: str) -> str:
    """A label with a long name broken into lines; one with a formula is left as it is."""
    if len(label) <= LONGEST_NAME or re.search(r"(?<!\\)\$", label):
        return label
    return broken(label.replace(r"\$", "$"))


def _fitting(labels: list[str], most: int, width: float) -> int:
    """The number of columns of a legend, filled one after the other, that fit into so many printed inches."""
    # Of a column's width its handle, the space behind it, and the space to the next column are 4.6 times its type.
    widths = [max(inches(line, POINTS - 1) for line in label.split("\n")) + 4.6 * (POINTS - 1) / 72 for label in labels]
    for columns in range(min(most, len(labels)), 1, -1):
        if sum(max(column) for column in np.array_split(widths, columns)) <= width:
            return columns
    return 1
