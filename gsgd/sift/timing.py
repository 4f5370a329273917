"""What selection costs and keeps: stopwatches that a GPU does not fool, and running totals."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


class Stopwatch:
    """Seconds between entry and exit of a `with` block, on the device's own clock.

    A GPU runs behind the program, so there CUDA events are recorded, and only reading `seconds` waits for them.
    """

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._device = device
        self._marks: list[Any] = []
        self._seconds: float | None = None

    def __enter__(self) -> Stopwatch:
        self._mark()
        return self

    def __exit__(self, *_: object) -> None:
        self._mark()

    def _mark(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        if self._seconds is None:
            start, end = self._marks
            if self._cuda:
                end.synchronize()
                self._seconds = start.elapsed_time(end) / 1000
            else:
                self._seconds = end - start
            self._marks = []
        return self._seconds


class Elapsed:
    """The sum of the seconds of several blocks, of which each is measured by a `Stopwatch`. It can be pickled."""

    def __init__(self, seconds: float = 0.0):
        self._seconds = seconds
        self._watches: list[Stopwatch] = []

    @contextlib.contextmanager
    def measure(self, device: torch.device) -> Iterator[None]:
        """Add the seconds of the `with` block, unless it raises."""
        with Stopwatch(device) as watch:
            yield
        self._watches.append(watch)

    def __getstate__(self) -> dict[str, Any]:
        return {"_seconds": self.seconds, "_watches": []}  # events of a GPU are of this process

    @property
    def seconds(self) -> float:
        self._seconds += sum(watch.seconds for watch in self._watches)
        self._watches = []
        return self._seconds


@dataclass
class Totals:
    """Counts since the start of training; they are part of `Sift.state_dict()`."""

    gross_samples: int = 0
    """Rows that came in on training steps."""
    backprop_samples: int = 0
    """Rows that were trained on."""
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
