"""What AdamW is told: which parameters decay, and the learning rate's schedule, which ends with the run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from training.settings import TrainingSettings


def parameter_groups(model: nn.Module, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Parameters with and without weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if settings.decay_all or parameter.dim() > 1]
    others = [parameter for parameter in trained if not settings.decay_all and parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_scheduler(optimizer: Any, settings: TrainingSettings, total_steps: int) -> Any:
    """The learning rate's schedule, which ends with the run."""
    if settings.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=settings.max_lr, total_steps=total_steps, cycle_momentum=settings.cycle_momentum
        )
    warmup = round(settings.warmup_share * total_steps)
    if settings.schedule == "constant":
        return get_constant_schedule_with_warmup(optimizer, warmup)
    return get_linear_schedule_with_warmup(optimizer, warmup, total_steps)
