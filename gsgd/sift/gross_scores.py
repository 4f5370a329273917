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
from gsgd.sift.scoring_pass.head_inputs import Features, HeadInputs
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
    ) -> tuple[Tensor | None, GrossBatch | None]:
        """(scores (B,) of a gross batch, None where nothing scores; what a source, if one scores, was given).

        Args:
            capture: takes down what the exit computes of the batch.

        Raises:
            ValueError: if a source returns scores of another shape.
        """
        if self._last_seen is not None and ids is not None:
            return self._last_seen.scores(ids, step=step, device=device_of(batch)), None
        if self.source is not None:
            size = self.scorer.rows.size(batch)
            of_exit = _ExitOnce(self, batch, size, exit_layer, capture, self.source.by_features)
            gross = GrossBatch(batch, size, device_of(batch), ids, step, self.generator, of_exit)
            scores = self.source.scores(gross)
            if not isinstance(scores, Tensor) or scores.shape != (size,):
                shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise ValueError(f"{self.source!r} returned scores of shape {shape}, but must return ({size},)")
            return scores, gross
        if self.scorer.function is None:
            return None, None
        return self.of_exit(batch, exit_layer, capture), None

    def of_exit(
        self,
        batch: Any,
        exit_layer: int,
        capture: Capture | None = None,
        head_inputs: HeadInputs | None = None,
    ) -> Tensor:
        """(B,) scores by an exit, in parts of `score_batch_size`."""
        parts = self.scorer.parts(batch)
        if len(parts) == 1:
            return self.scorer.scores(parts[0], exit_layer, capture=capture, head_inputs=head_inputs)
        return torch.cat([self.scorer.scores(part, exit_layer, head_inputs=head_inputs) for part in parts])

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


class _ExitOnce:
    """An exit's losses of a gross batch, and what its head reads, for a source: both by one pass, and once."""

    def __init__(
        self,
        scores: GrossScores,
        batch: Any,
        size: int,
        exit_layer: int,
        capture: Capture | None,
        by_features: bool,
    ):
        self._scores, self._batch, self._size, self._exit_layer = scores, batch, size, exit_layer
        self._capture = capture
        self._head_inputs = HeadInputs() if by_features else None
        self.losses: Tensor | None = None

    def __call__(self, batch: Mapping[str, Any] | None = None) -> Tensor:
        if batch is not None:
            return self._scores.of_exit(batch, self._exit_layer)
        if self.losses is None:
            self.losses = self._scores.of_exit(self._batch, self._exit_layer, self._capture, self._head_inputs)
            self._capture = None  # the training pass uses it up, and this may be held longer
        return self.losses

    def features(self) -> Features:
        assert self._head_inputs is not None  # the source says so by its class
        self()
        return self._head_inputs.features(self._size)
