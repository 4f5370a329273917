"""What selection is expected to be worth over a run, from plain training alone: a factor in budget.

    progress = mean over the run of  (mean loss of the rows that a score would keep) / (mean loss of all rows)
    factor   = progress^EXPONENT / cost

where cost is that of a selecting step over one of plain training, and all else stands in
`gsgd.sift.measures.expected_factor`.

Training rows are held against validation rows of the same classes: these count as often as their class is among the
training rows, since a split with more rows of a rare class has another mean loss for that reason alone.

Wrong labels: where training rows have a larger mean loss M than validation rows, V, the difference is counted as loss
that no training takes away. It lies in single rows, 1 / keep of it in those that exact losses would keep, and what is
to be learnt from the others is compared,

    (progress M - c (M - V)) / V,        1 <= c <= 1 / keep, as the score agrees with exact losses.

What training cannot give: where validation rows have the larger loss at the run's end, only the share M / V of it is
there to be trained away, and of what selection adds as much counts,

    1 + (progress - 1) M / V.

A proxy is trained beside the model, on the rows of the plain steps, and not on rows that it has chosen itself. On those
it learns less of what the others are like, so that of its progress less is counted, by `PROXY_EXPONENT`.

Losses last seen: in the first pass over the training set no row has one, and rows without one come first, so that what
is kept is drawn at random until as many rows are trained on as there are. Until then their ratio counts as 1.

It does not see what selection does to an exit itself: an exit trained on what it chose may agree less and less.
Nor does it see that a model cannot fit its hard rows, as a linear one: they stay hard, and steps on them lead nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gsgd.sift import Sift
from gsgd.sift.choice import LAST_SEEN_RANDOM_SHARE
from gsgd.sift.measures.expected_factor import EXPONENT, SPREAD, expected_factor, ratio_kept
from gsgd.sift.models.wrappers import unwrap
from gsgd.sift.scoring_pass.mode import draws_kept
from gsgd.sift.scoring_pass.module_state import unchanged
from training.data.order import Order
from training.diagnose.proxy_beside import TrainingWithProxy
from training.methods import PROXY
from training.metrics.class_losses import ClassLosses
from training.run.evaluation import evaluate_split
from training.training import Training

LAST_SEEN = "last-seen"
PROXY_EXPONENT = 0.3
"""In place of `EXPONENT` for a proxy: least squares of the logarithms over five forecasts recorded beside ladders; with
more seeds of one of these ladders it is .38."""
POINTS = 12
"""Of a run, evenly spread, at which gross batches are looked at."""
BATCHES = 4
"""Gross batches a point."""


@dataclass(frozen=True)
class Look:
    """What gross batches said at one step of plain training.

    Attributes:
        loss: mean exact loss of the rows.
        cv: standard deviation of the rows' losses over their mean.
        kept: score -> mean exact loss of the rows that it would keep, over that of all.
    """

    step: int
    loss: float
    cv: float
    kept: dict[str, float]


@dataclass(frozen=True)
class Forecast:
    """What selection by one score is expected to be worth over a run.

    Attributes:
        score: "loss@1", "loss@last", "last-seen", "proxy", ...
        progress: mean over the run of the kept rows' loss over all rows', without what is counted as wrong labels or as
            out of training's reach.
        ceiling: what no score can exceed there, 1 + CV sqrt((B - k) / k), a mean over the run.
        cost: of a selecting step, over one of plain training.
        factor: at how many times the budget plain training is expected to come as far; `low` to `high` of it.
    """

    score: str
    progress: float
    ceiling: float
    cost: float
    factor: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """In words: whether it pays."""
        if self.low > 1:
            return "is expected to pay"
        return "is not expected to pay" if self.high < 1 else "may pay or not"


@dataclass
class Watch:
    """Plain training, looked at on its way.

    Args:
        training: whose method is "last-seen", but which selects at no step, so that it trains plainly and notes the
            losses of what it trains on. If it trains a proxy beside, its scores are looked at, too.
        sift: an engine of the same model whose scores are looked at.
        exits: whose scores are looked at, the last one in any case.
    """

    training: Training
    sift: Sift
    exits: Sequence[int]
    looks: list[Look] = field(default_factory=list)
    _classes: list[np.ndarray] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        settings = self.training.settings
        self.gross = settings.gross_size
        self.kept = max(1, round(settings.keep * self.gross))
        # Other rows than those that are diagnosed on.
        self._order = Order(self.training.task.train_size, settings.seed + 2)

    def steps(self, last: int) -> set[int]:
        """The steps, up to the `last`, after which to look."""
        return {round(step) for step in np.linspace(0, last, POINTS + 1)[1:]} - {0}

    def look(self) -> None:
        """Look at gross batches of the training set; the model, torch's generators and the run stay as they are."""
        found = [self._of_batch(*self._order.take(self.gross)) for _ in range(BATCHES)]
        losses = np.concatenate([losses for losses, _, _ in found])
        kept = {score: float(np.mean([ratios[score] for _, ratios, _ in found])) for score in found[0][1]}
        mean = float(losses.mean())
        self.looks.append(Look(self.training.step, mean, float(losses.std()) / mean if mean else math.nan, kept))
        self._classes.append(np.concatenate([classes for _, _, classes in found]))

    def _of_batch(self, rows: np.ndarray, epoch: int) -> tuple[np.ndarray, dict[str, float], np.ndarray]:
        """(the rows' exact losses, score -> mean loss of the rows kept over that of all, the rows' classes if any)."""
        training, scorer = self.training, self.sift.scorer
        batch = training.batches.placed(training.task.training_batch(rows, epoch))
        model, last = unwrap(training.model), scorer.exits
        with torch.no_grad(), unchanged(model), draws_kept(model), training.accelerator.autocast():
            exact = scorer.scores(batch, last, function=scorer.loss)
            by_score = {self.name(layer): scorer.scores(batch, layer) for layer in {*self.exits, last}}
        ids = torch.from_numpy(rows.astype(np.int64))
        named = training.sift.named_rows
        assert named is not None  # the method is last-seen
        by_score[LAST_SEEN] = named.scores(ids, step=training.step, device=exact.device)
        if isinstance(training, TrainingWithProxy):
            with training.accelerator.autocast():
                by_score[PROXY] = training.proxy_losses(batch, len(rows))
        labelled = scorer.labelled(batch, exact) & torch.isfinite(exact)
        losses = exact[labelled].double().cpu().numpy()
        at_random = dict.fromkeys((LAST_SEEN, PROXY), LAST_SEEN_RANDOM_SHARE)
        kept = max(1, round(self.kept / self.gross * len(losses)))
        ratios = {
            score: ratio_kept(values[labelled], losses, kept, random_share=at_random.get(score, 0.0))
            for score, values in by_score.items()
        }
        # Here rows are drawn in an order of their own, and some would have been seen that in training have not.
        if training.sift.totals.backprop_samples < training.task.train_size:
            ratios[LAST_SEEN] = 1.0
        labels = batch["labels"]
        classes = labels[labelled].cpu().numpy() if labels.dim() == 1 else np.empty(0, np.int64)
        return losses, ratios, classes

    def name(self, layer: int) -> str:
        """The method that selects by an exit, as `gsgd train` calls it."""
        score = self.sift.options.score
        return f"{score}@{'last' if layer == self.sift.scorer.exits else layer}"

    def validation_loss(self) -> float:
        """The mean loss of validation rows now; of classes that count as often as in what was looked at last."""
        by_class = ClassLosses(self.training.accelerator.device)
        _, of_all = evaluate_split(self.training, "validation", by_class)
        alike = by_class.mean(np.concatenate(_last(self._classes)))
        return of_all if alike is None else alike

    def forecasts(self, costs: Mapping[str, float], validation_loss: float | None = None) -> list[Forecast]:
        """What each score is expected to be worth, in the order of `costs`.

        Args:
            costs: score -> a selecting step's cost over that of a plain one.
            validation_loss: mean loss of validation rows now; None not to look for wrong labels.
        """
        return [
            forecast(score, self.looks, cost, self.kept, self.gross, validation_loss) for score, cost in costs.items()
        ]


