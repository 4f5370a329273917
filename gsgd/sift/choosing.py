"""The rows that a step trains on: whether it selects, what it chooses from, and the choice.

The part of `gsgd.sift.engine` that runs before a step's training pass.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gsgd.sift.batches.batch_structure import device_of
from gsgd.sift.candidates.packed_documents import Documents, Pack, check_apart
from gsgd.sift.candidates.rows import Candidates, Rows
from gsgd.sift.candidates.token_level import LabelledTokens
from gsgd.sift.choice import Choice, Selection
from gsgd.sift.compilation import begin_step
from gsgd.sift.engine_state import EngineState
from gsgd.sift.exit_choice.moving_exit import MovingExit
from gsgd.sift.exit_choice.paying_exit import PayingExit
from gsgd.sift.gross_scores import GrossScores
from gsgd.sift.measures.readings import Reading
from gsgd.sift.measures.self_check import SelfCheck
from gsgd.sift.measures.training_accuracy import training_accuracy
from gsgd.sift.models.wrappers import is_sharded
from gsgd.sift.schedules.schedule import Schedule
from gsgd.sift.scorer import Scorer
from gsgd.sift.shared_forward.capture import say_once
from gsgd.sift.shared_forward.sharing import Shared
from gsgd.sift.sources.scored_rows import ScoredRows
from gsgd.sift.timing import Elapsed
from gsgd.sift.training_pass import TrainingPass

logger = logging.getLogger(__name__)


class Choosing(EngineState):
    """The part of `Sift` that chooses what a step trains on; see there for the attributes."""

    model: nn.Module
    scorer: Scorer
    schedule: Schedule
    readings: list[Reading]
    last: Selection | None
    holds_window: bool
    _check: SelfCheck
    _packs_checked: bool
    _choice: Choice
    _gross: GrossScores
    _training_pass: TrainingPass
    _scored_rows: ScoredRows

    @property
    def next_selects(self) -> bool:
        """Whether the next training call selects: a loop that draws gross batches then alone asks before it draws."""
        if not self.schedule.selects(self.step):
            return False
        if not isinstance(self.auto, PayingExit):
            return True
        return (self.auto.next if self._begins_step else self.auto.present) is not None

    def choose(self, batch: Any) -> Any:
        """The rows to train on at this step, as a batch; counts the step and sets `last`.

        Args:
            batch: a mapping of the model's arguments and labels; with `score="random"` also a tuple or a dataclass. Of
                documents packed into one row (`gsgd.sift.candidates.packed_documents`) each document counts as a row;
                to find where they begin, a GPU is waited for.

        Returns:
            The batch's kept rows in its own structure (a mapping as a dictionary); of a pack, a pack.

        Raises:
            ValueError: for a batch without rows or with tensors of different lengths, without labels, (by
                `on_bad_scores="raise"`) with a score that is not finite, or whose scores are not the model's losses
                (by `check`). Scores on a device are looked at when the next batch is chosen from, or the first after
                they were computed; the error names their step.
        """
        pack = Pack.of(batch) if self.options.level == "row" else None
        if pack is None:
            if self.options.keep_tokens:
                raise ValueError("keep_tokens=True is for documents packed into one row, but the batch is not packed")
            return self._choose(batch)
        pack.check_options(self.options)
        if self.options.check and not self._packs_checked and not (self.ranks.size > 1 and is_sharded(self.model)):
            check_apart(self.scorer, pack)
        self._packs_checked = True
        kept = self._choose(pack.rows, pack)
        return kept if self.last is not None and self.last.selected else dict(batch)

    def _choose(self, batch: Any, pack: Pack | None = None) -> Any:
        """`choose`, of rows; those of a pack are its documents, and what is returned is packed."""
        self._read_checks()
        self._training_pass.release()
        if self._training_pass.compiled is not None:
            begin_step(device_of(batch), self.model)
        step = self.step
        selects = self.schedule.selects(step)
        if selects and self.ranks.together:
            self.ranks.check_alike(batch)
        ids, batch = self._notes.without_ids(batch, self.scorer, trains=self.model.training)
        size = self._learn_rows(batch)
        if ids is not None and self.named_rows is not None and len(ids) != size:
            raise ValueError(
                f"the batch has {size} rows, but {len(ids)} ids under {self.options.id_key!r} (id_key): each needs one"
            )
        if self._begins_step:  # all of a step's micro-batches keep one share
            self.keep = self.scorer.keep = self._share.at(step)
        self._measure_accuracy(batch, step)
        watch = Elapsed()
        if selects and isinstance(self.auto, PayingExit):
            selects = self.auto.selects(self._gross, batch, ids, exit_layer=self.exit_layer, step=step, watch=watch)
            self.exit_layer = self.auto.last or self.exit_layer  # of a score that is no exit's own it stays
        if selects and self.options.reuse == "auto" and self.scorer.function is not None:
            self.reuse_trial.begin(device_of(batch), self.ranks)
        self.calls += 1
        self.totals.gross_samples += size
        candidates = self._candidates(batch, size, ids, step, pack)
        number, (kept, because) = len(candidates), candidates.number_kept(self.keep)
        joint = self.ranks.size > 1 and (self.auto is not None or is_sharded(self.model))
        # Where ranks must run the model together, what a single one could leave out may not depend on its batch.
        trivial = kept == number and not self.ranks.together and not (joint and self.keep < 1)
        if selects and (self.keep < 1 or not trivial):
            self._check.prepare(self.scorer, batch, self.ranks, scores=not trivial)
        if selects and trivial and self.keep < 1:
            self.totals.idle_steps += 1
            say_once(f"a step selects nothing and trains on its whole batch: {because}")
        if not selects or trivial:
            whole = dict(batch) if isinstance(batch, Mapping) else batch
            measured = watch if isinstance(self.auto, PayingExit) else None
            selection = Selection(step, False, torch.arange(size), None, size, size, measured, ids)
            return self._chosen(whole, selection, ids, candidates)
        return self._select(candidates, batch, ids, step, size, kept, watch)

    def _candidates(self, batch: Any, size: int, ids: Tensor | None, step: int, pack: Pack | None) -> Candidates:
        """What a step chooses from: the batch's `size` rows, the documents of a pack, or labelled tokens."""
        if self.options.level == "token":
            return LabelledTokens(self.scorer, batch)
        if pack is not None:
            return Documents(pack, model=self.model, step=step, scoring=self._gross, ranks=self.ranks)
        return Rows(self.model, batch, size, ids, step=step, scoring=self._gross, ranks=self.ranks)

    def _select(
        self,
        candidates: Candidates,
        batch: Any,
        ids: Tensor | None,
        step: int,
        size: int,
        kept: int,
        watch: Elapsed,
    ) -> Any:
        """`kept` of the candidates of a batch of `size` rows, as a batch: scored, chosen by the rule, and taken out."""
        device = device_of(batch)
        part = self.options.score_batch_size if self.scorer.function is not None else None
        if part is not None and self.ranks.size > 1 and is_sharded(self.model):
            self.ranks.check_passes(-(-size // part))
        if isinstance(self.auto, MovingExit):
            with watch.measure(device):
                self.exit_layer = self.auto.moved(self.scorer, batch, step)
        self._take_reading(batch, ids, step)
        capture = self._training_pass.new_capture(
            self.model,
            batch,
            self.exit_layer,
            together=self.ranks.together,
            holds_window=self.options.accumulation_steps > 1 and self.holds_window,
            packed=isinstance(candidates, Documents),
        )
        with torch.no_grad(), watch.measure(device):
            scores = candidates.scores(self.exit_layer, capture)
            if self.options.keep_tokens and scores is not None and isinstance(candidates, Documents):
                kept = candidates.number_within(scores, self.keep)
            chosen = self._choice.rows(
                scores,
                kept,
                len(candidates),
                device,
                step=step,
                generator=self.generator,
                totals=self.totals,
                positions=self.scorer.positions,
            )
            taken, gross = candidates.taken(chosen), candidates.gross
            exit_losses = None if gross is None else gross.exit_losses.losses
            chosen_ids, exit_losses = (self.ranks.of_chosen(values, taken.rows) for values in (ids, exit_losses))
            if gross is not None and self.source is not None and self.source.by_features:
                features = self.ranks.of_chosen(gross.exit_losses.features().values, taken.rows)
                self._scored_rows.awaits(taken.batch, features, gross)
        if capture is not None and capture.segments:
            self._training_pass.shared = Shared(capture, self.exit_layer, taken.batch, taken.rows, batch.get("labels"))
        first = self.ranks.rank * size if self.ranks.together else 0
        self.totals.selected_steps += 1
        selection = Selection(
            step,
            True,
            taken.rows,
            scores,
            size,
            taken.number,
            watch,
            chosen_ids,
            tokens=taken.tokens,
            first_row=first,
        )
        return self._chosen(taken.batch, selection, ids, candidates, exit_losses)

    def _chosen(
        self,
        rows: Any,
        selection: Selection,
        drawn: Tensor | None,
        candidates: Candidates,
        exit_losses: Tensor | None = None,
    ) -> Any:
        """The rows that a step trains on, once it is noted what they are.

        Args:
            drawn: the ids of its gross batch.
            candidates: that it chose from.
            exit_losses: (k,), of an exit that a source began with.
        """
        self.last = selection
        self.totals.backprop_samples += selection.kept
        if (tokens := candidates.tokens_of(selection)) is not None:
            self.totals.gross_tokens += tokens[0]
            self.totals.backprop_tokens += tokens[1]
        self._notes.await_losses(rows, selection.ids, drawn, selection, exit_losses)
        return rows

    def _take_reading(self, batch: Any, ids: Tensor | None, step: int) -> None:
        """Where readings are asked for, and one is due, take it."""
        every = self.options.meter_every * self.options.accumulation_steps
        if every and self.totals.selected_steps % every == 0:
            with self._meters.measure(device_of(batch)):
                now = self.exit_layer
                self.readings += self._gross.read(batch, ids, exits=[now], exit_layer=now, step=step)

    def _measure_accuracy(self, batch: Any, step: int) -> None:
        """Where shares go by the training accuracy, and it is due, measure it: from the next step on it counts."""
        if self.schedule.ended(step) or not self._begins_step or not self._share.measures_at(step):
            return
        with self._meters.measure(device_of(batch)):
            accuracy = training_accuracy(self.scorer, batch, self.ranks)
        if not math.isnan(accuracy):
            self._share.note(accuracy)

    def _learn_rows(self, batch: Any) -> int:
        """Notice which entries of the batch have rows, and say so at the first step; return how many rows there are."""
        rows = self.scorer.rows
        if self.totals.gross_samples == 0:
            said = rows.describe(batch)
            logger.log(logging.WARNING if "is not known" in said else logging.INFO, "%s", said)
        return rows.learn(batch)

    def finish_checks(self) -> None:
        """Wait for the checks of all steps so far.

        A loop calls it before it writes or judges a model; `state_dict` does, and so does a call in eval mode.

        Raises:
            ValueError: for a score on a device that was not finite, with its step.
        """
        self._read_checks(wait=True)

    def _read_checks(self, *, wait: bool = False) -> None:
        self._choice.read_checks(self.totals, self.scorer.positions, wait=wait)
