"""Readings that training has recorded, beside what the formulas say of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gsgd.commands.console import print_table
from gsgd.results import write_table
from theory import readings as formulas
from training.run_folder.records import METER_COLUMNS, METERS, read_table

READINGS = "readings.csv"
DELTAS = ("delta_chosen", "delta_hardest")
"""What bounds how much a score loses (`gsgd.sift.measures.readings.Reading`)."""
WHAT_FORMULAS_TAKE = (
    "The formulas take the measured correlation beta of scores' and exact losses' margins, as if these were Gaussian; "
    "intervals are 95%, over readings.\n"
)


def has_readings(folder: Path) -> bool:
    """Whether there are readings of a run, or of a comparison, in `folder`."""
    return folder.is_dir() and bool(_tables(folder))


def read_readings(folder: Path) -> list[dict[str, Any]]:
    """The readings in the folder of a run or of a comparison, each with its `run`, `method` and `seed`.

    Raises:
        ValueError: if a table cannot be read, naming the file and the line, or if there is none.
    """
    columns = {name: kind for name, kind in METER_COLUMNS.items() if name != "meter_s"}
    found = []
    for path in _tables(folder):
        single = (path.parent / "header.json").exists()
        for row in read_table(path, columns, "a reading"):
            run = path.parent.resolve().name if single else f"{row['method']}-seed{row['seed']}"
            found.append({"run": run, **row})
    if not found:
        raise ValueError(f"{folder} has no readings in a {METERS}: train with --meter_every 20, say")
    return found


def write_readings(folder: Path, readings: Sequence[Mapping[str, Any]]) -> Path:
    """Write `readings.csv` to the folder: every reading with what the formulas say beside it.

    Raises:
        ValueError: for a number that no reading has.
    """
    columns = ("run", "method", "seed", *formulas.MEASURED)
    rows = []
    for reading in readings:
        predicted = formulas.compare(reading)
        # Of readings of older versions they are not known.
        deltas = [math.nan if reading[name] is None else reading[name] for name in DELTAS]
        measured = [reading[name] for name in columns]
        rows.append([*measured, *(float(predicted[name]) for name in formulas.PREDICTED), *deltas])
    return write_table(folder / READINGS, (*columns, *formulas.PREDICTED, *DELTAS), rows)


def show_readings(console: Console, readings: Sequence[Mapping[str, Any]]) -> None:
    """A table of measured and predicted numbers, method by method, and what they say of the assumptions."""
    methods = list(dict.fromkeys(reading["method"] for reading in readings))
    of_method = {method: [reading for reading in readings if reading["method"] == method] for method in methods}
    summaries = {method: formulas.summarise(of) for method, of in of_method.items()}
    rows = [
        (
            method,
            str(line.readings),
            line.quantity,
            f"{line.measured:.3f}",
            f"{line.predicted:.3f}",
            f"{line.difference:+.3f} ±{line.half_width:.3f}",
        )
        for method, summary in summaries.items()
        for line in summary.lines
        if line.readings
    ]
    print_table(console, ("method", "readings", "what", "measured", "formula", "difference"), rows)
    console.print(WHAT_FORMULAS_TAKE, highlight=False)
    for method, summary in summaries.items():
        for sentence in sentences(method, summary):
            console.print(sentence, highlight=False)


def sentences(method: str, summary: formulas.Summary) -> list[str]:
    """What a `theory.readings.Summary` says of Theorem 5.15, Corollary 5.16 and Assumption 5.12."""
    found = []
    if summary.noisy:
        found.append(
            f"{method}: of {summary.noisy} readings, Theorem 5.15's guarantee holds in {summary.obeying:.0%}; "
            f"Corollary 5.16 promises that scores beat none in {summary.printed:.0%} as printed, "
            f"{summary.corrected:.0%} corrected, {summary.sharp:.0%} sharp, and they do in {summary.ahead:.0%}."
        )
    if summary.tested:
        found.append(
            f"{method}: the noise depends on the exact loss in {summary.dependent:.0%} of {summary.tested} readings at "
            "level 5%, where Assumption 5.12 allows 5%."
        )
    return found


def _tables(folder: Path) -> list[Path]:
    """Of a comparison the table of all its runs, and while it is not finished those of its runs."""
    whole = folder / METERS
    return [whole] if whole.exists() else sorted(folder.glob(f"*/{METERS}"))
