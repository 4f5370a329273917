"""What came of a ladder: every method's row at every rung, what is claimed of it, and the tables with both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gsgd.results import write_table
from training.budget import Budget
from training.comparison.speedup import PlainCurve, SpeedUp, claim, speed_up
from training.comparison.summary import Interval, cells_of, interval
from training.comparison.wall_clock import seconds_of_runs, why_not_comparable
from training.run import Ending
from training.run_folder.schema import DIVERGED

PLAIN = "baseline"
PLANNED = "planned"
"""The status of a ladder of which nothing but its plan was asked for."""
MEASURES = {"accuracy": True, "loss": False}
"""What speed-ups are measured by -> whether more of it is better."""
MethodAtRung = tuple[str, Budget]
"""A method's label and a rung."""
Values = Mapping[MethodAtRung, list[dict[str, Any]] | None]
"""Measure -> value of each run of a place; None where one diverged."""


@dataclass(frozen=True)
class Chosen:
    """How a method was run at a rung.

    Attributes:
        values: that were chosen, as behind the colons of a method; at_edge: keys whose choice ends its range.
        tried: configurations that were tried at this rung.
        reference_s: reference time of a run.
    """

    values: str
    tried: int
    at_edge: str
    reference_s: float


@dataclass(frozen=True)
class Row:
    """A method at a rung.

    Attributes:
        budget: of a run, in the ladder's unit.
        runs, diverged: numbers of runs; if any diverged there are no means and no speed-ups.
        tried: configurations that were tried at this rung.
        values: what was chosen, as behind the colons of a method; at_edge: keys whose choice ends its range.
        steps: of a run. reference_s: their reference time. wall_clock_s: what they took, the median.
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
    reference_s: float
    wall_clock_s: float
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
class InSeconds:
    """What is claimed by the clock, with seconds of the runs in place of their budgets.

    Attributes:
        left_out: why nothing is, as the end of a sentence; None if something is.
    """

    claims: list[Claim] = dataclasses.field(default_factory=list)
    left_out: str | None = None


@dataclass(frozen=True)
class LadderResult:
    """What a ladder found; without rows and claims if it was interrupted.

    Attributes:
        unit: of the budgets.
        split: that the values are of, "test" where there is one.
        tuned: whether anything was tuned.
        in_seconds: claims by the clock; None if it was interrupted.
    """

    status: str
    folder: Path
    unit: str
    split: str
    tuned: bool
    rows: list[Row]
    claims: list[Claim]
    in_seconds: InSeconds | None = None


def rows_and_claims(
    rungs: Sequence[Budget], outcomes: Mapping[MethodAtRung, Sequence[Ending]], chosen: Mapping[MethodAtRung, Chosen]
) -> tuple[list[Row], list[Claim]]:
    """Rows by rung and method, and what is claimed of each method.

    Args:
        rungs: ascending.
        outcomes: of every method at the rungs where it ran, the inner ones at least, in the order of their seeds.
    """
    values = _values_of(outcomes)
    budgets = {(label, rung): rung.amount for label, rung in outcomes}
    curves = _plain_curves(rungs, budgets, values)
    rows = [
        _row(label, rung, outcomes[label, rung], chosen[label, rung], values, curves)
        for rung in rungs
        for label in _labels(outcomes)
        if (label, rung) in outcomes
    ]
    return rows, _claims(rungs, budgets, values, curves)


def claims_in_seconds(
    rungs: Sequence[Budget], outcomes: Mapping[MethodAtRung, Sequence[Ending]], jobs: int | None
) -> InSeconds:
    """What is claimed of each method by the clock: plain(c t) = method(t), where t is the median time of its runs.

    Args:
        rungs, outcomes: as of `rows_and_claims`.
        jobs: as of `why_not_comparable`.
    """
    groups = {
        f"{label} at {rung}": runs
        for (label, rung), runs in outcomes.items()
        if all(run.status != DIVERGED for run in runs)
    }
    if (reason := why_not_comparable(groups, jobs)) is not None:
        return InSeconds(left_out=reason)
    seconds = {place: seconds_of_runs(runs) for place, runs in outcomes.items()}
    of_plain = [seconds[PLAIN, rung] for rung in rungs]
    if not all(shorter < longer for shorter, longer in pairwise(of_plain)):
        found = ", ".join(f"{each:.3g}" for each in of_plain)
        return InSeconds(left_out=f"plain training does not take longer from rung to rung ({found} s)")
    values = _values_of(outcomes)
    claims = _claims(rungs, seconds, values, _plain_curves(rungs, seconds, values))
    return InSeconds(claims, None if claims else "no method has runs at every inner rung that did not diverge")


def _labels(places: Iterable[MethodAtRung]) -> list[str]:
    return list(dict.fromkeys(label for label, _ in places))


def _values_of(outcomes: Mapping[MethodAtRung, Sequence[Ending]]) -> Values:
    return {
        place: None if any(each.status == DIVERGED for each in runs) else [_values(each) for each in runs]
        for place, runs in outcomes.items()
    }


def _plain_curves(
    rungs: Sequence[Budget], amounts: Mapping[MethodAtRung, float], values: Values
) -> dict[str, PlainCurve]:
    """Measure -> plain training's curve over the amounts that its runs used; none if a run of it diverged."""
    of_rungs = [runs for rung in rungs if (runs := values[PLAIN, rung]) is not None]
    if len(of_rungs) < len(rungs):
        return {}
    at = [amounts[PLAIN, rung] for rung in rungs]
    return {
        measure: PlainCurve(at, [[run[measure] for run in runs] for runs in of_rungs], higher_is_better=higher)
        for measure, higher in MEASURES.items()
    }


