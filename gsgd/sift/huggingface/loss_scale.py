"""Whether a model's loss heeds `num_items_in_batch`, found by its behaviour.

transformers tells by the signature: whatever takes **kwargs is expected to divide by it. A model that takes it and does
nothing with it (BERT) then trains on gradients `gradient_accumulation_steps` times too large.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gsgd.sift.batches.batch import BatchRows
from gsgd.sift.models.wrappers import innermost
from gsgd.sift.scoring_pass.mode import draws_kept, scoring_mode
from gsgd.sift.scoring_pass.module_state import unchanged
from gsgd.sift.scoring_pass.row_losses import IGNORED

logger = logging.getLogger(__name__)


def heeds_number_of_items(
    model: nn.Module, batches: list[Any], rows: BatchRows, compute_loss: Callable[..., Tensor], accelerator: Any
) -> bool | None:
    """Whether the loss of a row is another with another `num_items_in_batch`; None if these batches cannot tell.

    All ranks call it, and get the same answer.
    """
    row = _most_labelled_row(batches, rows)
    if row is None:
        return None
    device = accelerator.device

    def loss(count: int) -> float:
        inputs = dict(row) if isinstance(row, Mapping) else row
        return float(compute_loss(model, inputs, num_items_in_batch=torch.tensor(count, device=device)).mean())

    modes = unchanged(model), scoring_mode(model, "eval"), accelerator.autocast()
    with torch.no_grad(), draws_kept(model), modes[0], modes[1], modes[2]:
        few, many = loss(1), loss(1000)
    # Dividing by it makes a factor of 1000; what else is in a loss (of routing, say) dilutes that.
    known = bool(np.isfinite([few, many]).all()) and few != 0
    answer = torch.tensor([int(known), int(known and abs(few - many) > 0.01 * abs(few))], device=device)
    if accelerator.num_processes > 1:
        # A rank without any label has no answer, and all must go by the same one.
        answer = accelerator.gather(answer[None]).amax(dim=0)
    if not answer[0]:
        return None
    if not answer[1]:
        name = type(innermost(model)).__name__
        logger.info("%s ignores num_items_in_batch: losses are averaged over micro-batches", name)
    return bool(answer[1])


def _most_labelled_row(batches: list[Any], rows: BatchRows) -> Any:
    """The row of the batches with the most labels, as a batch of one; None if they have no labels."""
    found, most = None, 0
    for batch in batches:
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        if not isinstance(batch, Mapping):
            return rows.take(batch, torch.tensor([0]))
        if not isinstance(labels, Tensor) or labels.dim() == 0:
            continue
        counts = (labels != IGNORED).reshape(rows.size(batch), -1).sum(dim=1)
        if int(counts.max()) > most:
            found, most = rows.take(batch, counts.argmax().reshape(1)), int(counts.max())
    return found
