"""Selection while it promises to pay, by the exit that promises most: `start_step="auto"`, and `exit_layer="auto"`.

    sift = Sift(model, exit_layer=1, start_step="auto")         # by this exit, while it pays
    sift = Sift(model, exit_layer="auto")                       # by whichever pays most, while one does

What an exit or another score promises is the factor of `gsgd.sift.measures.expected_factor`, of the progress that is
measured on gross batches of the run now and then, and of what a step costs. That cost is arithmetic, floating point
operations as they are counted in the run's first measurement: the same on any machine, so that a resumed run decides as
the run would have. Two passes are counted, as in a budget of work, though a shared forward may save some of the
second; and what a machine takes beyond its arithmetic (launches on a GPU) is not in it: `gsgd bench step` tells, and
`AutoExit.costs` takes what it tells.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gsgd.sift.batches.batch_structure import device_of
from gsgd.sift.choice import random_share_of
from gsgd.sift.exit_choice.measuring import Turns, running_mean
from gsgd.sift.gross_scores import GrossScores
from gsgd.sift.measures.expected_factor import expected_factor, step_cost
from gsgd.sift.options import AutoExit
from gsgd.sift.ranks import Ranks
from gsgd.sift.timing import Elapsed

logger = logging.getLogger(__name__)


class PayingExit:
    """Whether selection pays at present, by which exit, and how that came.

    A decision is good from the step on that follows the measurement, so that a loop can draw as many rows as it takes.

    Args:
        rule: how often to measure, and when to change.
        candidates: exits; 0 for a score that is no exit's own.

    Attributes:
        present: that selects; None while plain training promises more.
        last: that selected last; the last of the candidates before any did.
        history: (step, candidate or None, factor) of every change: the step it was decided on, what selects from there
            on, and the factor that decided, of what was left where nothing selects.
        averages: candidate -> [mean progress, number of measurements].
        scoring: candidate -> operations of scoring a row, as a share of the model's forward pass; empty until counted.
        training: those of training the score, of a row that is trained on, likewise; None until counted, which is 0.
        forward: operations of the model's forward pass on a row; 0 where nothing is computed to score.
    """

    def __init__(self, rule: AutoExit, candidates: Sequence[int]):
        self.rule, self.candidates = rule, list(candidates)
        self.present: int | None = None
        self.last = self.candidates[-1]
        self.history: list[tuple[int, int | None, float]] = []
        self.averages: dict[int, list[float]] = {}
        self.scoring: dict[int, float] = {}
        self.training: float | None = None
        self.forward = 0.0
        self._decided: int | None = None
        self._turns = Turns(rule)
        # Where nothing could be measured, as of losses last seen in a first epoch, there is no hurry to do so again.
        self._blind = False

    @property
    def next(self) -> int | None:
        """What selects at the next step."""
        return self._decided

    def selects(
        self, scores: GrossScores, batch: Any, ids: Tensor | None, *, exit_layer: int, step: int, watch: Elapsed
    ) -> bool:
        """Whether a step selects, by what was measured before it; where a measurement is due, it is made, and timed.

        All ranks must call it at the same steps. They take the mean of what they measure, and so decide alike.

        Args:
            exit_layer: that a score which is no exit's own begins with.
        """
        if self.begin(step):
            at: dict[str, Any] = {"exits": self.candidates, "exit_layer": self.last or exit_layer, "step": step}
            alike, device, keep = Ranks.here("rank"), device_of(batch), scores.scorer.keep
            with watch.measure(device):
                if self.counts_scoring:
                    scoring, forward = scores.work(batch, ids, **at)
                    *shares, forward = alike.means([*scoring.values(), forward], device)
                    self.tell_work(dict(zip(scoring, shares, strict=True)), forward)
                share = random_share_of(scores.scorer.options)
                columns = scores.columns(batch, ids, **at)
                progress = [each.progress(keep, random_share=share) for each in columns]
                self.tell(dict(zip(self.candidates, alike.means(progress, device), strict=True)), keep=keep, step=step)
        return self.present is not None

    @contextlib.contextmanager
    def counting_training(self, number: int, rows: Any) -> Iterator[None]:
        """Within the block a score is trained on that number of rows; the first time its operations are counted."""
        if not self.counts_training:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        self.tell_training(*Ranks.here("rank").means([counter.get_total_flops() / number], device_of(rows)))

    def begin(self, step: int) -> bool:
        """A step that may select begins: returns whether to measure on its batch, once for all its micro-batches."""
        if not self._turns.begins(step):
            return False
        self.present = self._decided
        self.last = self.last if self.present is None else self.present
        return self._turns.due(hurry=not self._blind)

    def tell_work(self, scoring: Mapping[int, float], forward: float) -> None:
        """What was counted of the candidates, see `scoring` and `forward`."""
        self.scoring, self.forward = dict(scoring), forward

    @property
    def counts_scoring(self) -> bool:
        """Whether it is still to be told what scoring takes."""
        return not self.scoring and not set(self.candidates) <= set(self.rule.costs or ())

    @property
    def counts_training(self) -> bool:
        """Whether it is still to be told what training the score takes."""
        return self.training is None and self.forward > 0

    def tell_training(self, operations: float) -> None:
        """What was counted of training the score, on a row that is trained on."""
        self.training = operations / self.forward

    def tell(self, progress: Mapping[int, float], *, keep: float, step: int) -> None:
        """What was measured; it may decide otherwise for the next step.

        Args:
            progress: of every candidate; a measurement with a NaN does not count.
            keep: share of the rows that selection keeps.
            step: that it was measured on.
        """
        self._blind = any(math.isnan(value) for value in progress.values())
        if self._blind:
            return
        for candidate, value in progress.items():
            self.averages[candidate] = running_mean(self.averages.get(candidate), value, self.rule.memory)
        if not self._turns.settled():
            return
        factors = {candidate: self.factor(candidate, keep) for candidate in self.candidates}
        best = max(self.candidates, key=lambda candidate: factors[candidate])  # of equal ones the first, the cheapest
        now, step_up = self._decided, 1 + self.rule.margin
        if now is not None and factors[now] >= 1:
            if factors[best] < step_up * factors[now]:
                return
            chosen: int | None = best
        else:
            chosen = best if factors[best] >= step_up else None
        if chosen != now or not self.history:
            decided_by = best if chosen is None else chosen
            self._change(chosen, factors[decided_by], step)

    def factor(self, candidate: int, keep: float) -> float:
        """What a candidate that was measured promises: a factor in budget, 1 where it gains as much as it costs."""
        return expected_factor(self.averages[candidate][0], self.cost(candidate, keep))

    def cost(self, candidate: int, keep: float) -> float:
        """Of a step that selects by it, over one that does not: as the rule says, or in arithmetic."""
        if self.rule.costs is not None and candidate in self.rule.costs:
            return self.rule.costs[candidate]
        return step_cost(self.scoring[candidate], keep, self.training or 0.0)

    def _change(self, chosen: int | None, factor: float, step: int) -> None:
        what = "nothing is selected" if chosen is None else f"exit {chosen} selects" if chosen else "it selects"
        logger.info("step %d: from the next step on %s, as the expected factor is %.3f", step, what, factor)
        self.history.append((step, chosen, factor))
        self._decided = chosen

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "present": self.present,
            "last": self.last,
            "decided": self._decided,
            "history": [list(entry) for entry in self.history],
            "averages": {candidate: list(average) for candidate, average in self.averages.items()},
            "scoring": dict(self.scoring),
            "training": self.training,
            "forward": self.forward,
            **self._turns.state_dict(),
            "blind": self._blind,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if it is of another rule, or selects by what is no candidate.
        """
        if missing := sorted(self.state_dict().keys() - state.keys()):
            raise ValueError(f"the state lacks {', '.join(missing)}: it is of an exit that moves by its overlap")
        for name in ("present", "decided", "last"):
            if state[name] is not None and state[name] not in self.candidates:
                raise ValueError(f"the state selects by exit {state[name]}, but there are {self.candidates}")
        self.present, self._decided, self.last = state["present"], state["decided"], state["last"]
        self.history = [(step, candidate, factor) for step, candidate, factor in state["history"]]
        self.averages = {candidate: list(average) for candidate, average in state["averages"].items()}
        self.scoring, self.training, self.forward = dict(state["scoring"]), state["training"], state["forward"]
        self._turns.load_state_dict(state)
        self._blind = state["blind"]
