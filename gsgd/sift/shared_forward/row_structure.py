"""Which operations treat the rows of a batch one by one, so that a row's result is the same among other rows.

A tensor is "by rows" if its entries lie, in logical order, one row of the batch after the other: its first dimension
that is not 1 (the row axis) has `rows` entries, or a multiple. `results_by_rows` says of an operation on such tensors
whether what it returns is by rows again, and in the same order. It judges by the operation and its arguments, never by
the data: a mask that happens to be the same in all rows proves nothing about the next batch. What is not listed here
is taken to mix rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

_POINTWISE = frozenset(
    {
        *(aten._to_copy, aten.copy_, aten.fill_, aten.masked_fill, aten.masked_fill_, aten.expand),
        *(aten.empty_like, aten.zeros_like, aten.ones_like, aten.full_like, aten.rand_like, aten.randn_like),
        *(aten.native_dropout, aten.bernoulli, aten.bernoulli_, aten.uniform_, aten.normal_, aten.exponential_),
    }
)
"""Beside what torch tags as such: entry by entry, with broadcasting."""
_RESHAPING = frozenset({aten.view, aten._unsafe_view, aten.unsqueeze, aten.squeeze})
"""The same entries in the same order."""
VIEWS = frozenset({aten.view, aten._unsafe_view, aten.expand, aten.squeeze, aten.unsqueeze})
"""They share the memory of their first argument, entry by entry."""
SOFTMAX = frozenset({aten._softmax, aten._safe_softmax})
_PERMUTING = frozenset({aten.permute, aten.transpose, aten.t})
_ALONG = frozenset(
    {
        *(aten.sum, aten.mean, aten.amax, aten.amin, aten.max, aten.min, aten.argmax, aten.argmin, aten.any, aten.all),
        *(aten.var, aten.std, aten.var_mean, aten.logsumexp, aten.linalg_vector_norm, aten.cumsum, aten.prod),
        *SOFTMAX,
        *(aten._log_softmax, aten.sort, aten.topk, aten.gather, aten.cat),
        *(aten.stack, aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.unbind, aten.flip, aten.roll),
    }
)
"""By rows if they work along other dimensions than the rows'."""
_PRODUCTS = frozenset({aten.mm, aten.addmm, aten.bmm, aten.baddbmm})
_IMAGES = frozenset(
    {
        *(aten.max_pool2d_with_indices, aten.avg_pool2d, aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d),
        *(aten.upsample_nearest2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d),
    }
)
BATCHNORM = frozenset({aten.native_batch_norm, aten._native_batch_norm_legit, aten.cudnn_batch_norm})
ATTENTION = frozenset(
    {
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_cudnn_attention,
        aten._scaled_dot_product_fused_attention_overrideable,
    }
)
COSTLY = ATTENTION | SOFTMAX | {aten.addmm, aten.mm, aten.bmm, aten.baddbmm, aten.convolution}
"""Operations whose outputs the shared forward keeps: computing them costs more than copying their rows.

Norms and activations are computed again: they read and write no more than a copy does.
"""

Kind = bool | None
"""Of a tensor: True by rows; None the same for every row, as weights are; False anything else of the batch."""


def row_axis(shape: Sequence[int], rows: int) -> int | None:
    """The dimension along which a tensor of this shape can have rows; None if none."""
    axis = 0 if rows == 1 else next((axis for axis, size in enumerate(shape) if size != 1), len(shape))
    return axis if axis < len(shape) and shape[axis] % rows == 0 and 0 not in shape else None


def is_cuttable(value: Tensor, rows: int) -> bool:
    """Whether a tensor by rows has them one behind the other in memory, too."""
    axis = row_axis(value.shape, rows)
    steps = [(size, step) for size, step in zip(value.shape, value.stride(), strict=True) if size > 1]
    dense = value.numel() == 1 + sum((size - 1) * step for size, step in steps)
    return axis is not None and dense and value.stride(axis) >= max((step for _, step in steps), default=0)


