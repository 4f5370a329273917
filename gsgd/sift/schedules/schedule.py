"""When a step selects: a function of the step alone, so that all ranks agree."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from gsgd.ranges import whole


@dataclass(frozen=True)
class Schedule:
    """Selection from `start_step` on, up to but without `end_step`, except on steps that `interrupt` skips.

    Args:
        start_step: steps before it train on the whole batch (the paper: 20,000); >= 0.
        end_step: steps from it on train on the whole batch again; None for never. At least `start_step`.
        interrupt: `step -> bool`, True skips selection at that step; or a whole number n >= 2, which skips every n-th
            step (n - 1, 2n - 1, ...). It may depend on nothing but the step.

    Raises:
        ValueError: for values out of range.
    """

    start_step: int = 0
    end_step: int | None = None
    interrupt: Callable[[int], bool] | int | None = None

    def __post_init__(self) -> None:
        _set = functools.partial(object.__setattr__, self)  # it is frozen for everybody else
        _set("start_step", whole("start_step", self.start_step, least=0))
        if self.end_step is not None:
            _set("end_step", whole("end_step", self.end_step, least=self.start_step))
        if self.interrupt is not None and not callable(self.interrupt):
            _set("interrupt", whole("interrupt", self.interrupt, least=2))

    def selects(self, step: int) -> bool:
        """Whether step `step` (counted from 0) selects."""
        if step < self.start_step or self.ended(step):
            return False
        if callable(self.interrupt):
            return not self.interrupt(step)
        return self.interrupt is None or (step + 1) % self.interrupt != 0

    def ended(self, step: int) -> bool:
        """Whether neither step `step` nor any later one selects."""
        return self.end_step is not None and step >= self.end_step
