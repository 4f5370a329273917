"""What a pass without gradients leaves behind in a model (running statistics, counters, caches) is put back.

A snapshot of what the modules hold, and a way back to it, without a list of classes. Containers are compared by the
identity of what they hold; contents of tensors are written back without a look at them, so that no GPU is waited for.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import random
import sys
import types
import typing
from abc import ABC
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gsgd.sift.models.wrappers import any_fsdp, fsdp1_classes


@contextlib.contextmanager
def unchanged(model: nn.Module, *, unused: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Within the block the model may run without gradients; afterwards its state is what it was before.

    State is what its modules hold: buffers, modes, attributes, and which parameter, buffer or module has which name; in
    attributes also the contents of lists, dicts, sets, deques, bytearrays, tensors, NumPy arrays and random generators,
    and the attributes of objects of the user's own classes, however deep. What the block adds is removed. Of other
    objects (configs, tokenizers, whatever an installed package defines) only which one it is is put back. Hooks stay as
    the block leaves them; so do slots, iterators, class attributes, globals, and generators that all modules share.

    Autograd does not see that tensors are put back: a graph from before the block is spoilt only by what the model
    itself writes. Parameters are not copied, for their size, except where a `max_norm` rescales them (`nn.Embedding`).
    Parameters of a model that FSDP shards are left to it, and, of the older FSDP, all tensors but buffers.

    Args:
        unused: modules that the block does not run. Of what they hold only that is followed which others hold, too.

    Raises:
        ValueError: after the block, if it wrote to another parameter; everything else is put back.
    """
    snapshot = _Snapshot(model, unused)
    try:
        yield
    finally:
        snapshot.restore()
    if written := {id(one.tensor) for one in snapshot.parameters if one.was_written()}:
        names = [name for name, parameter in model.named_parameters() if id(parameter) in written]
        raise ValueError(
            f"the forward pass of {type(model).__name__} writes to its parameters ({', '.join(names) or 'unnamed'}), "
            "so scoring changes what is trained: make them buffers, or write to them after the optimizer's step"
        )


