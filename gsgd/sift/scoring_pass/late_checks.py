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
    step: int
    fullest: list[Fullest]
    numbers: Tensor
    arrived: Any


class LateChecks:
    """Checks of the steps so far that have not been read."""

    def __init__(self) -> None:
        self._on_the_way: deque[_OnTheWay] = deque()

    def add(self, step: int, scores: Tensor | None, fullest: list[Fullest]) -> None:
        """Have it found out on the device whether scores (B,) are finite, and whether rows had too many labels."""
        found: list[Tensor] = []
        if scores is not None:
            bad = ~torch.isfinite(scores)
            first = bad.int().argmax()
            found = [bad.sum(), first, scores.index_select(0, first.reshape(1)).squeeze(0)]
        found += [one.most for one in fullest]
        # Tensors of the device "meta" have no values to wait for.
        if not found or found[0].device.type == "meta":
            return
        # float32 has these numbers exactly: whole ones below 2^24, and a value that matters only if it is not finite.
        numbers, arrived = torch.stack([value.float() for value in found]), None
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
            numbers = first.numbers.tolist()
            scores, most = numbers[: len(numbers) - len(first.fullest)], numbers[len(numbers) - len(first.fullest) :]
            for at, number in zip(first.fullest, most, strict=True):
                if number > at.taken:
                    yield TooManyLabels(first.step, at, int(number))
            if scores and scores[0] > 0:
                yield BadScore(first.step, int(scores[1]), scores[2], int(scores[0]))
