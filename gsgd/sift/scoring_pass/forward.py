"""One scoring pass through a model cut after some layer: what is run of it, and what is computed of its predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gsgd.sift.scoring_pass.head_positions import GivenOutput, NotCalled, positions_only
from gsgd.sift.scoring_pass.padded_positions import Positions
from gsgd.sift.scoring_pass.row_losses import (
    IGNORED,
    LEAST,
    ON_DEVICE_AT_ONCE,
    LossCall,
    NoRowLoss,
    RowLosses,
    entries_at_once,
)
from gsgd.sift.wrappers import every_module, innermost, is_sharded

BeginHead = Callable[[Tensor, Tensor | None], None]
"""`(hidden states (1, N, H) that the head is about to see, which of the recorded ones they are) -> None`."""

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


def scores_at_positions(
    view: nn.Module,
    inputs: dict[str, Any],
    labels: Tensor,
    function: Callable[..., Tensor],
    recorded: contextlib.ExitStack,
    begin_head: BeginHead | None,
    below: str | None,
    padded: Positions | None = None,
) -> Tensor:
    """(B,) means of a score over labelled positions, the only ones that the head runs on.

    Args:
        inputs: what the model is called with.
        labels: (B, T), beside the predictions that they are of.
        function: the score, `(logits (n, C), labels (n,)) -> (n,)`.
        recorded: closed where recording ends.
        begin_head: called with what the head is about to see, if the head is recorded, too.
        below: dotted name of the module whose output the head reads.
        padded: as many positions of each row, among them the labelled ones; None to find those of `labels`.
    """
    at_once = begin_head is not None or is_sharded(view)
    if padded is not None:
        number, taken = padded.labels.shape
        rows, columns, wanted = padded.rows, padded.columns, padded.labels.reshape(-1)
        parts = [len(wanted)] if at_once else [taken * len(part) for part in _ranges_of_rows(view, number, taken)]
    else:
        rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
        if len(rows) == 0:
            if is_sharded(view):
                # The other ranks score, and gather weights from this one.
                first = torch.zeros(1, dtype=torch.int64, device=labels.device)
                with positions_only(view, first, first, below=below):
                    run(view, inputs)
            return torch.full((len(labels),), LEAST, device=labels.device)
        wanted = labels[rows, columns]
        parts = [len(rows)] if at_once else _parts(view, len(rows))
    every = _scores_of_positions(view, inputs, rows, columns, wanted, parts, function, recorded, begin_head, below)
    if padded is not None:
        there = padded.labels != IGNORED
        total = torch.where(there, every.view(there.shape), 0).sum(dim=1)
        count = there.sum(dim=1)
    else:
        total = every.new_zeros(len(labels)).index_add_(0, rows, every)
        count = torch.bincount(rows, minlength=len(labels))
    return torch.where(count > 0, total / count.clamp(min=1), LEAST)


def _scores_of_positions(
    view: nn.Module,
    inputs: dict[str, Any],
    rows: Tensor,
    columns: Tensor,
    wanted: Tensor,
    parts: list[int],
    function: Callable[..., Tensor],
    recorded: contextlib.ExitStack,
    begin_head: BeginHead | None,
    below: str | None,
) -> Tensor:
    """(N,) scores at positions (rows, columns) with the labels `wanted`; the head sees `parts` of them at a time."""
    hidden: list[Tensor] = []

    def first_part(chosen: Tensor) -> Tensor:
        if begin_head is not None:
            begin_head(chosen, None)
        hidden.extend([chosen] if len(parts) == 1 else chosen.split(parts, dim=1))
        return hidden[0]

    found: list[Any] = []
    labels = wanted.split(parts)
    with positions_only(view, rows, columns, first_part, below) as base:
        hook = base.register_forward_hook(lambda module, arguments, output: found.append(output))
        try:
            logits = logits_of(run(view, inputs))
        finally:
            hook.remove()
    recorded.close()
    values = [_score_part(view, logits, labels[0], function)]
    del logits
    for part, part_labels in zip(hidden[1:], labels[1:], strict=True):
        # What lies below the head has run; only the head is left to run on the rest.
        _replace(view, base, GivenOutput(found[0], part))
        values.append(_score_part(view, logits_of(run(view, inputs)), part_labels, function))
        base = next(module for module in view.modules() if isinstance(module, GivenOutput))
    return torch.cat(values)


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


def _parts(view: nn.Module, positions: int) -> list[int]:
    """Sizes of the parts in which the head runs on labelled positions."""
    classes = classes_of(view)
    size = positions if classes is None else max(1, LOGITS_AT_ONCE // classes)
    return [min(size, positions - start) for start in range(0, positions, size)]


def _ranges_of_rows(view: nn.Module, rows: int, positions: int) -> list[range]:
    """The rows that the head of a model on a device takes at a time, of as many positions each."""
    classes = classes_of(view)
    size = rows if classes is None else max(1, ON_DEVICE_AT_ONCE // (positions * classes))
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


def _parts_of_rows(view: nn.Module, rows: Tensor) -> list[int]:
    """As `_parts`, but no row lies in two of them."""
    (size, *_), parts = _parts(view, len(rows)), [0]
    for count in torch.unique_consecutive(rows, return_counts=True)[1].tolist():
        if parts[-1] and parts[-1] + count > size:
            parts.append(0)
        parts[-1] += count
    return parts


def _score_part(view: nn.Module, logits: Tensor, wanted: Tensor, function: Callable[..., Tensor]) -> Tensor:
    if logits.dim() != 3 or logits.shape[:2] != (1, len(wanted)):
        raise NotCalled(
            f"the head of {type(view).__name__} returned predictions {tuple(logits.shape[:-1])} for "
            f"{len(wanted)} positions"
        )
    size = max(1, entries_at_once(logits) // logits.shape[2])
    return torch.cat([function(*part) for part in zip(logits[0].split(size), wanted.split(size), strict=True)])


def run(view: nn.Module, inputs: dict[str, Any]) -> Any:
    # Keys and values of a decoder serve generation; here they would only take memory.
    caches = getattr(getattr(view, "config", None), "use_cache", False)
    return view(**{**inputs, "use_cache": False}) if caches else view(**inputs)


def own_losses_at_positions(
    view: nn.Module,
    inputs: dict[str, Any],
    name: str,
    labels: Tensor,
    ignore_index: int,
    function: Callable[..., Tensor],
    recorded: contextlib.ExitStack,
    begin_head: BeginHead | None,
    below: str,
    padded: Positions | None = None,
    computed: Callable[..., Tensor] | None = None,
) -> Tensor:
    """(B,) values of the model's own loss, whose head runs on labelled positions only, of some rows at a time.

    Args:
        inputs: what the model is called with, the labels (B, T) under `name` among them.
        recorded: closed where recording ends.
        begin_head: called with what the head is about to see, if the head is recorded, too.
        below: dotted name of the module whose output the head reads.
        padded: as many positions of each row, among them the labelled ones; None to find those of `labels`.
        computed: see `RowLosses`.
    """
    at_once = begin_head is not None or is_sharded(view)
    part_rows: Sequence[Tensor | range]
    if padded is not None:
        number, taken = padded.labels.shape
        rows, columns, wanted = padded.rows, padded.columns, padded.labels.reshape(1, -1)
        part_rows = [range(number)] if at_once else _ranges_of_rows(view, number, taken)
        sizes = [taken * len(part) for part in part_rows]
    else:
        rows, columns = torch.nonzero(labels != ignore_index, as_tuple=True)
        if len(rows) == 0:
            # One position without a label keeps the head, and other ranks, going.
            rows = columns = torch.zeros(1, dtype=torch.int64, device=labels.device)
        wanted = labels[rows, columns].unsqueeze(0)
        sizes = [len(rows)] if at_once else _parts_of_rows(view, rows)
        part_rows = list(rows.split(sizes))
    parts = list(zip(wanted.split(sizes, dim=1), part_rows, strict=True))
    hidden: list[Tensor] = []

    def first_part(chosen: Tensor) -> Tensor:
        if begin_head is not None:
            begin_head(chosen, None)
        hidden.extend([chosen] if len(parts) == 1 else chosen.split(sizes, dim=1))
        return hidden[0]

    def losses_of(wanted: Tensor, of_rows: Tensor | range, base: nn.Module) -> Tensor:
        losses = RowLosses(len(labels), function, wanted, of_rows, recorded.close, computed)
        return own_losses(view, losses, {**inputs, name: wanted}, base)[0]

    found: list[Any] = []
    with positions_only(view, rows, columns, first_part, below) as base:
        hook = base.register_forward_hook(lambda module, arguments, output: found.append(output))
        try:
            values = losses_of(*parts[0], base)
        finally:
            hook.remove()
    for states, (part_wanted, of_rows) in zip(hidden[1:], parts[1:], strict=True):
        # What lies below the head has run. The head's other losses come again, the same ones.
        _replace(view, base, GivenOutput(found[0], states))
        base = next(module for module in view.modules() if isinstance(module, GivenOutput))
        at = slice(of_rows.start, of_rows.stop) if isinstance(of_rows, range) else of_rows
        values[at] = losses_of(part_wanted, of_rows, base)[at]
    return values


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
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    if isinstance(output, Tensor):
        return output
    raise ValueError(
        f"the early prediction is a {type(output).__name__} without `logits` or `prediction_logits`: "
        "the model must have a head, and return_dict=True"
    )
