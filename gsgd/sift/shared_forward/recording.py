"""One forward pass for scoring and training: the kept rows take what the gross batch has already computed.

    recording = Recording(Findings())
    with recording.record(rows=16, model=model):     # scoring, without gradients
        ...
    with recording.replay(indices):                  # training on the kept rows, under autograd
        loss = model(**kept).loss

While the gross batch is scored, the outputs of costly operations (matrix products, convolutions, ...) and of random
ones (dropout masks) are kept, in order. When the kept rows then run through the same layers, each of these operations
hands out its rows of what was kept instead of computing them. This happens below autograd, which notices nothing: it
records the operation, saves the kept rows' inputs, and its backward pass is the ordinary one of the kept rows. Loss and
gradients are those of two passes with the same dropout masks, and the layers up to the exit cost the gross batch's
forward pass only.

What makes it safe: an operation hands out rows only if it is the next one that the gross batch had, with the same
weights in the same version, and if its other arguments are those rows of what it had then, by a few entries of each row
(`row_operations`). So a model that mixes rows, heeds their number, counts its calls, branches, or was changed in
between shows at the next costly operation; sharing ends there, and the pass goes on by computing. The first time that
an operation would hand out rows it computes as well, and all of its output is compared.

Behind the exit layer's attention a score is made of labelled positions only: there products are carried out at those
positions, and the others are filled with NaN. Were a score to depend on one of them after all, it would be NaN; then
scoring is done again in full, from then on always. The kept rows are computed in full in the training pass.

What it cannot see are weights changed behind autograd's back (`.data`, NumPy) between the two passes.

Memory: the sum of the kept outputs' sizes for the gross batch, until the training pass has used them, and again `keep`
times that for the rows handed out, which autograd would have saved for the most part anyway. Of a BERT layer with B
rows of T tokens, width H, F in the middle, A heads, and dropout these are B T (8 H + F + 2 A T) numbers: products
6 H + F, masks 2 H + A T, softmax A T. `score_batch_size` bounds the memory of scoring: then there are two passes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from gsgd.sift.shared_forward.batchnorm import Statistics
from gsgd.sift.shared_forward.cpu_kernels import as_product, bernoulli_, is_one_product, is_slow_draw
from gsgd.sift.shared_forward.row_operations import (
    BATCHED_PRODUCTS,
    PRODUCTS,
    SOFTMAX,
    Operation,
    Sample,
    all_close,
    cut,
    describe,
    is_cheap,
    operation_of,
    same_mask,
    same_rows,
)

logger = logging.getLogger(__name__)
aten = torch.ops.aten

_PLAIN = frozenset({Tensor, nn.Parameter, nn.Buffer})
_WORTH_IT = 0.5
"""Share of labelled positions above which the exit layer is computed at all of them."""


@dataclass
class Findings:
    """What is found out in one step and holds for the next ones.

    Attributes:
        checked: (place in its segment, operation) of operations whose whole output has been compared.
        meeting: by exit layer, how many operations there are up to it in which positions may meet (attention).
        positions_meet: whether a score turned out to depend on a position without a label.
    """

    checked: set[tuple[int, int, Any]] = field(default_factory=set)
    meeting: dict[int, int] = field(default_factory=dict)
    positions_meet: bool = False


@dataclass(slots=True)
class Call:
    """One costly or random operation of the scoring pass.

    Attributes:
        arguments: by name, as `describe` gives them.
        mask: of attention: (mask as it was given, whether it is causal by itself).
        outputs: what it returned, where that is kept; None where it is computed again.
        versions: of the outputs at the end of the scoring pass.
        scaled: whether a division in place that followed is in the output already.
    """

    function: Any
    operation: Operation
    arguments: dict[str, Any]
    mask: tuple[Tensor | None, bool] | None = None
    outputs: list[Any] | None = None
    versions: list[int] = field(default_factory=list)
    scaled: bool = False

    def has_rows(self) -> bool:
        """Whether rows can be told in all that it was given beside weights."""
        return all(known.rows is not None for known in self.arguments.values() if isinstance(known, Sample))

    def tensors(self) -> list[Tensor]:
        return [output for output in self.outputs or () if isinstance(output, Tensor)]


@dataclass
class Segment:
    """A stretch of the scoring pass whose tensors have `rows` rows, and its calls that were not handed out yet."""

    rows: int
    calls: deque[Call] = field(default_factory=deque)


class Recording:
    """What one scoring pass leaves for the training pass on some of its rows.

    A pass has one segment up to the exit; where the exit is the last layer, the head on labelled positions is a second
    one, whose rows are positions.

    Args:
        findings: shared by all recordings of an engine.
        share: whether to keep outputs; without, only the statistics of BatchNorm are taken.
        gross_statistics: take BatchNorm's statistics from the gross batch; else sharing ends at the first BatchNorm
            that normalises by its batch.
        head: whether the head on labelled positions is shared, too.

    Attributes:
        statistics: of the BatchNorms, in the order in which they ran.
        partly: whether the scoring pass left positions without a label out.
        costly, handed: numbers of costly operations that scoring carried out, and that training took from it.
        outdated: whether an optimizer has stepped since.
    """

    def __init__(self, findings: Findings, *, share: bool = True, gross_statistics: bool = False, head: bool = False):
        self.findings = findings
        self.share = share
        self.head = head
        self.gross_statistics = gross_statistics
        self.segments: list[Segment] = []
        self.statistics: deque[Statistics] = deque()
        self.partly = False
        self.costly = self.handed = 0
        self.outdated = False
        self._mode: _Pass | None = None
        self._hook: Any = None

    @contextlib.contextmanager
    def record(
        self, rows: int, model: nn.Module, layer: nn.Module | None = None, labelled: Tensor | None = None
    ) -> Iterator[None]:
        """While the gross batch runs without gradients.

        Args:
            rows: of the gross batch.
            model: that runs; its parameters are told by where they lie.
            layer: the last one to share; None for all that runs.
            labelled: (B, T), the positions that matter for the scores; None for all.
        """
        self.partly = False
        weights = frozenset(weight.untyped_storage()._cdata for weight in model.parameters())
        mode = _Scoring(self, rows, weights, id(layer), None if layer is None else labelled)
        with self._running(mode, layer):
            yield
        # Fused optimizers do not count their changes in the weights' versions.
        self._hook = register_optimizer_step_post_hook(functools.partial(_outdate, weakref.ref(self)))
        weakref.finalize(self, self._hook.remove)

    @contextlib.contextmanager
    def replay(self, indices: Tensor, layer: nn.Module | None = None) -> Iterator[None]:
        """While the rows `indices` (k,) of the gross batch run under autograd; the recording is used up.

        Args:
            layer: as in `record`.
        """
        mode = _Training(self, indices)
        if self.outdated:
            mode.end("the weights have changed since the rows were scored")
        try:
            with self._running(mode, layer):
                yield
        finally:
            self.release()

    def release(self) -> None:
        """Let go of all that was recorded."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self.segments = []
        self.statistics.clear()

    def begin_head(self, chosen: Tensor, indices: Tensor | None) -> None:
        """The head begins: from here on rows are labelled positions.

        Args:
            chosen: (1, N, H), the hidden states that the head sees.
            indices: which of the recorded positions these are; None while recording.
        """
        if self._mode is not None:
            self._mode.begin_head(chosen.shape[1], indices)

    @property
    def nbytes(self) -> int:
        """Bytes of the kept outputs."""
        kept = [output for segment in self.segments for call in segment.calls for output in call.tensors()]
        return sum({one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in kept}.values())

    @contextlib.contextmanager
    def _running(self, mode: _Pass, layer: nn.Module | None) -> Iterator[None]:
        hook = None if layer is None else layer.register_forward_hook(lambda *_: mode.leave())
        self._mode = mode
        mode.enter()
        try:
            yield
        finally:
            mode.leave()
            self._mode = None
            if hook is not None:
                hook.remove()


