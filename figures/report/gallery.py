"""Figures and tables of the registry on the page, each with what it is made from."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from figures import beside_paper, style, text, write
from figures.checked import Missing
from figures.methods import look
from figures.registry import ENTRIES, Entry
from figures.report.markup import Html, figure_svg, head_cell, link, listed, quiet, table, tag
from figures.report.runs import Recorded, group_anchor, run_anchor
from figures.report.statements import statement_anchor
from figures.results import Results
from figures.verified import Verified

WIDE_PT = 500.0
"""Figures that are wider scroll on a narrow screen, where their type would become too small."""
SECTIONS = (
    ("buys", "What selection buys"),
    ("paper", "The paper's tables beside ours"),
    ("theory", "The theory in pictures"),
)
"""(id, heading)."""
_FIRST = (
    *("comparisons", "figure_1", "figure_2", "variants", "time_to_target", "step_cost", "selection_quality", "live"),
    "diagnosis",
)
"""Of what selection buys, in this order."""
_FAMILIES = {
    **dict.fromkeys(("table_1", "table_6", "crossing"), "bert-base"),
    **dict.fromkeys(("table_2", "table_3"), "cifar100"),
    **dict.fromkeys(("table_4", "table_5"), "food101"),
}
"""Table beside the paper's -> the family of presets that ours are taken from."""
_ABOUT = {
    "live": ("Theorem 5.15", "Corollary 5.16", "Theorem 6.2", "Beyond 6.2"),
    "gaussian_rho": ("Theorem 5.18", "Beyond 5.18", "Corollary 5.19"),
    "noise": ("Theorem 5.15", "Beyond 5.15", "Corollary 5.16"),
    "lemma_c1": ("Lemma C.1", "Beyond C.1"),
    "agreement": ("Theorem 6.2", "Equation 14", "Beyond 6.2"),
    "overlap": ("Beyond 6.2",),
    "trajectories": ("Theorem 5.7", "Theorem 5.8", "Corollary 5.10"),
    "worst_case": ("Theorem 5.7", "Theorem 5.8", "Theorem 5.14", "Beyond 5.7"),
    "top_k": ("Beyond 5.7",),
    "table_6": ("Table 6",),
}
"""What is checked of the same."""
_READING = {
    "comparisons": "Means over seeds with 95% intervals; differences are paired by seed, so that a difference may be "
    "clear where two accuracies overlap. Of two seeds an interval is 12.7 standard errors to each side, and may "
    "exceed what an accuracy can be. A dash is what was not recorded.",
    "figure_1": "Bands are 95% intervals over seeds; of two seeds the runs are drawn instead. Rows that are scored and "
    "not kept do not count.",
    "figure_2": "All pay for their scoring here: the clock runs while rows are scored.",
    "variants": "Right of zero is better. An interval that touches zero shows no difference; one that ends in an arrow "
    "goes on, to the number beside it.",
    "time_to_target": "Only methods of which every run reached the target have a mark, and only comparisons with "
    "one have panels.",
    "step_cost": "Left, where a run's time went; right, the median step before the runs, with and without selection.",
    "selection_quality": "How far the rows that an early exit keeps are those that the exact losses would keep. A "
    "method that scores by the exact loss itself is at 100%.",
    "live": "What the scores of a run were worth, reading by reading, beside what the theorems make of the measured "
    "correlation of margins and of the measured noise. The theorems are about convex problems and Gaussian margins.",
    "diagnosis": "Above its bar of break-even a step on selected rows goes further than the time it takes; an interval "
    "that reaches across decides nothing. It is about one step from the weights at hand.",
    "gaussian_rho": "Picking the largest of R losses gains more as R grows, and less as the bias eps outweighs delta.",
    "noise": "The bound of the print ends at sigma = 1/(2 sqrt 2); the sharper one does not. Marks are simulated.",
    "lemma_c1": "The printed constant has room to spare; the least one touches the ratio.",
    "agreement": "The closed form needs no bound; the printed bound stays below it. Marks are simulated.",
    "overlap": "The same law as for pairs holds for what is kept of a batch's top half.",
    "trajectories": "Up to the crossing GSGD's bound is the better one; where the means cross is another matter.",
    "worst_case": "The worst case over all convex smooth problems of n losses is proved by semidefinite programs; at 1 "
    "a bound cannot be improved. A line is one setting of n, R, rho and sigma; the sharper bound is ours.",
    "top_k": "The gain of keeping the k largest of B rows tends to a limit as batches grow.",
}
"""How it is read."""


