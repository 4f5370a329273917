"""Forest plots: differences of all comparisons to one of their methods, with 95% intervals and numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures import style
from figures.checked import Missing
from figures.methods import look
from figures.plots import method_rows
from figures.statistics import LUCK, groups_of

WIDTH_IN = style.SINGLE_IN
EDGE_IN = 0.08
SMALL = style.POINTS - 1
"""Points of rows and numbers."""
LINE_IN, ROW_IN = 0.12, 0.15
"""Inches of a line of a name, and of a row with one."""
HEADING_IN, GAP_IN, AXIS_IN, ABOVE_IN = 0.17, 0.05, 0.34, 0.08
"""Inches of a comparison's name, below its rows, of a panel's numbers along the axis, and between panels."""
TOO_WIDE = 1.0
"""Intervals of one comparison may not dwarf those of the others in its panel; see `method_rows.limits`."""
NAME_CHARACTERS = 24
PALE = "#666666"


@dataclass
class _Panel:
    """What was trained alike, on axes of its own: its title, where its rows begin and end, and these, by comparison."""

    title: str
    top: float
    bottom: float = 0.0
    headings: list[tuple[float, str]] = field(default_factory=list)
    rows: list[tuple[float, pd.Series]] = field(default_factory=list)


def draw(summaries: pd.DataFrame, column: str, other: str, name: str) -> Figure:
    """One row a method of every comparison, a panel for each model that was trained.

    Args:
        summaries: the table of that name.
        column: "over_baseline" or "over_random".
        other: the method that others are compared with; it has no row itself.
        name: what it is called.

    Raises:
        Missing: if no comparison has it.
    """
    having = summaries.groupby("group")["method"].transform(lambda methods: other in set(methods))
    table = summaries[having & (summaries["method"] != other)]
    if table.empty:
        raise Missing(f"no finished comparison has {name} to compare with")
    panels = _placed(table, column, name)
    height = panels[-1].bottom + AXIS_IN + 0.16
    left = EDGE_IN * 2 + max(_width(line) for method in table["method"] for line in _name(method).split("\n"))
    right = EDGE_IN * 2 + max(_width(number(entry, column)) for _, entry in table.iterrows())
    figure = Figure(figsize=(WIDTH_IN, height))
    # In inches from the upper left corner, as the rows are, and above the panels, whose lines would cross words.
    page = figure.add_axes((0, 0, 1, 1), zorder=2)
    page.set(xlim=(0, WIDTH_IN), ylim=(height, 0))
    page.set_axis_off()
    for panel in panels:
        box = (left / WIDTH_IN, 1 - panel.bottom / height, 1 - (left + right) / WIDTH_IN)
        ax = figure.add_axes((*box, (panel.bottom - panel.top) / height))
        _marks(ax, panel, column)
        _words(page, panel, column, left)
    page.text(
        EDGE_IN,
        height - 0.05,
        f"percentage points above {name}, 95% intervals",
        va="bottom",
        fontsize=SMALL,
        color=PALE,
    )
    return figure


def in_rows(summaries: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows with the best difference on top, and those without a difference last."""
    order = sorted(summaries.index, key=lambda i: look(summaries.loc[i, "method"]).order)
    return summaries.loc[order].sort_values(column, ascending=False, na_position="last", kind="stable")


def is_clear(entry: pd.Series, column: str) -> bool:
    """Whether an interval leaves out zero; False without one."""
    return bool(abs(entry[column]) > entry[f"{column}_half_width"])


def number(entry: pd.Series, column: str) -> str:
    """A difference in percentage points with its interval, in words where there is none."""
    mean, half = 100 * entry[column], 100 * entry[f"{column}_half_width"]
    if pd.isna(mean):
        return f"{entry['diverged']} of {entry['runs']} diverged" if entry["diverged"] else "not compared"
    said = f"{mean:+.2f}".replace("-", "\N{MINUS SIGN}") if abs(mean) >= 0.005 else "0.00"
    return f"{said}, one seed" if pd.isna(half) else f"{said} ± {half:.2f}"