class _Pass(TorchDispatchMode):
    """Sees every operation of a pass, below autograd."""

    def __init__(self, recording: Recording):
        super().__init__()
        self.recording = recording
        self.segment = 0
        self.active = False
        self.ended = not recording.share

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps every operation in a guard against compiling what is done here

    def enter(self) -> None:
        if not self.active:
            self.__enter__()
            self.active = True

    def leave(self) -> None:
        """No more to see: a mode that is on costs time at every operation, and keeps torch.compile from its work."""
        if self.active and _get_current_dispatch_mode() is self:
            self.__exit__(None, None, None)
            self.active = False

    def end(self, reason: str) -> None:
        """Share nothing from here on."""
        self.finish()
        self.ended = True
        say_once(f"training shares only a part of the scoring pass: {reason}")

    def finish(self) -> None:
        """What is seen of a stretch of the pass is complete."""

    def begin_head(self, positions: int, indices: Tensor | None) -> None:
        """A second segment begins, whose rows are labelled positions."""
        raise NotImplementedError


class _Scoring(_Pass):
    """Carries out the gross batch's operations, and keeps what costly and random ones return.

    Args:
        weights: the storages of the model's parameters.
        exit_key: tells the exit layer.
        labelled: (B, T), the positions that matter; None for all.
    """

    def __init__(
        self, recording: Recording, rows: int, weights: frozenset[int], exit_key: int, labelled: Tensor | None
    ):
        super().__init__(recording)
        recording.segments = [Segment(rows)]
        self.weights = weights
        self.exit_key = exit_key
        self.labelled = self._worth_it(labelled)
        self.positions = 0 if labelled is None else labelled.numel()
        self.met = 0
        self.known_met = recording.findings.meeting.get(exit_key, math.inf)
        self.kept: dict[int, Call] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation, recording = operation_of(function), self.recording
        if operation.batchnorm:
            return self.normalise(operation, function, args, kwargs)
        if self.ended:
            return function(*args, **kwargs)
        if not _PLAIN.issuperset(types):
            kind = next(kind for kind in types if kind not in _PLAIN)
            self.end(f"{kind.__name__} is a tensor with operations of its own")
            return function(*args, **kwargs)
        if operation.written and self.kept:
            self.before_writing(function, [args[place] for place in operation.written if place < len(args)])
        if not (operation.costly or operation.random):
            return function(*args, **kwargs)
        named = operation.named(args, kwargs)
        if operation.attention and named["dropout_p"]:
            self.end(f"the dropout masks inside {operation.packet} cannot be cut into rows")
            return function(*args, **kwargs)
        call = self.call(function, operation, named, args)
        recording.costly += operation.costly
        output = self.at_labelled(operation, function, named)
        if output is None:
            output = _carried_out(operation, function, named, args, kwargs)
            if operation.random or (call.has_rows() and not is_cheap(operation.packet, named)):
                self.keep(call, output)
        positions_meet = operation.attention or operation.packet in SOFTMAX or operation.packet in BATCHED_PRODUCTS
        self.met += positions_meet and self.segment == 0
        return output

    def call(self, function: Any, operation: Operation, named: dict[str, Any], args: Any) -> Call:
        """A call as it is remembered, at the end of its segment."""
        rows = self.recording.segments[self.segment].rows
        written = {operation.parameters[place][0] for place in operation.written}
        arguments = {
            name: describe(value, rows, self.weights)
            for name, value in named.items()
            if name not in written and name not in _NOT_COMPARED
        }
        mask = (named.get(_mask_of(named)), named["is_causal"]) if operation.attention else None
        call = Call(function, operation, arguments, mask)
        self.recording.segments[self.segment].calls.append(call)
        return call

    def keep(self, call: Call, output: Any) -> None:
        call.outputs = list(output) if isinstance(output, (tuple, list)) else [output]
        for one in call.tensors():
            self.kept[one.untyped_storage()._cdata] = call

    def before_writing(self, function: Any, targets: list[Any]) -> None:
        """An operation is about to change tensors: what was kept of them stays as it is."""
        for target in targets:
            call = self.kept.get(target.untyped_storage()._cdata) if isinstance(target, Tensor) else None
            if call is None or call.outputs is None:
                continue
            segment = self.recording.segments[self.segment].calls
            if function is aten.div_.Scalar and call.operation.random and segment[-1] is call and not call.scaled:
                call.scaled = True  # dropout scales its mask: what is kept is scaled, too
                continue
            del self.kept[target.untyped_storage()._cdata]
            call.outputs = [one.clone() if isinstance(one, Tensor) else one for one in call.outputs]

    def at_labelled(self, operation: Operation, function: Any, named: dict[str, Any]) -> Any:
        """A product behind the exit layer's attention at labelled positions, with NaN elsewhere; None of any other."""
        name = PRODUCTS.get(operation.packet)
        if self.labelled is None or self.segment or name is None or self.met < self.known_met:
            return None
        whole, added = named[name], named["self"] if name != "self" else None
        fits = len(whole) == self.positions and whole.is_floating_point()
        if not fits or (isinstance(added, Tensor) and added.dim() == 2 and len(added) > 1):
            return None
        self.recording.partly = True
        named = {**named, name: whole.index_select(0, self.labelled)}
        factors = [named.pop(each) for each in ("self", "mat1", "mat2") if each in named]
        part = function(*factors, **named)
        return part.new_full((len(whole), part.shape[1]), math.nan).index_copy_(0, self.labelled, part)

    def normalise(self, operation: Operation, function: Any, args: Any, kwargs: Any) -> Any:
        """A BatchNorm; its statistics are taken, or sharing ends with it."""
        named, output = operation.named(args, kwargs), function(*args, **kwargs)
        if named.get("training", True):
            if self.recording.gross_statistics:
                self.recording.statistics.append(Statistics.of(named, output))
            elif not self.ended:
                self.end("BatchNorm normalises the kept rows by their own statistics")
        return output

    def begin_head(self, positions: int, indices: Tensor | None) -> None:
        if not self.ended:
            self.recording.segments.append(Segment(positions))
            self.segment += 1
            self.enter()

    def finish(self) -> None:
        """Note what tells later whether kept outputs were changed."""
        for segment in self.recording.segments:
            for call in segment.calls:
                call.versions = call.versions or [one._version for one in call.tensors()]

    def leave(self) -> None:
        super().leave()
        self.finish()
        if self.labelled is not None and not self.ended and self.segment == 0:
            self.recording.findings.meeting[self.exit_key] = self.met

    def _worth_it(self, labelled: Tensor | None) -> Tensor | None:
        """(N,), the numbers of labelled positions; None where nearly all are, or none."""
        if labelled is None or self.recording.findings.positions_meet:
            return None
        at = labelled.flatten().nonzero().squeeze(1)
        return at if 0 < len(at) <= _WORTH_IT * labelled.numel() else None


