"""The batches that a run trains on: rows in its order of the data, or as a sampler chooses, on a rank's device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from gsgd import host
from gsgd.sift import SiftOptions
from training.data.order import Order
from training.methods import SAMPLED
from training.sampled import SampledOrder
from training.settings import TrainingSettings
from training.task import Task


@dataclass(frozen=True)
class Sampled:
    """What a sampler chose: ids (k,) of rows, and what their losses are multiplied by (k,)."""

    ids: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class _Ahead:
    """A batch that is prepared before it is asked for."""

    rows: int
    before: dict[str, int]
    """Where the order of the data stood before it."""
    batch: Future[dict[str, Tensor]]
    sampled: Sampled | None


class Batches:
    """Hands out the batches of one rank, and on CUDA prepares the next one meanwhile.

    Args:
        task: whose training rows they are.
        settings: of the run.
        accelerator: of this process; every rank has a part of each batch.
        total_steps: of the run, whose last part a sampler may spend on all rows.

    Attributes:
        order: of the data.
        sampled: takes its place where the method is a sampler's; else None.
        reader: of the next batch; None where the processor trains, too, which would only take turns.
        last_sampled: what a sampler chose for the batch that was handed out last.
    """

    def __init__(self, task: Task, settings: TrainingSettings, accelerator: Accelerator, total_steps: int):
        self.task, self.settings, self.device = task, settings, accelerator.device
        self.ranks, self.rank = accelerator.num_processes, accelerator.process_index
        self.order = Order(task.train_size, settings.seed)
        self.sampled: SampledOrder | None = None
        if settings.method in SAMPLED:
            self.sampled = SampledOrder(settings, task.train_size, total_steps, ranks=self.ranks, rank=self.rank)
        self.reader = ThreadPoolExecutor(1) if self.device.type == "cuda" else None
        self.last_sampled: Sampled | None = None
        self._ahead: _Ahead | None = None

    def next(self, rows: int) -> dict[str, Tensor]:
        """The next `rows` rows of this rank, on its device."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.rows == rows:
            batch, self.last_sampled = ahead.batch.result(), ahead.sampled
        else:
            if ahead is not None:
                # Selection begins or ends here, and the batch has another size.
                self.order.load_state_dict(ahead.before)
            read, self.last_sampled = self._fetching(rows)
            batch = read()
        if self.reader is not None:
            before = self.order.state_dict()
            read, sampled = self._fetching(rows)
            self._ahead = _Ahead(rows, before, self.reader.submit(read), sampled)
        return self.placed(batch)

    def _fetching(self, rows: int) -> tuple[Callable[[], dict[str, Tensor]], Sampled | None]:
        """Moves on in the order of the data, and leaves what is to be done for the batch to whoever calls it."""
        if self.sampled is not None:
            ids, weights, epoch = self.sampled.take()
            return functools.partial(self.read, ids, epoch), Sampled(ids, weights)
        taken, epoch = self.order.take(rows * self.ranks)
        return functools.partial(self.read, taken[self.rank * rows : (self.rank + 1) * rows], epoch), None

    def read(self, rows: np.ndarray, epoch: int) -> dict[str, Tensor]:
        """Rows of the training set with their ids, on the host; on CUDA in pinned memory."""
        batch = {**self.task.training_batch(rows, epoch), SiftOptions.id_key: torch.from_numpy(rows.astype(np.int64))}
        if self.device.type != "cuda":
            return batch
        # Here, by the thread that reads ahead: what is not pinned is not copied beside the program.
        return {name: value.pin_memory() for name, value in batch.items()}

    def placed(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch of the task on this rank's device, laid out as the settings say."""
        placed = {name: host.sent(value, self.device) for name, value in batch.items()}
        if not self.settings.channels_last:
            return placed
        last = torch.channels_last
        return {name: value.to(memory_format=last) if value.dim() == 4 else value for name, value in placed.items()}

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch is taken from, the same on every rank."""
        return {
            "order": self.order.state_dict() if self._ahead is None else self._ahead.before,
            "sampler": None if self.sampled is None else self.sampled.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, whose other entries are passed over."""
        self.order.load_state_dict(state["order"])
        self._ahead = self.last_sampled = None
        if self.sampled is not None:
            self.sampled.load_state_dict(state["sampler"])
