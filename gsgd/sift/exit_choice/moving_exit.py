"""An exit that moves: the cheapest whose kept rows are, in a stated share, those that exact losses would keep.

sift = Sift(model, exit_layer="auto", auto=AutoExit(level=0.75))
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from gsgd.sift.batches.batch_structure import device_of
from gsgd.sift.exit_choice.measuring import Turns, running_mean
from gsgd.sift.measures.readings import read_batch
from gsgd.sift.options import AutoExit
from gsgd.sift.ranks import Ranks
from gsgd.sift.scorer import Scorer

logger = logging.getLogger(__name__)


class MovingExit:
    """Where the exit of a run stands, and how it came there. It knows no model: it is told overlaps.

    Args:
        rule: when it moves.
        exits: how many there are.

    Attributes:
        present: the exit to select at, 1..exits; the last one until the first choice.
        level: of the rule.
        history: (step, exit, overlap) of the first choice and of every move: the step it was made on, the exit from
            there on, and the mean overlap that decided: of moves up, that of the exit that was left.
        averages: exit -> [mean overlap, number of measurements].
    """

    def __init__(self, rule: AutoExit, exits: int):
        if rule.level is None:
            raise ValueError("level = None is no level: an exit that moves by its overlap needs one")
        self.rule, self.exits, self.present = rule, exits, exits
        self.level: float = rule.level
        self.history: list[tuple[int, int, float]] = []
        self.averages: dict[int, list[float]] = {}
        self._turns = Turns(rule)

    def moved(self, scorer: Scorer, batch: Mapping[str, Any], step: int) -> int:
        """The exit to select at on a gross batch of step `step`, after what there is to measure on it.

        All ranks must call it at the same steps. They take the mean of what they measure, and so move alike.
        """
        due = self.due(step)
        if due:
            readings = read_batch(scorer, batch, exits=due, step=step)
            # Where every row is kept, the overlap says nothing.
            overlaps = [reading.overlap if reading.kept < reading.rows else math.nan for reading in readings]
            self.tell(dict(zip(due, Ranks.here("rank").means(overlaps, device_of(batch)), strict=True)), step)
        return self.present

    def due(self, step: int) -> list[int]:
        """The exits to measure at a selecting step, mostly none; only the first micro-batch of a step is asked for."""
        if not (self._turns.begins(step) and self._turns.due()):
            return []
        return self._watched() if self.history else list(range(1, self.exits + 1))

    def tell(self, overlaps: Mapping[int, float], step: int) -> None:
        """What was measured of the exits that were due; the exit may move.

        Args:
            overlaps: exit -> share in [0, 1]; a measurement with a NaN does not count.
            step: the training step it was measured on.
        """
        if any(math.isnan(value) for value in overlaps.values()):
            return
        for layer, value in overlaps.items():
            self.averages[layer] = running_mean(self.averages.get(layer), value, self.rule.memory)
        if not self._turns.settled():
            return
        level, below = self.level, self.present - 1
        if not self.history:
            holds = [layer for layer, (mean, _) in self.averages.items() if mean >= level]
            chosen = min(holds, default=self.exits)
            self._move(chosen, chosen, step)
        elif self.present < self.exits and self.averages[self.present][0] < level:
            self._move(self.present + 1, self.present, step)
        elif below >= 1 and self.averages[below][0] >= min(level + self.rule.margin, 1.0):
            self._move(below, below, step)

    def _move(self, layer: int, decided_by: int, step: int) -> None:
        overlap = self.averages[decided_by][0]
        logger.info(
            "step %d: from here on exit %d, as the overlap at exit %d is %.3f", step, layer, decided_by, overlap
        )
        # The first choice has measured all exits, later moves come to one that is new.
        self._turns.again(self.rule.first if self.history else 0)
        self.history.append((step, layer, overlap))
        self.present = layer
        # Of an exit that is left alone for long the average is about another model.
        self.averages = {each: self.averages[each] for each in self._watched() if each in self.averages}

    def _watched(self) -> list[int]:
        return [layer for layer in (self.present - 1, self.present) if layer >= 1]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "present": self.present,
            "history": [list(entry) for entry in self.history],
            "averages": {layer: list(average) for layer, average in self.averages.items()},
            **self._turns.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if it is of a model with fewer exits than its exit needs.
        """
        if not 1 <= state["present"] <= self.exits:
            raise ValueError(f"the state is at exit {state['present']}, but the model has {self.exits}")
        self.present = state["present"]
        self.history = [(step, layer, overlap) for step, layer, overlap in state["history"]]
        self.averages = {layer: list(average) for layer, average in state["averages"].items()}
        self._turns.load_state_dict(state)
