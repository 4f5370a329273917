"""What a ladder is to be: methods, budgets, seeds, and what is tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.budget import Budget, parse_budget
from training.comparison.contenders import Contender, check_contenders, check_shared
from training.comparison.ladder_results import PLAIN
from training.config import Config


@dataclass(frozen=True)
class Plan:
    """What a ladder is to be.

    Attributes:
        rungs: how many budgets, each twice the one before, up to the configuration's.
        seeds: runs of each method at each rung, with the configuration's seed and those after it.
        grid: key -> values to tune it over; empty for no tuning.
        trials: of each method at each rung; None for all combinations of plain training.
        tuning_seeds: runs of each trial.
        inner_only: run methods other than plain training at the inner rungs only, which is what claims are made of.
    """

    contenders: Sequence[Contender]
    rungs: int
    seeds: int
    grid: Mapping[str, Sequence[str]]
    trials: int | None = None
    tuning_seeds: int = 1
    inner_only: bool = False

    def rungs_of_method(self, label: str, rungs: Sequence[Budget]) -> list[Budget]:
        """Of `rungs`, ascending, those at which a method runs."""
        return list(rungs[1:-1] if self.inner_only and label != PLAIN else rungs)


def rungs_of(budget: str, count: int) -> list[Budget]:
    """`count` budgets, ascending, each twice the one before, of which the last is `budget`.

    Raises:
        ValueError: if there is no inner rung, or the unit is not everyone's.
    """
    last = parse_budget(budget)
    if count < 3:
        raise ValueError(f"--ladder {count} must be at least 3: what is claimed is of the inner rungs")
    if last.unit == "baseline-epochs":
        raise ValueError(f"budget = {budget}: a ladder's is in work, s, samples, epochs or steps")
    return [Budget(last.amount / 2**halved, last.unit) for halved in reversed(range(count))]


def check_plan(plan: Plan, config: Config) -> None:
    """Whether the plan fits the configuration.

    Raises:
        ValueError: if it lacks plain training, changes what all methods share, or tunes on what it is judged by.
    """
    check_contenders(plan.contenders)
    if PLAIN not in [contender.label for contender in plan.contenders]:
        raise ValueError(f"--ladder measures against plain training: --methods must name {PLAIN}")
    check_shared("--tune", {**plan.grid})
    if "method" in plan.grid:
        raise ValueError("--tune sets method, but methods are compared: name them in --methods")
    data = config.data
    own = getattr(data, "validation_data", None)
    if plan.grid and not own and getattr(data, "validation_share", None) == 0:
        raise ValueError("validation_share = 0 validates on the test split, which nothing may be tuned on")
