"""How a model reads the labels of a batch: which it shifts, which it ignores, and where its head takes them from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gsgd.sift.models.wrappers import innermost
from gsgd.sift.scoring_pass.row_losses import IGNORED, LossCall

LABEL_NAMES = ("labels", "next_sentence_label", "start_positions", "end_positions", "sentence_order_label")
"""Entries of a batch from which a model computes a loss."""

Way = Literal["positions", "logits", "own loss", "callable"]


@dataclass(frozen=True)
class LabelConvention:
    """How the labels of one form of batch become scores of its rows.

    Attributes:
        way: "positions", the head runs on labelled positions; "logits", the whole prediction beside the labels; "own
            loss", the model's loss functions give one value a row; "callable", a score of the user's own.
        shift: 1 where position t predicts label t + 1, as in causal language models, else 0.
        ignore_index: the label that does not count.
        below: dotted name of the module whose output the head reads, where it runs on labelled positions; None where it
            runs on all.
        doubt: why this is a guess, in words; None where the model's own loss showed it.
    """

    way: Way
    shift: int = 0
    ignore_index: int = IGNORED
    below: str | None = None
    doubt: str | None = None

    def aligned(self, labels: Tensor) -> Tensor:
        """Labels (B,), (B, 1) or (B, T) beside the predictions they are of; `IGNORED` where none counts."""
        if self.ignore_index != IGNORED:
            labels = torch.where(labels == self.ignore_index, IGNORED, labels.long())
        if self.shift and labels.dim() > 1:
            # The last position predicts nothing.
            labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], dim=1)
        return labels


def label_names(model: nn.Module, batch: Mapping[str, Any], named: Sequence[str] = ()) -> list[str]:
    """The batch's entries that are labels, the first of them what scores are computed from.

    Args:
        named: what the user calls them; () for the usual names.
    """
    if named:
        return [name for name in named if name in batch]
    known = [name for name in LABEL_NAMES if name in batch]
    if known or getattr(model, "config", None) is None:
        return known
    try:
        parameters = inspect.signature(type(innermost(model)).forward).parameters
    except (TypeError, ValueError):
        return []
    return [name for name in parameters if "label" in name and batch.get(name) is not None]


def found_shift(calls: Sequence[LossCall], labels: Tensor) -> int | None:
    """By what the model's only loss function was given: 1 for shifted labels, 0 for labels as they stand.

    Args:
        calls: of loss functions, by the model on rows with these labels.
        labels: (rows,), (rows, 1) or (rows, T), integers.

    Returns:
        None where it is not the plain cross-entropy of these labels, either way.
    """
    if len(calls) != 1 or not calls[0].plain or calls[0].targets is None or labels.is_floating_point():
        return None
    targets, ignored = calls[0].targets, calls[0].ignore_index
    flat = labels.reshape(labels.shape[0], -1).to(targets.device)
    if flat.numel() != labels.numel() or labels.dim() > 2:
        return None

    def same(one: Tensor, other: Tensor) -> bool:
        return one.shape == other.shape and bool(torch.equal(one, other.to(one.dtype)))

    if same(targets, flat):
        return 0
    if flat.shape[1] < 2:
        return None
    if targets.shape == flat.shape and same(targets[:, :-1], flat[:, 1:]) and bool((targets[:, -1] == ignored).all()):
        return 1
    return 1 if same(targets, flat[:, 1:]) else None


def shifts_by_name(model: nn.Module) -> bool:
    """Whether the class is one of transformers' causal language models, which mostly shift labels.

    It is what is assumed where the model's own loss cannot be watched.
    """
    kinds = type(innermost(model)).__mro__  # FSDP2 makes a class of its own, FSDPGPT2LMHeadModel
    if getattr(model, "config", None) is None:
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # Its values name classes, a few of them several.
    names = {
        name
        for entry in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        for name in ([entry] if isinstance(entry, str) else entry)
    }
    return any(kind.__name__ in names for kind in kinds)


def makes_decoder_inputs(model: nn.Module, batch: Mapping[str, Any]) -> bool:
    """Whether the model makes its decoder's inputs out of the labels, so that it must be given them."""
    config = getattr(innermost(model), "config", None)
    given = any(batch.get(name) is not None for name in ("decoder_input_ids", "decoder_inputs_embeds"))
    return bool(getattr(config, "is_encoder_decoder", False)) and not given
