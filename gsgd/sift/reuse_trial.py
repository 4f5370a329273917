"""`reuse="auto"`: a few steps that share the scoring pass and a few that do not, timed; then what was quicker."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping
from typing import Any

import torch

from gsgd.sift.options import Reuse
from gsgd.sift.ranks import Ranks
from gsgd.sift.timing import now, seconds_between

logger = logging.getLogger(__name__)

STRETCH = 6
"""Steps that go one way before the other has its turn; each way has two turns."""
NOT_COUNTED = 2
"""First steps of a turn: what they allocate and find out is not there yet."""
STEPS = 4 * STRETCH


class ReuseTrial:
    """Says of each step that selects whether it shares its scoring pass.

    A step takes the time from its beginning to that of the next one: scoring, training, and the optimizer's step. On a
    GPU it is measured by events, which are read once, at the end.

    Attributes:
        decision: whether sharing was quicker; None as long as that is not known.
        seconds: of the steps that counted, by whether they shared.
    """

    def __init__(self) -> None:
        self.decision: bool | None = None
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self._begun = 0
        self._marks: list[tuple[int, Any]] = []

    @property
    def shares(self) -> bool:
        """Whether the present step shares, if it can."""
        return self._shared(self._begun - 1) if self.decision is None else self.decision

    def begin(self, device: torch.device, ranks: Ranks) -> None:
        """A step begins; all ranks do what the first one finds quicker.

        All ranks must call this at the same steps, those included in which one of them has nothing to select from.
        """
        if self.decision is not None:
            return
        self._marks.append((self._begun, now(device)))
        if self._begun == STEPS:
            self._decide(ranks)
        else:
            self._begun += 1

    def answer(self, reuse: Reuse, kind: str) -> tuple[bool, str]:
        """(whether a pass that can be shared is, why), by the option `reuse` and the kind of device, such as "cuda"."""
        if reuse == "auto":
            share = self.shares
            why = "it is being timed" if self.decision is None else "it was timed, and is quicker so"
        elif reuse == "cpu":
            share, why = kind == "cpu", f'the device is {kind}, and reuse is "cpu"'
        else:
            share, why = bool(reuse), f"reuse is {reuse}"
        return share, f"{'shared' if share else 'two passes'}: {why}"

    @staticmethod
    def _shared(step: int) -> bool:
        return step // STRETCH % 2 == 0

    def _decide(self, ranks: Ranks) -> None:
        for (step, start), (following, end) in zip(self._marks, self._marks[1:], strict=False):
            if following == step + 1 and step % STRETCH >= NOT_COUNTED:
                self.seconds[self._shared(step)].append(seconds_between(start, end))
        self._marks = []
        here = None
        if all(self.seconds.values()):
            shared, plain = (statistics.median(self.seconds[way]) for way in (True, False))
            here = shared < plain
            logger.info("a step takes %.4g s with a shared scoring pass and %.4g s without", shared, plain)
        first = ranks.gather_objects(here)[0] if ranks.size > 1 else here
        # A run that was resumed at the very end has not timed both ways: sharing costs the device less.
        self.decision = True if first is None else first

    def state_dict(self) -> dict[str, Any]:
        """The decision, and how far the trial has come."""
        return {"decision": self.decision, "begun": self._begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; times that were measured by another process are not compared with this one's."""
        self.decision, self._begun = state["decision"], state["begun"]
        self.seconds, self._marks = {True: [], False: []}, []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_marks": []}  # events of a GPU are of this process
