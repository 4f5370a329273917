"""Scores of a gross batch by what the options name: an exit, losses last seen, or a source; and readings of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gsgd.sift.batches.batch_structure import device_of
from gsgd.sift.measures.readings import Columns, Reading, columns_of_batch
from gsgd.sift.models.wrappers import unwrap
from gsgd.sift.row_records.row_notes import RowNotes
from gsgd.sift.score_source import GrossBatch, ScoreSource
from gsgd.sift.scorer import Scorer
from gsgd.sift.scoring_pass.head_inputs import Features, HeadInputs
from gsgd.sift.scoring_pass.mode import draws_kept
from gsgd.sift.scoring_pass.module_state import unchanged
from gsgd.sift.shared_forward.capture import Capture
from gsgd.sift.sources.named_rows import NamedRows, columns_of_scores
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

    def columns(
        self, batch: Any, ids: Tensor | None, *, exits: Sequence[int], exit_layer: int, step: int
    ) -> list[Columns]:
        """Scores beside exact losses, at some exits; of losses last seen and of a source one, of rows that have both.

        Args:
            exits: to look at, of a score by exits.
            exit_layer: that a source begins with.
        """
        if self._last_seen is not None and ids is not None:
            return [self._last_seen.columns(self.scorer, batch, ids, step=step)]
        if self.source is None:
            return columns_of_batch(self.scorer, batch, exits=exits)
        drawn = self.generator.get_state()
        with torch.no_grad():
            scores, _ = self.of(batch, ids, exit_layer=exit_layer, step=step)
        self.generator.set_state(drawn)
        assert scores is not None
        named = self.notes.named_rows
        trained = TrainedLosses.of_options(self.scorer.options) if named is None else named.trained
        return [columns_of_scores(self.scorer, trained, batch, scores, torch.ones_like(scores, dtype=torch.bool))]

    def work(
        self, batch: Any, ids: Tensor | None, *, exits: Sequence[int], exit_layer: int, step: int
    ) -> tuple[dict[int, float], float]:
        """(operations of scoring a row, as shares of the second; those of the model's forward pass on a row).

        Floating point operations of some exits, on the first part of a gross batch, with exact losses for the forward
        pass; or, as 0, of a source. Of losses last seen both are 0, as nothing is computed.

        Raises:
            ValueError: if the model has no operation that is counted.
        """
        if self._last_seen is not None and ids is not None:
            return {0: 0.0}, 0.0
        scorer, model = self.scorer, unwrap(self.scorer.model)
        part = scorer.parts(batch)[0]
        rows = scorer.rows.size(part)

        def counted(call: Callable[[], object]) -> float:
            with torch.no_grad(), unchanged(model), draws_kept(model), FlopCounterMode(display=False) as counter:
                call()
            return counter.get_total_flops() / rows

        if self.source is None:
            # What is told how labels are read runs as it is, not compiled: graphs are not counted.
            how = scorer.convention(part) if scorer.built_in else None
            last = functools.partial(scorer.scores, part, scorer.exits, function=scorer.loss)
            forward = counted(functools.partial(last, convention=scorer.convention(part)))
            each = {layer: counted(functools.partial(scorer.scores, part, layer, convention=how)) for layer in exits}
        else:
            part_ids = None if ids is None else ids[:rows]
            drawn = self.generator.get_state()
            each = {0: counted(lambda: self.of(part, part_ids, exit_layer=exit_layer, step=step))}
            self.generator.set_state(drawn)
            forward = counted(lambda: model(**part))
        if forward == 0:
            raise ValueError(
                f"{type(model).__name__} does nothing that is counted as floating point operations, so that what "
                "scoring costs of it is not known: say so by AutoExit(costs=...)"
            )
        return {layer: operations / forward for layer, operations in each.items()}, forward

    def read(
        self, batch: Any, ids: Tensor | None, *, exits: Sequence[int], exit_layer: int, step: int
    ) -> list[Reading]:
        """Readings of `columns`."""
        found = self.columns(batch, ids, exits=exits, exit_layer=exit_layer, step=step)
        return [columns.reading(self.scorer.keep, step=step) for columns in found]


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
