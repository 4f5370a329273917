"""Which operations of torch are worth sharing, and whether a call of one has rows of what the gross batch's call had.

Rows of a batch lie along the first axis: (B, ...), or (B m, ...) with the m entries of a row one behind the other. An
operation of `COSTLY` computes the rows of its outputs from the same rows of its arguments, so that it is enough to show
whose rows those are: by a few of their entries.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsgd.sift.models.torch_internals import version_of

aten = torch.ops.aten

_KINDS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
ATTENTION = frozenset(getattr(aten, f"_scaled_dot_product_{kind}") for kind in _KINDS)
BATCHNORM = frozenset({aten.native_batch_norm, aten._native_batch_norm_legit, aten.cudnn_batch_norm})
SOFTMAX = frozenset({aten._softmax, aten._safe_softmax})
"""Two functions for one purpose: without a mask, and with one."""
BATCHED_PRODUCTS = {aten.bmm: "self", aten.baddbmm: "batch1"}
"""Products of many matrices -> their first factor."""
PRODUCTS = {aten.addmm: "mat1", aten.mm: "self"}
"""Matrix products -> the factor whose rows are those of the result."""
COSTLY = ATTENTION | SOFTMAX | {*BATCHED_PRODUCTS, *PRODUCTS, aten.convolution}
"""Operations whose outputs are worth keeping; norms and activations read and write no more than a copy would."""
_WITH_ROWS = {**PRODUCTS, aten.convolution: "input"}
"""The only argument that may have rows; of the others of `COSTLY` all may."""
_DRAWS_NOTHING = frozenset({*ATTENTION, aten._fused_sdp_choice})
"""Operations that torch marks as random, which draw only if they are asked to."""
_NOT_COMPARED = frozenset({"attn_mask", "attn_bias", "is_causal", "size", "compute_log_sumexp", "half_to_float"})
"""Arguments that are compared in other ways, or change no values."""
_CHEAP = 64
"""Multiplications for an entry of the output up to which computing it again costs no more than keeping it in memory."""
_ENTRIES = 4
"""Entries of a row that are compared, the first and the last among them: each is far from any cache by then."""
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Relative to the largest entry: rounding passes, other rows do not."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What is always so of an ATen operator; `written` are the places of the arguments that it changes."""

    packet: Any
    costly: bool
    random: bool
    written: tuple[int, ...]
    defaults: dict[str, Any]

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, defaults included."""
        return {**self.defaults, **dict(zip(self.defaults, args, strict=False)), **kwargs}


@functools.cache
def operation_of(function: Any) -> Operation:
    """What is always so of an ATen operator."""
    packet, parameters = function.overloadpacket, function._schema.arguments
    random = torch.Tag.nondeterministic_seeded in function.tags and packet not in _DRAWS_NOTHING
    changed = [each.alias_info is not None and each.alias_info.is_write for each in parameters]
    written = tuple(place for place, each in enumerate(parameters) if changed[place] and not each.kwarg_only)
    return Operation(packet, packet in COSTLY, random, written, {each.name: each.default_value for each in parameters})


def is_cheap(packet: Any, named: Mapping[str, Any]) -> bool:
    """Whether computing again is quicker than keeping: a convolution by 1x1 of few channels, queries times keys."""
    if packet in BATCHED_PRODUCTS:
        return named[BATCHED_PRODUCTS[packet]].shape[-1] <= _CHEAP
    if packet is not aten.convolution:
        return False
    _, channels, *kernel = named["weight"].shape
    return channels <= _CHEAP and all(size == 1 for size in kernel)


def cut(value: Any, rows: int, indices: Tensor) -> Any:
    """The rows `indices` (k,) of a tensor (rows m, ...), laid out in memory as it was; what has no rows as it is."""
    if not isinstance(value, Tensor) or value.dim() == 0 or len(value) % rows:
        return value
    order = [0, *sorted(range(1, value.dim()), key=value.stride, reverse=True)]
    parts = value.permute(order).unflatten(0, (rows, -1))
    taken = parts.index_select(0, indices.to(value.device)).flatten(0, 1)
    return taken.permute([order.index(axis) for axis in range(value.dim())])


@dataclass(slots=True)
class Sample:
    """An argument of the scoring pass, by a few entries: of each row, if the first axis can have rows, else of all.

    `version` is a parameter's, how often it had been changed in place; None of what is computed.
    """

    shape: torch.Size
    dtype: torch.dtype
    rows: int | None
    version: int | None
    entries: Tensor

    @classmethod
    def of(cls, value: Tensor, rows: int) -> Sample:
        by_row = rows if value.dim() > 0 and value.shape[0] % rows == 0 and value.numel() > 0 else None
        return cls(value.shape, value.dtype, by_row, version_of(value), _some(value, by_row))

    def compare(self, value: Any, indices: Tensor) -> bool | None:
        """Whether `value` has the rows `indices` (True) or is the same for every row (False); None if it is neither."""
        if not isinstance(value, Tensor) or value.dtype != self.dtype or version_of(value) != self.version:
            return None
        if value.shape == self.shape:
            return False if close(_some(value, self.rows), self.entries) else None
        if self.rows is None or value.dim() == 0 or value.shape[1:] != self.shape[1:]:
            return None
        if len(value) * self.rows != self.shape[0] * len(indices):
            return None
        wanted = self.entries.index_select(0, indices.to(self.entries.device))
        return True if close(_some(value, len(indices)), wanted) else None


def described(operation: Operation, named: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """What is kept of a call's arguments to tell them by; of tensors that it does not write to, samples."""
    skipped = {*_NOT_COMPARED, *(list(named)[place] for place in operation.written)}
    return {name: _described(value, rows) for name, value in named.items() if name not in skipped}


