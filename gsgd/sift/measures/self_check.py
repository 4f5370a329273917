"""Scores held against the model's own losses, so that no run selects by something else without a word.

At the first step that selects, 100 such steps later, and when a batch of another form comes, two rows are scored at the
last exit and each is run alone through the model, in eval mode and full precision. Different numbers end the run with a
sentence that has both. At initialisation every prediction of a language model is about as likely as any other, so rows
of labelled positions are compared with most of their labels taken out, which leaves too few to average a wrong shift
away.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gsgd.sift.exits import EarlyExit
from gsgd.sift.models.wrappers import device_of_weights, innermost, is_sharded, unwrap
from gsgd.sift.ranks import Ranks
from gsgd.sift.scorer import Scorer
from gsgd.sift.scoring_pass.label_learning import conventions_to_try
from gsgd.sift.scoring_pass.labels import LabelConvention
from gsgd.sift.scoring_pass.padded_positions import Form
from gsgd.sift.scoring_pass.row_losses import IGNORED

logger = logging.getLogger(__name__)

AGAIN = 100
"""Selecting steps after which the first check is made once more: by then predictions differ."""
TOLERANCE, TOLERANCE_HALF = 1e-4, 2e-2
"""Relative differences that rounding explains, in float32 and in half precision."""
_ROUNDING = 1e-5
"""Absolute difference that rounding explains, in losses near 0."""
_LABELS_LEFT = 2
"""Of a row of labelled positions."""


@dataclass
class SelfCheck:
    """When scores are checked, and by how much they may differ. It holds no model.

    Attributes:
        enabled: by the option `check`.
        steps: selecting steps so far, those of no use (one row) included, so that all ranks count alike.
        forms: of batches whose scores were found equal.
        undecided: steps that could not be decided, since no row had a finite loss.
    """

    enabled: bool = True
    steps: int = 0
    forms: set[Form] = field(default_factory=set)
    undecided: int = 0

    def prepare(self, scorer: Scorer, batch: Mapping[str, Any], ranks: Ranks, *, scores: bool = True) -> None:
        """Learn how the batch's labels are read, and check it, if it is time.

        Args:
            scores: whether this rank scores the batch at this step; ranks that do not still answer the others.

        Raises:
            ValueError: if scores are not the model's losses, on all ranks alike where all check.
        """
        number, self.steps = self.steps, self.steps + 1
        if not scorer.built_in:
            return
        scheduled = number in (0, AGAIN) or (self.undecided > 0 and number & (number - 1) == 0)
        new = scores and (scorer.form(batch) not in self.forms)
        sharded = ranks.size > 1 and is_sharded(scorer.model)
        together = sharded or (ranks.size > 1 and number in (0, AGAIN))
        if sharded:
            # All ranks run a sharded model together, or none does.
            new = ranks.any(new, device_of_weights(scorer.model))
        if not scheduled and not new:
            return
        problem: str | None = None
        try:
            for probe in _probes_of_all(scorer, batch, ranks) if sharded else [batch] * scores:
                if new:
                    # A sharded model is run by all ranks, whatever a single one knows already.
                    (scorer.learn if sharded else scorer.convention)(probe)
                problem = problem or (self._compare(scorer, probe) if self.enabled else None)
                self.forms.add(scorer.form(probe))
        except ValueError as error:
            if not together:
                raise
            problem = str(error)
        problems = ranks.gather_objects(problem) if together else [problem]
        found = next((text for text in problems if text is not None), None)
        if found is not None:
            raise ValueError(found)

    def _compare(self, scorer: Scorer, batch: Mapping[str, Any]) -> str | None:
        """What is wrong with the scores of this batch, in words; None if nothing is."""
        rows, convention = scorer.probe_rows(batch), scorer.convention(batch)
        conventions = [convention]
        if convention.doubt is not None:
            others = conventions_to_try(scorer, batch, convention.doubt)
            conventions += [other for other in others if other != convention]
        whole = scorer.rows.take(batch, rows)
        few = _with_few_labels(scorer, whole, convention)
        probe = whole if few is None else few
        losses = _losses_alone(scorer, probe)
        if losses is None:
            logger.warning(
                "%s returns no loss, so that scores cannot be checked against it; check=False leaves the check out",
                type(innermost(scorer.model)).__name__,
            )
            return None
        if not bool(torch.isfinite(losses).any()):
            self.undecided += 1
            return None
        self.undecided = 0
        first: str | None = None
        for candidate in conventions:
            numbers = _difference(scorer, probe, losses, candidate, rows)
            if numbers is None:
                if candidate != convention:
                    scorer.assume(batch, candidate)
                return None
            few_labels = "" if few is None else ", with all but a few of its labels taken out"
            first = first or self._sentence(scorer, candidate, numbers + few_labels)
        return first

    def _sentence(self, scorer: Scorer, convention: LabelConvention, numbers: str) -> str:
        model = innermost(scorer.model)
        names = ", ".join(scorer.options.label_names or ("labels",))
        way = {
            "positions": f"the head ({convention.below or 'base model'} below it) on labelled positions",
            "logits": "logits beside labels",
            "own loss": "the model's own loss functions, one value a row",
            "callable": "a callable",
        }[convention.way]
        shift = "position t predicts label t + 1" if convention.shift else "labels are not shifted"
        doubt = f"; {convention.doubt}" if convention.doubt else ""
        exits = "" if isinstance(model, EarlyExit) else ", implement `early_logits` on the model (gsgd.sift.EarlyExit)"
        return (
            f"the scores of {type(model).__name__} are not its losses: {numbers}. Assumed were: {way}, {shift}, "
            f"label names {names}, ignored label {convention.ignore_index}{doubt}. Pass a callable, "
            f"score=(logits, labels, batch) -> (B,){exits}, or accept the difference with check=False"
        )


def _probes_of_all(scorer: Scorer, batch: Mapping[str, Any], ranks: Ranks) -> list[dict[str, Any]]:
    """For every form that a rank's batch has, the two rows with the most labels: the same list on every rank.

    So all of them run a sharded model equally often, whatever each would find in its own rows.

    Raises:
        ValueError: on every rank, if a rank's batch has no labels.
    """
    mine: tuple[Form, int, dict[str, Any]] | str
    device = device_of_weights(scorer.model)
    try:
        labels = batch[scorer.label_names(batch)[0]]
        device = labels.device
        rows = scorer.probe_rows(batch)
        number = int((labels[rows.to(device)] != IGNORED).sum())
        mine = scorer.form(batch), number, _to(scorer.rows.take(batch, rows), torch.device("cpu"))
    except ValueError as error:
        mine = str(error)
    best: dict[Form, tuple[int, dict[str, Any]]] = {}
    for found in ranks.gather_objects(mine):
        if isinstance(found, str):
            raise ValueError(found)
        form, number, probe = found
        if form not in best or number > best[form][0]:
            best[form] = number, probe
    return [_to(best[form][1], device) for form in sorted(best)]


def _to(value: Any, device: torch.device) -> Any:
    """The tensors of a batch on another device."""
    if isinstance(value, Mapping):
        return {name: _to(entry, device) for name, entry in value.items()}
    if isinstance(value, list):
        return [_to(entry, device) for entry in value]
    return value.to(device) if isinstance(value, Tensor) else value


def _difference(
    scorer: Scorer, probe: Mapping[str, Any], losses: Tensor, convention: LabelConvention, rows: Tensor
) -> str | None:
    """How the scores of a probe, read in this way, differ from its rows' losses, in words; None if they do not.

    Args:
        losses: of its rows, where they are finite.
        rows: which rows of the batch they are.
    """
    try:
        with scorer.watched(), _full_precision():
            found = scorer.scores(probe, scorer.exits, function=scorer.loss, mode="eval", convention=convention)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        if convention.doubt is None:
            raise
        return f"it cannot be scored so ({type(error).__name__}: {error})"
    tolerance = TOLERANCE_HALF if _has_half_precision(scorer.model) else TOLERANCE
    found = found.double().cpu()
    off = ~((found - losses).abs() <= tolerance * torch.maximum(losses.abs(), found.abs()) + _ROUNDING)
    wrong = torch.nonzero(torch.isfinite(losses) & off)
    if len(wrong) == 0:
        return None
    place = int(wrong[0])
    return (
        f"row {int(rows[place])} of the batch has the score {float(found[place]):.6g} at the last exit, but its loss "
        f"is {float(losses[place]):.6g}"
    )


def _losses_alone(scorer: Scorer, probe: Mapping[str, Any]) -> Tensor | None:
    """(rows,) losses of the model on each row by itself, float64 on the CPU; None where it returns none."""
    found = []
    for row in range(scorer.rows.size(probe)):
        alone = scorer.rows.take(probe, torch.tensor([row]))
        with scorer.watched(), _full_precision():
            loss = scorer.reference(alone)
        if loss is None:
            return None
        found.append(loss.detach().double().mean().cpu())
    return torch.stack(found)


def _with_few_labels(scorer: Scorer, probe: Mapping[str, Any], convention: LabelConvention) -> dict[str, Any] | None:
    """The same rows with few of their labels left, whose neighbours are other labels; None where that is no use.

    Averaged over a long row a wrong shift shows too little before a model has learnt anything.
    """
    name = scorer.label_names(probe)[0]
    labels = probe[name]
    sequences = labels.dim() == 2 and labels.shape[1] > 2 and not labels.is_floating_point()
    if not sequences or convention.way not in ("positions", "logits"):
        return None
    ignored = convention.ignore_index
    there = labels != ignored
    differs = torch.ones_like(there)
    differs[:, 1:] &= labels[:, 1:] != labels[:, :-1]
    differs[:, :-1] &= labels[:, :-1] != labels[:, 1:]
    differs[:, 0] = False  # a shifted label 0 is predicted by nothing
    good = there & differs
    left = good & (good.flip(1).cumsum(dim=1).flip(1) <= _LABELS_LEFT)
    if not bool(left.any(dim=1).all()):
        return None
    return {**probe, name: torch.where(left, labels, torch.full_like(labels, ignored))}


def _has_half_precision(model: nn.Module) -> bool:
    """Whether any of the model's arithmetic is in less than float32, or in weights of fewer bits."""
    kinds = {parameter.dtype for parameter in unwrap(model).parameters()}
    policies = [getattr(module, "_mp_policy", None) for module in model.modules()]
    policies += [getattr(getattr(module, "mixed_precision", None), "param_dtype", None) for module in model.modules()]
    mixed = any(policy is not None for policy in policies)
    return mixed or bool(kinds - {torch.float32, torch.float64})


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Within the block matrix products of float32 are not rounded to TF32."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