class _Training(_Pass):
    """Hands out the kept rows' part of what the scoring pass kept; its outputs are let go of as they are used.

    Args:
        indices: (k,), rows of the gross batch.
    """

    def __init__(self, recording: Recording, indices: Tensor):
        super().__init__(recording)
        self.indices = indices
        self.place = 0
        self.scaled: int | None = None
        self.masks: tuple[Tensor | None, Tensor | None, bool] | None = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.ended:
            return function(*args, **kwargs)
        operation = operation_of(function)
        if function is aten.div_.Scalar and self.scaled == args[0].untyped_storage()._cdata:
            self.scaled = None
            return args[0]
        if not (operation.costly or operation.random):
            return function(*args, **kwargs)
        handed = self.hand(operation, function, args, kwargs)
        return function(*args, **kwargs) if handed is None else handed

    def hand(self, operation: Operation, function: Any, args: Any, kwargs: Any) -> Any:
        """The rows of the gross batch's call; None where it is to be carried out."""
        segment = self.recording.segments[self.segment]
        if not segment.calls:
            self.ended = True
            return None
        if not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            # Activation checkpointing computes it again for the backward pass, and would find nothing here then.
            return self.end("layers run without gradients, or save nothing for the backward pass")
        call, self.place = segment.calls.popleft(), self.place + 1
        if call.operation is not operation and not {call.operation.packet, operation.packet} <= SOFTMAX:
            return self.end(f"{function} comes where the gross batch had {call.function}")
        if [one._version for one in call.tensors()] != call.versions:
            call.outputs = None
        if call.outputs is None:
            return self.end(f"the draws of {function} were changed") if operation.random else None
        named = operation.named(args, kwargs)
        by_rows, argument = self.compare(call, operation, named)
        if by_rows is None:
            return self.end(f"{argument} of {function} is not what it was for the gross batch")
        outputs = [
            cut(one, segment.rows, self.indices) if by_rows and _has_rows(one, segment.rows) else one
            for one in call.outputs
        ]
        if (
            not operation.random
            and (key := (self.segment, self.place, operation.packet)) not in self.recording.findings.checked
        ):
            computed = function(*args, **kwargs)
            first = computed[0] if isinstance(computed, tuple) else computed
            if not all_close(outputs[0], first):
                self.end(f"{function} of some rows is not those rows of the gross batch's")
                return computed
            self.recording.findings.checked.add(key)
        self.recording.handed += operation.costly
        if operation.written:
            self.scaled = args[0].untyped_storage()._cdata if call.scaled else None
            return args[0].copy_(outputs[0])
        if call.scaled:
            self.scaled = outputs[0].untyped_storage()._cdata
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def compare(self, call: Call, operation: Operation, named: dict[str, Any]) -> tuple[bool | None, str]:
        """As `same_rows`; of what is drawn by size, by that size."""
        if call.mask is not None and not self.masks_agree(*call.mask, named.get(_mask_of(named)), named["is_causal"]):
            return None, _mask_of(named)
        by_rows, argument = same_rows(operation.packet, call.arguments, named, self.indices)
        if by_rows is None or not operation.random:
            return by_rows, argument
        drawn, rows = call.tensors()[0].shape, self.recording.segments[self.segment].rows
        size = named.get("size")
        if size is None:
            size = next((value.shape for value in named.values() if isinstance(value, Tensor)), drawn)
        if tuple(size) == tuple(drawn):
            return by_rows, ""
        scaled = len(size) == len(drawn) > 0 and tuple(size[1:]) == tuple(drawn[1:])
        return (True, "") if scaled and size[0] * rows == drawn[0] * len(self.indices) else (None, "size")

    def masks_agree(self, before: Tensor | None, causal_before: bool, mask: Tensor | None, causal: bool) -> bool:
        """As `same_mask`; one mask serves many layers."""
        if self.masks is None or self.masks[0] is not before or self.masks[1] is not mask:
            self.masks = before, mask, same_mask(before, causal_before, mask, causal, self.indices)
        return self.masks[2]

    def begin_head(self, positions: int, indices: Tensor | None) -> None:
        segments = self.recording.segments
        if self.ended or indices is None or self.segment + 1 == len(segments) or segments[self.segment].calls:
            return
        self.segment, self.place, self.indices = self.segment + 1, 0, indices
        self.enter()


