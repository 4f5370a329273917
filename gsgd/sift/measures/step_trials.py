"""Steps with and without selection, timed, and which way their gradients point; nothing of them stays."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gsgd.sift.models.wrappers import unwrap
from gsgd.sift.scorer import Scorer
from gsgd.sift.scoring_pass.mode import draws_kept
from gsgd.sift.scoring_pass.module_state import unchanged
from gsgd.sift.timing import Stopwatch


@dataclass(frozen=True)
class Pair:
    """What a pair of batches says.

    Attributes:
        plain_s: median seconds of a step on random rows of the second batch.
        random: their mean cosine with the gradient on the first.
        selecting_s, aligned: the same of a step on selected rows, one for each exit.
    """

    plain_s: float
    random: float
    selecting_s: list[float]
    aligned: list[float]


class Engine(Protocol):
    """What selects and runs a step: `gsgd.sift.Sift`."""

    model: nn.Module
    scorer: Scorer
    generator: torch.Generator

    def choose(self, batch: Any) -> Any: ...
    def forward_kept(self, rows: Mapping[str, Any]) -> Any: ...


class StepTrials:
    """Steps with selection at each exit, and without, from weights that stay as they are.

    Args:
        engine_at: an engine that selects at an exit, at every step.
        exits: exit layers to select at.
        parameters: what gradients are of.
        draws: random sets of rows to step on, from each batch.
        seed: of these.
    """

    def __init__(
        self,
        engine_at: Callable[[int], Engine],
        exits: Sequence[int],
        parameters: list[nn.Parameter],
        draws: int,
        seed: int,
    ):
        self.parameters, self.draws = parameters, draws
        self.generator = torch.Generator().manual_seed(seed)
        self.plain = engine_at(exits[-1])
        self.selecting = [engine_at(layer) for layer in exits]
        for engine in (self.plain, *self.selecting):
            engine.generator = self.generator
        self.rows = self.plain.scorer.rows

    def judge(self, other: Mapping[str, Any], batch: Mapping[str, Any]) -> Pair:
        """Steps on `batch`, by the gradient of `other`: all its rows, no more at a time than a step trains on."""
        target: list[Tensor] | None = None
        for rows in self.random_rows(other, self.rows.size(other) // self.kept(other)):
            gradient, _ = self.step(self.plain, rows, selects=False)
            target = gradient if target is None else [a + b for a, b in zip(target, gradient, strict=True)]
        assert target is not None
        random, selected = [], []
        for rows in self.random_rows(batch, self.draws):
            gradient, seconds = self.step(self.plain, rows, selects=False)
            random.append((_cosine(gradient, target), seconds))
        for engine in self.selecting:
            gradient, seconds = self.step(engine, batch, selects=True)
            selected.append((_cosine(gradient, target), seconds))
        return Pair(
            plain_s=float(np.median([seconds for _, seconds in random])),
            random=float(np.mean([cosine for cosine, _ in random])),
            selecting_s=[seconds for _, seconds in selected],
            aligned=[cosine for cosine, _ in selected],
        )

    def step(self, engine: Engine, batch: Mapping[str, Any], *, selects: bool) -> tuple[list[Tensor], float]:
        """(gradient, seconds) of a step on the batch, or on what is selected of it."""
        device = self.parameters[0].device
        with Stopwatch(device) as watch:
            rows = engine.choose(batch) if selects else batch
            loss = getattr(engine.forward_kept(rows), "loss", None)
            if not isinstance(loss, Tensor):
                raise ValueError(f"{type(unwrap(engine.model)).__name__} returned no loss: its output must have one")
            # A backward pass under autocast would cast once more.
            with torch.autocast(device.type, enabled=False):
                # Not `backward`: it writes to .grad and calls the hooks of loops that step within it.
                gradient = torch.autograd.grad(loss.mean(), self.parameters, materialize_grads=True)
        return list(gradient), watch.seconds

    def kept(self, batch: Mapping[str, Any]) -> int:
        """How many rows of the batch selection keeps."""
        return max(1, round(self.plain.scorer.keep * self.rows.size(batch)))

    def random_rows(self, batch: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
        """So many sets of as many rows as selection keeps, disjoint as far as there are rows."""
        size, kept = self.rows.size(batch), self.kept(batch)
        found: list[Tensor] = []
        while len(found) < number:
            found.extend(torch.randperm(size, generator=self.generator).split(kept)[: size // kept])
        return [self.rows.take(batch, torch.sort(rows).values) for rows in found[:number]]


@contextlib.contextmanager
def left_alone(model: nn.Module, seed: int) -> Iterator[None]:
    """A model that trains, with draws from `seed`; in the end its state and the generators are as they were.

    Raises:
        ValueError: as `unchanged`.
    """
    with unchanged(model), draws_kept(model), torch.enable_grad():
        torch.manual_seed(seed)
        if not model.training:
            model.train()
        yield


def _cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Of two gradients, in [-1, 1]; NaN where one is 0."""
    lengths = math.sqrt(_dot(one, one)) * math.sqrt(_dot(other, other))
    return _dot(one, other) / lengths if lengths > 0 else math.nan


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    wide = torch.promote_types(one[0].dtype, torch.float32)
    return sum(float((a.to(wide) * b.to(wide)).sum()) for a, b in zip(one, other, strict=True))
