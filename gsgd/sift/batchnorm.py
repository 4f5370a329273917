"""BatchNorm by the gross batch's statistics: what lets a kept row be normalised as it was when it was scored."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Statistics:
    """What a BatchNorm normalised the gross batch by: mean and biased variance, (channels,), of `count` values each."""

    mean: Tensor
    variance: Tensor
    count: int

    @classmethod
    def of(cls, args: Any, output: Any) -> Statistics:
        """Of a call of aten.native_batch_norm: (input, weight, bias, running mean, running variance, ..., eps)."""
        _, mean, inverse = output[:3]
        return cls(mean, inverse.pow(-2) - args[7], args[0].numel() // args[0].shape[1])


@contextlib.contextmanager
def gross_statistics(model: nn.Module, statistics: deque[Statistics]) -> Iterator[None]:
    """Within the block, BatchNorm normalises by `statistics`, taken as constants, in the order in which it is called.

    Each call uses up one, and moves the running statistics towards it as BatchNorm does; when they are used up, as
    after the exit, BatchNorm is as ever.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def normalise(norm: Any, own: Any, hidden: Tensor) -> Tensor:
        if not statistics or not norm.training:
            return own(hidden)
        taken = statistics.popleft()
        if norm.track_running_stats:
            _move_running_statistics(norm, taken)
        return F.batch_norm(hidden, taken.mean, taken.variance, norm.weight, norm.bias, training=False, eps=norm.eps)

    try:
        for norm in norms:
            norm.__dict__["forward"] = functools.partial(normalise, norm, norm.forward)
        yield
    finally:
        for norm in norms:
            del norm.__dict__["forward"]


@torch.no_grad()
def _move_running_statistics(norm: Any, taken: Statistics) -> None:
    norm.num_batches_tracked += 1
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(taken.mean.to(norm.running_mean.dtype), share)
    unbiased = taken.variance * (taken.count / max(taken.count - 1, 1))
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), share)