def sentence(rows: pd.DataFrame, column: str, name: str) -> str:
    """A sentence on how many methods are above and below, as far as their intervals tell."""
    known = rows[rows[column].notna()]
    if known.empty:
        return f"no difference to {name} was recorded"
    if known[f"{column}_half_width"].isna().all():
        return LUCK
    sure = known[known[column].abs() > known[f"{column}_half_width"]]
    above, below = int((sure[column] > 0).sum()), int((sure[column] < 0).sum())
    if not above and not below:
        return f"no difference from {name} shown"
    return f"{above or 'none'} of {len(known)} above {name}, {below or 'none'} below"


def _placed(table: pd.DataFrame, column: str, name: str) -> list[_Panel]:
    """The panels with what they have, from the top of the figure down."""
    panels = []
    y = EDGE_IN
    for preset, rows in table.groupby("preset", sort=False):
        said = sentence(rows, column, name)
        # Bold type is a fifth wider.
        title = style.wrapped(f"{_plain(str(preset))}: {said}", (WIDTH_IN - 2 * EDGE_IN) / 1.2)
        y += style.POINTS * 1.3 / 72 * (title.count("\n") + 1) + 0.03
        panel = _Panel(title, y)
        for of_group in groups_of(rows).values():
            panel.headings.append((y + HEADING_IN / 2, _heading(of_group)))
            y += HEADING_IN
            for _, entry in in_rows(of_group, column).iterrows():
                high = max(ROW_IN, 0.05 + LINE_IN * (_name(entry["method"]).count("\n") + 1))
                panel.rows.append((y + high / 2, entry))
                y += high
            y += GAP_IN
        panel.bottom = y
        panels.append(panel)
        y += AXIS_IN + ABOVE_IN
    return panels


def _marks(ax: Axes, panel: _Panel, column: str) -> None:
    entries = [entry for _, entry in panel.rows]
    means = [100 * float(entry[column]) for entry in entries]
    halves = [100 * float(entry[f"{column}_half_width"]) for entry in entries]
    shown = method_rows.limits(means, halves, TOO_WIDE)
    ax.axvline(0, color="black", linewidth=0.8, zorder=0.9)
    method_rows.rows(
        ax, [entry["method"] for entry in entries], means, halves, shown, number=None, at=[y for y, _ in panel.rows]
    )
    ax.set_ylim(panel.bottom, panel.top)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(_signed)


def _words(page: Axes, panel: _Panel, column: str, left: float) -> None:
    """Write a panel's title, its comparisons' names, and beside every row its method and its number."""
    page.text(EDGE_IN, panel.top - 0.03, panel.title, va="bottom", fontweight="bold")
    for y, heading in panel.headings:
        back = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        page.text(EDGE_IN, y, heading, va="center", fontsize=SMALL, fontstyle="italic", bbox=back)
    for y, entry in panel.rows:
        clear = is_clear(entry, column)
        ink = "black" if clear else PALE
        page.text(left - EDGE_IN, y, _name(entry["method"]), ha="right", va="center", fontsize=SMALL, color=ink)
        bold = "bold" if clear else "normal"
        at = WIDTH_IN - EDGE_IN
        page.text(at, y, number(entry, column), ha="right", va="center", fontsize=SMALL - 0.5, color=ink, weight=bold)


def _heading(rows: pd.DataFrame) -> str:
    most = int(rows["runs"].max())
    return f"{style.group(rows)}, {most} {'seed' if most == 1 else 'seeds'}"


def _signed(value: float, _: float) -> str:
    return f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _name(method: str) -> str:
    return style.broken(look(method).label, width=NAME_CHARACTERS)


def _plain(preset: str) -> str:
    return style.verbatim(style.shortened(preset, style.LONGEST_NAME))


def _width(text: str) -> float:
    """Printed inches of a line of rows; of numbers, too, which are smaller and may be bold."""
    return style.inches(text, SMALL)
