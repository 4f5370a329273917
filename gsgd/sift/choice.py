"""Which rows are kept, and how many: the rule, applied to scores, and what becomes of scores that are not finite."""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gsgd import host
from gsgd.selectors import select_random, select_top_k, unchecked
from gsgd.sift.batches.batch import is_packed
from gsgd.sift.compilation import Compiled, backend_of, hardest
from gsgd.sift.models.wrappers import every_module
from gsgd.sift.options import SiftOptions
from gsgd.sift.ranks import Ranks
from gsgd.sift.scoring_pass.late_checks import LateChecks, TooManyLabels
from gsgd.sift.scoring_pass.padded_positions import PositionsPerRow
from gsgd.sift.timing import Elapsed, Totals

logger = logging.getLogger(__name__)

LAST_SEEN_RANDOM_SHARE = 0.25
_TRAIN_ON = 'on_bad_scores="drop", "keep-all" or "last" trains on'


@dataclass
class Selection:
    """What happened at the last training step.

    Attributes:
        step: the step, counted from 0.
        selected: whether the step selected; else the whole batch was trained on.
        indices: (k,), kept rows of this rank's gross batch in ascending order. With `scope="global"` a rank may train
            on rows of others; then these are the rows of the ranks' batches laid end to end.
        scores: (B,) of this rank, or None where nothing was scored; with level="token" (N,), of its labelled tokens.
        ids: (k,), of the rows that were trained on, where the batch carried them.
        losses: (k,), of those rows, where losses last seen score or `log_rows` has them logged; there after
            `forward_kept`.
        weights: (k,), what the losses of those rows were multiplied by, if `note` was told; None if all count alike.
        gross, kept: numbers of rows on this rank.
        tokens: (B, T), bool: with level="token" the labels that count, if the step selected.
        first_row: where this rank's batch begins among those that were chosen from.
        elapsed: what scoring and selecting took, and what was measured to know whether to select; None where the step
            did neither.
    """

    step: int
    selected: bool
    indices: Tensor
    scores: Tensor | None
    gross: int
    kept: int
    elapsed: Elapsed | None = None
    ids: Tensor | None = None
    losses: Tensor | None = None
    weights: Tensor | None = None
    tokens: Tensor | None = None
    first_row: int = 0

    @property
    def kept_flags(self) -> Tensor:
        """(B,), bool: whether each row of this rank's batch was kept, by whatever rank."""
        place = self.indices - self.first_row
        # By where, at a fixed shape: a device is not waited for. What is of other ranks falls on a row too many.
        place = torch.where((place >= 0) & (place < self.gross), place, self.gross)
        return place.new_zeros(self.gross + 1, dtype=torch.bool).index_fill_(0, place, True)[: self.gross]

    @property
    def selection_s(self) -> float:
        """Seconds that scoring and selecting took; on a GPU, reading it waits for them to end."""
        return 0.0 if self.elapsed is None else self.elapsed.seconds


def number_kept(model: nn.Module, batch: Any, size: int, keep: float) -> tuple[int, str]:
    """(rows to keep of `size`, at least 1, and 2 where a BatchNorm trains; why that is all of them if it is)."""
    kept = max(1, round(keep * size))
    if kept == 1 and size > 1 and any(map(normalises_by_batch, every_module(model))):
        return 2, "a batch of 2 rows, and BatchNorm needs 2 rows to train on: use a larger batch"
    if size == 1 and is_packed(batch):
        return kept, (
            "its sequences are packed into one row in a way that does not keep them apart, with an attention_mask of "
            "tokens, say: leave it out (gsgd.sift.candidates.packed_documents tells how documents are packed), or pad"
        )
    if size == 1:
        return kept, "a batch of one row: use a larger batch and fewer accumulation steps"
    return kept, f"keep = {keep:g} of {size} rows is {kept}: use a larger batch or a smaller keep"


