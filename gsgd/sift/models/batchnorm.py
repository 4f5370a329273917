"""BatchNorm by the gross batch's statistics: what lets a kept row be normalised as it was when it was scored."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsgd.sift.models.torch_internals import memory_of, will_be_computed_again
from gsgd.sift.models.wrappers import every_module


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a BatchNorm normalised the gross batch by: mean and 1 / sqrt(biased variance + eps), (channels,).

    They are of `count` values for each channel. `weight` tells whose they are, by the memory of its weight, if any.
    """

    mean: Tensor
    inverse: Tensor
    eps: float
    count: int
    weight: int | None

    @classmethod
    def of(cls, named: Mapping[str, Any], output: Any) -> Statistics:
        """Of a call of aten.native_batch_norm or its like, with its arguments by name."""
        _, mean, inverse = output[:3]
        eps = named["epsilon"] if "epsilon" in named else named["eps"]
        return cls(mean, inverse, eps, named["input"].numel() // named["input"].shape[1], _address(named["weight"]))


def _variances(statistics: Sequence[Statistics]) -> list[Tensor]:
    """Biased variances; all at once, because each is small."""
    found = torch._foreach_pow([entry.inverse for entry in statistics], -2)
    torch._foreach_sub_(found, [entry.eps for entry in statistics])
    torch._foreach_clamp_min_(found, 0)  # rounding may leave one below
    return list(found)


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
    entries = list(statistics)  # alive to the end, since they are told by their identities
    variances = dict(zip(map(id, entries), _variances(entries), strict=True))
    before = [norm.__dict__.get("forward") for norm in norms]

    def normalise(norm: Any, own: Any, hidden: Tensor) -> Tensor:
        weight, channels = _address(norm.weight), norm.num_features
        mine = (entry for entry in statistics if entry.weight == weight and len(entry.mean) == channels)
        taken = next(mine, None) if norm.training else None
        if taken is None:
            return own(hidden)
        if will_be_computed_again():
            raise ValueError('batchnorm="gross" does not go with activation checkpointing of layers with BatchNorm')
        statistics.remove(taken)
        if norm.track_running_stats:
            used.append((norm, taken))
        variance = variances[id(taken)]
        return F.batch_norm(hidden, taken.mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps)

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
        _move_running_statistics([(norm, taken, variances[id(taken)]) for norm, taken in used])


def _address(weight: Tensor | None) -> int | None:
    return None if weight is None else memory_of(weight)


@torch.no_grad()
def _move_running_statistics(used: Sequence[tuple[Any, Statistics, Tensor]]) -> None:
    """As each BatchNorm would have done by itself; many at once, because each is small."""
    calls: Counter[int] = Counter()
    groups: dict[tuple[int, float], list[tuple[Any, Statistics, Tensor]]] = {}
    for norm, taken, variance in used:
        calls[id(norm)] += 1
        norm.num_batches_tracked += 1
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        # Where one was called twice, its second call moves on from where the first has left it.
        groups.setdefault((calls[id(norm)], share), []).append((norm, taken, variance))
    for (_, share), group in sorted(groups.items(), key=lambda entry: entry[0][0]):
        means = [norm.running_mean for norm, _, _ in group]
        variances = [norm.running_var for norm, _, _ in group]
        unbiased = torch._foreach_mul(
            [variance for _, _, variance in group], [taken.count / max(taken.count - 1, 1) for _, taken, _ in group]
        )
        towards = [taken.mean for _, taken, _ in group]
        torch._foreach_lerp_(means, [one.to(other.dtype) for one, other in zip(towards, means, strict=True)], share)
        torch._foreach_lerp_(
            variances, [one.to(other.dtype) for one, other in zip(unbiased, variances, strict=True)], share
        )
