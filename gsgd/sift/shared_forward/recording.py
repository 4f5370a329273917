"""One forward pass for scoring and training: the kept rows take what the gross batch has already computed.

    recording = Recording(Findings())
    with recording.record(gross, rows=16):     # scoring, without gradients
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

- Every operation on data that depend on the batch, or on chance, is numbered, with where its arguments come from.
  Replaying compares operation by operation: another function, argument, weight, version of a weight, or data flow ends
  the sharing there, and the pass goes on by computing. So a model whose control flow differs between the two passes,
  or whose weights changed between them, is no danger.
- Only what is made row by row is handed out, as `row_structure` judges by the operations, never by the data. What
  follows a mean over the batch, say, is computed in both passes.
- As a second check, the first replay of an operation computes it as well and holds it against its rows. That shows
  what depends on the number of rows alone, such as a division by it.
- Random operations whose draws cannot be cut into rows (attention with dropout inside a fused kernel) end it, too, and
  so does activation checkpointing, which would draw again in the backward pass.

To find all this out takes Python longer than a small operation takes; what was found is kept for the next pass, and
holds there as long as nothing is different that it rests on (`gsgd.sift.shared_forward.operation_cache`).

What it cannot see are weights changed behind autograd's back (`.data`, NumPy) between the two passes.

Memory: the sum of the recorded outputs' sizes for the gross batch, until the training pass has used them, and again
`keep` times that for the rows handed out, which autograd would have saved for the most part anyway. Of a BERT layer
with B rows of T tokens, width H, F in the middle, A heads, and dropout these are B T (8 H + F + 2 A T) numbers:
products 6 H + F, masks 2 H + A T, softmax A T. Products that only softmax reads are not kept, and of the exit layer
nothing but masks behind its attention (`labelled_positions`). `score_batch_size` bounds the memory of scoring: then
there are two passes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from gsgd.sift.shared_forward.batchnorm import Statistics
from gsgd.sift.shared_forward.execution import is_cheap, way_of
from gsgd.sift.shared_forward.labelled_positions import Labelled, at_positions, products_by_position
from gsgd.sift.shared_forward.operation_cache import CachedOperation
from gsgd.sift.shared_forward.operation_tracker import (
    Call,
    Findings,
    Held,
    OperationTracker,
    Segment,
    Source,
    Step,
    StorageReference,
    address,
    alive,
    as_tuple,
    storage_of,
)
from gsgd.sift.shared_forward.operator_properties import properties_of
from gsgd.sift.shared_forward.replay import Replay
from gsgd.sift.shared_forward.row_structure import (
    VIEWS,
    Kind,
    is_cuttable,
    results_by_rows,
    row_axis,
    tensors_in,
)

logger = logging.getLogger(__name__)
aten = torch.ops.aten

_SMALL = 2**16
"""Entries of a buffer that is compared by its values, where it has been written to between the passes."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """What scoring makes of an operation.

    Attributes:
        way: how it is carried out.
        kinds: of its outputs.
        worth: whether its outputs are worth being kept.
        like_first: see `Step`.
    """

    way: Callable[[Call], Any]
    kinds: tuple[Kind, ...]
    worth: bool
    like_first: bool


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
    """

    def __init__(self, findings: Findings, *, share: bool = True, gross_statistics: bool = False, head: bool = False):
        self.findings = findings
        self.share = share
        self.head = head
        self.gross_statistics = gross_statistics
        self.segments: list[Segment] = []
        self.statistics: deque[Statistics] = deque()
        self.held: dict[Source, Held] = {}
        self.stopped: str | None = None
        self.partly = False
        self.outdated = False
        self._mode: OperationTracker | None = None
        self._hook: Any = None

    @contextlib.contextmanager
    def record(
        self, inputs: Mapping[str, Any], rows: int, layer: nn.Module | None = None, labelled: Labelled | None = None
    ) -> Iterator[None]:
        """While the gross batch runs without gradients.

        Args:
            inputs: the arguments of the model, by name.
            rows: of the gross batch.
            layer: the last one to share; None for all that runs.
            labelled: the positions that matter for the scores; None for all.
        """
        self.partly = False
        mode = _Record(self, inputs, rows, labelled)
        with self._running(mode, layer):
            yield
        self.held = mode.held
        if mode.labelled is not None and self.share and self.stopped is None:
            self.findings.by_position |= products_by_position(self.segments[0].steps, mode.labelled.of)
        # Fused optimizers do not count their changes in the weights' versions.
        self._hook = register_optimizer_step_post_hook(functools.partial(_outdate, weakref.ref(self)))
        weakref.finalize(self, self._hook.remove)

    @contextlib.contextmanager
    def replay(self, inputs: Mapping[str, Any], indices: Tensor, layer: nn.Module | None = None) -> Iterator[None]:
        """While the rows `indices` of the gross batch run under autograd; the recording is used up.

        Args:
            inputs: the arguments of the model, by name; the kept rows of what was recorded.
            indices: (k,), rows of the gross batch.
            layer: as in `record`.
        """
        mode = Replay(self, inputs, indices)
        if self.outdated:
            mode.end("the weights have changed since the rows were scored", None)
        try:
            with self._running(mode, layer):
                yield
        finally:
            self.release()
        if mode.ended is not None:
            say_once(f"training shares only a part of the scoring pass: {mode.ended}")

    def release(self) -> None:
        """Let go of all that was recorded."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self.segments = []
        self.statistics.clear()
        self.held = {}

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

    @contextlib.contextmanager
    def _running(self, mode: OperationTracker, layer: nn.Module | None) -> Iterator[None]:
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


class _Record(OperationTracker):
    def __init__(self, recording: Recording, inputs: Mapping[str, Any], rows: int, labelled: Labelled | None):
        super().__init__(inputs, recording.findings.known, (rows,))
        self.recording = recording
        self.labelled = None if recording.findings.positions_meet else labelled
        recording.segments = [Segment(rows)]
        self.kinds: dict[Source, Kind] = {}
        self.mixed_by: dict[Source, Any] = {}
        self.spoilt: dict[int, tuple[StorageReference, bool]] = {}
        self.kept: dict[int, Step] = {}
        self.steps: list[Step] = []
        self.readers: Counter[int] = Counter()
        self.spared: dict[int, list[Step]] = {}
        self.paused = not recording.share
        self.watches_norms = recording.gross_statistics

    def normalised(self, named: Mapping[str, Any], output: Any) -> None:
        if named.get("training", True):
            self.recording.statistics.append(Statistics.of(named, output))

    def recall(self, function: Any, args: Any, kwargs: Any) -> CachedOperation | None:
        # What was spoilt is told by places in memory.
        return None if self.spoilt else super().recall(function, args, kwargs)

    def step(self, call: Call) -> Any:
        function, facts, recording = call.function, call.facts, self.recording
        packet, rows, steps = function.overloadpacket, recording.segments[-1].rows, recording.segments[-1].steps
        found: _Finding | None = call.finding
        output = at_positions(call, self.labelled) if self.prefix in recording.findings.by_position else None
        partly = output is not None
        recording.partly |= partly
        way = way_of(call) if found is None else found.way
        if not partly:
            output = way(call)
        outputs = as_tuple(output)
        if self.prefix in recording.findings.mixing:
            return self.end(f"{function} mixes rows", output)
        if facts.batchnorm and not recording.gross_statistics and call.named.get("training", True):
            return self.end("BatchNorm normalises the kept rows by their own statistics", output)
        if facts.attention and call.named["dropout_p"]:
            return self.end(f"the dropout masks inside {packet} cannot be cut into rows", output)
        if found is None:
            kinds, lasting = self.judge(call, outputs, rows)
            worth = facts.random or (facts.costly and not is_cheap(packet, call.named))
            found = _Finding(way, kinds, worth, bool(call.args) and _alike(call.args[0], output))
            call.finding = found if lasting and not partly else None
        step = Step(function, call.arguments, list(found.kinds), like_first=found.like_first, known=call.known)
        blame = self.learn(call, step.kinds)
        for target in call.written if not call.random else ():
            before = self.kept.get(address(target))
            if before is None:
                continue
            if not properties_of(before.function).random:
                before.outputs = None
            elif packet is aten.div_ and steps[-1] is before:
                step.absorbed = True
                before.versions = (target._version + 1,)  # counted when this operation has returned
            else:
                before.outputs = None
                return self.end(f"{packet} changes what was drawn", output)
        if found.worth and recording.share and not partly and not self.keep(step, outputs, rows):
            if call.random:
                return self.end(f"the draws of {packet} cannot be cut into rows", output)
            if blame is not None:
                say_once(f"what follows {blame} is computed in both passes, because it may mix rows")
        if isinstance(output, (bool, int, float)):
            step.scalar = output
        step.shape, step.prefix = tuple(getattr(outputs[0], "shape", ())), self.prefix
        steps.append(step)
        self.steps.append(step)
        for source in call.sources.values():
            if source[0] != "step":
                continue
            number = source[1]
            self.readers[number] += 1
            if self.readers[number] > 1 and number in self.spared:
                for other in self.spared[number]:
                    other.spared = False
        if call.facts.softmax and step.outputs is not None:
            self.spare(call.arguments["self"])
        return output

    def judge(self, call: Call, outputs: tuple[Any, ...], rows: int) -> tuple[tuple[Kind, ...], bool]:
        """The kinds of an operation's outputs, and whether they are the same for like arguments."""
        if call.facts.reshapes:
            # It is no longer the tensor that was remembered.
            return (False,) * len(outputs), False
        known = {tensor: self.kind_of(source) for tensor, source in call.sources.items()}
        if self.spoilt:
            known |= {id(tensor): self.kind(tensor) for tensor in tensors_in(list(call.named.values()))}
        kinds, lasting = results_by_rows(call.function, call.named, outputs, rows, lambda tensor: known[id(tensor)])
        if call.random and kinds[0] is None and row_axis(outputs[0].shape, rows) is not None:
            # Drawn by size: one for each row, it seems. Replaying sees whether the size follows the number of rows.
            kinds = [True]
        elif call.written and True in kinds and any(self.kind(target) is None for target in call.written):
            kinds = [False] * len(outputs)
        return tuple(kinds), lasting and not self.spoilt

    def spare(self, source: Source) -> None:
        """Let go of a product that only softmax reads: autograd saves what softmax returns, not what it is given."""
        passed: list[int] = []
        while source[0] == "step" and self.readers[source[1]] == 1:
            made = self.steps[source[1]]
            packet = made.function.overloadpacket
            passed.append(source[1])
            if packet is aten.bmm and made.outputs is not None:
                made.outputs = None
                chain = [self.steps[number] for number in passed]
                for step in chain:
                    step.spared = step.function.overloadpacket not in VIEWS
                self.spared.update(dict.fromkeys(passed, chain))
            if packet not in VIEWS and not (made.like_first and _forgets_its_input(made)):
                return
            source = made.arguments["self"]

    def learn(self, call: Call, kinds: list[Kind]) -> Any:
        """Remember the kinds of an operation's outputs; returns which operation made them no longer by rows."""
        blame = None
        if False in kinds:
            known = [self.mixed_by.get(source) for source in call.sources.values() if source.of_batch]
            blame = next((function for function in known if function is not None), call.function)
            for target in call.written:
                self.spoilt[address(target)] = (storage_of(target), True)
        for number, kind in enumerate(kinds):
            self.kinds[Source(("step", self.count, number))] = kind
            if kind is False:
                self.mixed_by[Source(("step", self.count, number))] = blame
        return blame

    def hold(self, value: Tensor, version: int | None, source: Source) -> Source:
        # DistributedDataParallel writes to all buffers before every pass, mostly what they are.
        small = not isinstance(value, nn.Parameter) and value.numel() <= _SMALL
        self.held[source] = Held(value, version, value.clone() if small else None)
        return source

    def kind(self, tensor: Tensor) -> Kind:
        if self.spoilt and alive(self.spoilt, address(tensor)) is not None:
            return False
        return self.kind_of(self.source(tensor))

    def kind_of(self, source: Source) -> Kind:
        if source[0] == "step":
            return self.kinds.get(source, False)
        return True if source[0] == "input" else None

    def keep(self, step: Step, outputs: tuple[Any, ...], rows: int) -> bool:
        """Keep the outputs if they can be cut into rows, or are the same for all of them."""
        pairs = list(zip(step.kinds, outputs, strict=True))
        if not all(kind is None or (kind and is_cuttable(made, rows)) for kind, made in pairs):
            return False
        tensors = [made for made in outputs if isinstance(made, Tensor)]
        step.outputs = outputs
        changes = int(step.function._schema.is_mutable)  # counted when the operation has returned
        step.versions = tuple(tensor._version + changes for tensor in tensors)
        self.kept.update((address(tensor), step) for tensor in tensors)
        return True

    def end(self, reason: str, output: Any) -> Any:
        if self.recording.share:
            say_once(f"training shares only a part of the scoring pass: {reason}")
        self.recording.stopped = reason
        self.paused = True
        return output

    def new_segment(self, chosen: Tensor, indices: Tensor | None) -> None:
        if self.recording.stopped is None and self.recording.share:
            self.remember(chosen, Source(("input", "positions")))
            self.recording.segments.append(Segment(chosen.shape[1]))
            self.sizes = (chosen.shape[1],)
            self.paused = False
            self.enter()


def _forgets_its_input(step: Step) -> bool:
    """Whether autograd has no need of the first argument's values: of a sum, or a multiple by a number."""
    packet = step.function.overloadpacket
    by_number = packet in (aten.mul, aten.div) and isinstance(step.arguments["other"], (int, float))
    return by_number or packet is aten.add


def _alike(first: Any, output: Any) -> bool:
    if not isinstance(first, Tensor) or not isinstance(output, Tensor):
        return False
    return first.shape == output.shape and first.dtype == output.dtype


def _outdate(recording: weakref.ref[Recording], *_: Any) -> None:
    found = recording()
    if found is not None:
        found.outdated = True


@functools.cache
def say_once(text: str) -> None:
    """Log a warning, the same one only once."""
    logger.warning("%s", text)
