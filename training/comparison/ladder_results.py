"""What came of a ladder: every method's row at every rung, what is claimed of it, and the tables with both."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gsgd.results import write_table
from training.budget import Budget
from training.comparison.speedup import PlainCurve, SpeedUp, claim, speed_up
from training.comparison.summary import Interval, interval
from training.run import Ending
from training.run_folder.schema import DIVERGED

PLAIN = "baseline"
MEASURES = {"accuracy": True, "loss": False}
"""What speed-ups are measured by -> whether more of it is better."""
MethodAtRung = tuple[str, Budget]
"""A method's label and a rung."""


@dataclass(frozen=True)
class Chosen:
    """How a method was run at a rung.

    Attributes:
        values: that were chosen, as behind the colons of a method; at_edge: keys whose choice ends its range.
        tried: configurations that were tried at this rung.
        priced_s: what a run costs at the measured prices.
    """

    values: str
    tried: int
    at_edge: str
    priced_s: float


@dataclass(frozen=True)
class Row:
    """A method at a rung.

    Attributes:
        budget: of a run, in the ladder's unit.
        runs, diverged: numbers of runs; if any diverged there are no means and no speed-ups.
        tried: configurations that were tried at this rung.
        values: what was chosen, as behind the colons of a method; at_edge: keys whose choice ends its range.
        steps: of a run. priced_s: what they cost at the measured prices.
        accuracy, loss, calibration_error: at the end of the runs, on the ladder's split.
        over_baseline: difference in accuracy, paired by seed.
        by_accuracy, by_loss: speed-ups; None for plain training, and where a run diverged.
    """

    method: str
    budget: float
    runs: int
    diverged: int
    tried: int
    values: str
    at_edge: str
    steps: float
    priced_s: float
    accuracy: Interval | None
    loss: Interval | None
    calibration_error: Interval | None
    over_baseline: Interval | None
    by_accuracy: SpeedUp | None
    by_loss: SpeedUp | None


@dataclass(frozen=True)
class Claim:
    """The geometric mean of a method's speed-ups over the inner rungs."""

    method: str
    measure: str
    rungs: int
    speed_up: SpeedUp


@dataclass(frozen=True)
class LadderResult:
    """What a ladder found; without rows and claims if it was interrupted.

    Attributes:
        unit: of the budgets.
        split: that the values are of, "test" where there is one.
        tuned: whether anything was tuned.
    """

    status: str
    folder: Path
    unit: str
    split: str
    tuned: bool
    rows: list[Row]
    claims: list[Claim]


def rows_and_claims(
    rungs: Sequence[Budget], outcomes: Mapping[MethodAtRung, Sequence[Ending]], chosen: Mapping[MethodAtRung, Chosen]
) -> tuple[list[Row], list[Claim]]:
    """Rows by rung and method, and what is claimed of each method.

    Args:
        rungs: ascending.
        outcomes: of every method at every rung, in the order of their seeds.
    """
    labels = list(dict.fromkeys(label for label, _ in outcomes))
    values = {
        place: None if any(each.status == DIVERGED for each in runs) else [_values(each) for each in runs]
        for place, runs in outcomes.items()
    }
    curves = _plain_curves(rungs, [values[PLAIN, rung] for rung in rungs])
    rows = [
        _row(label, rung, outcomes[label, rung], chosen[label, rung], values, curves)
        for rung in rungs
        for label in labels
    ]
    claims = []
    inner = rungs[1:-1]
    for label in labels:
        own = [runs for rung in inner if (runs := values[label, rung]) is not None]
        if label == PLAIN or len(own) < len(inner):
            continue
        for measure, curve in curves.items():
            of_measure = [[run[measure] for run in runs] for runs in own]
            found = claim(curve, [rung.amount for rung in inner], of_measure)
            claims.append(Claim(label, measure, len(inner), found))
    return rows, claims


