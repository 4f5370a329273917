"""How a model reads the labels of one kind of batch, found from its own loss of two rows.

Its loss functions are watched (`row_losses`), which shows shift, ignored label and kind of loss. Where the cheap way
(the head on labelled positions, or logits beside labels) gives the same numbers it is taken from then on; else the
model's own loss is, with one value a row in place of the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gsgd.sift.exits import EarlyExit, exit_view, find_layers
from gsgd.sift.models.wrappers import innermost, unwrap
from gsgd.sift.scoring_pass.forward import own_losses
from gsgd.sift.scoring_pass.head_positions import NotCalled, modules_below_head
from gsgd.sift.scoring_pass.labels import LabelConvention, found_shift, makes_decoder_inputs, shifts_by_name
from gsgd.sift.scoring_pass.row_losses import LossCall, NoRowLoss, RowLosses


class Probed(Protocol):
    """What of `Scorer` it takes to find out."""

    model: nn.Module
    exits: int
    rows: Any

    @property
    def loss(self) -> Callable[..., Tensor]: ...
    @property
    def scores(self) -> Callable[..., Tensor]: ...
    def label_names(self, batch: Mapping[str, Any]) -> list[str]: ...
    def inputs(self, batch: Mapping[str, Any], *, labels: bool) -> dict[str, Any]: ...
    def watched(self) -> AbstractContextManager[None]: ...


def learnt_convention(scorer: Probed, probe: Mapping[str, Any]) -> LabelConvention:
    """The cheapest way of scoring that agrees with the model's own loss of a few rows.

    Raises:
        ValueError: if the model has no loss per row.
    """
    model = unwrap(scorer.model)
    labels, size = probe[scorer.label_names(probe)[0]], scorer.rows.size(probe)
    own_exits = isinstance(innermost(model), EarlyExit)
    if labels.is_floating_point() and own_exits:
        raise ValueError(
            f"labels has dtype {labels.dtype}, but the scores of gsgd need classes (integers): "
            "for another task pass a callable, score=(logits, labels) -> (B,)"
        )
    try:
        with scorer.watched():
            whole = model if own_exits else exit_view(model, scorer.exits)
            values, calls = own_losses(whole, RowLosses(size), scorer.inputs(probe, labels=True))
    except NoRowLoss as error:
        doubt = str(error)
    except (RuntimeError, TypeError, IndexError) as error:
        # A model may do with its loss what cannot be done with one value a row; anything else that is wrong with
        # it comes up again when it is scored.
        doubt = f"{type(error).__name__}: {error}"
    else:
        return _simplest(scorer, probe, labels, values, calls)
    guesses = conventions_to_try(scorer, probe, doubt)
    if not guesses:
        raise ValueError(
            f"{type(innermost(model)).__name__} has no loss per row that scores could be: {doubt}. "
            "Pass a callable, score=(logits, labels) -> (B,)"
        )
    return guesses[0]


def _simplest(
    scorer: Probed, probe: Mapping[str, Any], labels: Tensor, values: Tensor, calls: list[LossCall]
) -> LabelConvention:
    """The cheapest way of scoring that agrees with the loss as it was watched."""
    model = unwrap(scorer.model)
    shift = found_shift(calls, labels)
    own_exits = isinstance(innermost(model), EarlyExit)
    if shift is None and own_exits:
        return LabelConvention("logits", doubt="its loss is not the cross-entropy of its labels")
    ignored = calls[0].ignore_index
    single = labels.dim() < 2 or labels.shape[1:].numel() == 1
    below = [] if own_exits or labels.dim() < 2 else modules_below_head(model, find_layers(model)[0])
    if shift is None:
        as_they_are = [found_shift([call], labels) == 0 for call in calls]
        tries = [LabelConvention("own loss", 0, ignored, name) for name in below if any(as_they_are)]
    elif own_exits or single:
        tries = [LabelConvention("logits", 0 if single else shift, ignored)]
        tries += [LabelConvention("positions", 0, ignored, name) for name in below]  # of sequences of one token
    else:
        tries = [LabelConvention("positions", shift, ignored, name) for name in below]
    if makes_decoder_inputs(model, probe):
        tries = []  # the decoder reads the labels, too
    for convention in tries:
        if own_exits:
            return convention  # its early logits are its own; the self-check holds them against its loss
        try:
            with scorer.watched():
                found = scorer.scores(probe, scorer.exits, function=scorer.loss, mode="eval", convention=convention)
        except (NotCalled, RuntimeError, TypeError, IndexError, ValueError):
            continue  # not the module that the head reads from
        if torch.allclose(found.double(), values.double(), rtol=1e-3, atol=1e-4):
            return convention
    return LabelConvention("own loss")


def conventions_to_try(scorer: Probed, batch: Mapping[str, Any], doubt: str) -> list[LabelConvention]:
    """Guesses where the loss could not be watched, the likeliest first."""
    model = unwrap(scorer.model)
    labels = batch[scorer.label_names(batch)[0]]
    shifts = (1, 0) if shifts_by_name(model) else (0, 1)
    if labels.is_floating_point():
        return []
    if labels.dim() < 2 or labels.shape[1:].numel() == 1:
        return [LabelConvention("logits", doubt=doubt)]
    if isinstance(innermost(model), EarlyExit):
        return [LabelConvention("logits", shift=shift, doubt=doubt) for shift in shifts]
    below = modules_below_head(model, find_layers(model)[0])
    return [LabelConvention("positions", shift=shift, below=name, doubt=doubt) for shift in shifts for name in below]
