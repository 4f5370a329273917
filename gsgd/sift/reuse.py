"""One forward pass for scoring and training: the kept rows take what the gross batch has already computed.

    recording = Recording(rows=16)
    with recording.record(gross):              # scoring, without gradients
        ...
    with recording.replay(kept, indices):      # training on the kept rows, under autograd
        loss = model(**kept).loss

While the gross batch is scored, the outputs of costly operations (matrix products, convolutions, ...) and of random
ones (dropout masks) are kept. When the kept rows then run through the same layers, each of these operations hands out
its recorded rows instead of computing them. This happens below autograd, which notices nothing: it records the
operation, saves the kept rows' inputs, and its backward pass is the ordinary one of the kept rows. Loss and gradients
are those of two passes with the same dropout masks, and the layers up to the exit cost the gross batch's forward pass
only.

What makes it safe:

- Every operation on data that depend on the batch is numbered, with where its arguments come from. Replaying compares
  operation by operation: another function, argument, weight or data flow ends the sharing there, and the pass goes on
  by computing. So a model whose control flow differs between the two passes is no danger.
- The first replay of a model computes every shared operation as well and holds it against its rows. An operation that
  mixes rows, or has them elsewhere than along the first dimension, shows there; sharing then ends before it for good.
- Random operations whose draws cannot be cut into rows (attention with dropout inside a fused kernel) end it, too.

Memory: the sum of the recorded outputs' sizes for the gross batch, until the training pass has used them, and again
`keep` times that for the rows handed out, which autograd would have saved for the most part anyway.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gsgd.sift.batchnorm import Statistics

logger = logging.getLogger(__name__)
aten = torch.ops.aten

COSTLY = frozenset(
    {
        aten.addmm,
        aten.mm,
        aten.bmm,
        aten.baddbmm,
        aten.convolution,
        aten._safe_softmax,
        aten._softmax,
        aten.native_layer_norm,
        aten.gelu,
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_cudnn_attention,
        aten._scaled_dot_product_fused_attention_overrideable,
    }
)
"""Operations whose outputs are kept: computing them costs more than copying their rows."""
_FUSED_ATTENTION = frozenset(packet for packet in COSTLY if "attention" in str(packet))
_TRANSPARENT = frozenset({aten.detach, aten.alias, aten.lift_fresh})
"""Autograd inserts these where it saves an output; they are no step of the computation."""
_BATCHNORM = frozenset({aten.native_batch_norm, aten._native_batch_norm_legit, aten.cudnn_batch_norm})
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Of the first replay's comparison, relative to the largest entry: rounding passes, other rows do not."""


@dataclass
class Step:
    """One operation on data that depend on the batch.

    Attributes:
        function, arguments: the operation; tensors stand as where they come from, see `_Trace.source`.
        outputs: kept ones, or None where it is computed again.
        versions: of the kept outputs; a later in-place operation would show in them.
        random: whether it draws.
        absorbed: an in-place operation whose effect the kept output of the random step before it already has.
        scalar: what it returned, if that was a Python number: the model may branch on it.
    """

    function: Any
    arguments: Any
    outputs: tuple[Any, ...] | None = None
    versions: tuple[int, ...] = ()
    random: bool = False
    absorbed: bool = False
    scalar: Any = None


@dataclass
class Segment:
    """Operations whose tensors have `rows` rows, or a multiple, along their first dimension."""

    rows: int
    steps: list[Step] = field(default_factory=list)


