"""How long a run is: in steps, samples or epochs, or in work or seconds, where each method is charged its own costs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

UNITS = {
    "steps": "optimizer steps",
    "samples": "backpropagated samples",
    "epochs": "passes over the training set, counted in backpropagated samples",
    "work": "forward passes of a row: a trained row costs 3, a scored one what its scoring computes, as a share of 1, "
    "and a trained one what it trains beside the model",
    "s": "seconds of reference time",
    "baseline-epochs": "the reference time in which the baseline trains so many epochs",
}
MOST_STEPS = 10**12
"""Above what any run can do, and below where a count of samples is no longer exact as a float."""


@dataclass(frozen=True)
class Budget:
    """So much of a unit: "800000steps", "20000samples", "100epochs", "800000work", "600s" or "100baseline-epochs".

    Reference time: each kind of step costs its median, measured in interleaved steps before the run, whatever the
    clock shows later. Scoring is charged.
    Work: the same on any machine. A row's forward pass is 1, so that a step that trains on k rows costs 3 k; exact
    losses of a gross batch of B rows cost B more, those of an early exit its share of that, losses that are known 0.
    What is trained to score costs its share, too.
    """

    amount: float
    unit: str

    @property
    def is_time(self) -> bool:
        return self.unit in ("s", "baseline-epochs")

    @property
    def needs_costs(self) -> bool:
        """Whether it needs to be known what a step of the method costs."""
        return self.is_time or self.unit == "work"

    def __str__(self) -> str:
        return f"{self.amount:.15g}{self.unit}"


@dataclass(frozen=True)
class StepCosts:
    """What an optimizer step costs.

    Attributes:
        plain_s: median seconds of plain training.
        selecting_s: of the method's own step: with selection, with weights, or of rows that its sampler chose.
        scoring_work: floating point operations of scoring a row, as a share of those of its forward pass; None where
            they were not counted.
        training_work: those of training what scores, on a row that the model trains on, likewise.
    """

    plain_s: float
    selecting_s: float
    scoring_work: float | None = None
    training_work: float = 0.0


def parse_budget(text: str) -> Budget:
    """The budget that `text` names.

    Raises:
        ValueError: if it is not a number above 0 with one of UNITS behind it.
    """
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?|\.[0-9]+)\s*([a-z-]+)\s*", text.lower())
    if not match or match[2] not in UNITS or not 0 < float(match[1]) < math.inf:
        units = "; ".join(f"{unit} ({meaning})" for unit, meaning in UNITS.items())
        raise ValueError(f"budget = {text!r} must be a number above 0 and a unit: {units}")
    return Budget(float(match[1]), match[2])


def steps_within(
    budget: Budget,
    *,
    samples_per_step: int,
    train_size: int,
    costs: StepCosts | None,
    dearer_steps: Callable[[int], int],
    drawn_per_step: int = 0,
    samples_per_selecting_step: int | None = None,
) -> int:
    """The number of optimizer steps that the budget pays for.

    Args:
        samples_per_step: backpropagated samples of all ranks in a step without selection.
        train_size: samples of an epoch.
        costs: needed for a budget of time or work only.
        dearer_steps: total steps -> how many of them cost as much as the method's own step. If it now and then
            decreases, as the rounding of two shares makes it, up to 2 (selecting_s / plain_s - 1) steps of what time
            pays for may be missed.
        drawn_per_step: rows of all ranks' gross batches in a selecting step; needed for a budget of work only.
        samples_per_selecting_step: backpropagated samples of a step that selects; None for as many as of any other.

    Returns:
        At least 1. Samples are rounded to the nearest step, if all steps have as many; of time and work, and of samples
        else, no more is spent than there is.

    Raises:
        ValueError: if a budget of time or work comes without costs, or pays for no step.
    """
    kept = samples_per_step if samples_per_selecting_step is None else samples_per_selecting_step
    if budget.unit in ("samples", "epochs") and kept != samples_per_step:
        samples = budget.amount * (train_size if budget.unit == "epochs" else 1)
        return _affordable(budget, samples, samples_per_step, kept, dearer_steps)
    if budget.unit in ("steps", "samples", "epochs"):
        samples_of = {"steps": samples_per_step, "samples": 1, "epochs": train_size}
        return _whole(budget, budget.amount * samples_of[budget.unit] / samples_per_step)
    if budget.unit == "work":
        if costs is None or costs.scoring_work is None:
            raise ValueError(f"budget = {budget} is work: it needs the counted work of scoring")
        selecting = (3.0 + costs.training_work) * kept + costs.scoring_work * drawn_per_step
        return _affordable(budget, budget.amount, 3.0 * samples_per_step, selecting, dearer_steps)
    if costs is None:
        raise ValueError(f"budget = {budget} is a time: it needs the measured costs of a step")
    seconds = budget.amount
    if budget.unit == "baseline-epochs":
        seconds = _whole(budget, budget.amount * train_size / samples_per_step) * costs.plain_s
    return _affordable(budget, seconds, costs.plain_s, costs.selecting_s, dearer_steps)


def _affordable(
    budget: Budget, amount: float, plain: float, selecting: float, dearer_steps: Callable[[int], int]
) -> int:
    """The number of steps that `amount` pays for, at these costs of a step without selection and with it."""
    low, high = 0, _whole(budget, amount / min(plain, selecting)) + 1
    while low < high:
        middle = (low + high + 1) // 2
        chosen = dearer_steps(middle)
        if (middle - chosen) * plain + chosen * selecting <= amount * (1 + 1e-9):
            low = middle
        else:
            high = middle - 1
    if low == 0:
        unit = budget.unit if budget.unit in ("work", "samples") else "samples" if budget.unit == "epochs" else "s"
        raise ValueError(f"budget = {budget} is {amount:.3g} {unit}, but a single step takes {selecting:.3g} {unit}")
    return low


def _whole(budget: Budget, steps: float) -> int:
    """The nearest number of steps, at least 1."""
    if steps > MOST_STEPS:
        raise ValueError(f"budget = {budget} is {steps:.3g} steps, but a run has {MOST_STEPS:.0e} at most")
    return max(1, round(steps))


def seconds_of(steps: int, costs: StepCosts, selecting: int) -> float:
    """Reference time of `steps` steps, `selecting` of which are the method's own."""
    return (steps - selecting) * costs.plain_s + selecting * costs.selecting_s
