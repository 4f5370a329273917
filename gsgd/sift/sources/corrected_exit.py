"""The loss of an exit, corrected by how far it was off when the row was trained on last.

    sift = Sift(model, score=CorrectedExit(), exit_layer=1, data_rows=len(data))

    score  =  exit now  +  (exact loss - exit then)  =  exact loss last seen  +  (exit now - exit then)

Both losses "then" are of the same step, so that the bracket is the exit's error at one iterate; the second form reads
as the loss last seen, moved on by as much as the exit has moved since. Of losses that were noted at different steps the
last term would be what the exit moved since it last looked, not since the exact loss was known.

A row whose error was never seen gets the mean error of all rows whose was: an exit is off by a level, mostly, and
without it such rows would come first, or last, for the level alone. While nothing is known, as in the first epoch, that
is the exit's own order. (Losses last seen have unknown rows come first: they know nothing of them; an exit does.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gsgd.sift.score_source import GrossBatch, ScoreSource, TrainedRows
from gsgd.sift.scoring_pass.row_losses import LEAST
from gsgd.sift.sources.last_seen import UNSEEN, LastSeen


class SeenErrors:
    """For each row of a data set the error of an exit when it was last seen, and their mean over all that were seen.

    Args:
        rows, device: as of `LastSeen`.

    Attributes:
        table: exact loss less the exit's.
        totals: (2,), float64: the sum of the errors in the table, and how many there are.
    """

    def __init__(self, rows: int, device: torch.device | str = "cpu"):
        self.table = LastSeen(rows, device)
        self.totals = torch.zeros(2, dtype=torch.float64, device=device)

    def of(self, ids: Tensor, *, step: int) -> Tensor:
        """(B,), float64: the errors of rows `ids` (B,), or the mean of all; 0 while none is known.

        Raises:
            ValueError: as `LastSeen.scores`.
        """
        errors = self.table.scores(ids, step=step).double()
        return torch.where(errors == UNSEEN, self.totals[0] / self.totals[1].clamp(min=1), errors)

    def note(self, ids: Tensor, errors: Tensor, *, step: int) -> None:
        """Rows `ids` (k,) had these errors (k,), float32, at this step; `UNSEEN` of those that had none."""
        before = self.table.scores(ids, step=step)
        for values, sign in ((errors, 1), (before, -1)):
            known = values != UNSEEN
            self.totals += sign * torch.stack([torch.where(known, values.double(), 0.0).sum(), known.sum()])
        self.table.note(ids, errors, step=step)

    def state_dict(self) -> dict[str, Any]:
        """Table and totals, on the host."""
        return {**self.table.state_dict(), "totals": self.totals.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if it is of another number of rows.
        """
        self.table.load_state_dict(state)
        self.totals.copy_(state["totals"])


class CorrectedExit(ScoreSource):
    """Scores rows by an exit's loss and the error that it had for them: needs ids, and costs what the exit costs.

    Errors are noted at steps that select, where the exit has scored the rows that are trained on; the table has 8 bytes
    a row.

    Attributes:
        errors: of the exit; None before the first batch, which tells where the table lies.
    """

    needs_ids = True
    by_exit = True

    def __init__(self) -> None:
        self.errors: SeenErrors | None = None
        self._state: Mapping[str, Any] | None = None

    def scores(self, gross: GrossBatch) -> Tensor:
        """(B,): the exit's losses, each with the error last seen, or the mean of all that were seen."""
        assert gross.ids is not None  # the engine has seen to it
        errors = self._at(gross.device).of(gross.ids, step=gross.step)
        losses = gross.exit_losses()
        return losses + errors.to(losses)

    def note(self, trained: TrainedRows) -> None:
        """The errors of rows that the exit has scored at this step, on all ranks."""
        if trained.ids is None or trained.losses is None or trained.exit_losses is None:
            return
        errors = trained.losses.double() - trained.exit_losses.double()
        # Of a row without labels the exit has no loss; one that is not finite is a run that diverges.
        usable = torch.isfinite(errors) & (trained.exit_losses != LEAST)
        errors = torch.where(usable, errors, UNSEEN).float()
        everywhere = self.ranks.gathered(trained.ids), self.ranks.gathered(errors)
        self._at(errors.device).note(*everywhere, step=trained.step)

    def _at(self, device: torch.device) -> SeenErrors:
        if self.errors is None:
            assert self.data_rows is not None  # the options have seen to it
            self.errors = SeenErrors(self.data_rows, device)
            if self._state is not None:
                self.errors.load_state_dict(self._state)
        return self.errors

    def state_dict(self) -> dict[str, Any]:
        """The errors."""
        return {"errors": self._state if self.errors is None else self.errors.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if it is of another number of rows.
        """
        self.errors, self._state = None, state["errors"]
        if self._state is not None:
            self._at(torch.device("cpu"))  # so that another data set is refused here
            self.errors = None