def _plain_curves(rungs: Sequence[Budget], plain: Sequence[list[dict[str, Any]] | None]) -> dict[str, PlainCurve]:
    """Measure -> plain training's curve; none if a run of it diverged."""
    whole = [runs for runs in plain if runs is not None]
    if len(whole) < len(plain):
        return {}
    budgets = [rung.amount for rung in rungs]
    return {
        measure: PlainCurve(budgets, [[run[measure] for run in runs] for runs in whole], higher_is_better=higher)
        for measure, higher in MEASURES.items()
    }


def _row(
    label: str,
    rung: Budget,
    runs: Sequence[Ending],
    chosen: Chosen,
    values: Mapping[MethodAtRung, list[dict[str, Any]] | None],
    curves: Mapping[str, PlainCurve],
) -> Row:
    own, plain = values[label, rung], values[PLAIN, rung]
    factors: dict[str, SpeedUp] = {}
    if own is not None and label != PLAIN:
        for measure, curve in curves.items():
            factors[measure] = speed_up(curve, rung.amount, [run[measure] for run in own])
    over = None
    if own is not None and plain is not None and label != PLAIN:
        pairs = zip(own, plain, strict=True)
        over = interval([run["accuracy"] - other["accuracy"] for run, other in pairs])
    return Row(
        method=label,
        budget=rung.amount,
        runs=len(runs),
        diverged=sum(run.status == DIVERGED for run in runs),
        **dataclasses.asdict(chosen),
        steps=float(np.mean([run.header["total_steps"] for run in runs])),
        accuracy=_interval(own, "accuracy"),
        loss=_interval(own, "loss"),
        calibration_error=_interval(own, "calibration_error"),
        over_baseline=over,
        by_accuracy=factors.get("accuracy"),
        by_loss=factors.get("loss"),
    )


def write_tables(
    folder: Path, rows: Sequence[Row], claims: Sequence[Claim], outcomes: Mapping[MethodAtRung, Sequence[Ending]]
) -> None:
    """Write `ladder.csv`, `claims.csv` and `runs.csv`."""
    of_runs = [
        {"method": label, "budget": rung.amount, "seed": run.header["seed"], "status": run.status, **_values(run)}
        for (label, rung), runs in outcomes.items()
        for run in runs
    ]
    tables = {"ladder": list(map(_cells, rows)), "claims": list(map(cells_of, claims)), "runs": of_runs}
    for name, cells in tables.items():
        if cells:
            write_table(folder / f"{name}.csv", tuple(cells[0]), [list(row.values()) for row in cells])


def cells_of(found: Claim) -> dict[str, Any]:
    """Column -> cell."""
    return {
        "method": found.method,
        "measure": found.measure,
        "rungs": found.rungs,
        **dataclasses.asdict(found.speed_up),
    }


def _values(outcome: Ending) -> dict[str, Any]:
    """Measure -> value at the end of a run, on the test split if the run was tested; None of a run that diverged."""
    header = outcome.header
    if outcome.status == DIVERGED:
        return dict.fromkeys((*MEASURES, "calibration_error"))
    if "test_accuracy" in header:
        error = header.get("test_calibration_error")
        return {"accuracy": header["test_accuracy"], "loss": header["test_loss"], "calibration_error": error}
    last = outcome.evaluations[-1]
    return {"accuracy": last.val_accuracy, "loss": last.val_loss, "calibration_error": None}


def _interval(runs: Sequence[Mapping[str, Any]] | None, name: str) -> Interval | None:
    known = [value for run in runs or () if (value := run[name]) is not None]
    return interval(known) if known else None


def _cells(row: Row) -> dict[str, Any]:
    """Column -> cell: an interval takes two columns, a speed-up four."""
    cells: dict[str, Any] = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if "Interval" in str(field.type):
            half = None if value is None or math.isnan(value.half_width) else value.half_width
            cells |= {field.name: None if value is None else value.mean, f"{field.name}_half_width": half}
        elif "SpeedUp" in str(field.type):
            empty = dict.fromkeys(("factor", "low", "high", "place"))
            parts = empty if value is None else dataclasses.asdict(value)
            cells |= {f"{field.name}_{part}": cell for part, cell in parts.items()}
        else:
            cells[field.name] = value
    return cells