def _claims(
    rungs: Sequence[Budget], amounts: Mapping[MethodAtRung, float], values: Values, curves: Mapping[str, PlainCurve]
) -> list[Claim]:
    """What is claimed of each method none of whose runs at an inner rung diverged."""
    found, inner = [], rungs[1:-1]
    for label in _labels(values):
        own = [runs for rung in inner if (runs := values[label, rung]) is not None]
        if label == PLAIN or len(own) < len(inner):
            continue
        at = [amounts[label, rung] for rung in inner]
        for measure, curve in curves.items():
            of_measure = [[run[measure] for run in runs] for runs in own]
            found.append(Claim(label, measure, len(inner), claim(curve, at, of_measure)))
    return found


def _row(
    label: str,
    rung: Budget,
    runs: Sequence[Ending],
    chosen: Chosen,
    values: Values,
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
        wall_clock_s=seconds_of_runs(runs),
        accuracy=_interval(own, "accuracy"),
        loss=_interval(own, "loss"),
        calibration_error=_interval(own, "calibration_error"),
        over_baseline=over,
        by_accuracy=factors.get("accuracy"),
        by_loss=factors.get("loss"),
    )


def write_tables(
    folder: Path,
    rows: Sequence[Row],
    claims: Sequence[Claim],
    by_clock: InSeconds,
    outcomes: Mapping[MethodAtRung, Sequence[Ending]],
) -> None:
    """Write `ladder.csv`, `claims.csv`, `runs.csv`, and `claims_in_seconds.csv` if there are any."""
    of_runs = [
        {
            **{"method": label, "budget": rung.amount, "seed": run.header["seed"], "status": run.status},
            **{**_values(run), "wall_clock_s": run.header["wall_clock_s"]},
        }
        for (label, rung), runs in outcomes.items()
        for run in runs
    ]
    tables = {
        "ladder": list(map(_cells, rows)),
        "claims": list(map(cells_of_claim, claims)),
        "claims_in_seconds": list(map(cells_of_claim, by_clock.claims)),
        "runs": of_runs,
    }
    if not by_clock.claims:
        (folder / "claims_in_seconds.csv").unlink(missing_ok=True)  # of fewer runs, perhaps
    for name, cells in tables.items():
        if cells:
            write_table(folder / f"{name}.csv", tuple(cells[0]), [list(row.values()) for row in cells])


def cells_of_claim(found: Claim) -> dict[str, Any]:
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
    cells = cells_of(row)
    for name in ("by_accuracy", "by_loss"):
        found: SpeedUp | None = cells.pop(name)
        for part in dataclasses.fields(SpeedUp):
            cells[f"{name}_{part.name}"] = None if found is None else getattr(found, part.name)
    return cells
