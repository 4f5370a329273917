"""The training pass on kept rows: operations hand out rows of what the scoring pass recorded; see `recording`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from gsgd.sift.shared_forward.comparison import OperationComparison
from gsgd.sift.shared_forward.operation_tracker import (
    Call,
    Findings,
    Held,
    OperationTracker,
    Segment,
    Source,
    Step,
    address,
    as_tuple,
)
from gsgd.sift.shared_forward.row_structure import VIEWS, cut

aten = torch.ops.aten

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Of the first replay's comparison, relative to the largest entry: rounding passes, other rows do not."""


class Recorded(Protocol):
    """What a scoring pass has left: its segments, what it held on to, and what replays have found out so far."""

    findings: Findings
    segments: list[Segment]
    held: dict[Source, Held]


class Replay(OperationTracker):
    """Follows the training pass.

    Args:
        recording: of the scoring pass; its outputs are let go of as they are used.
        inputs: the arguments of the model for the kept rows, by name.
        indices: (k,), which rows of the gross batch they are.
    """

    def __init__(self, recording: Recorded, inputs: Mapping[str, Any], indices: Tensor):
        super().__init__(inputs, recording.findings.known, ())
        self.recording = recording
        self.inputs = inputs
        self.ended: str | None = None
        # Outputs without values yet, by where these would lie, with function and arguments.
        self.owed: dict[int, tuple[Tensor, Callable[..., Tensor], Any]] = {}
        self.begin(0, indices)

    def begin(self, segment: int, indices: Tensor) -> None:
        self.segment, self.position, self.indices = segment, 0, indices
        segments = self.recording.segments or [Segment(0)]
        self.likeness = OperationComparison(self.inputs, segments, segment, len(indices))
        self.sizes = segments[segment].rows, len(indices)

    def hold(self, value: Tensor, version: int | None, source: Source) -> Source:
        self.held[source] = Held(value, version, None)
        before = self.recording.held.get(source)
        if before is None or before.version == version:
            return source
        if before.copy is not None and torch.equal(before.copy, value):
            return source
        return Source(("given", "changed", source[2]))

    def step(self, call: Call) -> Any:
        function, args, kwargs = call.function, call.args, call.kwargs
        segment, findings = self.likeness.segment, self.recording.findings
        if self.position == len(segment.steps):
            self.paused = True
            return self.compute(function, args, kwargs)
        recorded = segment.steps[self.position]
        if (difference := self.likeness.difference(recorded, call)) is not None:
            return self.end(difference, self.compute(function, args, kwargs))
        call.finding = recorded.known
        self.position += 1
        if recorded.absorbed:
            return args[0]
        outputs, recorded.outputs = recorded.outputs, None
        if outputs is not None and recorded.versions != tuple(t._version for t in outputs if isinstance(t, Tensor)):
            outputs = None
        if outputs is None or not torch.is_grad_enabled():
            if call.random:
                return self.end(f"the draws of {function} cannot be had again", self.compute(function, args, kwargs))
            if recorded.spared and self.prefix in findings.checked and torch.is_grad_enabled():
                return self.owe(function, args, kwargs)
            if recorded.spared:
                findings.checked.add(self.prefix)  # by what softmax makes of it
            return self.check(recorded, self.compute(function, args, kwargs))
        pairs = zip(outputs, recorded.kinds, strict=True)
        handed = [cut(made, segment.rows, self.indices) if kind else made for made, kind in pairs]
        if call.written:
            return call.written[0].copy_(handed[0])
        if not call.random and self.prefix not in findings.checked:
            actual = self.compute(function, args, kwargs)
            if not _close(as_tuple(actual)[0], handed[0]):
                findings.mixing.add(self.prefix)
                return self.end(f"{function} of some rows is not those rows of the gross batch's", actual)
            findings.checked.add(self.prefix)
        if self.owed and call.facts.softmax:
            entry: Any = (None, None, args)
            while entry is not None:
                entry = self.owed.pop(address(entry[2][0]), None)
        return handed[0] if len(handed) == 1 else tuple(handed)

    def owe(self, function: Any, args: Any, kwargs: Any) -> Tensor:
        """The output's place without its values."""
        bmm = function.overloadpacket is aten.bmm
        place = args[0].new_empty((*args[0].shape[:-1], args[1].shape[-1]) if bmm else args[0].shape)
        self.owed[address(place)] = place, functools.partial(function, **kwargs), args
        return place

    def pay(self) -> None:
        """Compute what is owed."""
        for place, function, args in self.owed.values():
            place.copy_(function(*args))
        self.owed = {}

    def compute(self, function: Any, args: Any, kwargs: Any) -> Any:
        if self.owed and function.overloadpacket not in VIEWS:
            self.pay()
        return function(*args, **kwargs)

    def leave(self) -> None:
        self.paused = True
        with torch._C._AutoDispatchBelowAutograd():  # as within an operation
            self.pay()
        super().leave()

    def check(self, recorded: Step, output: Any) -> Any:
        """The output of what is computed in both passes; of numbers, that they are the same."""
        if recorded.scalar is None or recorded.scalar == output:
            return output
        if self.likeness.says_no_padding(recorded):
            # The gross batch has padding and the kept rows have none: with a mask they come out the same.
            return recorded.scalar
        return self.end(f"{recorded.function} gives {output}, and {recorded.scalar} for the gross batch", output)

    def end(self, reason: str, output: Any) -> Any:
        self.pay()
        self.ended = reason
        self.paused = True
        return output

    def new_segment(self, chosen: Tensor, indices: Tensor | None) -> None:
        done = self.position == len(self.recording.segments[self.segment].steps)
        if self.ended is None and done and self.segment + 1 < len(self.recording.segments) and indices is not None:
            self.remember(chosen, Source(("input", "positions")))
            self.begin(self.segment + 1, indices)
            self.paused = False
            self.enter()


def _close(actual: Tensor, rows: Tensor) -> bool:
    if actual.shape != rows.shape or actual.dtype != rows.dtype:
        return False
    scale = float(actual.nan_to_num(0.0, 0.0, 0.0).abs().amax())
    return torch.allclose(actual, rows, rtol=0, atol=_TOLERANCE.get(actual.dtype, 0) * scale, equal_nan=True)
