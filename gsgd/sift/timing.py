"""What selection costs and keeps: stopwatches that a GPU does not fool, and running totals."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

UNREAD_AT_MOST = 256
"""Stopwatches of an `Elapsed` that are left unread; an older one's block has long ended on any GPU."""


def now(device: torch.device) -> Any:
    """The present moment on the device's own clock.

    A GPU runs behind the program, so there it is a CUDA event, and only `seconds_between` waits for it.
    """
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(start: Any, end: Any) -> float:
    """Seconds from one moment to a later one of the same device."""
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000


class Stopwatch:
    """Seconds between entry and exit of a `with` block, on the device's own clock; on a GPU, reading them waits."""

    def __init__(self, device: torch.device):
        self._device = device

    def __enter__(self) -> Stopwatch:
        self._start = now(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        self._end = now(self._device)

    @cached_property
    def seconds(self) -> float:
        return seconds_between(self._start, self._end)


class Elapsed:
    """The sum of the seconds of several blocks, of which each is measured by a `Stopwatch`. It can be pickled."""

    def __init__(self, seconds: float = 0.0):
        self._seconds = seconds
        self._watches: deque[Stopwatch] = deque()

    @contextlib.contextmanager
    def measure(self, device: torch.device) -> Iterator[None]:
        """Add the seconds of the `with` block, unless it raises."""
        with Stopwatch(device) as watch:
            yield
        self._watches.append(watch)
        self._read(UNREAD_AT_MOST)

    def add(self, other: Elapsed) -> None:
        """Add the seconds of another sum, without reading them."""
        self._seconds += other._seconds
        self._watches.extend(other._watches)
        self._read(UNREAD_AT_MOST)

    def _read(self, left: int) -> None:
        while len(self._watches) > left:
            self._seconds += self._watches.popleft().seconds

    def __getstate__(self) -> dict[str, Any]:
        return {"_seconds": self.seconds, "_watches": deque()}  # events of a GPU are of this process

    @property
    def seconds(self) -> float:
        self._read(0)
        return self._seconds


@dataclass
class Totals:
    """Counts since the start of training; they are part of `Sift.state_dict()`."""

    gross_samples: int = 0
    """Rows that came in on training steps."""
    backprop_samples: int = 0
    """Rows that were trained on."""
    gross_tokens: int = 0
    """Tokens of packed documents that came in on training steps, with level="token" labels; 0 of other rows."""
    backprop_tokens: int = 0
    """Tokens of packed documents, or labels, that were trained on."""
    selected_steps: int = 0
    """Calls that selected; under gradient accumulation a step has several."""
    bad_score_rows: int = 0
    """Rows whose score was NaN or infinite."""
    idle_steps: int = 0
    """Calls that were to select, but could not (a batch of one row, say), and trained on the whole batch."""
    scored_operations: int = 0
    """Matrix products, convolutions and attentions that scoring carried out."""
    reused_operations: int = 0
    """Of these, how many the training pass took its rows from (`reuse`)."""
    sharing: str = ""
    """Whether the last selecting step shared its scoring pass, or why it did not."""

    @property
    def reused_share(self) -> float:
        """Share of the scoring passes' costly operations that training took its rows from; 0 where none was."""
        return self.reused_operations / self.scored_operations if self.scored_operations else 0.0
