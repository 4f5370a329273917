"""Seconds and rows per optimizer step, as the Trainer logs them: means since the last report, over all ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsgd.sift.engine import Selection, Sift
from gsgd.sift.readings import Reading
from gsgd.sift.timing import Stopwatch

QUANTILES = (0.1, 0.5, 0.9)
"""Of the gross scores."""


@dataclass
class Step:
    """The stopwatches of one optimizer step."""

    whole: Stopwatch
    selections: list[Selection] = field(default_factory=list)
    passes: list[Stopwatch] = field(default_factory=list)
    forwards: list[Stopwatch] = field(default_factory=list)


@dataclass
class Sums:
    """Seconds and rows of a number of optimizer steps, on this rank."""

    steps: float = 0
    selection_s: float = 0
    forward_s: float = 0
    backward_s: float = 0
    step_s: float = 0
    gross: float = 0
    kept: float = 0

    def add(self, step: Step) -> None:
        forward = sum(watch.seconds for watch in step.forwards)
        self.steps += 1
        self.selection_s += sum(chosen.selection_s for chosen in step.selections)
        self.forward_s += forward
        self.backward_s += sum(watch.seconds for watch in step.passes) - forward
        self.step_s += step.whole.seconds
        self.gross += sum(chosen.gross for chosen in step.selections)
        self.kept += sum(chosen.kept for chosen in step.selections)


class StepMeters:
    """Measures optimizer steps, and reports means since the last report."""

    def __init__(self, device: torch.device):
        self.device = device
        self.open: Step | None = None
        self.running = contextlib.ExitStack()
        # Reading a stopwatch waits for a GPU, so it is left until a log asks, or the step is long past.
        self.pending: deque[Step] = deque()
        self.scores: deque[Tensor] = deque(maxlen=1000)
        self.read = 0  # of the engine's readings
        self.since_log = Sums()
        self.whole_run = Sums()

    def begin_step(self) -> None:
        self.running = contextlib.ExitStack()
        self.open = Step(self.running.enter_context(Stopwatch(self.device)))

    def micro_batch(self, selection: Selection, watch: Stopwatch) -> None:
        if self.open is not None:
            self.open.selections.append(selection)
            self.open.passes.append(watch)
        if selection.scores is not None:
            self.scores.append(selection.scores)

    def forward(self, watch: Stopwatch) -> None:
        if self.open is not None:
            self.open.forwards.append(watch)

    def end_step(self) -> None:
        if self.open is None:
            return
        self.running.close()
        self.pending.append(self.open)
        self.open = None
        while len(self.pending) > 64:
            self._count(self.pending.popleft())

    def _count(self, step: Step) -> None:
        self.since_log.add(step)
        self.whole_run.add(step)

    def report(self, accelerator: Any, sift: Sift, whole_run: bool) -> dict[str, float]:
        """Log entries, the same on every rank, which all must call this."""
        while self.pending:
            self._count(self.pending.popleft())
        sums = self.whole_run if whole_run else self.since_log
        totals = sift.totals
        values = [*dataclasses.astuple(sums), totals.gross_samples, totals.backprop_samples, totals.bad_score_rows]
        if accelerator.num_processes > 1:
            values = accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=self.device), "sum").tolist()
        steps, selection, forward, backward, step, gross, kept, all_gross, all_kept, bad = values
        entries: dict[str, float] = {"gross_samples": all_gross, "kept_samples": all_kept, "bad_score_rows": bad}
        if steps:
            # Sums of seconds and of steps are both over ranks, those of rows over what they do at the same time.
            entries |= {
                "selection_s": selection / steps,
                "forward_s": forward / steps,
                "backward_s": backward / steps,
                "step_s": step / steps,
                "gross_samples_per_s": gross / step * accelerator.num_processes,
                "kept_samples_per_s": kept / step * accelerator.num_processes,
            }
        if whole_run:
            return {f"train_{name}": value for name, value in entries.items()}
        entries |= self._quantiles(accelerator) | self._readings(accelerator, sift)
        self.since_log = Sums()
        return entries

    def _readings(self, accelerator: Any, sift: Sift) -> dict[str, float]:
        """Means since the last report; ranks read at the same steps."""
        since = sift.readings[self.read :]
        self.read = len(sift.readings)
        if not since:
            return {}
        means = np.mean([dataclasses.astuple(reading) for reading in since], axis=0).tolist()
        values = [sift.meter_s, *means]
        if accelerator.num_processes > 1:
            values = accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=self.device), "mean").tolist()
        named = zip(dataclasses.fields(Reading), values[1:], strict=True)
        measured = {f"meters_{field.name}": value for field, value in named if field.type == "float"}
        return {"meter_s": values[0]} | {name: value for name, value in measured.items() if math.isfinite(value)}

    def _quantiles(self, accelerator: Any) -> dict[str, float]:
        if not self.scores:
            return {}
        scores = torch.cat([part.float() for part in self.scores])
        self.scores.clear()
        if accelerator.num_processes > 1:
            scores = accelerator.gather(accelerator.pad_across_processes(scores, pad_index=float("nan")))
        # A row without labels has the least number as its score, and a bad one none.
        scores = scores[torch.isfinite(scores) & (scores > torch.finfo(torch.float32).min)]
        if len(scores) == 0:
            return {}
        values = np.quantile(scores.cpu().numpy(), QUANTILES)
        return {f"score_q{100 * share:.0f}": float(value) for share, value in zip(QUANTILES, values, strict=True)}