@dataclass(frozen=True)
class Exhibit:
    """A figure or table as it stands on the page; `reason` says why it does not, where it does not."""

    entry: Entry
    markup: Html | None
    reason: str = ""


def exhibits(
    results: Results, recorded: Recorded, verified: Verified | None, progress: Callable[[int, int, str, float], None]
) -> list[Exhibit]:
    """Every entry of the registry, made or with the reason why it cannot be.

    Args:
        progress: called with (number, how many, name, seconds) as each is done.

    Raises:
        ValueError: if results are malformed, naming file and field; before anything is drawn.
    """
    ready = [(entry, *_read(entry, results)) for entry in ENTRIES.values()]
    found = []
    for number, (entry, tables, reason) in enumerate(ready, start=1):
        begin = time.perf_counter()
        if tables is not None:
            try:
                markup = _figure(entry, tables, recorded, verified)
            except Missing as missing:
                tables, reason = None, str(missing.args[0])
        found.append(Exhibit(entry, None if tables is None else markup, _anywhere(reason, results)))
        progress(number, len(ready), entry.name, time.perf_counter() - begin)
    return found


def _anywhere(reason: str, results: Results) -> str:
    """A reason that does not depend on where the results lie: the same results make the same page."""
    return reason.replace(f"{results.folder} has ", "the results have ").replace(str(results.theory), "theory")


def _read(entry: Entry, results: Results) -> tuple[list[Any] | None, str]:
    try:
        return entry.read(results), ""
    except Missing as missing:
        return None, str(missing.args[0])


def sections(shown: Sequence[Exhibit]) -> dict[str, list[Exhibit]]:
    """Section -> its exhibits in order; sections of `SECTIONS`, all of them."""
    found: dict[str, list[Exhibit]] = {name: [] for name, _ in SECTIONS}
    for exhibit in shown:
        found[_section_of(exhibit.entry)].append(exhibit)
    rank = {name: number for number, name in enumerate(_FIRST)}
    found["buys"].sort(key=lambda exhibit: rank.get(exhibit.entry.name, len(rank)))
    return found


def _section_of(entry: Entry) -> str:
    if any(name.startswith("theory/") for name in entry.needs):
        return "theory"
    return "paper" if entry.name in _FAMILIES else "buys"


def section(name: str, heading: str, shown: Sequence[Exhibit]) -> Html:
    """A section of exhibits; what could not be made is listed below them with the reason."""
    parts: list[Any] = [tag("h2", heading, id=f"{name}-title")]
    if name == "paper":
        parts.append(
            tag(
                "p",
                "The paper's numbers are the paper's; ours are of runs that are configured as the paper's, with 95% "
                "intervals over seeds. A dash is what was not run.",
            )
        )
    parts += [exhibit.markup for exhibit in shown if exhibit.markup is not None]
    missing = [exhibit for exhibit in shown if exhibit.markup is None]
    if missing:
        entries = [
            tag(
                "li",
                tag("code", exhibit.entry.name),
                f" ({exhibit.entry.shows}): {exhibit.reason}",
                id=f"exhibit-{exhibit.entry.name}",
            )
            for exhibit in missing
        ]
        parts += [tag("h3", "Not shown, for want of data"), tag("ul", entries, class_="missing")]
    return tag("section", parts, id=name, aria_labelledby=f"{name}-title")


def _figure(entry: Entry, tables: list[Any], recorded: Recorded, verified: Verified | None) -> Html:
    title = f"{entry.name}-title"
    with style.sheet("screen"):
        made = entry.make(*tables)
        if entry.kind == "figure":
            svg = write.inline_svg(made, entry.name, entry.shows)
            width = re.search(r'width="([\d.]+)pt"', svg)
            wide = width is not None and float(width[1]) > WIDE_PT
            content: Any = tag(
                "div",
                figure_svg(svg),
                class_=f"sheet {'wide' if wide else 'single'}",
                role="region" if wide else None,
                aria_labelledby=title if wide else None,
                tabindex="0" if wide else None,
            )
        else:
            content = _tables(entry, made, recorded)
    return tag(
        "figure",
        tag("h3", entry.shows, id=title),
        content,
        tag("figcaption", _READING.get(entry.name, ""), " ", _sources(entry, tables, recorded, verified)),
        id=f"exhibit-{entry.name}",
    )


