"""What an operation of torch is to the shared forward: whether its outputs are worth keeping, and which rows they have.

Rows of a batch lie along the first axis: (B, ...), or (B m, ...) with the m entries of a row one behind the other, as
linear layers and attention heads have them. An operation of `COSTLY` computes the rows of its outputs from the same rows
of its arguments, so `same_rows` has only to show that the arguments are the gross batch's rows, by a few of their
entries.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

ATTENTION = frozenset(
    {
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_cudnn_attention,
        aten._scaled_dot_product_fused_attention_overrideable,
    }
)
BATCHNORM = frozenset({aten.native_batch_norm, aten._native_batch_norm_legit, aten.cudnn_batch_norm})
SOFTMAX = frozenset({aten._softmax, aten._safe_softmax})
"""Two functions for one purpose: with a mask, and without."""
BATCHED_PRODUCTS = frozenset({aten.bmm, aten.baddbmm})
PRODUCTS = {aten.addmm: "mat1", aten.mm: "self"}
"""Matrix products -> the factor whose rows are those of the result."""
_WEIGHTS = {
    aten.addmm: ("self", "mat2"),
    aten.mm: ("mat2",),
    aten.convolution: ("weight", "bias"),
}
"""Arguments that must be the same for every row."""
COSTLY = ATTENTION | SOFTMAX | BATCHED_PRODUCTS | {*PRODUCTS, aten.convolution}
"""Operations whose outputs are worth keeping: computing them costs more than copying their rows.

Norms and activations are computed again: they read and write no more than a copy does.
"""
_NO_DRAW = frozenset({*ATTENTION, aten._fused_sdp_choice})
"""Operations that torch marks as random, which draw nothing unless they are asked to."""
_CHEAP = 64
"""Multiplications for an entry of the output up to which computing it again costs no more than keeping it.

