"""BatchNorm by the gross batch's statistics: what lets a kept row be normalised as it was when it was scored."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsgd.sift.exits import every_module


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a BatchNorm normalised the gross batch by: mean and biased variance, (channels,), of `count` values each.

    `weight` is the address of its weight, which tells whose they are; None without one.
    """

    mean: Tensor
    variance: Tensor
    count: int
    weight: int | None

    @classmethod
    def of(cls, named: Mapping[str, Any], output: Any) -> Statistics:
        """Of a call of aten.native_batch_norm or its like, with its arguments by name."""
        _, mean, inverse = output[:3]
        eps = named["epsilon"] if "epsilon" in named else named["eps"]
        variance = (inverse.pow(-2) - eps).clamp(min=0)  # rounding may leave it below
        return cls(mean, variance, named["input"].numel() // named["input"].shape[1], _address(named["weight"]))


@contextlib.contextmanager
def gross_statistics(model: nn.Module, statistics: deque[Statistics]) -> Iterator[None]:
    """Within the block, BatchNorm normalises by its own of `statistics`, taken as constants.

    Each call of a module uses up its next one, and moves the running statistics towards it as BatchNorm does; when
    they are used up, as after the exit, BatchNorm is as ever.

    Raises:
        ValueError: in the block, where activation checkpointing would normalise otherwise in the backward pass.
    """
    norms = [module for module in every_module(model) if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    used: list[tuple[Any, Statistics]] = []
    before = [norm.__dict__.get("forward") for norm in norms]

    def normalise(norm: Any, own: Any, hidden: Tensor) -> Tensor:
        weight, channels = _address(norm.weight), norm.num_features
        mine = (entry for entry in statistics if entry.weight == weight and len(entry.mean) == channels)
        taken = next(mine, None) if norm.training else None
        if taken is None:
            return own(hidden)
        if not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            raise ValueError('batchnorm="gross" does not go with activation checkpointing of layers with BatchNorm')
        statistics.remove(taken)
        if norm.track_running_stats:
            used.append((norm, taken))
        return F.batch_norm(hidden, taken.mean, taken.variance, norm.weight, norm.bias, training=False, eps=norm.eps)

    try:
        for norm in norms:
            norm.__dict__["forward"] = functools.partial(normalise, norm, norm.forward)
        yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            if own is None:
                norm.__dict__.pop("forward", None)
            else:
                norm.__dict__["forward"] = own
        _move_running_statistics(used)


def _address(weight: Tensor | None) -> int | None:
    return None if weight is None else weight.data_ptr()


@torch.no_grad()
def _move_running_statistics(used: list[tuple[Any, Statistics]]) -> None:
    """As each BatchNorm would have done by itself; many at once, because each is small."""
    calls: Counter[int] = Counter()
    groups: dict[tuple[int, float], list[tuple[Any, Statistics]]] = {}
    for norm, taken in used:
        calls[id(norm)] += 1
        norm.num_batches_tracked += 1
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        # Where one was called twice, its second call moves on from where the first has left it.
        groups.setdefault((calls[id(norm)], share), []).append((norm, taken))
    for (_, share), group in sorted(groups.items(), key=lambda entry: entry[0][0]):
        means = [norm.running_mean for norm, _ in group]
        variances = [norm.running_var for norm, _ in group]
        unbiased = torch._foreach_mul(
            [taken.variance for _, taken in group], [taken.count / max(taken.count - 1, 1) for _, taken in group]
        )
        towards = [taken.mean for _, taken in group]
        torch._foreach_lerp_(means, [one.to(other.dtype) for one, other in zip(towards, means, strict=True)], share)
        torch._foreach_lerp_(
            variances, [one.to(other.dtype) for one, other in zip(unbiased, variances, strict=True)], share
        )
