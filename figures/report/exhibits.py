"""Figures and tables of the registry on the page, each with what it is made from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from figures import drawing, pages, style, tables, text, write
from figures.checked import Missing
from figures.methods import look
from figures.registry import ENTRIES, Entry
from figures.report.runs import Training
from figures.report.words import anchor, counted
from figures.results import Results

FIRST = (("map",), ("forecasts",), ("worst_case", "trajectories"))
"""What the page opens with: of each the first that could be drawn."""
IN_SUMMARY = ("differences", "differences_to_random", "comparisons")
"""What the summary's sentences are about: they stand with these."""
WIDE_PT = 500.0
"""Figures that are wider scroll on a narrow screen, where their type would become too small."""


@dataclass(frozen=True)
class Part:
    """A table, or a comparison's part of it; `targets` are ids of what made each row, `told` its budget and so on."""

    columns: list[text.Column]
    targets: list[str | None]
    group: str = ""
    told: str = ""


@dataclass
class Exhibit:
    """A figure or table as it stands on the page.

    Attributes:
        caption: its entry of captions.toml.
        reason: why it is not shown, where it is not.
        groups: comparisons and groups of runs that it is made from.
        pictures: of a figure, none taller than `pages.TALLEST_IN`, as far as its groups can be divided.
        first: its place among what the page opens with, from 1; 0 if it is not of these.
    """

    entry: Entry
    caption: dict[str, Any]
    reason: str = ""
    groups: list[str] = field(default_factory=list)
    pictures: list[Markup] = field(default_factory=list)
    first: int = 0
    parts: list[Part] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """The tables of the theory that it is drawn from."""
        return [name for name in self.entry.needs if name.startswith("theory/")]

    @property
    def family(self) -> str | None:
        return tables.FAMILIES.get(self.entry.name)

    @property
    def section(self) -> str:
        """The id of its section."""
        if self.first:
            return "glance"
        if self.entry.name in IN_SUMMARY and not self.reason:
            return "summary"
        return "theory" if self.files else "paper" if self.family else "buys"

    def is_wide(self, picture: Markup) -> bool:
        """Whether a picture of it is wider than a narrow screen shows; others of the same figure may not be."""
        width = re.search(r'width="([\d.]+)pt"', picture)
        return width is not None and float(width[1]) > WIDE_PT


def make(
    results: Results, training: Training, progress: Callable[[int, int, str, float], None], *, jobs: int = 1
) -> list[Exhibit]:
    """Every entry of the registry, made or with the reason why it cannot be, in the order of the page.

    Args:
        progress: called with (number, how many, name, seconds) as each is done.
        jobs: processes that draw.

    Raises:
        ValueError: if results are malformed, naming file and field; before anything is drawn.
    """
    captions = tomllib.loads(Path(__file__).with_name("captions.toml").read_text(encoding="utf-8"))
    found = [Exhibit(entry, captions.get(name, {})) for name, entry in ENTRIES.items()]
    needed = [_read(exhibit, results) for exhibit in found]
    ready = [(exhibit, its) for exhibit, its in zip(found, needed, strict=True) if not exhibit.reason]
    content = drawing.made(_content, [(exhibit.entry, its) for exhibit, its in ready], jobs=jobs)
    for number, ((exhibit, its), (made, seconds)) in enumerate(zip(ready, content, strict=True), start=1):
        if isinstance(made, Missing):
            exhibit.reason = _anywhere(made, results)
        else:
            _place(exhibit, its, made, training)
        progress(number, len(ready), exhibit.entry.name, seconds)
    for place, names in enumerate(FIRST, start=1):
        drawn = [exhibit for name in names for exhibit in found if exhibit.entry.name == name and exhibit.pictures]
        for exhibit in drawn[:1]:
            exhibit.first = place
    order = {name: number for number, name in enumerate(captions)}
    return sorted(found, key=lambda exhibit: order.get(exhibit.entry.name, 0) if exhibit.section == "buys" else 0)


def _read(exhibit: Exhibit, results: Results) -> list[Any]:
    try:
        return exhibit.entry.read(results)
    except Missing as missing:
        exhibit.reason = _anywhere(missing, results)
        return []


def _anywhere(missing: Missing, results: Results) -> str:
    """A reason that does not depend on where the results lie: the same results make the same page."""
    reason = str(missing.args[0])
    return reason.replace(f"{results.folder} has ", "the results have ").replace(str(results.theory), "theory")


def _content(entry: Entry, needed: list[Any]) -> list[Markup] | pd.DataFrame:
    """The pictures of a figure, or a table."""
    if entry.kind == "table":
        return entry.make(*needed)
    with style.sheet():
        drawn, pictures = entry.pictures(*needed), []
        for number, figure in enumerate(drawn, start=1):
            described = entry.shows if len(drawn) == 1 else f"{entry.shows} ({number} of {len(drawn)})"
            svg = write.inline_svg(figure, pages.name(entry.name, number), described)
            # Its comments repeat the text that its glyphs draw; a page of many figures can do without.
            pictures.append(Markup(re.sub(r"\s*<!--.*?-->", "", svg, flags=re.DOTALL)))
    return pictures


def _place(exhibit: Exhibit, needed: list[Any], made: list[Markup] | pd.DataFrame, training: Training) -> None:
    """Put on an exhibit what was made of the tables `needed`, and the groups of runs that they are of."""
    if isinstance(made, pd.DataFrame):
        exhibit.parts = _parts(exhibit, made, training)
    else:
        exhibit.pictures = made
    grouped = [table for table in needed if table is not None and "group" in table]
    if exhibit.family:
        grouped = [tables.of_family(table, exhibit.family) for table in grouped if "preset" in table]
    exhibit.groups = list(dict.fromkeys(group for table in grouped for group in table["group"]))


def _parts(exhibit: Exhibit, made: pd.DataFrame, training: Training) -> list[Part]:
    if "comparison" not in made:
        return [Part(text.columns(made), [_of_ours(exhibit, training, row) for _, row in made.iterrows()])]
    found = []
    for group, rows in made.groupby("comparison", sort=False):
        runs = training.runs[training.runs["group"] == group]
        methods = {look(method).label: method for method in runs["method"]}
        targets = [training.target(str(group), methods.get(label)) for label in rows["method"]]
        # All rows share the target; and of some columns there is no value, such as a test accuracy without a test.
        shown = rows.dropna(axis="columns", how="all").drop(columns=["comparison", "target"])
        shown.attrs = made.attrs
        found.append(Part(text.columns(shown), list(targets), str(group), _told(str(group), rows, training)))
    return found


def _told(group: str, rows: pd.DataFrame, training: Training) -> str:
    """The budget, seeds and target accuracy of a comparison."""
    content = training.comparisons.get(group)
    budget = [f"budget {content['config']['budget']}"] if content else []
    seeds = ("up to " if rows["runs"].nunique() > 1 else "") + counted(int(rows["runs"].max()), "seed")
    return ", ".join([*budget, seeds, f"target accuracy {rows['target'].iloc[0]:.2%}"])


def _of_ours(exhibit: Exhibit, training: Training, row: pd.Series) -> str | None:
    """The first of our runs that a row beside the paper's is made from."""
    if not exhibit.family or not row.get("runs"):
        return None
    ours = tables.of_family(training.runs, exhibit.family)
    ours = ours[[look(method).label == row["method"] for method in ours["base_method"]]]
    if "max_lr" in row:
        ours = ours[[f"{rate:g}" == row["max_lr"] for rate in ours["max_lr"]]]
    return anchor(ours["place"].iloc[0], "run") if len(ours) else None
