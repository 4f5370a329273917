"""A batch as a dictionary of tensors: its size, and its kept rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def batch_size(batch: Mapping[str, Any]) -> int:
    """B, the common length of the batch's tensors; tensors without an axis are not rows.

    Raises:
        ValueError: if there is no tensor with rows, there are no rows, or the tensors disagree in length.
    """
    lengths = {name: value.shape[0] for name, value in batch.items() if _has_rows(value)}
    if not lengths:
        raise ValueError(f"the batch has no tensor with rows; it holds: {', '.join(batch) or 'nothing'}")
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"the batch's tensors must have the same number of rows, but have: {listed}")
    size = next(iter(lengths.values()))
    if size == 0:
        raise ValueError("the batch has 0 rows, but selection needs at least 1")
    return size


def take_rows(batch: Mapping[str, Any], indices: Tensor) -> dict[str, Any]:
    """The rows `indices` (k,) of every tensor, laid out as it is; what has no rows is passed on."""
    return {
        name: _rows_of(value, indices.to(value.device)) if _has_rows(value) else value for name, value in batch.items()
    }


def _rows_of(value: Tensor, indices: Tensor) -> Tensor:
    if value.dim() < 4 or value.is_contiguous():
        return value.index_select(0, indices)
    # Of images with the channels last torch would return rows with the channels first.
    order = [0, *sorted(range(1, value.dim()), key=value.stride, reverse=True)]
    taken = value.permute(order).index_select(0, indices)
    return taken.permute([order.index(dim) for dim in range(value.dim())])


def _has_rows(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0
