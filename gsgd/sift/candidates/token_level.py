"""Tokens chosen rather than rows: labels of those below the cut become the label that does not count (Rho-1).

    sift = Sift(model, level="token", keep=0.6, reference_losses=ReferenceLosses(small_model))

All rows are trained on, by the labels that are left: selective language modeling (arXiv:2404.07965). What is saved is
the head's work on the other positions, with `labelled_head`, and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gsgd.scores import of_positions
from gsgd.sift.candidates.rows import Taken
from gsgd.sift.choice import Selection
from gsgd.sift.exits import EarlyExit, count_exits, last_shared_layer
from gsgd.sift.models.wrappers import innermost, unwrap
from gsgd.sift.options import SiftOptions
from gsgd.sift.score_source import GrossBatch
from gsgd.sift.scorer import Scorer
from gsgd.sift.scoring_pass.forward import LabelledHead
from gsgd.sift.scoring_pass.row_losses import IGNORED, at_labelled
from gsgd.sift.shared_forward.capture import Capture

_SHIFTED_ALREADY = "shift_labels"
"""Labels that some collators move beside their predictions by themselves; transformers' losses then read no others."""


def check_options(options: SiftOptions) -> None:
    """Raises a ValueError for options that say something of rows, where tokens are chosen."""
    refused = {
        'score = "last-seen"': (options.score == "last-seen", "keeps one loss a row"),
        "a callable score": (callable(options.score), 'gives one number a row: "loss", "entropy" or "random"'),
        'scope = "global"': (options.scope == "global", "deals rows out to ranks, and no row is dropped"),
        "keep_tokens=True": (options.keep_tokens, "counts the tokens of whole documents"),
        'exit_layer = "auto"': (options.exit_layer == "auto", "goes by the rows that exits would keep"),
        'start_step = "auto"': (options.starts_by_itself, "goes by the rows that scores would keep"),
        f"meter_every = {options.meter_every}": (options.meter_every > 0, "measures scores of rows"),
        "log_rows": (options.log_rows is not None, "logs which rows are trained on, and here all are"),
        'batchnorm = "gross"': (options.batchnorm == "gross", "is for rows that are dropped"),
        f"compile = {options.compile!r}": (bool(options.compile), "makes graphs of scores of rows"),
    }
    for what, (is_set, why) in refused.items():
        if is_set:
            raise ValueError(f'level = "token" does not go with {what}, which {why}')