def uninitialised(model: nn.Module) -> list[str]:
    """Names of the parameters and buffers that get a shape at the model's first call, as those of `nn.LazyLinear`."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, tensor in named if is_lazy(tensor)]


class _Kind(NamedTuple):
    """How one kind of object is kept: its copy, whether it is still like the copy, and how it becomes so again."""

    copy: Callable[[Any], Any]
    same: Callable[[Any, Any], bool]
    write: Callable[[Any, Any], Any]


def _same_items(found: Any, kept: Any) -> bool:
    return len(found) == len(kept) and all(map(operator.is_, found, kept))


def _same_entries(found: dict[Any, Any], kept: dict[Any, Any]) -> bool:
    return _same_items(found, kept) and all(map(operator.is_, found.values(), kept.values()))


def _always_write(found: Any, kept: Any) -> bool:
    return False


def _refill(kind: Any, fill: Callable[[Any, Any], Any]) -> Callable[[Any, Any], None]:
    def write(found: Any, kept: Any) -> None:
        kind.clear(found)
        fill(found, kept)

    return write


# By methods of these classes themselves, since a user's subclass may override them.
_KINDS: dict[type, _Kind] = {
    OrderedDict: _Kind(lambda d: dict(OrderedDict.items(d)), _same_entries, _refill(OrderedDict, OrderedDict.update)),
    dict: _Kind(dict.copy, _same_entries, _refill(dict, dict.update)),
    list: _Kind(list.copy, _same_items, lambda found, kept: list.__setitem__(found, slice(None), kept)),
    set: _Kind(set.copy, operator.eq, _refill(set, set.update)),
    deque: _Kind(list, _same_items, _refill(deque, deque.extend)),
    bytearray: _Kind(bytes, operator.eq, lambda found, kept: bytearray.__setitem__(found, slice(None), kept)),
    np.ndarray: _Kind(
        np.ndarray.copy, _always_write, lambda found, kept: np.copyto(found, kept) if found.flags.writeable else None
    ),
    torch.Generator: _Kind(torch.Generator.get_state, _always_write, torch.Generator.set_state),
    random.Random: _Kind(random.Random.getstate, _always_write, random.Random.setstate),
    np.random.Generator: _Kind(
        lambda rng: rng.bit_generator.state, _always_write, lambda rng, kept: setattr(rng.bit_generator, "state", kept)
    ),
    np.random.RandomState: _Kind(np.random.RandomState.get_state, _always_write, np.random.RandomState.set_state),
}

_DICT = _KINDS[dict]

# What cannot change, or is not followed. It is most of what modules hold, so it is told from the rest first.
_ATOMS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, slice, range, type, torch.Size, torch.dtype, torch.device}
    | {types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType}
)
_TABLES = ("_modules", "_buffers", "_parameters", "_non_persistent_buffers_set")
_BASICS = frozenset({*_TABLES, *(name for name in vars(nn.Module()) if "_hooks" in name)})
_NEUTRAL_BASES = frozenset({object, ABC, typing.Generic, typing.Protocol, types.SimpleNamespace, tuple, defaultdict})
_FOREIGN = frozenset(sys.stdlib_module_names) | {"torch", "transformers", "gsgd"}


@functools.lru_cache(maxsize=4096)
def _kind(of: Any) -> _Kind | None:
    return next((_KINDS[base] for base in of.__mro__ if base in _KINDS), None)


@functools.lru_cache(maxsize=4096)
def _is_own(kind: type) -> bool:
    """Whether a class is the user's: neither it nor a base of it is of Python, torch or an installed package.

    Objects of packages may depend on what is not followed, and would break if only a part of it were put back.
    """
    for base in set(kind.__mro__) - _NEUTRAL_BASES - _KINDS.keys():
        path = getattr(sys.modules.get(base.__module__), "__file__", None) or ""
        if base.__module__.partition(".")[0] in _FOREIGN or "site-packages" in path or "dist-packages" in path:
            return False
    return True


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized


class _Memory:
    """A tensor, and its memory as a tensor with a version counter of its own, so that autograd sees no write to it."""

    __slots__ = ("memory", "plain", "tensor", "version")

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        # Sparse ones have their memory replaced rather than written to.
        self.memory = tensor.data if tensor.layout is torch.strided else tensor
        self.plain = _is_plain(tensor)
        self.version = None if tensor.is_inference() else tensor._version

    def was_written(self) -> bool:
        return self.version is not None and self.tensor._version != self.version

    def reattach(self) -> None:
        """Undo an assignment to the tensor's `data`, or a change of its shape."""
        if self.plain and not self.tensor.is_set_to(self.memory):
            self.tensor.data = self.memory


def _is_released(tensor: Tensor) -> bool:
    """Whether a wrapper has released the memory of a tensor that is still held."""
    return _is_plain(tensor) and tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0