def _described(value: Any, rows: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    return Sample.of(value, rows) if value.layout is torch.strided else object()  # which nothing is equal to


def same_rows(
    operation: Operation, before: Mapping[str, Any], now: Mapping[str, Any], drawn: Any, rows: int, indices: Tensor
) -> tuple[bool | None, str]:
    """Whether the arguments of a call are rows of what the gross batch's call was given, `described` in `before`.

    Args:
        drawn: what the gross batch's call returned, if it is random.
        rows, indices: number of the gross batch's rows, and (k,) which of them train.

    Returns:
        (True, "") if its outputs are those rows of the gross batch's, (False, "") if they are the same for every row,
        (None, argument) if they are neither, and which argument shows it.
    """
    by_rows = False
    for name, known in before.items():
        value = now.get(name)
        if isinstance(known, Sample):
            found = known.compare(value, indices)
        else:
            found = False if not isinstance(value, Tensor) and known == value else None
        if found is None or (found and _WITH_ROWS.get(operation.packet, name) != name):
            return None, name
        by_rows |= found
    if by_rows and operation.packet in SOFTMAX and now["dim"] % now["self"].dim() == 0:
        return None, "dim"
    if not operation.random:
        return by_rows, ""
    size = now.get("size") or next((value.shape for value in now.values() if isinstance(value, Tensor)), drawn.shape)
    if list(size) == list(drawn.shape):
        return by_rows, ""
    scaled = len(size) == drawn.dim() and list(size[1:]) == list(drawn.shape[1:])
    return (True, "") if scaled and size[0] * rows == len(drawn) * len(indices) else (None, "size")


def same_mask(before: Tensor | None, causal_before: bool, now: Tensor | None, causal: bool, indices: Tensor) -> bool:
    """Whether attention masks say the same of the kept rows, be it that one is given and the other is not.

    Models leave a mask out where it would mask nothing, and the kept rows may have no padding where others have. Masks
    are (B or 1, heads or 1, T, S), booleans or numbers that are added, beside whether attention is causal by itself.
    """
    if before is not None and before.dim() == 4 and len(before) > 1:
        before = before.index_select(0, indices.to(before.device))
    if (before is None) == (now is None):
        same = before is None or (before.dtype == now.dtype and torch.equal(before, now))  # type: ignore[union-attr, arg-type]
        return causal_before == causal and same
    given, causal_too, causal_alone = (before, causal_before, causal) if now is None else (now, causal, causal_before)
    assert given is not None
    wanted = torch.ones(given.shape[-2:], dtype=torch.bool, device=given.device)
    shown = given if given.dtype == torch.bool else given == 0
    return not causal_too and bool((shown == (wanted.tril() if causal_alone else wanted)).all())


def close(found: Any, wanted: Any) -> bool:
    """Whether tensors agree up to rounding; NaN and infinities are themselves only."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if torch.equal(found, wanted):
        return True
    # Masks are added as numbers near the largest that there is; beside them nothing else would count.
    size = wanted.abs()
    scale = float(torch.where(size < 1e4, size, 0).amax())
    tolerance = _TOLERANCE.get(found.dtype, 0)
    return torch.allclose(found, wanted, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _some(value: Tensor, rows: int | None) -> Tensor:
    """A copy of a few entries, of each row if there are rows; of a parameter of some that lie together."""
    if value.dim() == 0 or value.numel() == 0:
        return value.clone()
    if version_of(value) is not None:
        for _ in range(value.dim() - 1):
            value = value[-1]
        return value[: _ENTRIES**2].clone()
    if rows is None:
        return value[_diagonal(value.shape, value.device)]
    parts = value.unflatten(0, (rows, -1))
    return parts[(slice(None), *_diagonal(parts.shape[1:], value.device))]


@functools.lru_cache(maxsize=1024)
def _diagonal(shape: torch.Size, device: torch.device) -> tuple[Tensor, ...]:
    """Indices along each axis, from the first entry to the last, which together pick a diagonal."""
    steps = [step / (_ENTRIES - 1) for step in range(_ENTRIES)]
    return tuple(torch.tensor([round(step * (size - 1)) for step in steps], device=device) for size in shape)