def cut(value: Tensor, rows: int, indices: Tensor) -> Tensor:
    """The rows `indices` (k,) of a cuttable tensor, in a new one, laid out in memory as it was."""
    axis = row_axis(value.shape, rows)
    assert axis is not None
    order = [*range(axis + 1), *sorted(range(axis + 1, value.dim()), key=value.stride, reverse=True)]
    dense = value.permute(order)
    taken = dense.reshape(rows, -1).index_select(0, indices.to(value.device))
    shape = (*dense.shape[:axis], len(indices) * (value.shape[axis] // rows), *dense.shape[axis + 1 :])
    return taken.view(shape).permute([order.index(dim) for dim in range(value.dim())])


@functools.cache
def is_pointwise(function: Any) -> bool:
    """Whether an operation works entry by entry, with broadcasting."""
    return torch.Tag.pointwise in function.tags or function.overloadpacket in _POINTWISE


@functools.cache
def parameters(function: Any) -> tuple[tuple[str, Any, bool], ...]:
    """(name, default, whether it is written to) of each of an operation's parameters."""
    return tuple(
        (entry.name, entry.default_value, entry.alias_info is not None and entry.alias_info.is_write)
        for entry in function._schema.arguments
    )


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors_in(entry)


def results_by_rows(
    function: Any, named: Mapping[str, Any], outputs: Sequence[Any], rows: int, kind: Callable[[Tensor], Kind]
) -> tuple[list[Kind], bool]:
    """The kind of each output, and whether that follows from kinds, shapes and other arguments alone.

    Args:
        named: the arguments by the names of their parameters, defaults included.
        rows: in the batch.
        kind: of an argument.
    """
    kinds = {kind(tensor) for tensor in tensors_in(list(named.values()))}
    if False in kinds:
        return [False] * len(outputs), True
    if True not in kinds:
        return [None] * len(outputs), True
    call = _Call(function.overloadpacket, named, rows, kind)
    return _judge(call, function, outputs), not call.looked


def _judge(call: _Call, function: Any, outputs: Sequence[Any]) -> list[Kind]:
    rows = call.rows
    good = call.is_pointwise(function, outputs) or call.keeps_rows(outputs)
    found: list[Kind] = [
        good and isinstance(output, Tensor) and row_axis(output.shape, rows) is not None for output in outputs
    ]
    if good and call.packet in BATCHNORM:
        found[1:] = [False] * (len(found) - 1)
    if good and call.packet in ATTENTION:
        # Beside the log-sum-exps there may be lengths and the state of a generator that draws nothing.
        found[2:] = [None] * (len(found) - 2)
    return found


class _Call:
    def __init__(self, packet: Any, named: Mapping[str, Any], rows: int, kind: Callable[[Tensor], Kind]):
        self.packet = packet
        self.named = named
        self.rows = rows
        self.kind = kind
        self.looked = False
        """Whether entries of a tensor were looked at, which may be others the next time."""

    def is_pointwise(self, function: Any, outputs: Sequence[Any]) -> bool:
        return is_pointwise(function) and self.aligned(tensors_in(list(self.named.values())), outputs[0].shape)

    def keeps_rows(self, outputs: Sequence[Any]) -> bool:
        packet, named = self.packet, self.named
        first = next(iter(named.values()))
        if packet in _RESHAPING:
            return True
        if packet in _PERMUTING:
            order = list(range(first.dim()))
            if packet is aten.permute:
                order = [order[dim] for dim in named["dims"]]
            else:
                one, two = (named["dim0"], named["dim1"]) if packet is aten.transpose else (0, -1)
                order[one], order[two] = order[two], order[one]
            return next(dim for dim in order if first.shape[dim] != 1 or self.rows == 1) == self.axis(first)
        if packet in _ALONG:
            return self.along(list(tensors_in(list(named.values()))), outputs)
        if packet in _PRODUCTS:
            return self.product()
        if packet in ATTENTION:
            query, key, value = named["query"], named["key"], named["value"]
            masks = [named[name] for name in ("attn_mask", "attn_bias") if isinstance(named.get(name), Tensor)]
            return all(map(self.leads, (query, key, value))) and self.aligned(masks, query.shape)
        if packet is aten.native_layer_norm:
            return self.axis(first) < first.dim() - len(named["normalized_shape"]) and self.only_first()
        if packet in (aten._fused_rms_norm, aten.native_group_norm, aten.convolution, aten._convolution) or (
            packet in BATCHNORM  # in training mode, too: by statistics that are given; see Recording.gross_statistics
        ):
            inner = len(named.get("normalized_shape", ()))
            return self.leads(first) and first.dim() > inner and self.only_first()
        if packet in _IMAGES:
            return self.leads(first) and first.dim() == 4
        if packet is aten.constant_pad_nd:
            return len(named["pad"]) // 2 < first.dim() - self.axis(first)
        if packet is aten.embedding:
            return self.kind(named["weight"]) is None
        if packet is aten.index:
            return self.index()
        return False

    def axis(self, tensor: Tensor) -> int:
        """The row axis of what is by rows."""
        axis = row_axis(tensor.shape, self.rows)
        assert axis is not None
        return axis

    def leads(self, tensor: Tensor) -> bool:
        """Whether it is by rows along its very first dimension."""
        return self.kind(tensor) is True and self.axis(tensor) == 0

    def only_first(self) -> bool:
        """Whether only the first argument is of the batch."""
        first, *others = self.named.values()
        return self.kind(first) is True and all(self.kind(tensor) is None for tensor in tensors_in(others))

    def aligned(self, tensors: Any, shape: Sequence[int]) -> bool:
        """Whether, broadcast to `shape`, the tensors have their rows in the same place."""
        axis = row_axis(shape, self.rows)
        for tensor in tensors:
            own = None if axis is None else axis - len(shape) + tensor.dim()
            if self.kind(tensor):
                if axis is None or own != self.axis(tensor) or tensor.shape[own] != shape[axis]:
                    return False
            elif own is not None and own >= 0 and not self.alike(tensor, own):
                return False
        return axis is not None

    def alike(self, tensor: Tensor, axis: int) -> bool:
        """Whether what is no part of the batch is the same for all of its rows."""
        if tensor.shape[axis] == 1 or tensor.stride(axis) == 0:
            return True
        if tensor.shape[axis] % self.rows or math.prod(tensor.shape[:axis]) != 1:
            return False
        self.looked = True
        parts = tensor.reshape(self.rows, -1)
        return bool((parts == parts[:1]).all())

    def along(self, tensors: list[Tensor], outputs: Sequence[Any]) -> bool:
        first = next(tensor for tensor in tensors if self.kind(tensor))
        axis = self.axis(first)
        for tensor in tensors:
            same_place = tensor.dim() == first.dim() and tensor.shape[axis] == first.shape[axis]
            if not same_place or not (self.axis(tensor) == axis if self.kind(tensor) else self.alike(tensor, axis)):
                return False
        if any(output.dim() <= axis or output.shape[axis] != first.shape[axis] for output in outputs):
            return False
        where = self.named.get("dim", self.named.get("dims"))
        if where is None or where == []:
            return False
        size = first.dim() + (self.packet is aten.stack)
        dims = {dim % size for dim in (where if isinstance(where, (list, tuple)) else [where])}
        if self.packet is aten.slice and dims == {axis}:
            return (self.named["start"] or 0, self.named["end"], self.named["step"]) == (0, 2**63 - 1, 1)
        return min(dims) > axis

    def product(self) -> bool:
        left, right = [tensor for tensor in self.named.values() if isinstance(tensor, Tensor)][-2:]
        if self.kind(left) is not True:
            return False
        axis, shape = self.axis(left), (*left.shape[:-1], right.shape[-1])
        if self.packet in (aten.addmm, aten.baddbmm) and not self.aligned([self.named["self"]], shape):
            return False
        if left.dim() == 3 and axis == 0:
            return self.aligned([right], (left.shape[0], 1, 1))
        return axis < left.dim() - 1 and self.kind(right) is None

    def index(self) -> bool:
        """Of `x[i, j, ...]`."""
        source, places = self.named["self"], list(self.named["indices"])
        used = [number for number, place in enumerate(places) if place is not None]
        found = [places[number] for number in used]
        if used[-1] - used[0] + 1 != len(used) or any(place.dtype in (torch.bool, torch.uint8) for place in found):
            return False
        shape = torch.broadcast_shapes(*(place.shape for place in found))
        if self.kind(source) is None:
            return used[0] == 0 and self.aligned(found, shape)
        axis = self.axis(source)
        if used[0] > axis:
            return all(self.kind(place) is None for place in found)
        # A row picks from itself: x[arange(rows), ...].
        self.looked = True
        own, *others = found
        return (
            used[0] == axis == 0
            and source.shape[0] == own.numel() == self.rows
            and (own.dim(), own.shape[0]) == (len(shape), self.rows)
            and torch.equal(own.flatten(), torch.arange(self.rows, device=own.device, dtype=own.dtype))
            and self.aligned(others, shape)
        )
