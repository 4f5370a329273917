"""How well scores, of an early exit or losses last seen, stand in for exact losses, measured on one gross batch.

    reading = read(scores, losses, kept=16)      # of two columns of numbers
    first, last = read_batch(sift.scorer, batch, exits=(1, 4))

The numbers are those that the theory speaks of; to hold them against its formulas is not done here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from gsgd.ranges import whole
from gsgd.selectors import select_top_k
from gsgd.sift.exits import check_exit_layer
from gsgd.sift.measures.expected_factor import ratio_kept
from gsgd.sift.models.wrappers import unwrap
from gsgd.sift.scorer import Scorer
from gsgd.sift.scoring_pass.mode import draws_kept
from gsgd.sift.scoring_pass.module_state import unchanged

Column = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Reading:
    """What one gross batch says about the scores of one exit. A number that is not defined on it is NaN.

    Attributes:
        step: the training step, counted from 0, on whose batch it was taken.
        exit_layer: of the scores; 0 of losses last seen.
        rows: B, rows with an exact loss; rows without labels are left out, and so are those whose score or exact loss
            is not finite, or that were never seen where losses last seen score.
        kept: k = max(1, round(keep * B)).
        rho: rho_{B,k} >= 1, the mean exact loss of the k rows with the largest exact losses, over the mean of all.
            NaN where all exact losses are 0, and so are the next three.
        rho_approx: the same of the k rows with the largest scores; at most `rho`.
        rho_pairs: rho_2 in [1, 2] within the batch (Definition 5.6, but of two different rows): the mean over pairs of
            the larger exact loss, over the mean of all. NaN of one row.
        rho_pairs_approx: the same, of the exact loss of the row with the larger score (Definition 5.13); where scores
            are equal, of both half.
        sigma: the sample standard deviation of log(score / exact loss) (Assumption 5.12). NaN where a score or an
            exact loss is not positive.
        independence: Spearman's correlation of log(score / exact loss) with the exact loss, in [-1, 1]; 0 for the
            noise of Assumption 5.12, which does not depend on the sample. NaN where a score or an exact loss is not
            positive, or a column is constant.
        margin_correlation: beta in [-1, 1], Pearson's correlation of the margins m = -log(e^loss - 1) that score and
            exact loss imply: of the logistic loss log(1 + e^-m) it is the margin (Section 6.1), of more classes the
            log-odds of the right one. NaN as `independence`.
        pairwise_agreement: the p_j of Theorem 6.2 in [0, 1]: the share of pairs of rows that scores and exact losses
            put in the same order; a tie in either counts half. NaN of one row.
        overlap: the share of the k rows with the largest scores that are among the k with the largest exact losses;
            of equal ones the earlier row comes first. In [0, 1].
        rank_correlation: Spearman's, of scores and exact losses, in [-1, 1]. NaN where either is constant.
        delta_chosen: the root of the mean of (sqrt(score) - sqrt(exact loss))^2 over the k rows with the largest
            scores. With `delta_hardest` it bounds what any score loses (`theory.formulas.stale`): the root of the mean
            exact loss of the rows chosen is at least that of the hardest less both. NaN where a score is negative.
        delta_hardest: the same over the k rows with the largest exact losses.
    """

    step: int
    exit_layer: int
    rows: int
    kept: int
    rho: float
    rho_approx: float
    rho_pairs: float
    rho_pairs_approx: float
    sigma: float
    independence: float
    margin_correlation: float
    pairwise_agreement: float
    overlap: float
    rank_correlation: float
    delta_chosen: float = math.nan
    delta_hardest: float = math.nan


def read(scores: Any, losses: Any, *, kept: int, step: int = 0, exit_layer: int = 0) -> Reading:
    """The reading of B rows' scores and exact losses.

    Args:
        scores: (B,), finite, larger is harder; a tensor, an array or a sequence.
        losses: (B,), finite and >= 0; the exact losses of the same rows.
        kept: k, in 1..B.
        step, exit_layer: where the numbers are from; they are passed on.

    Raises:
        ValueError: for columns of different lengths, numbers that are not finite, a negative loss, or `kept` out of
            range.
    """
    scores, losses = _column("scores", scores), _column("losses", losses)
    count = len(losses)
    if len(scores) != count:
        raise ValueError(f"scores has {len(scores)} rows and losses {count}, but must have one each per row")
    if losses.min() < 0:
        raise ValueError(f"losses[{losses.argmin()}] = {losses.min()} must be at least 0")
    kept = whole("kept", kept, least=1, most=count)
    chosen, hardest = select_top_k(scores, kept), select_top_k(losses, kept)
    score_ranks, loss_ranks = rankdata(scores), rankdata(losses)
    mean, pairs = float(losses.mean()), count * (count - 1) / 2
    log_ratio, ratio_ranks = _log_ratio(scores, losses)
    score_margins, loss_margins = _margins(scores), _margins(losses)
    return Reading(
        step=step,
        exit_layer=exit_layer,
        rows=count,
        kept=kept,
        rho=_ratio(losses[hardest].mean(), mean),
        rho_approx=_ratio(losses[chosen].mean(), mean),
        # A row is the larger of its pair as often as rows lie below it, and half as often as others equal it.
        rho_pairs=_ratio(losses @ (loss_ranks - 1), pairs * mean),
        rho_pairs_approx=_ratio(losses @ (score_ranks - 1), pairs * mean),
        sigma=math.nan if log_ratio is None or count < 2 else float(log_ratio.std(ddof=1)),
        independence=_correlation(ratio_ranks, loss_ranks),
        margin_correlation=_correlation(score_margins, loss_margins),
        pairwise_agreement=_agreement(score_ranks, loss_ranks),
        overlap=len(np.intersect1d(chosen, hardest)) / kept,
        rank_correlation=_correlation(score_ranks, loss_ranks),
        delta_chosen=_delta(scores[chosen], losses[chosen]),
        delta_hardest=_delta(scores[hardest], losses[hardest]),
    )


class Columns(NamedTuple):
    """Scores beside exact losses.

    Attributes:
        exit_layer: of the scores; 0 of scores that are not an exit's own.
        scores, losses, usable: (B,); rows that are not usable have no label, or were never seen.
    """

    exit_layer: int
    scores: Tensor
    losses: Tensor
    usable: Tensor

    def reading(self, keep: float, *, step: int = 0) -> Reading:
        """What the usable rows say, `keep` the share of the rows that selection keeps; all of it NaN where none are."""
        scores, losses, kept = self._usable(keep)
        if kept == 0:
            return Reading(step, self.exit_layer, 0, 0, *[math.nan] * 10)
        return read(scores, losses, kept=kept, step=step, exit_layer=self.exit_layer)

    def progress(self, keep: float, *, random_share: float = 0.0) -> float:
        """`gsgd.sift.measures.expected_factor.ratio_kept` of the rows that are usable; NaN where there are none."""
        scores, losses, kept = self._usable(keep)
        if kept == 0:
            return math.nan
        return ratio_kept(scores, losses.double().cpu().numpy(), kept, random_share=random_share)

    def _usable(self, keep: float) -> tuple[Tensor, Tensor, int]:
        """Scores and losses of the rows that are usable and have finite numbers, and how many of them are kept."""
        usable = self.usable.to(self.losses.device) & torch.isfinite(self.losses) & torch.isfinite(self.scores)
        scores, losses = self.scores[usable], self.losses[usable]
        return scores, losses, max(1, round(keep * len(losses))) if len(losses) else 0


def read_batch(scorer: Scorer, batch: Mapping[str, Any], *, exits: Sequence[int], step: int = 0) -> list[Reading]:
    """Readings of a gross batch at exits of a model: `columns_of_batch` says how they are taken.

    Args:
        step: to be noted in the readings.

    Returns:
        A reading for each of `exits`, of this rank's batch.

    Raises:
        ValueError: as `columns_of_batch`.
    """
    return [columns.reading(scorer.keep, step=step) for columns in columns_of_batch(scorer, batch, exits=exits)]


def columns_of_batch(scorer: Scorer, batch: Mapping[str, Any], *, exits: Sequence[int]) -> list[Columns]:
    """Scores of a gross batch at exits of a model, beside the exact losses at its last exit.

    All passes run without gradients in the scorer's mode, with the same dropout masks. Nothing is touched: the
    generators of CPU and CUDA are put back, and so is the model.

    Args:
        scorer: with a score; `keep` is the share of the rows that selection keeps.
        batch: a gross batch, on the model's device.
        exits: 1..layers.

    Returns:
        Those of each of `exits`, of this rank's batch.

    Raises:
        ValueError: if nothing is scored, the model has no such exit, or the batch has no labels with a loss.
    """
    if scorer.function is None:
        raise ValueError(f"{scorer.options.score_in_words} has no scores to compare with exact losses")
    model = unwrap(scorer.model)
    last, loss = scorer.exits, scorer.loss
    wanted = [check_exit_layer(layer, last) for layer in exits]
    scores: dict[int, list[Tensor]] = {layer: [] for layer in wanted}
    losses: list[Tensor] = []
    with torch.no_grad(), unchanged(model), draws_kept(model):
        for part in scorer.parts(batch):
            for layer, found in scores.items():
                if layer == last and scorer.function is loss:
                    continue
                with draws_kept(model):
                    found.append(scorer.scores(part, layer))
            # The exact losses come last and move the generators on, for the next part to have masks of its own.
            losses.append(scorer.scores(part, last, function=loss))
    exact = torch.cat(losses)
    labelled = scorer.labelled(batch, exact)
    return [Columns(layer, torch.cat(scores[layer] or losses), exact, labelled) for layer in wanted]


def _column(name: str, values: Any) -> Column:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) == 0:
        raise ValueError(f"{name} has shape {column.shape}, but must be one number per row, (B,) with B >= 1")
    bad = np.flatnonzero(~np.isfinite(column))
    if len(bad):
        raise ValueError(f"{name}[{bad[0]}] is {column[bad[0]]}, but must be finite: leave such rows out")
    return column


def _delta(scores: Column, losses: Column) -> float:
    """The distance in mean square of the roots of two columns."""
    if scores.min() < 0:
        return math.nan
    return float(np.sqrt(np.square(np.sqrt(scores) - np.sqrt(losses)).mean()))


def _ratio(value: float, mean: float) -> float:
    return float(value) / mean if mean > 0 else math.nan


def _log_ratio(scores: Column, losses: Column) -> tuple[Column, Column] | tuple[None, None]:
    """log(score / loss) and its ranks; None where it is not defined for all rows."""
    if min(scores.min(), losses.min()) <= 0:
        return None, None
    with np.errstate(over="ignore", under="ignore"):
        ratio = scores / losses
    if ratio.min() > 0 and ratio.max() < math.inf:
        # Quotients are ranked, not logarithms: those of neighbouring quotients are equal on one processor and not on
        # another.
        return np.log(ratio), rankdata(ratio)
    log_ratio = np.log(scores) - np.log(losses)  # of a quotient that is out of range there is the difference
    return log_ratio, rankdata(log_ratio)


def _margins(losses: Column) -> Column | None:
    """-log(e^loss - 1), without overflow for large losses or cancellation for small ones; None for one <= 0."""
    if losses.min() <= 0:
        return None
    # That of the smallest losses, which is exact, and of the largest, which is -1, counts as an underflow on some
    # processors, and on others not.
    with np.errstate(under="ignore"):
        shares = -np.expm1(-losses)
    return -losses - np.log(shares)


def _agreement(one: Column, other: Column) -> float:
    """The share of pairs that both order alike, ties half: (1 + (alike - unlike) / pairs) / 2."""
    count = len(one)
    if count < 2:
        return math.nan
    # Row by row: the whole table of pairs would take B^2 numbers.
    twice = sum(float(np.sign(a - one) @ np.sign(b - other)) for a, b in zip(one, other, strict=True))
    return (1 + twice / (count * (count - 1))) / 2


def _correlation(one: Column | None, other: Column | None) -> float:
    """Pearson's; NaN where a column is undefined or constant."""
    if one is None or other is None or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    centred = [column - column.mean() for column in (one, other)]
    one, other = (column / np.abs(column).max() for column in centred)  # so that no square underflows
    return float(np.clip(one @ other / math.sqrt((one @ one) * (other @ other)), -1, 1))
