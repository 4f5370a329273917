"""One forward pass for scoring and training: the kept rows take what the gross batch has already computed.

    capture = Capture(Findings())
    with capture.scoring(rows=16):         # scoring, without gradients
        ...
    with capture.replay(indices):           # training on the kept rows, under autograd
        loss = model(**kept).loss

While the gross batch is scored, what costly operations (matrix products, convolutions, ...) and random ones (dropout
masks) return is kept, in order. When the kept rows run through the same layers, each of these operations hands out its
rows of that instead of computing them. This happens below autograd, which notices nothing: loss and gradients are those
of two passes with the same dropout masks, and the layers up to the exit cost the gross batch's forward pass only.

What makes it safe: an operation hands out rows only if it is the next one that the gross batch had, and if its
arguments are the same weights and those rows of what it had then, by a few entries of each row. A model that mixes
rows, heeds their number, counts its calls, branches, or was changed in between shows at its next costly operation;
sharing ends there, and the pass goes on by computing. The first time that an operation would hand out rows it computes
as well, and all of its output is compared. Single entries of weights changed behind autograd's back are not seen.

Behind the exit layer's attention a score is made of labelled positions only: there products are carried out at those,
and the others are filled with NaN. Were a score to depend on one of them after all, it would be NaN; then scoring is
done again in full, from then on always. docs/costs.md has how much memory all this takes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gsgd.sift.models.batchnorm import Statistics
from gsgd.sift.models.torch_internals import SwitchedMode, memory_of, will_be_computed_again
from gsgd.sift.shared_forward import row_operations as operations
from gsgd.sift.shared_forward.cpu_kernels import as_product, bernoulli_, is_one_product, is_slow_draw
from gsgd.sift.shared_forward.row_operations import Operation, Sample, operation_of

logger = logging.getLogger(__name__)
aten = torch.ops.aten

_PLAIN = frozenset({Tensor, nn.Parameter, nn.Buffer})
_WORTH_IT = 0.5
"""Share of labelled positions above which the exit layer is computed at all of them."""


@dataclass
class Findings:
    """What is found out in one step and holds for the next ones.

    `checked` are operations, by segment and place, whose whole output has been compared; `attention` says by exit layer
    in how many up to its end positions meet; `positions_meet` whether a score depends on positions without a label.
    """

    checked: set[tuple[int, int, Any]] = field(default_factory=set)
    attention: dict[int, int] = field(default_factory=dict)
    positions_meet: bool = False


@dataclass(slots=True)
class Call:
    """One costly or random operation of the scoring pass; `outputs` are None where it is computed again.

    `versions` count how often they were changed in place, `scaled` says whether a division in place that followed is
    in them, and `mask` is attention's, and whether that is causal by itself.
    """

    function: Any
    operation: Operation
    arguments: dict[str, Any]
    mask: tuple[Tensor | None, bool] | None
    outputs: list[Any] | None = None
    versions: list[int] = field(default_factory=list)
    scaled: bool = False

    def tensors(self) -> list[Tensor]:
        return [output for output in self.outputs or () if isinstance(output, Tensor)]


@dataclass
class Segment:
    """A stretch of the scoring pass whose tensors have `rows` rows, and its calls that were not handed out yet."""

    rows: int
    calls: deque[Call] = field(default_factory=deque)


class Capture:
    """What one scoring pass leaves for the training pass on some of its rows; `nbytes` says how much that is.

    A pass has one segment up to the exit; where the exit is the last layer, the head on labelled positions is a second
    one, whose rows are positions.

    Args:
        findings: shared by all captures of an engine.
        share: whether to keep outputs; without, only the statistics of BatchNorm are taken.
        gross_statistics: take `statistics` of BatchNorm from the gross batch, in the order in which they run; else
            sharing ends at the first BatchNorm that normalises by its batch.
        head: whether the head on labelled positions is shared, too.

    After scoring `partly` says whether positions without a label were left out; `costly` and `handed` count the costly
    operations that scoring carried out, and that training took from it.
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
        self._mode: _Scoring | _Training | None = None

    def scoring(
        self, rows: int, layer: nn.Module | None = None, labelled: Tensor | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """While the gross batch runs without gradients, up to `layer`; scores heed positions `labelled` (B, T) only."""
        self.partly, self.costly, self.handed = False, 0, 0
        return self._running(_Scoring(self, rows, layer, labelled), layer)

    @contextlib.contextmanager
    def replay(self, indices: Tensor, layer: nn.Module | None = None) -> Iterator[None]:
        """While the rows `indices` (k,) of the gross batch run under autograd, up to `layer`; uses the capture up."""
        try:
            with self._running(_Training(self, indices), layer):
                yield
        finally:
            self.release()

    def release(self) -> None:
        """Let go of all that was captured."""
        self.segments = []
        self.statistics.clear()

    def begin_head(self, chosen: Tensor, indices: Tensor | None) -> None:
        """The head begins; it sees `chosen` (1, N, H), of the captured positions `indices` (N,) unless it captures."""
        if self._mode is not None:
            self._mode.begin_head(chosen.shape[1], indices)

    @property
    def nbytes(self) -> int:
        """Bytes of the kept outputs."""
        kept = {memory_of(one): one for part in self.segments for call in part.calls for one in call.tensors()}
        return sum(one.untyped_storage().nbytes() for one in kept.values())

    @contextlib.contextmanager
    def _running(self, mode: _Scoring | _Training, layer: nn.Module | None) -> Iterator[None]:
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


class _Pass(SwitchedMode):
    """Sees every operation of a pass, below autograd."""

    def __init__(self, capture: Capture):
        super().__init__()
        self.capture = capture
        self.segment = 0
        self.ended = not capture.share

    def end(self, reason: str) -> None:
        """Share nothing from here on."""
        self.ended = True
        say_once(f"training shares only a part of the scoring pass: {reason}")


class _Scoring(_Pass):
    """Carries out the gross batch's operations, and keeps what costly and random ones return."""

    def __init__(self, capture: Capture, rows: int, layer: nn.Module | None, labelled: Tensor | None):
        super().__init__(capture)
        capture.segments = [Segment(rows)]
        self.layer = id(layer)
        self.kept: dict[int, Call] = {}
        self.met, self.met_before = 0, capture.findings.attention.get(self.layer, math.inf)
        self.positions, self.labelled = 0, None
        if labelled is not None and layer is not None and not capture.findings.positions_meet:
            at = labelled.flatten().nonzero().squeeze(1)
            if 0 < len(at) <= _WORTH_IT * labelled.numel():
                self.positions, self.labelled = labelled.numel(), at

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, operation = kwargs or {}, operation_of(function)
        if operation.packet in operations.BATCHNORM:
            return self.normalise(operation, function, args, kwargs)
        if not self.ended and not _PLAIN.issuperset(types):
            kind = next(kind for kind in types if kind not in _PLAIN)
            self.end(f"{kind.__name__} is a tensor with operations of its own")
        if self.kept and operation.written and not self.ended:
            self.before_writing(function, [args[place] for place in operation.written if place < len(args)])
        if self.ended or not (operation.costly or operation.random):
            return function(*args, **kwargs)
        named = operation.named(args, kwargs)
        if operation.packet in operations.ATTENTION and named["dropout_p"]:
            self.end(f"the dropout masks inside {operation.packet} cannot be cut into rows")
            return function(*args, **kwargs)
        segment = self.capture.segments[self.segment]
        mask = (_mask(named), named["is_causal"]) if operation.packet in operations.ATTENTION else None
        call = Call(function, operation, operations.described(operation, named, segment.rows), mask)
        segment.calls.append(call)
        self.capture.costly += operation.costly
        output = self.at_labelled(operation, function, named)
        if output is None:
            output = _carried_out(operation, function, named, args, kwargs)
            of_batch = [one for one in call.arguments.values() if isinstance(one, Sample) and one.version is None]
            by_rows = all(one.rows is not None for one in of_batch)
            if operation.random or (by_rows and not operations.is_cheap(operation.packet, named)):
                call.outputs = list(output) if isinstance(output, (tuple, list)) else [output]
                # A change in place is counted when the operation that makes it has returned.
                call.versions = [one._version + bool(operation.written) for one in call.tensors()]
                self.kept.update((memory_of(one), call) for one in call.tensors())
        meeting = (operations.ATTENTION, operations.SOFTMAX, operations.BATCHED_PRODUCTS)
        self.met += self.segment == 0 and any(operation.packet in kind for kind in meeting)
        return output

    def before_writing(self, function: Any, targets: list[Any]) -> None:
        """An operation is about to change tensors: what was kept of them stays as it is."""
        for place in {memory_of(target) for target in targets if isinstance(target, Tensor)} & self.kept.keys():
            call = self.kept[place]
            last = self.capture.segments[self.segment].calls[-1] is call
            if function is aten.div_.Scalar and call.operation.random and last and not call.scaled:
                # Dropout scales its mask: what is kept is scaled, too.
                call.scaled, call.versions = True, [version + 1 for version in call.versions]
                continue
            del self.kept[place]
            call.outputs = [one.clone() if isinstance(one, Tensor) else one for one in call.outputs or ()]
            call.versions = [one._version for one in call.tensors()]

    def at_labelled(self, operation: Operation, function: Any, named: dict[str, Any]) -> Any:
        """A product behind the exit layer's attention at labelled positions, with NaN elsewhere; None of any other."""
        name = operations.PRODUCTS.get(operation.packet)
        if self.labelled is None or self.segment or name is None or self.met < self.met_before:
            return None
        whole, added = named[name], named["self"]
        if len(whole) != self.positions or not whole.is_floating_point() or (added.dim() == 2 and added is not whole):
            return None
        self.capture.partly = True
        options = {**named, name: whole.index_select(0, self.labelled)}
        factors = [options.pop(each) for each in ("self", "mat1", "mat2") if each in options]
        part = function(*factors, **options)
        return part.new_full((len(whole), part.shape[1]), math.nan).index_copy_(0, self.labelled, part)

    def normalise(self, operation: Operation, function: Any, args: Any, kwargs: Any) -> Any:
        """A BatchNorm; its statistics are taken, or sharing ends with it."""
        named, output = operation.named(args, kwargs), function(*args, **kwargs)
        if named.get("training", True) and self.capture.gross_statistics:
            self.capture.statistics.append(Statistics.of(named, output))
        elif named.get("training", True) and not self.ended:
            self.end("BatchNorm normalises the kept rows by their own statistics")
        return output

    def begin_head(self, positions: int, indices: Tensor | None) -> None:
        if not self.ended:
            self.capture.segments.append(Segment(positions))
            self.segment += 1
            self.enter()

    def leave(self) -> None:
        super().leave()
        if self.labelled is not None and not self.ended and self.segment == 0:
            self.capture.findings.attention[self.layer] = self.met


class _Training(_Pass):
    """Hands out the rows `indices` (k,) of what the scoring pass kept, which is let go of as it is used."""

    def __init__(self, capture: Capture, indices: Tensor):
        super().__init__(capture)
        self.indices = indices
        self.place = 0
        self.scaled: int | None = None
        self.masks: tuple[Tensor | None, Tensor | None, bool] | None = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, operation = kwargs or {}, operation_of(function)
        if function is aten.div_.Scalar and self.scaled == memory_of(args[0]):
            self.scaled = None
            return args[0]
        if self.ended or not (operation.costly or operation.random):
            return function(*args, **kwargs)
        handed = self.hand(operation, function, args, kwargs)
        return function(*args, **kwargs) if handed is None else handed

    def hand(self, operation: Operation, function: Any, args: Any, kwargs: Any) -> Any:
        """The rows of the gross batch's call; None where it is to be carried out."""
        segment, checked = self.capture.segments[self.segment], self.capture.findings.checked
        if not segment.calls:
            self.ended = True
            return None
        if will_be_computed_again():
            return self.end("layers run without gradients, or save nothing for the backward pass")
        call, self.place = segment.calls.popleft(), self.place + 1
        same = call.operation is operation or {call.operation.packet, operation.packet} <= operations.SOFTMAX
        if not same:
            return self.end(f"{function} comes where the gross batch had {call.function}")
        outputs, named = call.outputs, operation.named(args, kwargs)
        if outputs is None or [one._version for one in call.tensors()] != call.versions:
            return self.end(f"the draws of {function} were changed") if operation.random else None
        by_rows, argument = self.compare(call, operation, named)
        if by_rows is None:
            return self.end(f"{argument} of {function} is not what it was for the gross batch")
        handed = [operations.cut(one, segment.rows, self.indices) if by_rows else one for one in outputs]
        key = self.segment, self.place, operation.packet
        if operation.costly and key not in checked:
            computed = function(*args, **kwargs)
            if not operations.close(computed[0] if isinstance(computed, tuple) else computed, handed[0]):
                self.end(f"{function} of some rows is not those rows of the gross batch's")
                return computed
            checked.add(key)
        self.capture.handed += operation.costly
        made = args[0].copy_(handed[0]) if operation.written else handed[0] if len(handed) == 1 else tuple(handed)
        if call.scaled:
            self.scaled = memory_of(made[0] if isinstance(made, tuple) else made)
        return made

    def compare(self, call: Call, operation: Operation, named: dict[str, Any]) -> tuple[bool | None, str]:
        """As `same_rows`, with attention's mask, which serves many layers."""
        if call.mask is not None:
            (before, causal_before), now = call.mask, _mask(named)
            if self.masks is None or self.masks[0] is not before or self.masks[1] is not now:
                same = operations.same_mask(before, causal_before, now, named["is_causal"], self.indices)
                self.masks = before, now, same
            if not self.masks[2]:
                return None, "the mask"
        rows, drawn = self.capture.segments[self.segment].rows, call.tensors()[0]
        return operations.same_rows(operation, call.arguments, named, drawn, rows, self.indices)

    def begin_head(self, positions: int, indices: Tensor | None) -> None:
        segments = self.capture.segments
        if not self.ended and indices is not None and self.segment + 1 < len(segments):
            # What is left of the first one is computed: labelled positions behind the exit layer's attention.
            self.segment, self.place, self.indices = self.segment + 1, 0, indices
            self.enter()


def _mask(named: dict[str, Any]) -> Tensor | None:
    return named["attn_bias"] if "attn_bias" in named else named["attn_mask"]


def _carried_out(operation: Operation, function: Any, named: dict[str, Any], args: Any, kwargs: Any) -> Any:
    """What an operation returns in the scoring pass: as torch computes it, or quicker."""
    if "compute_log_sumexp" in named:
        return function(**{**named, "compute_log_sumexp": True})  # the backward pass needs them
    if operation.random and is_slow_draw(function, args, kwargs):
        return bernoulli_(*args)
    if operation.packet is aten.convolution and is_one_product(named):
        return as_product(named)
    return function(*args, **kwargs)


@functools.cache
def say_once(text: str) -> None:
    """Log a warning, the same one only once."""
    logger.warning("%s", text)