_NOT_COMPARED = frozenset(
    {"attn_mask", "attn_bias", "is_causal", "size", "compute_log_sumexp", "half_to_float", "generator"}
)
"""Arguments that are compared otherwise, or that do not change values."""


def _mask_of(named: dict[str, Any]) -> str:
    return "attn_bias" if "attn_bias" in named else "attn_mask"


def _has_rows(output: Any, rows: int) -> bool:
    return isinstance(output, Tensor) and output.dim() > 0 and output.shape[0] % rows == 0


def _carried_out(operation: Operation, function: Any, named: dict[str, Any], args: Any, kwargs: Any) -> Any:
    """What an operation returns in the scoring pass: as torch computes it, or quicker."""
    if "compute_log_sumexp" in named:
        return function(**{**named, "compute_log_sumexp": True})  # the backward pass needs them
    if operation.random and is_slow_draw(function, args, kwargs):
        return bernoulli_(*args)
    if operation.packet is aten.convolution and is_one_product(named):
        return as_product(named)
    return function(*args, **kwargs)


def _outdate(recording: weakref.ref[Recording], *_: Any) -> None:
    found = recording()
    if found is not None:
        found.outdated = True


@functools.cache
def say_once(text: str) -> None:
    """Log a warning, the same one only once."""
    logger.warning("%s", text)
