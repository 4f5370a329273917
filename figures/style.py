"""One style for all figures: sizes, type, lines; colours that any eye tells apart, on white."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE, GREY = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
    "#808080",
)
"""The palette of Okabe and Ito, and a grey."""
SINGLE_IN, DOUBLE_IN = 3.4, 7.0
"""Width of one printed column and of a page."""
POINTS = 8.0
SCALES = {"print": 1.0, "screen": 1.45}
"""A screen's figure is a printed one enlarged, type and lines alike, so that it is laid out the same."""
CHARACTERS_PER_INCH = 16.5
"""Of the title's type, about."""


@contextlib.contextmanager
def sheet(size: str = "print") -> Iterator[None]:
    """Draw, and save, in the house's style.

    Args:
        size: "print" (3.4 and 7 inches wide, type of 8 points) or "screen" (1.45 times that).

    Raises:
        ValueError: for another size.
    """
    if size not in SCALES:
        raise ValueError(f"size = {size!r} must be one of: {', '.join(SCALES)}")
    k = SCALES[size]
    settings: Any = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "sans-serif"],
        "font.size": POINTS * k,
        "mathtext.fontset": "dejavusans",
        "axes.titlesize": POINTS * k,
        "axes.titlelocation": "left",
        "axes.titlepad": 5 * k,
        "axes.labelsize": POINTS * k,
        "xtick.labelsize": (POINTS - 1) * k,
        "ytick.labelsize": (POINTS - 1) * k,
        "legend.fontsize": (POINTS - 1) * k,
        "legend.title_fontsize": (POINTS - 1) * k,
        "figure.titlesize": POINTS * k,
        "figure.facecolor": "white",
        "axes.facecolor": "white",
        "savefig.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7 * k,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": "#E3E3E3",
        "grid.linewidth": 0.5 * k,
        "xtick.major.width": 0.7 * k,
        "ytick.major.width": 0.7 * k,
        "xtick.major.size": 3 * k,
        "ytick.major.size": 3 * k,
        "xtick.minor.size": 1.5 * k,
        "ytick.minor.size": 1.5 * k,
        "xtick.minor.width": 0.5 * k,
        "ytick.minor.width": 0.5 * k,
        "lines.linewidth": 1.3 * k,
        "lines.markersize": 4 * k,
        "lines.markeredgewidth": 0.9 * k,
        "hatch.linewidth": 0.5 * k,
        "legend.frameon": False,
        "legend.handlelength": 2.6,
        "legend.columnspacing": 1.4,
        "legend.handletextpad": 0.6,
        "axes.formatter.use_mathtext": True,
        "figure.dpi": 100,
        "savefig.dpi": 220,
        # Type is drawn: formulas fall apart in a browser that has another font.
        "svg.fonttype": "path",
        "svg.hashsalt": "gsgd",
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context(settings):
        yield


def scale() -> float:
    """How much larger than in print things are drawn now."""
    return float(matplotlib.rcParams["font.size"]) / POINTS


def new(rows: int = 1, columns: int = 1, *, width: float = SINGLE_IN, height: float = 2.6, **axes: Any) -> Any:
    """A figure and its axes, as an array of `rows` by `columns`.

    Args:
        width, height: in printed inches.
        axes: as of `Figure.subplots`.
    """
    # Not pyplot's: a figure of its own needs no display and stays in nobody's list of open figures.
    figure = Figure(figsize=(width * scale(), height * scale()), layout="constrained")
    return figure, np.asarray(figure.subplots(rows, columns, squeeze=False, **axes))


def simulated(
    ax: Axes, rows: Any, x: Any, *, colour: str, marker: str, y: Any = None, label: str | None = None
) -> None:
    """Simulated values as hollow marks with their intervals.

    Args:
        rows: with columns value, low, high.
        x, y: where they stand; y is the value if not given, and the interval stays as wide.
    """
    errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    ax.errorbar(
        x,
        rows["value"] if y is None else y,
        errors,
        color=colour,
        marker=marker,
        linestyle="none",
        markersize=3.5 * scale(),
        markerfacecolor="white",
        capsize=1.5 * scale(),
        label=label,
    )


def title(ax: Axes, text: str, *, width: float = SINGLE_IN) -> None:
    """A statement above the axes, broken where the width in printed inches ends."""
    ax.set_title(wrapped(text, width - 0.35))


def headline(figure: Figure, text: str, *, width: float = DOUBLE_IN) -> None:
    """A statement above all axes of a figure, on its left."""
    figure.suptitle(wrapped(text, width - 0.2), x=0.01, ha="left")


def wrapped(text: str, width: float) -> str:
    """Lines no longer than `width` printed inches, about; "a = 1" and formulas between dollars stay in one line."""
    words = re.findall(r"(?:\\\$|\$[^$]*\$| [=≥≤] |[^\s$])+", text)
    lines = [words[0]]
    for word in words[1:]:
        if _length(f"{lines[-1]} {word}") > width * CHARACTERS_PER_INCH:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)


def _length(text: str) -> int:
    """Characters that are seen: of a formula's source, a command is one and dollars are none."""
    return len(re.sub(r"\\\w+", "x", text).replace("$", ""))


def group(rows: pd.DataFrame) -> str:
    """What the group that all rows are of is called in a title."""
    return verbatim(str(rows["group"].iloc[0]).removeprefix("compare-"))


def verbatim(name: str) -> str:
    """A name that came from results, in which a dollar begins no formula."""
    return name.replace("$", r"\$")


def note(ax: Axes, text: str, *, x: float = 0.98, y: float = 0.03, **options: Any) -> None:
    """A remark inside the axes, by default in their lower right corner."""
    options = {"ha": "right", "va": "bottom", "color": "#555555", "fontsize": (POINTS - 1.5) * scale(), **options}
    ax.text(x, y, text, **{"transform": ax.transAxes, **options})


def legend_below(figure: Figure, axes: Any, *, columns: int, heading: str | None = None) -> None:
    """One legend under all axes, each label once."""
    handles: dict[str, Any] = {}
    for ax in np.ravel(axes):
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, title=heading)