def _sources(entry: Entry, tables: list[Any], recorded: Recorded, verified: Verified | None) -> Any:
    """Where an exhibit's numbers come from, linked."""
    parts: list[Any] = []
    files = [tag("code", f"{name}.csv") for name in entry.needs if name.startswith("theory/")]
    if files:
        by = link("provenance", "gsgd verify") if verified is not None else "gsgd verify"
        parts += ["Drawn from ", *listed(files), ", which ", by, " wrote. "]
    groups = _groups(entry, tables)
    if groups:
        # Readings and diagnoses may be there without the runs that they are of.
        there = set(recorded.runs["group"])
        names = [link(group_anchor(group), group) if group in there else tag("code", group) for group in groups]
        parts += ["From ", *listed(names), ". "]
    elif entry.name in _FAMILIES:
        parts.append(f"No run of {_FAMILIES[entry.name]} as the paper configures it was recorded. ")
    known = set(verified.statements) if verified is not None else set()
    about = [name for name in _ABOUT.get(entry.name, ()) if name in known]
    if about:
        parts += ["Checked: ", *listed([link(statement_anchor(name), name) for name in about]), "."]
    return tag("span", parts, class_="sources")


def _groups(entry: Entry, tables: list[Any]) -> list[str]:
    found = [table for table in tables if isinstance(table, pd.DataFrame) and "group" in table]
    if entry.name in _FAMILIES:
        found = [beside_paper.of_family(table, _FAMILIES[entry.name]) for table in found if "preset" in table]
    return list(dict.fromkeys(group for table in found for group in table["group"]))


def _tables(entry: Entry, made: pd.DataFrame, recorded: Recorded) -> list[Html]:
    if "comparison" not in made:
        return [_table(made, entry.shows, functools.partial(_paper_target, entry, recorded))]
    found = []
    for group in dict.fromkeys(made["comparison"]):
        rows = made[made["comparison"] == group].drop(columns="comparison")
        rows.attrs = made.attrs
        label = f"{entry.shows}: {group}"
        content = _table(_with_values(rows), label, functools.partial(_run_target, group, recorded))
        found += [
            tag("h4", link(group_anchor(group), group), f", target accuracy {rows['target'].iloc[0]:.2%}"),
            content,
        ]
    return found


def _run_target(group: str, recorded: Recorded, row: pd.Series) -> str | None:
    """The first run of a method, by the name that it is shown under."""
    of_group = recorded.runs[recorded.runs["group"] == group]
    methods = {look(method).label: method for method in of_group["method"]}
    return recorded.target(group, methods.get(row["method"]))


def _with_values(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the target, which all share, and without columns of no value, such as a test accuracy without a test."""
    kept = rows.dropna(axis="columns", how="all").drop(columns="target")
    kept.attrs = rows.attrs
    return kept


def _paper_target(entry: Entry, recorded: Recorded, row: pd.Series) -> str | None:
    """The first of our runs that a row beside the paper's is made from."""
    if entry.name not in _FAMILIES or not row.get("runs"):
        return None
    ours = beside_paper.of_family(recorded.runs, _FAMILIES[entry.name])
    ours = ours[[look(method).label == row["method"] for method in ours["base_method"]]]
    if "max_lr" in row:
        ours = ours[[f"{rate:g}" == row["max_lr"] for rate in ours["max_lr"]]]
    return run_anchor(ours["place"].iloc[0]) if len(ours) else None


def _table(made: pd.DataFrame, label: str, target: Callable[[pd.Series], str | None]) -> Html:
    """A table as `figures.text` words it; a row's numbers, but not the paper's, link to what made them."""
    names = text.headings(made)
    columns = [str(name) for name in made.columns if not str(name).endswith(text.HALF_WIDTH)]
    numeric = [pd.api.types.is_numeric_dtype(made[name]) for name in columns]
    head = [head_cell(name, class_="number" if number else None) for name, number in zip(names, numeric, strict=True)]
    rows = []
    for line, (_, row) in zip(text.cells(made), made.iterrows(), strict=True):
        where = target(row)
        cells: list[Html] = []
        for name, cell, number in zip(columns, line, numeric, strict=True):
            if name == "method":
                cells.append(tag("th", cell if where is None else link(where, cell), scope="row"))
            elif number:
                cells.append(tag("td", quiet(None if name.endswith("paper") else where, cell), class_="number"))
            else:
                cells.append(tag("td", cell, class_="note-cell" if name == "note" else None))
        rows.append(tag("tr", cells))
    return table(label, head, rows)