class Recording:
    """What one scoring pass leaves for the training pass on some of its rows.

    A pass has one segment up to the exit; where the exit is the last layer, the head on labelled positions is a second
    one, whose rows are positions.

    Args:
        trust: what earlier replays found out about models of this kind; shared by all recordings of an engine.
        share: whether to keep outputs; without, only the statistics of BatchNorm are taken.
        gross_statistics: take BatchNorm's statistics from the gross batch; else sharing ends at the first BatchNorm
            that normalises by its batch.
        head: whether the head on labelled positions is shared, too.
    """

    def __init__(
        self, trust: dict[int, int], *, share: bool = True, gross_statistics: bool = False, head: bool = False
    ):
        self.trust = trust
        self.share = share
        self.head = head
        self.gross_statistics = gross_statistics
        self.segments: list[Segment] = []
        self.statistics: deque[Statistics] = deque()
        self.stopped: str | None = None
        self._mode: _Trace | None = None

    @contextlib.contextmanager
    def record(self, inputs: Mapping[str, Any], rows: int, layer: nn.Module | None = None) -> Iterator[None]:
        """While the gross batch runs without gradients.

        Args:
            inputs: the arguments of the model, by name.
            rows: of the gross batch.
            layer: the last one to share; None for all that runs.
        """
        with self._running(_Record(self, inputs, rows), layer):
            yield
        limit = self.trust.get(self._kind())
        if limit is not None:
            for step in [step for segment in self.segments for step in segment.steps][limit:]:
                step.outputs = None

    @contextlib.contextmanager
    def replay(self, inputs: Mapping[str, Any], indices: Tensor, layer: nn.Module | None = None) -> Iterator[None]:
        """While the rows `indices` of the gross batch run under autograd; the recording is used up.

        Args:
            inputs: the arguments of the model, by name; the kept rows of what was recorded.
            indices: (k,), rows of the gross batch.
            layer: as in `record`.
        """
        mode = _Replay(self, inputs, indices)
        try:
            with self._running(mode, layer):
                yield
            mode.finish()
        finally:
            self.segments = []
            self.statistics.clear()

    def at_positions(self, chosen: Tensor, indices: Tensor | None) -> None:
        """The head begins: from here on rows are labelled positions.

        Args:
            chosen: (1, N, H), the hidden states that the head sees.
            indices: which of the recorded positions these are; None while recording.
        """
        if self._mode is not None:
            self._mode.new_segment(chosen, indices)

    @property
    def nbytes(self) -> int:
        """Bytes of the recorded outputs."""
        kept = [output for segment in self.segments for step in segment.steps for output in step.outputs or ()]
        return sum(output.untyped_storage().nbytes() for output in kept if isinstance(output, Tensor))

    def _kind(self) -> int:
        """The same for all passes of one model through the same operations, whatever their sizes."""
        return hash(tuple(step.function for segment in self.segments for step in segment.steps))

    @contextlib.contextmanager
    def _running(self, mode: _Trace, layer: nn.Module | None) -> Iterator[None]:
        def pause(*_: Any) -> None:
            mode.paused = True

        self._mode = mode
        hook = None if layer is None else layer.register_forward_hook(pause)
        try:
            with mode:
                yield
        finally:
            self._mode = None
            if hook is not None:
                hook.remove()


class _Trace(TorchDispatchMode):
    """Knows of every tensor where it came from: an input, a weight, or the n-th operation on batch data."""

    def __init__(self, inputs: Mapping[str, Any]):
        super().__init__()
        # Keys hold addresses. Whatever gets the address of a tensor that is gone gets its own entry when it is made.
        self.sources: dict[tuple, tuple] = {
            _key(value): ("input", name) for name, value in inputs.items() if isinstance(value, Tensor)
        }
        self.paused = False
        self.count = 0

    def source(self, value: Any) -> Any:
        """Where an argument comes from; what is no tensor stands for itself.

        ("input", name), ("step", n, output), ("constant", function, arguments, output) for what no input is part of,
        and ("given", address, shape) for weights, buffers and all that was there before.
        """
        if isinstance(value, Tensor):
            return self.sources.get(_key(value)) or ("given", value.data_ptr(), tuple(value.shape))
        if isinstance(value, (list, tuple)):
            return tuple(self.source(entry) for entry in value)
        return value

    def learn(self, outputs: Any, *source: Any) -> None:
        for number, output in enumerate(outputs if isinstance(outputs, (tuple, list)) else (outputs,)):
            if isinstance(output, Tensor):
                self.sources[_key(output)] = (*source, number)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return function(*args, **kwargs)
        if function.overloadpacket in _TRANSPARENT:
            output = function(*args, **kwargs)
            self.sources[_key(output)] = self.source(args[0])
            return output
        arguments = (self.source(args), tuple((name, self.source(kwargs[name])) for name in sorted(kwargs)))
        if not _of_batch(arguments):
            output = function(*args, **kwargs)
            self.learn(output, "constant", function, arguments)
            return output
        output = self.step(function, arguments, args, kwargs)
        self.learn(output, "step", self.count)
        self.count += 1
        return output

    def step(self, function: Any, arguments: Any, args: Any, kwargs: Any) -> Any:
        """Carry out one operation on batch data."""
        raise NotImplementedError

    def new_segment(self, chosen: Tensor, indices: Tensor | None) -> None:
        """Go on after a pause, with `chosen` as input."""
        raise NotImplementedError