def _unrepeated(tensor: Tensor) -> Tensor:
    """The tensor as before `expand`: one that repeats its memory cannot be written to."""
    for axis, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    """Copies of tensors of one type on one device, made at once if they are many."""
    if len(tensors) == 1:
        return [tensors[0].clone()]
    parts = torch.cat([tensor.reshape(-1) for tensor in tensors]).split([tensor.numel() for tensor in tensors])
    return [part if tensor.dim() == 1 else part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _held_by(thing: Any) -> list[Any]:
    found: list[Any] = []
    if isinstance(thing, dict):
        found.extend(dict.values(thing))
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        found.extend(thing)
    of: Any = type(thing)
    if isinstance(getattr(thing, "__dict__", None), dict) and _is_own(of):
        found.append(thing.__dict__)
    return [value for value in found if type(value) not in _ATOMS]


class _Snapshot:
    """What the modules of a model hold at the time when this is made."""

    def __init__(self, model: nn.Module, unused: Iterable[nn.Module]):
        self._unused = set(map(id, unused))
        self._modules: list[nn.Module] = []
        self._tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._parameter_tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._empty: list[Any] = []  # tables and sets; most modules have no parts, no buffers or no parameters
        self._containers: list[tuple[Any, Any, _Kind]] = []
        self._rescaled: set[int] = set()
        self._fsdp1 = fsdp1_classes()
        tensors = [tensor for tensor in self._follow(model) if not (tensor.is_meta or is_lazy(tensor))]
        weights = {id(one) for one in tensors if isinstance(one, nn.Parameter)} - self._rescaled
        memories = [_Memory(one) for one in tensors if id(one) in weights]
        self.parameters = [one for one in memories if one.plain]
        found = [one for one in tensors if id(one) not in weights and not _is_released(one)]
        if any_fsdp(self._modules):
            self.parameters, self._parameter_tables = [], []
            found = [one for one in found if not isinstance(one, nn.Parameter)]
            if any(isinstance(module, self._fsdp1) for module in self._modules):
                # Attributes are views of flat parameters there, whose memory comes and goes.
                buffers = set(map(id, model.buffers()))
                found = [one for one in found if id(one) in buffers]
        self._tensors = [_Memory(tensor) for tensor in found]
        groups: dict[Any, list[Tensor]] = defaultdict(list)
        for one in self._tensors:
            if one.plain:
                groups[one.memory.dtype, one.memory.device].append(_unrepeated(one.memory))
            else:
                groups[id(one)].append(one.memory)
        with self._writing():
            self._contents = [(memories, _copies(memories)) for memories in groups.values()]

    def restore(self) -> None:
        for empty in self._empty:
            if empty:
                empty.clear()
        for table, before in itertools.chain(self._tables, self._parameter_tables):
            if not _same_entries(table, before):
                # What says that hooks are installed stays as the hooks do: transformers would install them again.
                marks = {name: value for name, value in table.items() if str(name).endswith("_hooks_installed")}
                _DICT.write(table, {**before, **marks})
        for found, kept, kind in self._containers:
            if not kind.same(found, kept):
                kind.write(found, kept)
        with self._writing():
            for memories, copies in self._contents:
                if len(memories) > 1:
                    torch._foreach_copy_(memories, copies)
                else:  # of any class and layout
                    memories[0].copy_(copies[0])
        for one in self._tensors:
            one.reattach()
            if one.was_written():
                # Whoever saw the version that the model wrote must not take this one for it.
                torch.autograd.graph.increment_version(one.tensor)
        for one in self.parameters:
            one.reattach()

    def _writing(self) -> contextlib.AbstractContextManager[Any]:
        # Tensors made in inference mode can be written to in that mode only.
        return torch.inference_mode() if any(one.version is None for one in self._tensors) else torch.no_grad()

    def _follow(self, model: nn.Module) -> Iterator[Tensor]:
        """Keep every container and generator that can be reached; yield the tensors."""
        shared = (torch.default_generator, *torch.cuda.default_generators, random._inst, np.random.mtrand._rand)
        seen: dict[int, Any] = {id(generator): generator for generator in shared}
        ahead: list[Any] = [model]
        while ahead:
            thing = ahead.pop()
            if id(thing) in seen:
                continue
            seen[id(thing)] = thing  # alive, so that its id stays its own
            if isinstance(thing, Tensor):
                yield thing
            elif isinstance(thing, nn.Module):
                ahead.extend(self._attributes(thing))
            else:
                of: Any = type(thing)
                if (kind := _kind(of)) is not None:
                    self._containers.append((thing, kind.copy(thing), kind))
                ahead.extend(_held_by(thing))

    def _attributes(self, module: nn.Module) -> list[Any]:
        own = module.__dict__
        parts, buffers, parameters = own["_modules"], own["_buffers"], own["_parameters"]
        self._modules.append(module)
        if isinstance(module, self._fsdp1):  # sets itself up at its first call
            return [parts, buffers]
        if not type(parts) is type(buffers) is type(parameters) is dict:
            return [own]  # of TorchScript
        # As in `_follow`, without its detour: most things that modules hold are these.
        self._tables.append((own, own.copy()))
        for table in (parts, buffers):
            if table:
                self._tables.append((table, table.copy()))
            else:
                self._empty.append(table)
        if parameters:
            self._parameter_tables.append((parameters, parameters.copy()))
        else:
            self._empty.append(parameters)
        names = own["_non_persistent_buffers_set"]
        if names:
            self._containers.append((names, names.copy(), _KINDS[set]))
        else:
            self._empty.append(names)
        if own.get("max_norm") is not None:
            self._rescaled.update(map(id, parameters.values()))
        values = [value for name, value in own.items() if name not in _BASICS and type(value) not in _ATOMS]
        values += [part for part in parts.values() if id(part) not in self._unused] if parts else []
        return [*values, *buffers.values(), *parameters.values()]
