"""What a pass through a model computes from its batch, operation by operation, with where all arguments come from.

`gsgd.sift.shared_forward.recording` compares two passes by it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from gsgd.sift.shared_forward.operation_cache import MOST, CachedOperation
from gsgd.sift.shared_forward.operator_properties import OperatorProperties, properties_of
from gsgd.sift.shared_forward.row_structure import Kind

aten = torch.ops.aten

StorageReference = weakref.ref[torch.UntypedStorage]

_EMPTY = aten.empty.memory_format
"""BatchNorm makes one of no entries in every pass."""
_STATISTICS = (3, 4)
"""Where BatchNorm is given what it normalises by."""
_NUMBERS = frozenset({int, float, bool, type(None)})
_OF_BATCH = ("input", "step")
_PLAIN = frozenset({Tensor, nn.Parameter, nn.Buffer})


class Source(tuple):
    """Where a tensor comes from.

    ("input", name), ("step", n, output), ("constant", function, arguments, output) for what no input is part of, and
    ("given", place in memory, n) for weights, buffers and all that was there before, as it was after it had been seen
    to change n times. Of a single number among the latter its value counts.
    """

    __slots__ = ()

    @property
    def of_batch(self) -> bool:
        return self[0] in _OF_BATCH


@dataclass(slots=True, eq=False)
class Call:
    """One operation on data that depend on the batch, or on chance.

    Attributes:
        function: the operation.
        facts: see there.
        args, kwargs: it was called with.
        arguments: by name, with tensors as their sources.
        sources: these, by the tensors' `id`; those of a call that is recalled, by what their `id` was.
        written: the tensors that it changes in place.
        known: the like call that is recalled, if any.
        finding: what the pass made of it; None if that is not to be recalled.
        by_name: see `named`.
    """

    function: Any
    facts: OperatorProperties
    args: Any
    kwargs: Any
    arguments: dict[str, Any]
    sources: dict[int, Source]
    written: list[Tensor]
    known: CachedOperation | None = None
    finding: Any = None
    by_name: dict[str, Any] | None = None

    @property
    def named(self) -> dict[str, Any]:
        """All arguments by name, defaults included."""
        if self.by_name is None:
            self.by_name = self.facts.named(self.args, self.kwargs)
        return self.by_name

    @property
    def random(self) -> bool:
        return self.facts.random


@dataclass(slots=True)
class Step:
    """One operation on data that depend on the batch, or on chance.

    Attributes:
        function, arguments: the operation; its arguments by name, with tensors as their sources.
        kinds: of its outputs, see `gsgd.sift.shared_forward.row_structure`.
        outputs: kept ones, or None where it is computed again.
        versions: of the kept outputs; a later in-place operation would show in them.
        absorbed: an in-place operation whose effect the kept output of the random step before it already has.
        scalar: what it returned, if that was a Python number: the model may branch on it.
        spared: nothing but a kept operation reads what it returned, so that its values need not be there.
        like_first: whether it returned a tensor of its first argument's shape and type.
        shape: of its first output.
        prefix: tells the sequence of operations up to this one.
        known: the like call that was recalled, if any.
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
    known: CachedOperation | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A given tensor, its version when it was seen, and a copy of what it was, of those that may be written to."""

    value: Tensor
    version: int | None
    copy: Tensor | None


@dataclass
class Segment:
    """Operations on tensors with `rows` rows."""

    rows: int
    steps: list[Step] = field(default_factory=list)


@dataclass
class Findings:
    """What replays found out about operations, each told by the sequence of operations up to it."""

    checked: set[int] = field(default_factory=set)
    mixing: set[int] = field(default_factory=set)
    by_position: set[int] = field(default_factory=set)
    """Products that scoring needs at labelled positions only, see `labelled_positions`; found in a full pass."""
    positions_meet: bool = False
    """Whether a score turned out to depend on a position without a label."""
    known: dict[int, CachedOperation] = field(default_factory=dict)
    """Calls of both passes, as they were the last time."""


class OperationTracker(TorchDispatchMode):
    """Follows a pass; knows of every tensor where it came from.

    Args:
        inputs: the arguments of the model, by name; tensors with rows among them are what the batch is.
        known: calls of earlier passes, by the sequences of operations up to them; takes those of this one.
        sizes: numbers of rows that findings rest on.
    """

    def __init__(self, inputs: Mapping[str, Any], known: dict[int, CachedOperation], sizes: tuple[int, ...]):
        super().__init__()
        # By place in memory; the entry of a tensor that is gone has expired, whatever is at its address now.
        self.sources: dict[tuple, tuple[StorageReference, Source]] = {}
        self.written: dict[int, tuple[StorageReference, Source]] = {}
        # What was given. An address tells a tensor only as long as that is there: while a recording lasts.
        self.given: dict[tuple, tuple[int | None, Source]] = {}
        self.held: dict[Source, Held] = {}
        self.known = known
        self.sizes = sizes
        tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        for name, value in tensors.items():
            if value.dim() > 0:
                self.remember(value, Source(("input", name)))
        self.place = hash(
            (type(self), *((name, each.shape, each.dtype, each.device) for name, each in tensors.items()))
        )
        self.active = False
        self.paused = False
        self.watches_norms = False
        self.count = 0
        self.prefix = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch wraps every operation in a guard against compiling what is done here, as nothing asks for.
        return False

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
        key = _key(value)
        entry = self.sources.get(key)
        known = None if entry is None or entry[0]() is None else entry[1]
        if known is None:
            known = self._given(value, key)
        elif known[0] in _OF_BATCH:
            return known
        written = alive(self.written, address(value)) if self.written else None
        if written is None or written is known:
            return known
        # A part of it, or all of it in another shape, has been written to.
        return Source(("step", written[1], "memory") if written.of_batch else ("constant", "memory", (known, written)))

    def _given(self, value: Tensor, key: tuple) -> Source:
        entry = self.given.get(key)
        version = None if value.is_inference() else value._version
        if entry is not None and entry[0] == version:
            return entry[1]
        if value.dim() == 0 and value.device.type == "cpu":
            # A Python number, as a rule, which gets a tensor of its own in every pass.
            return Source(("given", value.dtype, repr(value.item())))
        seen = 0 if entry is None else entry[1][2] + 1
        source = self.hold(value, version, Source(("given", key, seen)))
        self.given[key] = version, source
        return source

    def hold(self, value: Tensor, version: int | None, source: Source) -> Source:
        """A given tensor is seen for the first time, or has changed; returns what it is called."""
        self.held[source] = Held(value, version, None)
        return source

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = function(*args, **kwargs) if self.paused else self.follow(function, types, args, kwargs)
        if self.watches_norms and properties_of(function).batchnorm:
            self.normalised(properties_of(function).named(args, kwargs), output)
        return output

    def follow(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Carry out one operation, and learn where its results come from."""
        for kind in types:
            if kind not in _PLAIN:
                reason = f"{kind.__name__} is a tensor with operations of its own"
                return self.end(reason, function(*args, **kwargs))
        facts = properties_of(function)
        if facts.transparent or (function is _EMPTY and args[0] == [0]):
            # What is returned lies where its argument does, and is known by that; or it has no entries.
            return function(*args, **kwargs)
        if facts.restrides and _same_entries(args, kwargs):
            before = self.source(args[0])
            output = function(*args, **kwargs)
            self.remember(output, before)
            return output
        self.place = hash((self.place, facts.number))
        known = self.recall(function, args, kwargs)
        if known is None:
            arguments, sources = self.look(facts, args, kwargs)
            of_batch = facts.random or any(source.of_batch for source in sources.values())
        else:
            arguments, sources, of_batch = known.arguments, known.sources, known.number is not None
        written = facts.targets(args, kwargs) if facts.writes else []
        call = Call(function, facts, args, kwargs, arguments, sources, written, known)
        number = None
        if of_batch:
            self.prefix = hash((self.prefix, facts.number))
            call.finding = None if known is None else known.finding
            output = self.step(call)
            number = self.count
            source: tuple = ("step", number)
            self.count += 1
        else:
            output = function(*args, **kwargs)
            if written and all(self.source(target)[0] == "given" for target in written):
                return output  # a buffer that is written to stays what it is: given
            source = ("constant", function, arguments)
        outputs = as_tuple(output)
        if known is None or len(known.made) != len(outputs):
            made = tuple([Source((*source, place)) for place in range(len(outputs))])
        else:
            made, known.finding = known.made, call.finding
        for one, its_source in zip(outputs, made, strict=True):
            if isinstance(one, Tensor) and one.layout is torch.strided:
                self.remember(one, its_source)
        for target in written:
            now = alive(self.sources, _key(target)) or Source((*source, "memory"))
            self.written[address(target)] = (storage_of(target), now)
        if known is None and facts.lasting and not self.paused:
            remembered = call.finding is not None if of_batch else not written
            if remembered:
                self.know(call, number, made)
        return output

    def recall(self, function: Any, args: Any, kwargs: Any) -> CachedOperation | None:
        """The call at this place of an earlier pass, if nothing that its findings rest on is different."""
        known = self.known.get(self.place)
        if known is None or known.function is not function or known.sizes != self.sizes:
            return None
        if (known.number is not None and known.number != self.count) or not known.has(args, kwargs):
            return None
        for position, source, kind, shape in known.tensors:
            value = args[position]
            if not isinstance(value, Tensor) or value.shape != shape:
                return None
            if source is None:
                if alive(self.sources, _key(value)) is not None:
                    return None
                continue
            mine = self._source(value)
            if (mine is not source and mine != source) or self.kind_of(mine) is not kind:
                return None
        return known

    def know(self, call: Call, number: int | None, made: tuple[Source, ...]) -> None:
        """Remember a call and what was found of it; `number` is None on constants, `made` are its outputs' sources."""
        if any(isinstance(value, Tensor) for value in call.kwargs.values()):
            return
        values = [(place, value) for place, value in enumerate(call.args) if not isinstance(value, Tensor)]
        tensors = []
        for place, value in enumerate(call.args):
            if isinstance(value, Tensor):
                source: Source | None = call.sources[id(value)]
                kind = self.kind_of(call.sources[id(value)])
                if call.facts.batchnorm and place in _STATISTICS and call.sources[id(value)][0] == "given":
                    source = None  # another tensor in every training pass
                tensors.append((place, source, kind, value.shape))
        if len(self.known) >= MOST:
            self.known.clear()
        self.known[self.place] = CachedOperation(
            function=call.function,
            number=number,
            sizes=self.sizes,
            count=len(call.args),
            values=tuple(values),
            options=dict(call.kwargs),
            tensors=tuple(tensors),
            arguments=call.arguments,
            sources=call.sources,
            made=made,
            finding=call.finding,
        )

    def look(self, facts: OperatorProperties, args: Any, kwargs: Any) -> tuple[dict[str, Any], dict[int, Source]]:
        """A call's arguments by name, with tensors as their sources; and these, by the tensors' `id`."""
        named = facts.named(args, kwargs)
        arguments = dict(named)
        sources: dict[int, Source] = {}
        for name in (*facts.names[: len(args)], *kwargs):
            value = named[name]
            if value.__class__ not in _NUMBERS:
                arguments[name] = self.source(value, sources)
        if facts.made_by_size:
            arguments["self"] = (named["self"].dtype, named["self"].device)
            del sources[id(named["self"])]
        return arguments, sources

    def kind_of(self, source: Source) -> Kind:
        """Of what comes from `source`, if the pass tells kinds."""
        return None

    def normalised(self, named: Mapping[str, Any], output: Any) -> None:
        """A BatchNorm has returned; called if `watches_norms`, while paused, too."""

    def step(self, call: Call) -> Any:
        """Carry out one operation on batch data, and set `call.finding` to what may be remembered of it."""
        raise NotImplementedError

    def end(self, reason: str, output: Any) -> Any:
        """Share nothing from this operation on, of which this is the output."""
        raise NotImplementedError

    def new_segment(self, chosen: Tensor, indices: Tensor | None) -> None:
        """Go on, with `chosen` as input."""
        raise NotImplementedError


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