Kept, it is written to where no cache holds it, and its rows are read from there and written once more.
"""
_ENTRIES = 4
"""Entries along each axis that are compared, the first and the last among them."""
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Relative to the largest entry: rounding passes, other rows do not."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What is always so of an operation, whatever its arguments."""

    packet: Any
    costly: bool
    random: bool
    batchnorm: bool
    attention: bool
    written: tuple[int, ...]
    """Places of the arguments that it writes to."""
    parameters: tuple[tuple[str, Any], ...]
    """(name, default) of each argument, in order."""

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, defaults included."""
        found = dict(self.parameters)
        found.update(zip(found, args, strict=False))
        found.update(kwargs)
        return found


@functools.cache
def operation_of(function: Any) -> Operation:
    """What is always so of an ATen operator."""
    packet, arguments = function.overloadpacket, function._schema.arguments
    return Operation(
        packet=packet,
        costly=packet in COSTLY,
        random=torch.Tag.nondeterministic_seeded in function.tags and packet not in _NO_DRAW,
        batchnorm=packet in BATCHNORM,
        attention=packet in ATTENTION,
        written=tuple(
            place
            for place, each in enumerate(arguments)
            if each.alias_info is not None and each.alias_info.is_write and not each.kwarg_only
        ),
        parameters=tuple((each.name, each.default_value) for each in arguments),
    )


def is_cheap(packet: Any, named: Mapping[str, Any]) -> bool:
    """Whether it is quicker to compute again than to keep: a convolution by 1x1 of few channels, a query times a key."""
    if packet in BATCHED_PRODUCTS:
        return named["self" if packet is aten.bmm else "batch1"].shape[-1] <= _CHEAP
    if packet is not aten.convolution:
        return False
    _, channels, *kernel = named["weight"].shape
    return channels <= _CHEAP and all(size == 1 for size in kernel)


def cut(value: Any, rows: int, indices: Tensor) -> Any:
    """The rows `indices` (k,) of a tensor (rows m, ...), in a new one, laid out in memory as it was."""
    order = sorted(range(1, value.dim()), key=value.stride, reverse=True)
    dense = value.permute(0, *order)
    taken = dense.unflatten(0, (rows, -1)).index_select(0, indices.to(value.device)).flatten(0, 1)
    return taken.permute(0, *(order.index(axis) + 1 for axis in range(1, value.dim())))


# ---- whether arguments are the gross batch's rows ----


@dataclass(slots=True)
class Sample:
    """An argument of the scoring pass, by a few of its entries.

    Attributes:
        rows: of the batch, if the first axis can have them; else None.
        entries: (rows, ...) of each row, or without rows of all of it.
    """

    shape: torch.Size
    dtype: torch.dtype
    rows: int | None
    entries: Tensor

    @classmethod
    def of(cls, value: Tensor, rows: int) -> Sample:
        by_row = value.dim() > 0 and value.shape[0] % rows == 0 and value.numel() > 0
        return cls(value.shape, value.dtype, rows if by_row else None, _some(value, rows if by_row else None))

    def compare(self, value: Tensor, indices: Tensor) -> bool | None:
        """Whether `value` has the rows `indices` (True) or is the same for every row (False); None if it is neither."""
        if value.dtype != self.dtype or value.dim() != len(self.shape) or value.shape[1:] != self.shape[1:]:
            return None
        if value.shape == self.shape:
            return False if _close(_some(value, self.rows), self.entries) else None
        if self.rows is None or value.shape[0] * self.rows != self.shape[0] * len(indices):
            return None
        wanted = self.entries.index_select(0, indices.to(self.entries.device))
        return True if _close(_some(value, len(indices)), wanted) else None


@dataclass(slots=True)
class Weight:
    """A parameter as an argument: told by its place in memory, and by how often it has been changed in place."""

    key: tuple[Any, ...]

    @classmethod
    def of(cls, value: Tensor) -> Weight:
        place = value.untyped_storage()._cdata, value.storage_offset(), value.shape, value.stride(), value.dtype
        return cls((*place, value._version))


def describe(value: Any, rows: int, weights: frozenset[int]) -> Any:
    """What is kept of an argument to tell it by: a `Weight`, a `Sample`, or the value itself of what is no tensor."""
    if not isinstance(value, Tensor):
        return value
    if value.layout is not torch.strided:
        return object()  # which nothing is equal to
    return Weight.of(value) if value.untyped_storage()._cdata in weights else Sample.of(value, rows)


def same_rows(
    packet: Any, before: Mapping[str, Any], now: Mapping[str, Any], indices: Tensor
) -> tuple[bool | None, str]:
    """Whether the arguments of a call are rows of what the gross batch's call was given.

    Args:
        before: the arguments of the gross batch's call, each as `describe` gives it.
        now: the arguments of the training pass's call.
        indices: (k,), rows of the gross batch.

    Returns:
        (True, "") if its outputs are those rows of the gross batch's, (False, "") if they are the same for every row,
        (None, argument) if they are neither, and which argument shows it.
    """
    fixed = _WEIGHTS.get(packet, ())
    by_rows = False
    for name, known in before.items():
        value = now.get(name)
        if isinstance(known, Sample):
            found = known.compare(value, indices) if isinstance(value, Tensor) else None
            if found is None or (found and name in fixed):
                return None, name
            by_rows |= found
        elif isinstance(known, Weight):
            if not isinstance(value, Tensor) or Weight.of(value) != known:
                return None, name
        elif isinstance(value, Tensor) or known != value:
            return None, name
    if by_rows and packet in SOFTMAX and now["dim"] % now["self"].dim() == 0:
        return None, "dim"
    return by_rows, ""


def same_mask(before: Tensor | None, causal_before: bool, now: Tensor | None, causal: bool, rows: Tensor) -> bool:
    """Whether attention masks say the same of the kept rows, be it that one is given and the other is not.

    Models leave a mask out where it would mask nothing, and the kept rows may have no padding where others have.

    Args:
        before: the gross batch's mask, (B or 1, heads or 1, T, S): booleans, or numbers that are added; None for none.
        causal_before, causal: whether attention is causal by itself.
        now: the kept rows' mask.
        rows: (k,), rows of the gross batch.
    """
    if before is not None and before.dim() == 4 and len(before) > 1:
        before = before.index_select(0, rows.to(before.device))
    if before is None or now is None:
        given = now if before is None else before
        if given is None:
            return causal_before == causal
        if (causal_before if before is not None else causal) or given.dim() < 2:
            return False
        whole = torch.ones(given.shape[-2:], dtype=torch.bool, device=given.device)
        wanted = whole.tril() if (causal if before is not None else causal_before) else whole
        shown = given if given.dtype == torch.bool else given == 0
        return bool((shown == wanted).all())
    if causal_before != causal or before.dtype != now.dtype or before.shape[1:] != now.shape[1:]:
        return False
    return bool((before == now).all())


def _some(value: Tensor, rows: int | None) -> Tensor:
    """A copy of a few entries, of each row if there are rows."""
    if value.dim() == 0 or value.numel() == 0:
        return value.clone()
    if rows is None:
        return value[_grid(tuple(value.shape), value.device)]
    parts = value.unflatten(0, (rows, -1))
    return parts[(slice(None), *_grid(tuple(parts.shape[1:]), value.device))]


@functools.lru_cache(maxsize=1024)
def _grid(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Indices of a few entries along each axis, which together pick all their combinations."""
    places = [sorted({round(at * (size - 1) / (_ENTRIES - 1)) for at in range(_ENTRIES)}) for size in shape]
    return tuple(
        torch.tensor(along, device=device).view(-1, *[1] * (len(shape) - 1 - axis)) for axis, along in enumerate(places)
    )


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Whether entries agree up to rounding; NaN and infinities are themselves only."""
    if found.shape != wanted.shape:
        return False
    if torch.equal(found, wanted):
        return True
    if not found.is_floating_point():
        return False
    finite = wanted.nan_to_num(0.0, 0.0, 0.0).abs()
    # Masks are added as numbers near the largest that there is; beside them nothing else would count.
    scale = min(float(torch.where(finite < 1e4, finite, 0).amax()), 1e4)
    tolerance = _TOLERANCE.get(found.dtype, 0)
    return torch.allclose(found, wanted, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def all_close(found: Any, wanted: Any) -> bool:
    """Whether whole outputs agree up to rounding."""
    if not isinstance(found, Tensor) or not isinstance(wanted, Tensor) or found.dtype != wanted.dtype:
        return isinstance(found, Tensor) == isinstance(wanted, Tensor)
    return _close(found, wanted)
