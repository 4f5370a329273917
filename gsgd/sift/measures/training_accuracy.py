"""How many of a gross batch's labels the model predicts right, without a trace left on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gsgd.sift.models.wrappers import unwrap
from gsgd.sift.ranks import Ranks
from gsgd.sift.scorer import Scorer
from gsgd.sift.scoring_pass.forward import logits_of
from gsgd.sift.scoring_pass.mode import draws_kept, scoring_mode
from gsgd.sift.scoring_pass.module_state import unchanged
from gsgd.sift.scoring_pass.row_losses import IGNORED


def training_accuracy(scorer: Scorer, batch: Mapping[str, Any], ranks: Ranks) -> float:
    """The share of the labels of all ranks' batches that the largest logit names, in [0, 1]; NaN without labels.

    One forward pass in the mode that scores are computed in. It waits for a device; all ranks must ask.

    Args:
        batch: with class labels, one a row or one a position of a row.

    Raises:
        ValueError: if labels are no classes, or logits do not fit them.
    """
    model = unwrap(scorer.model)
    names = scorer.label_names(batch)
    labels: Any = batch[names[0]]
    with torch.no_grad(), unchanged(model), draws_kept(model), scoring_mode(model, scorer.options.scoring_mode):
        logits = logits_of(model(**batch))
    if labels.is_floating_point() or len(names) > 1 or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"keep by accuracy needs labels of classes, one for each prediction, but {', '.join(names)} has shape "
            f"{tuple(labels.shape)} and {labels.dtype}, and the logits have shape {tuple(logits.shape)}: give keep as "
            "a number or a table over steps"
        )
    if labels.dim() > 1 and scorer.shifts:
        logits, labels = logits[:, :-1], labels[:, 1:]
    counts = labels != IGNORED
    found = torch.stack([((logits.argmax(dim=-1) == labels) & counts).sum(), counts.sum()])
    right, labelled = _over_ranks(found, ranks)
    return right / labelled if labelled else float("nan")


def _over_ranks(found: Tensor, ranks: Ranks) -> list[float]:
    if ranks.size == 1:
        return found.tolist()
    return ranks.gathered(found[None]).sum(dim=0).tolist()
