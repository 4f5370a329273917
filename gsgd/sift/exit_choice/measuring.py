"""When a rule that moves measures, and what it keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gsgd.sift.options import AutoExit


class Turns:
    """When to measure: `rule.first` times in a row, then every `rule.every` steps; once for a step's micro-batches."""

    def __init__(self, rule: AutoExit):
        self._every = rule.every
        self._in_a_row, self._since, self._asked = rule.first, 0, -1

    def begins(self, step: int) -> bool:
        """Whether a step is asked for the first time; it counts then."""
        new = step != self._asked
        self._asked = step
        self._since += new
        return new

    def due(self, *, hurry: bool = True) -> bool:
        """Whether to measure at a step that begins.

        Args:
            hurry: also where measurements are made in a row.
        """
        if (self._in_a_row == 0 or not hurry) and self._since < self._every:
            return False
        self._since = 0
        return True

    def settled(self) -> bool:
        """A measurement was made: whether it was the last of those in a row, or a later one, and may decide."""
        self._in_a_row = max(0, self._in_a_row - 1)
        return self._in_a_row == 0

    def again(self, number: int) -> None:
        """Make so many measurements in a row once more."""
        self._in_a_row = number

    def state_dict(self) -> dict[str, int]:
        """Plain numbers."""
        return {"in_a_row": self._in_a_row, "since": self._since, "asked": self._asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, which may have more."""
        self._in_a_row, self._since, self._asked = state["in_a_row"], state["since"], state["asked"]


def running_mean(average: list[float] | None, value: float, memory: float) -> list[float]:
    """[mean, number] with one more value: a plain mean until a value would weigh less than 1 - memory, then that.

    Args:
        average: [mean, number] so far; None for none.
    """
    mean, count = average or [0.0, 0]
    weight = max(1 / (count + 1), 1 - memory)
    return [mean + weight * (value - mean), count + 1]
