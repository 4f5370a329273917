"""One scoring pass through a model cut after some layer: what is run of it, and what is computed of its predictions."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gsgd.scores import PositionScore
from gsgd.sift.models.wrappers import every_module, innermost, is_sharded
from gsgd.sift.scoring_pass.head_positions import GivenOutput, NotCalled, positions_only
from gsgd.sift.scoring_pass.padded_positions import Positions
from gsgd.sift.scoring_pass.row_losses import (
    IGNORED,
    LEAST,
    ON_DEVICE_AT_ONCE,
    LossCall,
    NoRowLoss,
    RowLosses,
    at_labelled,
)

BeginHead = Callable[[Tensor, Tensor | None], None]
"""`(hidden states (1, N, H) that the head is about to see, which of the captured ones they are) -> None`."""

LOGITS_AT_ONCE = 2**24
"""Entries of the matrix of logits that scoring has in memory at a time."""


def own_losses(
    view: nn.Module, losses: RowLosses, inputs: dict[str, Any], after: nn.Module | None = None
) -> tuple[Tensor, list[LossCall]]:
    """((rows,) values of the model's loss, calls of loss functions).

    Args:
        after: a module behind which loss functions are called; watching no others costs less, and does not have layers
            that are compiled one by one compiled once more.

    Raises:
        NoRowLoss: if it has none, or not one for each row.
    """
    with contextlib.ExitStack() as stack:
        if after is None:
            stack.enter_context(losses)
        else:
            hook = after.register_forward_hook(lambda *_: _entered(stack, losses))
            stack.callback(hook.remove)
        output = run(view, inputs)
    values, rows = loss_of(output), losses.rows
    name = type(innermost(view)).__name__
    if values is None:
        raise NoRowLoss(f"{name} returned no loss for this batch")
    if not losses.calls or losses.labelled is None:
        raise NoRowLoss(f"{name} computes its loss without the loss functions of torch.nn.functional")
    if values.shape != (rows,):
        raise NoRowLoss(f"the loss of {name} has shape {tuple(values.shape)}, not one value for each of {rows} rows")
    return torch.where(losses.labelled, values, LEAST), losses.calls


def _entered(stack: contextlib.ExitStack, losses: RowLosses) -> None:
    """Enter `losses`, and return nothing, as a hook that leaves its module's output alone."""
    stack.enter_context(losses)


class LabelledHead:
    """The head of a model on labelled positions only, on as many at a time as there is memory for.

    Args:
        view: the model, cut after some layer.
        inputs: what it is called with.
        labels: (B, T), beside the predictions that they are of.
        below: dotted name of the module whose output the head reads.
        ignored: the label that does not count.
        padded: as many positions of each row, among them the labelled ones; None to find those of `labels`.
        captured: closed where the capture ends.
        begin_head: called with what the head is about to see, if the head is captured, too.
    """

    def __init__(
        self,
        view: nn.Module,
        inputs: dict[str, Any],
        labels: Tensor,
        below: str | None,
        *,
        ignored: int = IGNORED,
        padded: Positions | None = None,
        captured: contextlib.ExitStack,
        begin_head: BeginHead | None,
    ):
        self.view, self.inputs, self.labels, self.below, self.padded = view, inputs, labels, below, padded
        self.captured, self.begin_head = captured, begin_head
        if padded is not None:
            self.rows, self.columns, self.wanted = padded.rows, padded.columns, padded.labels.reshape(-1)
        else:
            self.rows, self.columns = torch.nonzero(labels != ignored, as_tuple=True)
            if len(self.rows) == 0:
                # One position without a label keeps the head, and other ranks, going.
                self.rows = self.columns = torch.zeros(1, dtype=torch.int64, device=labels.device)
            self.wanted = labels[self.rows, self.columns]

    def each(self, score: PositionScore) -> Tensor:
        """(N,) scores of the positions, row by row."""
        sizes = self._sizes(whole_rows=False)

        def predictions() -> Tensor:
            logits = logits_of(run(self.view, self.inputs))
            self.captured.close()
            return logits

        with contextlib.closing(self._parts(sizes)) as parts:
            found = [
                _score_part(self.view, predictions(), wanted, score)
                for _, wanted in zip(parts, self.wanted.split(sizes), strict=True)
            ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def scores(self, score: PositionScore) -> Tensor:
        """(B,) means over labelled positions of their score."""
        every, there = self.each(score), self.wanted != IGNORED
        if self.padded is not None:
            shape = self.padded.labels.shape
            total, count = every.view(shape).sum(dim=1), there.view(shape).sum(dim=1)
        else:
            total = every.new_zeros(len(self.labels)).index_add_(0, self.rows, every)
            count = torch.bincount(self.rows[there], minlength=len(self.labels))
        return torch.where(count > 0, total / count.clamp(min=1), LEAST)

    def own_losses(self, name: str, function: Callable[..., Tensor], computed: PositionScore) -> Tensor:
        """(B,) values of the model's own loss, whose labels are its input `name`; `computed` as of `RowLosses`."""
        sizes = self._sizes(whole_rows=True)
        part_rows: Sequence[Tensor | range] = self.rows.split(sizes)
        if self.padded is not None:
            ends = itertools.accumulate(size // self.padded.labels.shape[1] for size in sizes)
            part_rows = [range(*pair) for pair in itertools.pairwise([0, *ends])]
        wanted = self.wanted.unsqueeze(0).split(sizes, dim=1)
        values: Tensor | None = None
        with contextlib.closing(self._parts(sizes)) as parts:
            for base, rows, labels in zip(parts, part_rows, wanted, strict=True):
                losses = RowLosses(len(self.labels), function, labels, rows, self.captured.close, computed)
                found = own_losses(self.view, losses, {**self.inputs, name: labels}, base)[0]
                if values is None:
                    values = found
                else:
                    at = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
                    values[at] = found[at]
        assert values is not None
        return values

    def _sizes(self, *, whole_rows: bool) -> list[int]:
        """How many positions the head sees at a time; with `whole_rows` no row lies in two parts."""
        number, classes = len(self.wanted), classes_of(self.view)
        if classes is None or self.begin_head is not None or is_sharded(self.view):
            return [number]
        if self.padded is not None:
            taken = self.padded.labels.shape[1]
            size = taken * max(1, ON_DEVICE_AT_ONCE // (taken * classes))
        else:
            size = max(1, LOGITS_AT_ONCE // classes)
        if self.padded is not None or not whole_rows:
            return [min(size, number - start) for start in range(0, number, size)]
        parts = [0]
        for count in torch.unique_consecutive(self.rows, return_counts=True)[1].tolist():
            if parts[-1] and parts[-1] + count > size:
                parts.append(0)
            parts[-1] += count
        return parts

    def _parts(self, sizes: list[int]) -> Generator[nn.Module]:
        """Yields the module below the head, so many times, while a call of the view runs the head on the next part.

        The first call runs what lies below the head, too; then that is in place already.
        """
        hidden: list[Tensor] = []
        outputs: list[Any] = []

        def first_part(chosen: Tensor) -> Tensor:
            if self.begin_head is not None:
                self.begin_head(chosen, None)
            hidden.extend([chosen] if len(sizes) == 1 else chosen.split(sizes, dim=1))
            return hidden[0]

        with positions_only(self.view, self.rows, self.columns, first_part, self.below) as base:
            hook = base.register_forward_hook(lambda module, arguments, output: outputs.append(output))
            try:
                yield base
            finally:
                hook.remove()
        for states in hidden[1:]:
            given = GivenOutput(outputs[0], states)
            _replace(self.view, base, given)
            base = given
            yield base


def _replace(view: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put one module of a view, on the way to its layers, in the place of another."""
    for module in every_module(view):
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new
                return


def classes_of(model: nn.Module) -> int | None:
    """How many classes a language model's head tells apart; None if its config does not say."""
    classes = getattr(getattr(model, "config", None), "vocab_size", None)
    return classes if isinstance(classes, int) and classes > 0 else None


def _score_part(view: nn.Module, logits: Tensor, wanted: Tensor, score: PositionScore) -> Tensor:
    """As `at_labelled`, of the predictions (1, n, C) that a head returned."""
    if logits.dim() != 3 or logits.shape[:2] != (1, len(wanted)):
        raise NotCalled(
            f"the head of {type(view).__name__} returned predictions {tuple(logits.shape[:-1])} for "
            f"{len(wanted)} positions"
        )
    return at_labelled(score, logits[0], wanted, wanted != IGNORED)


def run(view: nn.Module, inputs: dict[str, Any]) -> Any:
    # Keys and values of a decoder serve generation; here they would only take memory.
    caches = getattr(getattr(view, "config", None), "use_cache", False)
    return view(**{**inputs, "use_cache": False}) if caches else view(**inputs)


def loss_of(output: Any) -> Tensor | None:
    """The loss in a model's output."""
    if isinstance(output, Mapping):
        return output.get("loss")
    if hasattr(output, "loss"):
        return output.loss
    return output[0] if isinstance(output, tuple) and output and isinstance(output[0], Tensor) else None


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output.

    Raises:
        ValueError: if it has none.
    """
    for name in ("logits", "prediction_logits"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if found is not None:
            return found
    if isinstance(output, Tensor):
        return output
    raise ValueError(
        f"the early prediction is a {type(output).__name__} without `logits` or `prediction_logits`: "
        "the model must have a head, and return_dict=True"
    )