def normalises_by_batch(module: nn.Module) -> bool:
    """Whether a module normalises a training batch by its own statistics, for which one row may be too few."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training


def random_share_of(options: SiftOptions) -> float:
    """The share of the kept rows that is drawn from those that the rule leaves."""
    if options.random_share is not None:
        return options.random_share
    learns_from_kept = options.score == "last-seen" or (options.source is not None and options.source.learns_from_kept)
    return LAST_SEEN_RANDOM_SHARE if learns_from_kept else 0.0


class Choice:
    """Chooses rows by their scores; of scores on a device it looks at none, but has them checked there.

    Attributes:
        late: checks whose answer has not been read yet.
        graph: the rule, compiled, if it is `select_top_k` and that was asked for.
    """

    def __init__(self, options: SiftOptions, ranks: Ranks):
        self.options = options
        self.ranks = ranks
        self.late = LateChecks()
        compiles = options.compile and options.select is select_top_k and not self._drawn(1000)
        self.graph = Compiled(hardest, "the choice", backend_of(options)) if compiles else None

    def rows(
        self,
        scores: Tensor | None,
        kept: int,
        size: int,
        device: torch.device,
        *,
        step: int,
        generator: torch.Generator,
        totals: Totals,
        positions: PositionsPerRow,
    ) -> Tensor:
        """(kept,) rows in ascending order; of all ranks' batches laid end to end if they select together.

        Args:
            scores: (size,) of this rank, or None to choose at random.
            device: where the batch lies.
            step: to name in errors.
            generator: of rules that draw.
            totals: takes the number of bad scores.
            positions: what was noted of rows with too many labels.

        Raises:
            ValueError: for a score that is not finite, where `on_bad_scores` says so and it can be looked at, or if the
                rule returns no rows.
        """
        if self.ranks.together:
            scores, kept, size = self.ranks.pool(scores, kept, size)
        if scores is None:
            return host.sent(torch.sort(self._apply_rule(size, kept, generator)).values, device)
        fullest = positions.fullest()
        raises_later = self.options.on_bad_scores == "raise" and not self.ranks.together and not host.holds(scores)
        if raises_later or self.options.on_bad_scores == "last":
            self.late.add(step, scores, fullest)
            if self.graph is not None and scores.is_floating_point():
                return self.graph(scores, kept).clone()  # the graph writes to its own output again
            if scores.is_floating_point():
                least = torch.finfo(scores.dtype).min
                scores = torch.nan_to_num(scores, nan=least, posinf=least, neginf=least)
            return torch.sort(self._apply_rule(scores, kept, generator)).values
        self.late.add(step, None, fullest)
        if all(map(math.isfinite, map(float, torch.aminmax(scores)))):  # of NaN they are NaN
            return torch.sort(self._apply_rule(scores, kept, generator)).values
        bad = ~torch.isfinite(scores)
        first = int(torch.nonzero(bad)[0])
        text = _bad_score(first, float(scores[first]), step)
        if self.options.on_bad_scores == "raise":
            raise ValueError(f"{text}; {_TRAIN_ON}")
        _count(totals, text, int(bad.sum()))
        good = torch.nonzero(~bad).squeeze(1)
        kept = self.ranks.even(min(kept, len(good)))
        if self.options.on_bad_scores == "keep-all" or kept == 0:
            return torch.arange(size, device=device)
        return torch.sort(good[self._apply_rule(scores[good], kept, generator)]).values

    def read_checks(self, totals: Totals, positions: PositionsPerRow, *, wait: bool = False) -> None:
        """Act on what was found on a device: of all steps so far, or without `wait` of those whose answer is there.

        Raises:
            ValueError: for a score that was not finite, with its step, where `on_bad_scores` says so.
        """
        for found in self.late.read(wait=wait):
            if not isinstance(found, TooManyLabels):
                text = _bad_score(found.row, found.value, found.step)
                if self.options.on_bad_scores == "raise":
                    raise ValueError(f"{text}; {_TRAIN_ON}")
                _count(totals, text, found.rows)
                continue
            if positions.taken(found.at.form, found.at.length) >= found.most:
                continue  # of a step before more were scored
            positions.learn(found.at.form, found.at.length, found.most)
            logger.warning(
                "a row of step %d has %d labels, of which the first %d were scored; from now on more are",
                found.step,
                found.most,
                found.at.taken,
            )

    def _apply_rule(self, scores: Tensor | int, kept: int, generator: torch.Generator) -> Tensor:
        """What `select` returns, and what is drawn of the others."""
        # Scores have been checked, or will be.
        at_random = self._drawn(kept)
        if at_random and isinstance(scores, Tensor):
            top = self._hardest(scores, kept - at_random, generator)
            # The largest of uniform numbers are a draw, at a fixed shape; those of rows that are taken come first.
            lots = host.sent(torch.rand(len(scores), generator=generator), scores.device).index_fill_(0, top, 2.0)
            return torch.topk(lots, kept).indices
        return self._hardest(scores, kept, generator)

    def _drawn(self, kept: int) -> int:
        """How many of the kept rows are drawn from those that the rule leaves."""
        return math.floor(random_share_of(self.options) * kept)

    def _hardest(self, scores: Tensor | int, kept: int, generator: torch.Generator) -> Tensor:
        """What `select` returns, once it is found good: a user's own rule may return anything."""
        if kept == 0:
            return torch.zeros(0, dtype=torch.int64, device=scores.device if isinstance(scores, Tensor) else None)
        select = select_random if self.options.score == "random" else self.options.select
        rule = unchecked(select)
        chosen: Any = rule(scores, kept, generator)
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.int64 or chosen.shape != (kept,):
            found = f"{chosen.dtype} {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
            raise ValueError(
                f"select = {_name(select)} returned {found}, but must return a tensor of k indices, "
                f"torch.int64 ({kept},)"
            )
        if rule is select and (host.holds(chosen) or self.options.check):
            _check_rows(chosen, scores if isinstance(scores, int) else len(scores), _name(select))
        return chosen


def _check_rows(chosen: Tensor, size: int, rule: str) -> None:
    """Raises a ValueError unless all rows are different ones of `size`. Rows on a device are waited for."""
    rows = chosen.tolist()
    if outside := [row for row in rows if not 0 <= row < size]:
        raise ValueError(f"select = {rule} returned the row {outside[0]}, but rows must lie in 0..{size - 1}")
    if len(set(rows)) < len(rows):
        twice = next(row for place, row in enumerate(rows) if row in rows[:place])
        raise ValueError(f"select = {rule} returned the row {twice} more than once, but must return {len(rows)} rows")


def _name(rule: Any) -> str:
    while isinstance(rule, functools.partial):
        rule = rule.func
    return getattr(rule, "__qualname__", None) or type(rule).__qualname__


def _bad_score(row: int, value: float, step: int) -> str:
    return f"scores[{row}] is {value} at step {step}: scores must be finite"


def _count(totals: Totals, text: str, rows: int) -> None:
    totals.bad_score_rows += rows
    logger.warning("%s (%d rows)", text, rows)