class _Record(_Trace):
    def __init__(self, recording: Recording, inputs: Mapping[str, Any], rows: int):
        super().__init__(inputs)
        self.recording = recording
        recording.segments = [Segment(rows)]
        self.kept: dict[int, Step] = {}

    def step(self, function: Any, arguments: Any, args: Any, kwargs: Any) -> Any:
        packet = function.overloadpacket
        output = function(*args, **kwargs)
        step = Step(function, arguments, random=torch.Tag.nondeterministic_seeded in function.tags)
        if packet in _BATCHNORM and _argument(function, args, kwargs, "training"):
            if not self.recording.gross_statistics:
                return self.stop("BatchNorm normalises the kept rows by their own statistics", output)
            self.recording.statistics.append(Statistics.of(args, output))
        elif packet in _FUSED_ATTENTION:
            step.random = False
            if _argument(function, args, kwargs, "dropout_p"):
                return self.stop(f"the dropout masks inside {packet} cannot be cut into rows", output)
        if function._schema.is_mutable and not step.random and (before := self.kept.get(_address(args[0]))):
            if before.random and packet is aten.div_ and self.steps[-1] is before:
                step.absorbed = True
                before.versions = (args[0]._version + 1,)  # counted when this operation has returned
            elif before.random:
                return self.stop(f"{packet} changes a mask", output)
            else:
                before.outputs = None
        if (step.random or packet in COSTLY) and self.recording.share:
            self.keep(step, output)
            if step.random and step.outputs is None:
                return self.stop(f"the draws of {packet} cannot be cut into rows", output)
        if isinstance(output, (bool, int, float)):
            step.scalar = output
        self.steps.append(step)
        return output

    @property
    def steps(self) -> list[Step]:
        return self.recording.segments[-1].steps

    def keep(self, step: Step, output: Any) -> None:
        outputs = tuple(output) if isinstance(output, (tuple, list)) else (output,)
        tensors = [entry for entry in outputs if isinstance(entry, Tensor)]
        if not _has_rows(outputs[0], self.recording.segments[-1].rows):
            return
        step.outputs = outputs
        changes = int(step.function._schema.is_mutable)  # counted when the operation has returned
        step.versions = tuple(tensor._version + changes for tensor in tensors)
        self.kept.update((_address(tensor), step) for tensor in tensors)

    def stop(self, reason: str, output: Any) -> Any:
        """Record nothing from this operation on."""
        self.recording.stopped = reason
        self.paused = True
        # What comes after the head's beginning would be recorded without its input.
        self.kept = {}
        return output

    def new_segment(self, chosen: Tensor, indices: Tensor | None) -> None:
        if self.recording.stopped is None:
            self.sources[_key(chosen)] = ("input", "positions")
            self.recording.segments.append(Segment(chosen.shape[1]))
            self.paused = False


