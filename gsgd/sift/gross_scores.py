"""Scores of a gross batch by what the options name: an exit, losses last seen, or a source; and readings of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gsgd.sift.batch_structure import device_of
from gsgd.sift.measures.readings import Reading, read_batch
from gsgd.sift.row_records.row_notes import RowNotes
from gsgd.sift.score_source import GrossBatch, ScoreSource
from gsgd.sift.scorer import Scorer
from gsgd.sift.shared_forward.capture import Capture
from gsgd.sift.sources.named_rows import NamedRows, read_scores
from gsgd.sift.sources.trained_losses import TrainedLosses


class GrossScores:
    """Scores gross batches; it has no state of its own.

    Args:
        scorer: of exits.
        notes: with the losses last seen, where they score.
        source: that scores; None where an exit does, or losses last seen, or nothing.
        generator: of a source that draws.
    """

    def __init__(self, scorer: Scorer, notes: RowNotes, source: ScoreSource | None, generator: torch.Generator):
        self.scorer, self.notes, self.source, self.generator = scorer, notes, source, generator

    @property
    def _last_seen(self) -> NamedRows | None:
        return self.notes.named_rows if self.scorer.options.score == "last-seen" else None

    def of(
        self, batch: Any, ids: Tensor | None, *, exit_layer: int, step: int, capture: Capture | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(scores (B,) of a gross batch, None where nothing scores; (B,) the exit's losses that a source began with).

        Args:
            capture: takes down what the exit computes of the batch.
        """
        if self._last_seen is not None and ids is not None:
            return self._last_seen.scores(ids, step=step, device=device_of(batch)), None
        if self.source is not None:
            exit_losses = _ExitLosses(self, batch, exit_layer, capture)
            size = self.scorer.rows.size(batch)
            gross = GrossBatch(batch, size, device_of(batch), ids, step, self.generator, exit_losses)
            scores = self.source.scores(gross)
            if not isinstance(scores, Tensor) or scores.shape != (size,):
                shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise ValueError(f"{self.source!r} returned scores of shape {shape}, but must return ({size},)")
            return scores, exit_losses.found
        if self.scorer.function is None:
            return None, None
        return self.of_exit(batch, exit_layer, capture), None

    def of_exit(self, batch: Any, exit_layer: int, capture: Capture | None = None) -> Tensor:
        """(B,) scores by an exit, in parts of `score_batch_size`."""
        parts = self.scorer.parts(batch)
        if len(parts) == 1:
            return self.scorer.scores(parts[0], exit_layer, capture=capture)
        return torch.cat([self.scorer.scores(part, exit_layer) for part in parts])

    def read(
        self, batch: Any, ids: Tensor | None, *, exits: Sequence[int], exit_layer: int, step: int
    ) -> list[Reading]:
        """Readings at some exits; of losses last seen and of a source one, of the rows that it has scores of.

        Args:
            exits: to read, of a score by exits.
            exit_layer: that a source begins with.
        """
        if self._last_seen is not None and ids is not None:
            return [self._last_seen.read(self.scorer, batch, ids, step=step)]
        if self.source is None:
            return read_batch(self.scorer, batch, exits=exits, step=step)
        drawn = self.generator.get_state()
        with torch.no_grad():
            scores, _ = self.of(batch, ids, exit_layer=exit_layer, step=step)
        self.generator.set_state(drawn)
        assert scores is not None
        named = self.notes.named_rows
        options = self.scorer.options
        trained = TrainedLosses.of_options(options) if named is None else named.trained
        everything = torch.ones_like(scores, dtype=torch.bool)
        return [read_scores(self.scorer, trained, batch, scores, everything, step=step)]


class _ExitLosses:
    """The losses of an exit, for a source; those of the batch itself are computed once."""

    def __init__(self, scores: GrossScores, batch: Any, exit_layer: int, capture: Capture | None):
        self._scores, self._batch, self._exit_layer, self._capture = scores, batch, exit_layer, capture
        self.found: Tensor | None = None

    def __call__(self, batch: Mapping[str, Any] | None = None) -> Tensor:
        if batch is not None:
            return self._scores.of_exit(batch, self._exit_layer)
        if self.found is None:
            self.found = self._scores.of_exit(self._batch, self._exit_layer, self._capture)
        return self.found