class LabelledTokens:
    """The tokens of a language model's batch that have labels, row by row: what is chosen from.

    On a GPU the program waits to hear how many there are.

    Args:
        scorer: of the model; knows, or finds out, which position predicts which label.
        batch: with labels (B, T).

    Attributes:
        rows, columns: (N,), where the predictions of the labels are.
        gross: None: no source scores tokens.

    Raises:
        ValueError: for labels of rows, or a loss that is not a mean over labels.
    """

    def __init__(self, scorer: Scorer, batch: Mapping[str, Any]):
        self.scorer, self.batch = scorer, batch
        self._name = scorer.label_names(batch)[0]
        self._labels = _labels_of_tokens(batch, self._name)
        self._convention = scorer.convention(batch)
        if self._convention.way not in ("positions", "logits"):
            raise ValueError(
                f'level = "token" needs a loss that is the mean over labels, but that of '
                f"{type(innermost(unwrap(scorer.model))).__name__} is another for this batch"
            )
        self._aligned = self._convention.aligned(self._labels)
        self.rows, self.columns = torch.nonzero(self._aligned != IGNORED, as_tuple=True)
        self.gross: GrossBatch | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def number_kept(self, keep: float) -> tuple[int, str]:
        """(tokens to keep, at least 1 if there are any; why that is all of them if it is)."""
        number = len(self)
        kept = min(number, max(1, round(keep * number)))
        return kept, f"keep = {keep:g} of {number} labels is {kept}"

    def tokens_of(self, selection: Selection) -> tuple[int, int]:
        """Labels that the batch has, and that count."""
        return len(self), len(self) if selection.tokens is None else int(selection.tokens.sum())

    @torch.no_grad()
    def scores(self, exit_layer: int, capture: Capture | None = None) -> Tensor | None:
        """(N,), of the early prediction at an exit, less the reference's losses; None where nothing scores.

        Args:
            capture: takes down what the layers compute, for the training pass.

        Raises:
            ValueError: if `reference_losses` returns another shape than the labels'.
        """
        if self.scorer.function is None:
            return None
        parts = self.scorer.parts(self.batch)
        if len(parts) == 1:
            found = self._early_scores(exit_layer, capture)
        else:
            found = torch.cat([LabelledTokens(self.scorer, part)._early_scores(exit_layer) for part in parts])
        reference = self.scorer.options.reference_losses
        return found if reference is None else found - self._at_labels(reference(self.batch)).to(found)

    def _early_scores(self, exit_layer: int, capture: Capture | None = None) -> Tensor:
        """(N,), before any reference."""
        scorer, score = self.scorer, of_positions(self.scorer.function)
        model = unwrap(scorer.model)
        inputs = scorer.inputs(self.batch, labels=False)
        with contextlib.ExitStack() as stack:
            view = stack.enter_context(scorer.early_model(exit_layer, self._labels.device))
            captured = stack.enter_context(contextlib.ExitStack())
            if capture is not None:
                size, layer = scorer.rows.size(self.batch), last_shared_layer(model, exit_layer)
                captured.enter_context(capture.scoring(size, layer))
            if isinstance(innermost(model), EarlyExit):
                logits, labels = view(**inputs).flatten(0, 1), self._aligned.flatten()
                counts = labels != IGNORED
                return at_labelled(score, logits, labels, counts)[counts]
            head = LabelledHead(view, inputs, self._aligned, self._convention.below, captured=captured, begin_head=None)
            return head.each(score)[: len(self)]  # of no labels it has one

    def taken(self, chosen: Tensor) -> Taken:
        """All rows, with the labels of the tokens `chosen` (k,) alone."""
        places = self.rows[chosen], self.columns[chosen] + self._convention.shift
        counts = torch.zeros_like(self._labels, dtype=torch.bool)
        counts[places] = True
        labels = torch.where(counts, self._labels, self._convention.ignore_index)
        rows = len(labels)
        return Taken({**self.batch, self._name: labels}, torch.arange(rows, device=labels.device), rows, counts)

    def spread(self, values: Tensor) -> Tensor:
        """(B, T), values (N,) at the places of their labels, 0 elsewhere."""
        found = values.new_zeros(self._labels.shape)
        found[self.rows, self.columns + self._convention.shift] = values
        return found

    def _at_labels(self, losses: Any) -> Tensor:
        """(N,) out of (B, T), a reference's losses at the places of the labels."""
        if not isinstance(losses, Tensor) or losses.shape != self._labels.shape:
            found = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(
                f"reference_losses returned {found}, but must return a tensor {tuple(self._labels.shape)}, at the "
                "place of each label the reference's loss of it"
            )
        return losses[self.rows, self.columns + self._convention.shift]


class ReferenceLosses:
    """A second model's losses of the labels of a batch, in eval mode: what `reference_losses` takes away.

    Args:
        model: with the same vocabulary; it stays as it is, and on its device.
    """

    def __init__(self, model: nn.Module):
        self._exits = count_exits(unwrap(model))
        self._scorer = Scorer(model, SiftOptions(exit_layer=self._exits, scoring_mode="eval"))

    def __call__(self, batch: Mapping[str, Any]) -> Tensor:
        """(B, T), at the place of each label the loss of it, 0 elsewhere.

        Raises:
            ValueError: as `LabelledTokens`.
        """
        tokens = LabelledTokens(self._scorer, batch)
        losses = tokens.scores(self._exits)
        assert losses is not None
        return tokens.spread(losses)


def _labels_of_tokens(batch: Mapping[str, Any], name: str) -> Tensor:
    """(B, T) whole numbers, which a batch has under this name."""
    labels = batch[name]
    if labels.dim() != 2 or labels.shape[1] < 2 or labels.is_floating_point():
        raise ValueError(
            f'level = "token" is for language models, whose labels are (B, T) tokens, but `{name}` is '
            f"{labels.dtype} {tuple(labels.shape)}"
        )
    if _SHIFTED_ALREADY in batch:
        raise ValueError(
            f'level = "token" masks `{name}`, but the batch has {_SHIFTED_ALREADY}, too, which the model would be '
            "trained on: leave them out"
        )
    return labels
