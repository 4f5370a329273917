"""What an engine notes of rows that have ids: the losses of those trained on, to score by or to be logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gsgd.sift.choice import Selection
from gsgd.sift.options import SiftOptions
from gsgd.sift.ranks import Ranks
from gsgd.sift.row_records.row_log import RowLog
from gsgd.sift.scorer import Scorer
from gsgd.sift.sources.named_rows import Drawn, NamedRows, Trained


class RowNotes:
    """Takes ids out of batches, and notes the losses of rows, where the options ask for that.

    Args:
        options: of the engine.
        ranks: its ranks.

    Attributes:
        named_rows: the losses noted; None where scores do without ids and no rows are logged.
    """

    def __init__(self, options: SiftOptions, ranks: Ranks):
        self.options, self.ranks = options, ranks
        self.named_rows = NamedRows(options, ranks) if options.needs_ids else None
        self._log = self._new_log()

    def _new_log(self) -> RowLog | None:
        folder = self.options.log_rows
        return None if folder is None else RowLog(folder, self.ranks.rank)

    def without_ids(self, batch: Any, scorer: Scorer, *, trains: bool) -> tuple[Tensor | None, Any]:
        """(ids (B,) where a batch carries them, the batch that the model sees).

        Args:
            trains: whether the batch is trained on; else it needs no ids.

        Raises:
            ValueError: if ids are needed, and it carries none.
        """
        key = self.options.id_key
        if self.named_rows is not None and trains:
            ids = self.named_rows.ids(batch)
        elif not isinstance(batch, Mapping) or key not in batch or scorer.takes(key):
            return None, batch
        else:
            ids = torch.as_tensor(batch[key])
        return ids, {name: value for name, value in batch.items() if name != key}

    def await_losses(
        self,
        rows: Any,
        ids: Tensor | None,
        drawn: Tensor | None,
        selection: Selection,
        exit_losses: Tensor | None = None,
    ) -> None:
        """Rows with these ids are about to be trained on.

        Args:
            ids: (k,), None if the rows have none.
            drawn: (B,), of the batch that they were chosen from.
            exit_losses: (k,), of an exit that a source began with.
        """
        if self.named_rows is None or ids is None or drawn is None:
            return
        logged = None if self._log is None else Drawn(drawn, selection.kept_flags)
        self.named_rows.awaits(rows, ids, logged, exit_losses)

    def log(self, noted: Trained, weights: Tensor | None, *, step: int) -> None:
        """Log rows whose losses `named_rows` has noted, where rows are logged.

        Args:
            weights: (k,), what the rows' losses are multiplied by; None if all count alike.
        """
        if noted.drawn is not None and self._log is not None:
            self._log.add(step, *noted.drawn, noted.ids, noted.losses, weights)

    def write(self) -> None:
        """Write what was logged since the last time.

        Raises:
            OSError: if it cannot be written.
        """
        if self._log is not None:
            self._log.write()

    def resume_log(self, step: int) -> None:
        """The run goes on at this step: what was logged of it and of later ones is logged again."""
        if self._log is not None:
            self._log.resume(step)

    def __getstate__(self) -> dict[str, Any]:
        self.write()
        return {**self.__dict__, "_log": None}  # it is of one process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._log = self._new_log()
