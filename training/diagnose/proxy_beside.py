"""Plain training that trains a proxy beside the model, on the rows of its own steps."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from gsgd.sift import Proxy
from gsgd.sift.batches.batch_structure import device_of
from gsgd.sift.ranks import Ranks
from gsgd.sift.score_source import GrossBatch, TrainedRows
from gsgd.sift.scoring_pass.mode import draws_kept
from training.config import Config
from training.task import Task
from training.training import Training


class TrainingWithProxy(Training):
    """`Training`, whose model goes the way that it goes without the proxy.

    Args:
        config, task, accelerator, total_steps: as of `Training`.

    Attributes:
        proxy: the task's own, as of method "proxy".

    Raises:
        ValueError: as `Training`, and if the task has no proxy.
    """

    def __init__(self, config: Config, task: Task, accelerator: Accelerator, total_steps: int):
        super().__init__(config, task, accelerator, total_steps)
        self.proxy = Proxy(self.built_proxy(), lr=self.settings.proxy_lr)
        self.proxy.begin(Ranks.here("rank"), None)

    def _loss(self, kept: dict[str, Tensor]) -> Tensor:
        loss = super()._loss(kept)
        with draws_kept(self.model):
            self.proxy.note(TrainedRows(kept, self.step))
        return loss

    @torch.no_grad()
    def proxy_losses(self, batch: dict[str, Tensor], size: int) -> Tensor:
        """(B,), float32: the proxy's losses of the `size` rows of a batch."""
        no_exit: Any = None  # a proxy asks for none
        gross = GrossBatch(batch, size, device_of(batch), None, self.step, torch.Generator(), no_exit)
        return self.proxy.scores(gross)
