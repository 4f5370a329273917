"""Seconds and rows per optimizer step, as the Trainer logs them: means since the last report, over all ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsgd.sift.choice import Selection
from gsgd.sift.engine import Sift
from gsgd.sift.measures.readings import Reading
from gsgd.sift.timing import Elapsed

QUANTILES = (0.1, 0.5, 0.9)
"""Of the gross scores."""


class StepMeters:
    """Measures optimizer steps, and reports means since the last report."""

    def __init__(self, device: torch.device):
        self.device = device
        self.steps = self.gross = self.kept = 0
        # Reading them waits for a GPU, so it is left until a log asks.
        self.selection, self.forward, self.micro_batch, self.step = Elapsed(), Elapsed(), Elapsed(), Elapsed()
        self.running = contextlib.ExitStack()
        self.scores: deque[Tensor] = deque(maxlen=1000)
        self.read = 0  # of the engine's readings
        self.logged = np.zeros(len(self._sums()))

    def begin_step(self) -> None:
        self.running = contextlib.ExitStack()
        self.running.enter_context(self.step.measure(self.device))

    def end_step(self) -> None:
        self.running.close()
        self.steps += 1

    def selected(self, selection: Selection) -> None:
        """A micro-batch that is trained on."""
        self.gross += selection.gross
        self.kept += selection.kept
        if selection.elapsed is not None:
            self.selection.add(selection.elapsed)
        if selection.scores is not None:
            self.scores.append(selection.scores)

    def _sums(self) -> np.ndarray:
        seconds = [watch.seconds for watch in (self.selection, self.forward, self.micro_batch, self.step)]
        return np.array([self.steps, *seconds, self.gross, self.kept], dtype=np.float64)

    def report(self, accelerator: Any, sift: Sift, whole_run: bool) -> dict[str, float]:
        """Log entries, the same on every rank, which all must call this."""
        sums, totals = self._sums(), sift.totals
        since = sums if whole_run else sums - self.logged
        tokens = [totals.gross_tokens, totals.backprop_tokens]
        values = [*since, totals.gross_samples, totals.backprop_samples, totals.bad_score_rows, *tokens]
        if accelerator.num_processes > 1:
            values = accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=self.device), "sum").tolist()
        *values, gross_tokens, kept_tokens = map(float, values)
        steps, selection, forward, micro_batch, step, gross, kept, all_gross, all_kept, bad = values
        entries = {"gross_samples": all_gross, "kept_samples": all_kept, "bad_score_rows": bad}
        if gross_tokens:  # of packed documents
            entries |= {"gross_tokens": gross_tokens, "kept_tokens": kept_tokens}
        if steps:
            # Sums of seconds and of steps are both over ranks, those of rows over what they do at the same time.
            entries |= {
                "selection_s": selection / steps,
                "forward_s": forward / steps,
                "backward_s": (micro_batch - forward) / steps,
                "step_s": step / steps,
                "gross_samples_per_s": gross / step * accelerator.num_processes,
                "kept_samples_per_s": kept / step * accelerator.num_processes,
            }
        if whole_run:
            return {f"train_{name}": value for name, value in entries.items()}
        entries |= self._quantiles(accelerator) | self._readings(accelerator, sift)
        self.logged = sums
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
