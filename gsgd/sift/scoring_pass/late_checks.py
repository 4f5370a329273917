"""What is checked of a step on a device, read when it has come over: at a later step, so that nobody waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsgd.sift.scoring_pass.padded_positions import Fullest

UNREAD_AT_MOST = 8
"""Steps whose checks may be on their way. A program that is further ahead of its GPU than this waits for the oldest."""


@dataclass(frozen=True)
class BadScore:
    """The first score of a step that is not finite.

    Attributes:
        row: of the gross batch.
        value: NaN or infinite.
        rows: how many there are.
    """

    step: int
    row: int
    value: float
    rows: int


@dataclass(frozen=True)
class TooManyLabels:
    """A row with more labels than positions of it were scored.

    Attributes:
        at: the form of its batch, and how many positions were taken.
        most: labels of the fullest row.
    """

    step: int
    at: Fullest
    most: int


@dataclass(frozen=True)
class _OnTheWay:
    """Of a step, `numbers`: its scores, then the most labels of each of `fullest`, on the host once they `arrived`."""

    step: int
    fullest: list[Fullest]
    numbers: Tensor
    arrived: Any


class LateChecks:
    """Checks of the steps so far that have not been read."""

    def __init__(self) -> None:
        self._on_the_way: deque[_OnTheWay] = deque()

    def add(self, step: int, scores: Tensor | None, fullest: list[Fullest]) -> None:
        """Have scores (B,), and how many labels rows had at most, sent to the host, which looks when they are there.

        They are few numbers: to judge them on the device would take it more operators than to send them.
        """
        found = [one.most.reshape(1) for one in fullest]
        if scores is not None:
            found.insert(0, scores if scores.is_floating_point() else scores.double())
        if not found:
            return
        # float32 has whole numbers below 2^24 exactly, half precision has not.
        numbers = (
            found[0] if len(found) == 1 else torch.cat([one if one.itemsize > 2 else one.float() for one in found])
        )
        arrived = None
        # Tensors of the device "meta" have no values to wait for.
        if numbers.device.type == "meta":
            return
        if numbers.device.type == "cuda":
            there = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = there.copy_(numbers, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(found[0].device))
        self._on_the_way.append(_OnTheWay(step, fullest, numbers, arrived))

    def read(self, *, wait: bool = False) -> Iterator[BadScore | TooManyLabels]:
        """What was found wrong, in the order of the steps.

        Args:
            wait: for all steps so far; else, on CUDA, what has not come over yet is left for the next time.
        """
        while self._on_the_way:
            first = self._on_the_way[0]
            if first.arrived is not None:
                if not wait and len(self._on_the_way) <= UNREAD_AT_MOST and not first.arrived.query():
                    return
                first.arrived.synchronize()
            self._on_the_way.popleft()
            scores, most = first.numbers.split([len(first.numbers) - len(first.fullest), len(first.fullest)])
            for at, number in zip(first.fullest, most.tolist(), strict=True):
                if number > at.taken:
                    yield TooManyLabels(first.step, at, int(number))
            bad = torch.nonzero(~torch.isfinite(scores)).flatten().tolist()
            if bad:
                yield BadScore(first.step, bad[0], float(scores[bad[0]]), len(bad))
