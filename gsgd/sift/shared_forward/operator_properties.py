"""What is always so of an operation of torch, whatever its arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsgd.sift.shared_forward.row_structure import ATTENTION, BATCHNORM, COSTLY, SOFTMAX, parameters, tensors_in

aten = torch.ops.aten

_TRANSPARENT = frozenset({aten.detach, aten.alias, aten.lift_fresh})
"""Autograd inserts these where it saves an output; they are no step of the computation."""
_MADE_BY_SIZE = frozenset({aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full})
"""Of their first argument these take the type only."""

_BY_ENTRIES = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output, torch.Tag.inplace_view}


@dataclass(frozen=True, slots=True)
class OperatorProperties:
    """What is always so of an operation; looked up once, because hashing one takes as long as the rest.

    Attributes:
        number: tells it from others in this process.
        names, defaults: of its parameters.
        writes: names of the parameters that it changes.
        random: whether it draws; fused attention does only if its arguments say so, which is not looked at here.
        batchnorm, attention, softmax, costly: see `gsgd.sift.shared_forward.row_structure`.
        transparent, made_by_size: see _TRANSPARENT and _MADE_BY_SIZE.
        reshapes: whether it changes the shape or the strides of its first argument itself.
        restrides: whether it may do so without any entry changing its place.
        lasting: whether what follows from its arguments' values, shapes and sources can be remembered: not if it takes
            lists of tensors, or if shapes follow from entries.
    """

    number: int
    names: tuple[str, ...]
    defaults: dict[str, Any]
    writes: tuple[str, ...]
    random: bool
    batchnorm: bool
    attention: bool
    softmax: bool
    costly: bool
    transparent: bool
    made_by_size: bool
    reshapes: bool
    restrides: bool
    lasting: bool

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, defaults included."""
        named = dict(self.defaults)
        named.update(zip(self.names, args, strict=False))
        named.update(kwargs)
        return named

    def targets(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors that a call changes."""
        named = self.named(args, kwargs)
        return list(tensors_in([named[name] for name in self.writes]))


def properties_of(function: Any) -> OperatorProperties:
    """What is always so of it."""
    known = _FACTS.get(id(function))
    if known is None:
        known = _FACTS[id(function)] = _facts(function)
    return known


_FACTS: dict[int, OperatorProperties] = {}
"""By `id`, since torch keeps its operations for good."""


def _facts(function: Any) -> OperatorProperties:
    packet = function.overloadpacket
    return OperatorProperties(
        number=id(function),
        names=tuple(name for name, _, _ in parameters(function)),
        defaults={name: default for name, default, _ in parameters(function)},
        writes=tuple(name for name, _, writes in parameters(function) if writes),
        random=torch.Tag.nondeterministic_seeded in function.tags and packet not in ATTENTION,
        batchnorm=packet in BATCHNORM,
        attention=packet in ATTENTION,
        softmax=packet in SOFTMAX,
        costly=packet in COSTLY,
        transparent=packet in _TRANSPARENT,
        made_by_size=packet in _MADE_BY_SIZE,
        reshapes=torch.Tag.inplace_view in function.tags,
        restrides=packet is aten.as_strided_,
        lasting=not (
            packet in _MADE_BY_SIZE
            or any(tag in _BY_ENTRIES for tag in function.tags)
            or any("Tensor" in str(entry.type) and "List" in str(entry.type) for entry in function._schema.arguments)
        ),
    )