class _Replay(_Trace):
    def __init__(self, recording: Recording, inputs: Mapping[str, Any], indices: Tensor):
        super().__init__(inputs)
        self.recording = recording
        self.indices = indices
        self.segment = 0
        self.position = 0
        self.kind = recording._kind()
        # What is met for the first time is computed as well, and compared.
        self.checking = recording.share and self.kind not in recording.trust
        self.ended: str | None = None

    def step(self, function: Any, arguments: Any, args: Any, kwargs: Any) -> Any:
        segment = self.recording.segments[self.segment]
        if self.position == len(segment.steps):
            self.paused = True
            return function(*args, **kwargs)
        step = segment.steps[self.position]
        if (difference := self.difference(step, function, arguments)) is not None:
            return self.end(difference, function(*args, **kwargs))
        self.position += 1
        if step.absorbed:
            return args[0]
        outputs, step.outputs = step.outputs, None
        if outputs is None or step.versions != tuple(t._version for t in outputs if isinstance(t, Tensor)):
            output = function(*args, **kwargs)
            if step.scalar is not None and step.scalar != output:
                if not _is_all_of_a_mask(arguments, self.recording.segments[0].steps):
                    return self.end(f"{function} gives {output}, and {step.scalar} for the gross batch", output)
                # The gross batch has padding and the kept rows have none: with a mask they come out the same.
                return step.scalar
            return output
        rows = [self.cut(output, segment.rows) for output in outputs]
        if function._schema.is_mutable:
            return args[0].copy_(rows[0])
        if self.checking and not step.random:
            actual = function(*args, **kwargs)
            found = tuple(actual) if isinstance(actual, (tuple, list)) else (actual,)
            if not _close(found[0], rows[0]):
                number = self.count
                self.recording.trust[self.kind] = number
                return self.end(f"{function} of some rows is not those rows of the gross batch's", actual)
        return rows[0] if len(rows) == 1 else tuple(rows)

    def difference(self, step: Step, function: Any, arguments: Any) -> str | None:
        """Why this operation is not the recorded one; None if it is."""
        gross, kept = self.recording.segments[self.segment].rows, len(self.indices)
        if not torch.is_grad_enabled() or _saved_tensors_are_hooked():
            return "activation checkpointing computes the layers again in the backward pass"
        if step.function.overloadpacket in _BATCHNORM and function.overloadpacket in _BATCHNORM:
            # One of them takes its statistics as arguments.
            return None if step.arguments[0][0] == arguments[0][0] else "another input of BatchNorm"
        if step.function is not function:
            return f"{function} where the gross batch had {step.function}"
        if not _same(step.arguments, arguments, gross, kept):
            return f"{function} has other arguments than with the gross batch"
        return None

    def cut(self, value: Any, rows: int) -> Any:
        """The kept rows of a recorded output, laid out in memory as the output was."""
        if not isinstance(value, Tensor) or not _has_rows(value, rows):
            return value
        order = sorted(range(value.dim()), key=lambda dim: -value.stride(dim))
        dense = value.permute(order)
        parts = dense.reshape(rows, -1)
        taken = parts.index_select(0, self.indices.to(value.device))
        shape = (len(self.indices) * (value.shape[0] // rows), *dense.shape[1:])
        return taken.view(shape).permute([order.index(dim) for dim in range(value.dim())])

    def end(self, reason: str, output: Any) -> Any:
        """Compute from this operation on."""
        self.ended = reason
        self.paused = True
        return output

    def finish(self) -> None:
        """Remember what this replay found out."""
        if self.ended is not None:
            say_once(f"training shares only a part of the scoring pass: {self.ended}")
        elif self.checking:
            self.recording.trust[self.kind] = self.count

    def new_segment(self, chosen: Tensor, indices: Tensor | None) -> None:
        done = self.position == len(self.recording.segments[self.segment].steps)
        if self.ended is None and done and self.segment + 1 < len(self.recording.segments) and indices is not None:
            self.sources[_key(chosen)] = ("input", "positions")
            self.indices, self.segment, self.position, self.paused = indices, self.segment + 1, 0, False


def _key(value: Tensor) -> tuple:
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _of_batch(arguments: Any) -> bool:
    if not isinstance(arguments, tuple) or not arguments:
        return False
    if isinstance(arguments[0], str) and arguments[0] in ("input", "step", "constant", "given"):
        return arguments[0] in ("input", "step")
    return any(map(_of_batch, arguments))


def _same(gross: Any, kept: Any, rows: int, count: int) -> bool:
    """Whether arguments are alike, but for numbers that are a multiple of the number of rows."""
    if isinstance(gross, tuple):
        return (
            isinstance(kept, tuple)
            and len(gross) == len(kept)
            and all(_same(one, two, rows, count) for one, two in zip(gross, kept, strict=True))
        )
    if isinstance(gross, int) and not isinstance(gross, bool) and isinstance(kept, int):
        return gross == kept or gross * count == kept * rows
    return type(gross) is type(kept) and bool(gross == kept)


def _has_rows(value: Any, rows: int) -> bool:
    """Whether a tensor can be cut into `rows` parts that lie one behind the other in memory."""
    if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] % rows or value.numel() == 0:
        return False
    outermost = max(value.stride())
    dense = value.numel() == 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
    return dense and (value.stride(0) == outermost or value.shape[0] == value.numel())


def _argument(function: Any, args: Any, kwargs: Any, name: str) -> Any:
    for number, argument in enumerate(function._schema.arguments):
        if argument.name == name:
            return kwargs.get(name, args[number] if number < len(args) else argument.default_value)
    return None


def _is_all_of_a_mask(arguments: Any, steps: list[Step]) -> bool:
    """Whether the number that the model branches on is `mask.all()` of an input: whether there is no padding."""
    source = arguments[0][0]
    while source[0] == "step":
        step = steps[source[1]]
        if step.function.overloadpacket not in (aten.all, aten._to_copy, aten.eq, aten.ne, aten.view):
            return False
        source = step.arguments[0][0]
    return source[0] == "input"


def _close(actual: Any, rows: Any) -> bool:
    if actual.shape != rows.shape or actual.dtype != rows.dtype:
        return False
    scale = actual.abs().amax().clamp(min=torch.finfo(actual.dtype).tiny)
    return bool(((actual - rows).abs().amax() <= _TOLERANCE.get(actual.dtype, 0) * scale).item())


def _saved_tensors_are_hooked() -> bool:
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


@functools.cache
def say_once(text: str) -> None:
    """Log a warning, the same one only once."""
    logger.warning("%s", text)
