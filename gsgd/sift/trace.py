"""What a pass through a model computes from its batch, operation by operation, with where all arguments come from.

`gsgd.sift.reuse` compares two passes by it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from gsgd.sift.rows import ATTENTION, BATCHNORM, COSTLY, SOFTMAX, Kind, parameters, tensors_in

aten = torch.ops.aten

StorageReference = weakref.ref[torch.UntypedStorage]

_TRANSPARENT = frozenset({aten.detach, aten.alias, aten.lift_fresh})
"""Autograd inserts these where it saves an output; they are no step of the computation."""
_EMPTY = aten.empty.memory_format
"""BatchNorm makes one of no entries in every pass."""
_MADE_BY_SIZE = frozenset({aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full})
"""Of their first argument these take the type only."""


_NUMBERS = frozenset({int, float, bool, type(None)})
_OF_BATCH = ("input", "step")
_PLAIN = frozenset({Tensor, nn.Parameter, nn.Buffer})


class Source(tuple):
    """Where a tensor comes from.

    ("input", name), ("step", n, output), ("constant", function, arguments, output) for what no input is part of, and
    ("given", address, shape, strides, version) for weights, buffers and all that was there before. Of a single number
    among the latter its value counts.
    """

    __slots__ = ()

    @property
    def of_batch(self) -> bool:
        return self[0] in _OF_BATCH


@dataclass
class Call:
    """One operation on data that depend on the batch, or on chance.

    Attributes:
        function: the operation.
        facts: see there.
        named, arguments: its arguments by name; and with tensors as their sources.
        sources: these, by the tensors' `id`.
        written: the tensors that it changes in place.
        random: whether it draws.
    """

    function: Any
    facts: Facts
    named: dict[str, Any]
    arguments: dict[str, Any]
    sources: dict[int, Source]
    written: list[Tensor]
    random: bool


@dataclass(slots=True)
class Step:
    """One operation on data that depend on the batch, or on chance.

    Attributes:
        function, arguments: the operation; its arguments by name, with tensors as their sources.
        kinds: of its outputs, see `gsgd.sift.rows`.
        outputs: kept ones, or None where it is computed again.
        versions: of the kept outputs; a later in-place operation would show in them.
        absorbed: an in-place operation whose effect the kept output of the random step before it already has.
        scalar: what it returned, if that was a Python number: the model may branch on it.
        spared: nothing but a kept operation reads what it returned, so that its values need not be there.
        like_first: whether it returned a tensor of its first argument's shape and type.
        shape: of its first output.
        prefix: tells the sequence of operations up to this one.
    """

    function: Any
    arguments: dict[str, Any]
    kinds: list[Kind]
    outputs: tuple[Any, ...] | None = None
    versions: tuple[int, ...] = ()
    absorbed: bool = False
    scalar: Any = None
    spared: bool = False
    like_first: bool = False
    shape: tuple[int, ...] = ()
    prefix: int = 0


@dataclass
class Segment:
    """Operations on tensors with `rows` rows."""

    rows: int
    steps: list[Step] = field(default_factory=list)


class Trace(TorchDispatchMode):
    """Follows a pass; knows of every tensor where it came from.

    Args:
        inputs: the arguments of the model, by name; tensors with rows among them are what the batch is.
    """

    def __init__(self, inputs: Mapping[str, Any]):
        super().__init__()
        # By place in memory; the entry of a tensor that is gone has expired, whatever is at its address now.
        self.sources: dict[tuple, tuple[StorageReference, Source]] = {}
        self.written: dict[int, tuple[StorageReference, Source]] = {}
        # What was given, and a copy. An address tells a tensor only as long as that is there: while a recording lasts.
        self.held: dict[Source, tuple[Tensor, Tensor | None]] = {}
        for name, value in inputs.items():
            if isinstance(value, Tensor) and value.dim() > 0:
                self.remember(value, Source(("input", name)))
        self.active = False
        self.paused = False
        self.watches_norms = False
        self.count = 0
        self.prefix = 0

    def enter(self) -> None:
        if not self.active:
            self.__enter__()
            self.active = True

    def leave(self) -> None:
        """No more to see: a mode that is on costs time at every operation, and keeps torch.compile from its work."""
        self.paused = True
        if self.active and _get_current_dispatch_mode() is self:
            self.__exit__(None, None, None)
            self.active = False

    def remember(self, value: Tensor, source: Source) -> None:
        self.sources[_key(value)] = (storage_of(value), source)

    def source(self, value: Any, seen: dict[int, Source] | None = None) -> Any:
        """The source of a tensor, or of those in a list; what is no tensor stands for itself.

        Args:
            seen: takes the sources of the tensors, by `id`.
        """
        if not isinstance(value, Tensor):
            return tuple([self.source(entry, seen) for entry in value]) if isinstance(value, (list, tuple)) else value
        found = self._source(value)
        if seen is not None:
            seen[id(value)] = found
        return found

    def _source(self, value: Tensor) -> Source:
        known = alive(self.sources, _key(value))
        if known is not None and known[0] in _OF_BATCH:
            return known
        if known is None and value.dim() == 0 and value.device.type == "cpu":
            # A Python number, as a rule, which gets a tensor of its own in every pass.
            known = Source(("given", value.dtype, repr(value.item())))
        elif known is None:
            version = None if value.is_inference() else value._version
            known = Source(("given", value.data_ptr(), tuple(value.shape), value.stride(), version))
            if known not in self.held:
                self.held[known] = value, self.copy_of(value)
        written = alive(self.written, address(value)) if self.written else None
        if written is None or written is known:
            return known
        # A part of it, or all of it in another shape, has been written to.
        return Source(("step", written[1], "memory") if written.of_batch else ("constant", "memory", (known, written)))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = function(*args, **kwargs) if self.paused else self.follow(function, types, args, kwargs)
        if self.watches_norms and facts_of(function).batchnorm:
            self.normalised(function, args, kwargs, output)
        return output

    def follow(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Carry out one operation, and learn where its results come from."""
        for kind in types:
            if kind not in _PLAIN:
                reason = f"{kind.__name__} is a tensor with operations of its own"
                return self.end(reason, function(*args, **kwargs))
        facts = facts_of(function)
        if facts.transparent or (function is _EMPTY and args[0] == [0]):
            # What is returned lies where its argument does, and is known by that; or it has no entries.
            return function(*args, **kwargs)
        if facts.restrides and _same_entries(args, kwargs):
            before = self.source(args[0])
            output = function(*args, **kwargs)
            self.remember(output, before)
            return output
        named = dict(facts.defaults)
        named.update(zip(facts.names, args, strict=False))
        named.update(kwargs)
        arguments = dict(named)
        sources: dict[int, Source] = {}
        for name in (*facts.names[: len(args)], *kwargs):
            value = named[name]
            if value.__class__ not in _NUMBERS:
                arguments[name] = self.source(value, sources)
        if facts.made_by_size:
            arguments["self"] = (named["self"].dtype, named["self"].device)
            del sources[id(named["self"])]
        written = list(tensors_in([named[name] for name in facts.writes])) if facts.writes else []
        if facts.random or any(source.of_batch for source in sources.values()):
            self.prefix = hash((self.prefix, facts.number))
            output = self.step(Call(function, facts, named, arguments, sources, written, facts.random), args, kwargs)
            source: tuple = ("step", self.count)
            self.count += 1
        else:
            output = function(*args, **kwargs)
            if written and all(self.source(target)[0] == "given" for target in written):
                return output  # a buffer that is written to stays what it is: given
            source = ("constant", function, arguments)
        for number, made in enumerate(as_tuple(output)):
            if isinstance(made, Tensor) and made.layout is torch.strided:
                self.remember(made, Source((*source, number)))
        for target in written:
            now = alive(self.sources, _key(target)) or Source((*source, "memory"))
            self.written[address(target)] = (storage_of(target), now)
        return output

    def copy_of(self, value: Tensor) -> Tensor | None:
        """What is to be held of a given tensor, beside itself."""
        return None

    def normalised(self, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        """A BatchNorm has returned; called if `watches_norms`, while paused, too."""

    def step(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Carry out one operation on batch data."""
        raise NotImplementedError

    def end(self, reason: str, output: Any) -> Any:
        """Share nothing from this operation on, of which this is the output."""
        raise NotImplementedError

    def new_segment(self, chosen: Tensor, indices: Tensor | None) -> None:
        """Go on, with `chosen` as input."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Facts:
    """What is always so of an operation; looked up once, because hashing one takes as long as the rest.

    Attributes:
        number: tells it from others in this process.
        names, defaults: of its parameters.
        writes: names of the parameters that it changes.
        random: whether it draws; fused attention does only if its arguments say so, which is not looked at here.
        batchnorm, attention, softmax, costly: see `gsgd.sift.rows`.
        transparent, made_by_size: see _TRANSPARENT and _MADE_BY_SIZE.
        reshapes: whether it changes the shape or the strides of its first argument itself.
        restrides: whether it may do so without any entry changing its place.
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


def facts_of(function: Any) -> Facts:
    """What is always so of it."""
    known = _FACTS.get(id(function))
    if known is None:
        known = _FACTS[id(function)] = _facts(function)
    return known


_FACTS: dict[int, Facts] = {}
"""By `id`, since torch keeps its operations for good."""


def _facts(function: Any) -> Facts:
    packet = function.overloadpacket
    return Facts(
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
    )


def _same_entries(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether as_strided_ gives a tensor other strides only where they do not count, along dimensions of size 1.

    That is how means over images with the channels last come to their layout.
    """
    if len(args) != 3 or kwargs:
        return False
    value, size, strides = args
    return tuple(size) == tuple(value.shape) and all(
        length == 1 or one == two for length, one, two in zip(size, value.stride(), strides, strict=True)
    )


def storage_of(value: Tensor) -> StorageReference:
    """A weak reference to a tensor's memory, which lives as long as any tensor on it."""
    return weakref.ref(value.untyped_storage())


def alive(entries: Mapping[Any, tuple[StorageReference, Any]], key: Any) -> Any:
    """An entry of a tensor that still exists; else None."""
    reference, found = entries.get(key, (None, None))
    return None if reference is None or reference() is None else found


def _key(value: Tensor) -> tuple:
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def as_tuple(output: Any) -> tuple[Any, ...]:
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def of_batch(sources: Sequence[Any]) -> bool:
    return any(
        entry.of_batch if isinstance(entry, Source) else isinstance(entry, tuple) and of_batch(entry)
        for entry in sources
    )
