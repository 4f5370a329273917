"""The loss that can still be reduced: the model's, less that of a reference (RHO).

    sift = Sift(model, score=ReducibleLoss(losses_of_reference), exit_layer=12, data_rows=len(data))

    score  =  exit now  -  loss of the reference

What is hard for the reference, too, is noise or beyond what can be learnt, and ranks low. With the last exit it is the
paper's score. The reference is a model that was trained on other rows; its losses are known before training begins, a
table by ids, or are computed of each batch by a callable, whose arithmetic then counts as scoring does.

Reference:
    Mindermann et al., Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet Learnt, ICML 2022,
    arXiv:2206.07137.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gsgd import host
from gsgd.sift.score_source import GrossBatch, ScoreSource
from gsgd.sift.sources.last_seen import check_ids

ReferenceLosses = Callable[[Mapping[str, Any]], Tensor]
"""`batch -> (B,)`: the losses of a reference on a gross batch."""


class ReducibleLoss(ScoreSource):
    """Scores rows by an exit's loss less a reference's. It learns nothing; a resumed run is given the reference again.

    Args:
        reference: (rows,) losses of the rows of the data, by their ids; or `batch -> (B,)`, called without gradients.

    Raises:
        ValueError: for a table that is empty, of more than one axis, or not finite.
    """

    by_exit = True

    def __init__(self, reference: Any):
        self.losses_of: ReferenceLosses | None = reference if callable(reference) else None
        self.table: Tensor | None = None if callable(reference) else _table(reference)
        self.needs_ids = self.table is not None

    def scores(self, gross: GrossBatch) -> Tensor:
        """(B,): the exit's losses less the reference's; on a device NaN for an id that is not in the table.

        Raises:
            ValueError: if the callable returns another shape, or, on a host, for an id that is not in the table.
        """
        known = self._known(gross)
        losses = gross.exit_losses()
        return losses - known.to(losses)

    def _known(self, gross: GrossBatch) -> Tensor:
        if self.losses_of is not None:
            found = self.losses_of(gross.batch)
            if not isinstance(found, Tensor) or found.shape != (gross.size,):
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"the reference returned {shape}, but must return one loss a row, ({gross.size},)")
            return found
        assert self.table is not None
        assert gross.ids is not None  # the engine has seen to it
        ids, rows = check_ids(gross.ids, len(self.table)), len(self.table)
        if host.holds(ids) and host.holds(self.table):
            return self.table.index_select(0, ids)
        self.table = host.sent(self.table, gross.device)
        ids = host.sent(ids, gross.device)
        inside = (ids >= 0) & (ids < rows)
        return torch.where(inside, self.table.index_select(0, ids.clamp(0, rows - 1)), torch.nan)


def _table(reference: Any) -> Tensor:
    try:
        table = torch.as_tensor(reference).detach().float()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"reference is a {type(reference).__name__} but must be (rows,) losses, or callable, batch -> (B,)"
        ) from None
    if table.dim() != 1 or len(table) == 0:
        raise ValueError(
            f"reference has shape {tuple(table.shape)} but must be (rows,), a loss for each row of the data"
        )
    bad = torch.nonzero(~torch.isfinite(table))
    if len(bad):
        raise ValueError(f"reference[{int(bad[0])}] is {float(table[bad[0]])}, but must be finite")
    return table
