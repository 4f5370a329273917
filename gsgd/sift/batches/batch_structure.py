"""What batches are made of: containers and what they hold, its lengths, and the same containers with rows taken."""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Iterable, Mapping, MutableMapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


class Indices:
    """Indices into `size` rows, brought once to each device, and to Python only if something there has rows."""

    def __init__(self, indices: Tensor | range, size: int) -> None:
        self.size = size
        self._first = indices
        self._on: dict[torch.device, Tensor] = {} if isinstance(indices, range) else {indices.device: indices}

    @property
    def run(self) -> range | None:
        """The same where it is known to be a run of neighbours."""
        return self._first if isinstance(self._first, range) else None

    def on(self, device: torch.device) -> Tensor:
        if device not in self._on:
            first = self._first
            if isinstance(first, range):
                self._on[device] = torch.arange(first.start, first.stop, device=device)
            else:
                self._on[device] = first.to(device)
        return self._on[device]

    @cached_property
    def numbers(self) -> list[int]:
        return list(self._first) if isinstance(self._first, range) else self._first.tolist()

    def owned(self, owners: Tensor) -> Indices:
        """Indices of the images that the rows own, row by row."""
        return Indices(torch.cat([torch.nonzero(owners == row).flatten() for row in self.numbers]), len(owners))


def device_of(batch: Any) -> torch.device:
    """Where the batch lies: the device of its first tensor."""
    values: Iterable[Any] = batch.values() if isinstance(batch, Mapping) else batch
    for value in values if isinstance(values, Iterable) and not isinstance(values, str) else ():
        if isinstance(value, Tensor):
            return value.device
        if isinstance(value, (Mapping, list, tuple)):
            found = device_of(value)
            if found.type != "cpu":
                return found
    return torch.device("cpu")


def members_of(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """The named members of a container, or None for what is none."""
    if value is None or isinstance(value, (Tensor, str, np.ndarray)):
        return None  # the usual case, told apart quickly
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, tuple):
        names = None if isinstance(value, PackedSequence) else getattr(value, "_fields", None)
        return None if names is None else list(zip(names, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def lengths_of(value: Any, key: str) -> tuple[int, ...]:
    """What may be the number of rows of what is no container: of a list its own length, then that of its columns."""
    if isinstance(value, PackedSequence):
        return (int(value.batch_sizes[0]),)
    if isinstance(value, (Tensor, np.ndarray)):
        if value.ndim == 0 or (value.ndim == 1 and key in ("position_ids", "decoder_position_ids")):
            return ()
        if rows_are_second(value, key):
            return (value.shape[1],)
        return (value.size(0) if isinstance(value, Tensor) else len(value),)
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        columns = column_length(value)
        return (len(value),) if columns is None else (len(value), columns)
    return ()


def rows_are_second(value: Any, key: str) -> bool:
    """Whether the rows are the second axis: of positions (3, B, T) or (4, B, T), in time, height and width."""
    return key == "position_ids" and value.ndim == 3 and value.shape[0] in (3, 4)


def column_length(items: Iterable[Any], *, named: bool = False) -> int | None:
    """The common length of all tensors in `items`, or None where there is none, or a list has other things, too."""
    lengths: set[int] = set()
    for item in items:
        members = members_of(item)
        if members is not None:
            length = column_length([member for _, member in members], named=True)
        else:
            own = lengths_of(item, "")
            is_list = isinstance(item, (list, tuple)) and not isinstance(item, PackedSequence)
            length = own[-1] if len(own) > is_list else None
        if length is not None:
            lengths.add(length)
        elif item is not None and not named:
            return None
        if len(lengths) > 1:
            return None
    return lengths.pop() if lengths else None


def rebuilt(value: Any, name: str, cuts: Mapping[str, int | Tensor], containers: set[str], rows: Indices) -> Any:
    """`value` with its cut members taken; where nothing in it is cut, the same object."""
    if name in cuts:
        cut = cuts[name]
        if isinstance(cut, int):
            return _taken(value, rows, cut)
        rows = rows.owned(cut)
        # Models take None where no row has an image; none of them takes no images.
        return _taken(value, rows, 0) if rows.numbers else None
    if name not in containers:
        return value
    prefix = f"{name}." if name else ""
    members = members_of(value)
    pairs = list(enumerate(value) if members is None else members)
    new = {key: rebuilt(member, f"{prefix}{key}", cuts, containers, rows) for key, member in pairs}
    if members is None:
        return type(value)(new.values())
    if type(value) is dict:
        return new
    if isinstance(value, tuple):
        return value._replace(**new)  # type: ignore[attr-defined]
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        return new
    result = copy.copy(value)
    for key, member in pairs:
        if new[key] is member:
            continue
        if isinstance(value, Mapping):
            result[key] = new[key]
        else:
            object.__setattr__(result, key, new[key])  # of frozen ones, too
    encodings = getattr(result, "_encodings", None)  # a tokenizer's, one per row
    if isinstance(result, UserDict) and isinstance(encodings, list) and len(encodings) == rows.size:
        vars(result)["_encodings"] = [encodings[row] for row in rows.numbers]
    return result


def _taken(value: Any, rows: Indices, axis: int) -> Any:
    if isinstance(value, Tensor):
        if rows.run is not None and not value.is_nested:
            return value.narrow(axis, rows.run.start, len(rows.run))
        return _rows_of(value, rows.on(value.device), axis)
    if isinstance(value, np.ndarray):
        return value.take(rows.numbers, axis)
    if isinstance(value, PackedSequence):
        padded, lengths = pad_packed_sequence(value, batch_first=True)
        lengths = lengths[rows.on(lengths.device)]
        # Sorted rows stay sorted only if they are taken in their order.
        ordered = value.sorted_indices is None and bool((lengths[1:] <= lengths[:-1]).all())
        taken = padded.index_select(0, rows.on(padded.device))
        return pack_padded_sequence(taken, lengths, batch_first=True, enforce_sorted=ordered)
    return type(value)([value[row] for row in rows.numbers])


def _rows_of(value: Tensor, indices: Tensor, axis: int) -> Tensor:
    if value.is_nested:
        parts = value.unbind()
        return torch.nested.as_nested_tensor([parts[row] for row in indices.tolist()], layout=value.layout)
    if axis or value.dim() < 4 or value.is_contiguous():
        return value.index_select(axis, indices)
    # Of images with the channels last torch would return rows with the channels first.
    order = [0, *sorted(range(1, value.dim()), key=value.stride, reverse=True)]
    taken = value.permute(order).index_select(0, indices)
    return taken.permute([order.index(dim) for dim in range(value.dim())])


def same_tensors(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two batches hold the very same tensors."""
    return one.keys() == other.keys() and all(other[name] is value for name, value in one.items())
