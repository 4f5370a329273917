"""Losses of a batch that count unevenly: controls with a bias to hard rows, and weights that a sampler gives.

A control says what of a gain is the bias to hard rows, and what is selection: every drawn row is trained on.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gsgd.sift.scoring_pass.forward import logits_of
from gsgd.sift.scoring_pass.row_losses import IGNORED
from training.settings import TrainingSettings


def label_losses(output: Any, labels: Tensor) -> Tensor:
    """The cross-entropy of each label, of the shape of `labels`; 0 where there is none."""
    logits = logits_of(output)
    each = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), reduction="none", ignore_index=IGNORED
    )
    return each.reshape(labels.shape)


def hard_weights(losses: Tensor, labels: Tensor, settings: TrainingSettings) -> Tensor:
    """What each label's loss is multiplied by, of mean 1 over the labels, without a gradient.

        focal       (1 - p)^gamma, p = e^-loss the probability of the right class
        loss-power  loss^a

    Both 1 where all labels would weigh nothing.

    Args:
        losses, labels: of one shape, as `label_losses` takes and returns them.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002: without normalisation, which
        here keeps the gradient's size, and so the learning rate, comparable.
    """
    losses, counts = losses.detach(), labels != IGNORED
    if settings.method == "focal":
        weights = (-torch.expm1(-losses)) ** settings.focal_gamma
    else:
        weights = losses**settings.loss_power
    weights = torch.where(counts, weights, 0.0)
    total = weights.sum()
    return torch.where(total > 0, weights * (counts.sum() / total), counts.to(weights))


def hard_row_weights(labels: Tensor, settings: TrainingSettings, output: Any) -> Tensor:
    """(B,): the means of `hard_weights` over the labels of each row."""
    return row_means(hard_weights(label_losses(output, labels), labels, settings), labels)


def reweighted(loss: Tensor, losses: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """The model's loss with weights in its mean over labels; what else it consists of stays as it is.

    Args:
        loss: the model's, with the mean of `losses` over labels in it.
        losses, weights, labels: of one shape.
    """
    number = (labels != IGNORED).sum().clamp(min=1)
    return loss + ((weights - 1) * losses).sum() / number


def row_means(values: Tensor, labels: Tensor) -> Tensor:
    """(B,): means of values over the labels of each row; 0 of a row without any."""
    values, counts = values.reshape(len(labels), -1), (labels != IGNORED).reshape(len(labels), -1)
    return torch.where(counts, values, 0.0).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