def forecast(
    score: str, looks: Sequence[Look], cost: float, kept: int, gross: int, validation_loss: float | None = None
) -> Forecast:
    """What selection by one score is expected to be worth over the run that was looked at.

    Args:
        looks: at least one.
        cost: as of `Forecast`, above 0.
        kept, gross: k of B rows.
        validation_loss: as of `Watch.forecasts`.

    Raises:
        ValueError: if nothing was looked at.
    """
    if not looks:
        raise ValueError("nothing is forecast of a model that was not trained: look at some steps of plain training")
    lost, share = 0.0, 1.0
    if validation_loss is not None:
        # At the run's end: before that, training rows may be ahead or behind for other reasons.
        late = float(np.mean([look.loss for look in _last(looks)]))
        lost = max(0.0, late - validation_loss)
        share = min(1.0, late / validation_loss) if validation_loss > 0 else 1.0
    hardest = next(name for name in looks[0].kept if name.endswith("@last"))
    learnable = float(np.mean([_learnable(look, score, hardest, lost, gross / kept) for look in looks]))
    progress = 1 + (learnable - 1) * share
    ceiling = float(np.mean([1 + look.cv * math.sqrt((gross - kept) / kept) for look in looks]))
    factor = expected_factor(progress, cost, PROXY_EXPONENT if score == PROXY else EXPONENT)
    return Forecast(score, progress, ceiling, cost, factor, factor / SPREAD, factor * SPREAD)


def _last(looks: Sequence[Any]) -> Sequence[Any]:
    """Those of the run's last quarter."""
    return looks[-max(1, len(looks) // 4) :]


def _learnable(look: Look, score: str, hardest: str, lost: float, most: float) -> float:
    """The kept rows' loss over all rows', without `lost` of the mean loss, of which the hardest rows have `most`."""
    ratio, exact = look.kept[score], look.kept[hardest]
    lost = min(lost, 0.9 * look.loss)  # early in a run a mean loss may be about as small
    if lost == 0:
        return ratio
    agreement = min(max((ratio - 1) / (exact - 1), 0.0), 1.0) if exact > 1 else 0.0
    return (ratio * look.loss - (1 + (most - 1) * agreement) * lost) / (look.loss - lost)


def entry(found: Forecast) -> dict[str, Any]:
    """What `diagnosis.json` holds of a forecast."""
    return {**vars(found), "verdict": found.verdict}
