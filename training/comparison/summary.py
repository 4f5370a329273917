"""What a comparison of methods shows: means with 95% intervals over seeds, paired differences, what a target took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from gsgd.intervals import mean_half_width
from training.run_folder.records import Evaluation


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95% interval (Student's t); the half-width is NaN for a single seed."""

    mean: float
    half_width: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.half_width

    @property
    def signed(self) -> str:
        """As of a difference."""
        return f"{self.mean:+.4f}" if math.isnan(self.half_width) else f"{self.mean:+.4f} ±{self.half_width:.4f}"

    def __str__(self) -> str:
        return self.signed.removeprefix("+")


@dataclass(frozen=True)
class RunResult:
    """A run of a comparison."""

    method: str
    seed: int
    status: str
    evaluations: Sequence[Evaluation]
    test_accuracy: float | None = None


@dataclass(frozen=True)
class MethodSummary:
    """A method of a comparison.

    Attributes:
        method: its label.
        runs, diverged: numbers of runs. If any diverged there are no means.
        val_accuracy, val_loss, test_accuracy: at the end of the runs.
        steps, backprop_samples, wall_clock_s, reference_s: of a run, means.
        scoring_share: of the training steps' time that selection took.
        over_baseline, over_random: difference of the final accuracy, paired by seed.
        seconds_to_target, samples_to_target: None unless every run reached the target; reference time where there is
            one, else the real clock.
        reached: runs that reached the target.
    """

    method: str
    runs: int
    diverged: int
    val_accuracy: Interval | None
    val_loss: Interval | None
    test_accuracy: Interval | None
    steps: float
    backprop_samples: float
    wall_clock_s: float
    reference_s: float | None
    scoring_share: float
    over_baseline: Interval | None
    over_random: Interval | None
    seconds_to_target: Interval | None
    samples_to_target: Interval | None
    reached: int


def cells_of(row: Any) -> dict[str, Any]:
    """Column -> cell of a dataclass; an interval takes two columns, its mean and its half-width."""
    cells: dict[str, Any] = {}
    for entry in fields(row):
        value = getattr(row, entry.name)
        cells[entry.name] = value.mean if isinstance(value, Interval) else value
        if "Interval" in str(entry.type):
            known = value is not None and not math.isnan(value.half_width)
            cells[f"{entry.name}_half_width"] = value.half_width if known else None
    return cells


def interval(values: Sequence[float]) -> Interval:
    """Mean and half-width of the 95% interval by Student's t.

    Raises:
        ValueError: if there is no value.
    """
    if len(values) == 0:
        raise ValueError("there are 0 values to take the mean of, but it needs at least 1")
    array: Any = np.asarray(values, dtype=float)
    return Interval(float(array.mean()), mean_half_width(array), len(array))


def reach(evaluations: Sequence[Evaluation], target: float) -> tuple[float, float] | None:
    """(seconds, backpropagated samples) at which the validation accuracy reached `target`; None if it never did.

    Linear between the two evaluations around it; before the first one from accuracy 0 at 0.
    """
    before = (0.0, 0.0, 0.0)
    for evaluation in evaluations:
        now = (evaluation.val_accuracy, _seconds(evaluation), float(evaluation.backprop_samples))
        if now[0] >= target:
            share = (target - before[0]) / (now[0] - before[0]) if now[0] > before[0] else 1.0
            share = min(max(share, 0.0), 1.0)
            return tuple(old + share * (new - old) for old, new in zip(before[1:], now[1:], strict=True))  # type: ignore[return-value]
        before = now
    return None


def default_target(results: Sequence[RunResult]) -> float:
    """The mean final accuracy of the baseline; without one, of the method with the lowest. Diverged runs set none."""
    finals: dict[str, list[float]] = {}
    for result in results:
        if result.evaluations and result.status == "finished":
            finals.setdefault(result.method, []).append(result.evaluations[-1].val_accuracy)
    if not finals:
        return 0.0
    means = {method: float(np.mean(values)) for method, values in finals.items()}
    return means.get("baseline", min(means.values()))


def summarise(results: Sequence[RunResult], target: float) -> list[MethodSummary]:
    """One summary a method, in the order in which methods first occur."""
    methods = list(dict.fromkeys(result.method for result in results))
    return [_summarise(method, results, target) for method in methods]


def _summarise(method: str, results: Sequence[RunResult], target: float) -> MethodSummary:
    runs = [result for result in results if result.method == method]
    good = [run for run in runs if run.status == "finished" and run.evaluations]
    whole = bool(good) and len(good) == len(runs)
    last = [run.evaluations[-1] for run in good]
    tested = [run.test_accuracy for run in good if run.test_accuracy is not None]
    reached = [found for run in good if (found := reach(run.evaluations, target)) is not None]
    all_reached = whole and len(reached) == len(runs)
    references = [end.reference_s for end in last if end.reference_s is not None]
    return MethodSummary(
        method=method,
        runs=len(runs),
        diverged=sum(run.status == "diverged" for run in runs),
        val_accuracy=interval([end.val_accuracy for end in last]) if whole else None,
        val_loss=interval([end.val_loss for end in last]) if whole else None,
        test_accuracy=interval(tested) if whole and len(tested) == len(runs) else None,
        steps=_mean([end.step for end in last]),
        backprop_samples=_mean([end.backprop_samples for end in last]),
        wall_clock_s=_mean([end.wall_clock_s for end in last]),
        reference_s=_mean(references) if references and len(references) == len(last) else None,
        scoring_share=_mean([end.selection_s / end.wall_clock_s for end in last]),
        over_baseline=_difference(good, results, "baseline") if whole else None,
        over_random=_difference(good, results, "random") if whole else None,
        seconds_to_target=interval([seconds for seconds, _ in reached]) if all_reached else None,
        samples_to_target=interval([samples for _, samples in reached]) if all_reached else None,
        reached=len(reached),
    )


def _difference(runs: Sequence[RunResult], results: Sequence[RunResult], other: str) -> Interval | None:
    if runs[0].method == other:
        return None
    others = {
        result.seed: result.evaluations[-1].val_accuracy
        for result in results
        if result.method == other and result.status == "finished" and result.evaluations
    }
    if any(run.seed not in others for run in runs):
        return None
    return interval([run.evaluations[-1].val_accuracy - others[run.seed] for run in runs])


def _seconds(evaluation: Evaluation) -> float:
    return evaluation.wall_clock_s if evaluation.reference_s is None else evaluation.reference_s


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
