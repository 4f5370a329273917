"""The loss of each row that a step trained on, out of the training pass that it has made anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gsgd import host
from gsgd.sift.options import SiftOptions
from gsgd.sift.scoring_pass.forward import logits_of, loss_of
from gsgd.sift.scoring_pass.row_losses import IGNORED, ON_DEVICE_AT_ONCE

AGAIN = 100
"""The step, of those trained on, at which losses are held against the model's own a second time."""

RowLossFunction = Callable[[Any, Mapping[str, Any]], Tensor]
"""`(output, batch) -> (k,)`: the losses of a batch's rows, from the model's output on it."""


class TrainedLosses:
    """Losses of rows by the output of the model that was trained on them: the cross-entropy of its logits.

    At the first step, and again at the 100th, their mean is held against the loss that the model returned; that says
    whether labels are shifted, too.

    Args:
        function: what computes them, for a model whose loss is another.
        labels: the batch's entry of labels.
        smoothing: of the loss, where it is smoothed outside of the model.
    """

    def __init__(self, function: RowLossFunction | None = None, labels: str = "labels", smoothing: float = 0.0):
        self.function = function
        self.labels = labels
        self.smoothing = smoothing
        self.shift: int | None = None
        self.steps = 0

    @classmethod
    def of_options(cls, options: SiftOptions) -> TrainedLosses:
        """As the options of an engine say: its `row_losses`, label name and smoothing."""
        label = options.label_names[0] if options.label_names else "labels"
        return cls(options.row_losses, label, options.label_smoothing)

    def of(
        self,
        output: Any,
        batch: Mapping[str, Any],
        *,
        positions: tuple[Tensor, int] | None = None,
        items: Tensor | int | None = None,
    ) -> Tensor:
        """(k,), float32: the losses of a batch's rows. Where there are labels of positions, the mean over a row's own.

        Args:
            output: the model's, on this batch.
            batch: with its labels.
            positions: where the head ran on labelled positions only, the row of each (N,) and the number of rows; the
                batch's labels are then (1, N).
            items: what the model's loss is divided by, if not the number of the batch's labels, as where a Trainer
                accumulates gradients.

        Raises:
            ValueError: if their mean is not the loss that the model returned, or `function` does not return (k,).
        """
        number, self.steps = self.steps, self.steps + 1
        labels = batch.get(self.labels)
        if self.function is not None:
            rows = next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim())
            found = self.function(output, batch)
            if not isinstance(found, Tensor) or found.shape != (rows,):
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"row_losses returned {shape}, but must return one loss per row, ({rows},)")
            return found.detach().float()
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            raise ValueError(f"losses of rows need `{self.labels}` of classes in the batch: {_REMEDY}")
        logits = logits_of(output).detach()
        if positions is not None:
            return self._at_positions(logits, labels, *positions)
        if self.shift is None or number == AGAIN:
            self.shift = self._found_shift(logits, labels, loss_of(output), items)
        return _row_means(logits, _shifted(labels, self.shift), self.smoothing)

    def peek(self, output: Any, batch: Mapping[str, Any]) -> Tensor:
        """(B,), float32: the losses of rows that are not trained on, from the model's output; nothing is counted.

        Raises:
            ValueError: as `of`.
        """
        looker = TrainedLosses(self.function, self.labels, self.smoothing)
        looker.shift, looker.steps = self.shift, 1
        return looker.of(output, batch)

    def _at_positions(self, logits: Tensor, labels: Tensor, rows: Tensor, number: int) -> Tensor:
        each = F.cross_entropy(
            logits[0].float(), labels[0], reduction="none", ignore_index=IGNORED, label_smoothing=self.smoothing
        )
        there = (labels[0] != IGNORED).to(each.dtype)
        count = each.new_zeros(number).index_add_(0, rows, there)
        return each.new_zeros(number).index_add_(0, rows, each) / count.clamp(min=1)

    def _found_shift(self, logits: Tensor, labels: Tensor, loss: Tensor | None, items: Tensor | int | None) -> int:
        """1 where position t predicts label t + 1, else 0: whichever has the mean that the model returned."""
        loss = None if loss is None else loss.detach()
        if loss is None:
            raise ValueError(f"the model returned no loss to hold the losses of its rows against: {_REMEDY}")
        fits = labels.shape == logits.shape[:-1]
        means = []
        for shift in (0, 1) if fits and labels.dim() > 1 else (0,) if fits else ():
            wanted = _shifted(labels, shift)
            counts = _labels_of_rows(wanted)
            mean = float(
                (_row_means(logits, wanted, self.smoothing) * counts).sum()
                / (counts.sum().clamp(min=1) if items is None else items)
            )
            means.append(mean)
            if abs(mean - float(loss)) <= 1e-3 * max(1.0, abs(float(loss))) or not torch.isfinite(loss):
                return shift
        found = f"the mean cross-entropy of its logits is {' or '.join(f'{mean:.6g}' for mean in means)}"
        shapes = f"its logits have shape {tuple(logits.shape)} and labels {tuple(labels.shape)}"
        raise ValueError(
            f"the losses of rows are not the model's: its loss is {float(loss):.6g}, and "
            f"{found if means else shapes}. {_REMEDY}"
        )


_REMEDY = "Give row_losses=(output, batch) -> (k,), the losses of a batch's rows from the model's output on it"


def _shifted(labels: Tensor, shift: int) -> Tensor:
    if not shift:
        return labels
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], dim=1)


def _labels_of_rows(labels: Tensor) -> Tensor:
    """(k,), how many labels of each row count."""
    return (labels != IGNORED).reshape(len(labels), -1).sum(dim=1).float()


def _row_means(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """(k,), mean losses of rows, 0 where no label counts."""
    if labels.dim() == 1:
        return F.cross_entropy(
            logits.float(), labels, reduction="none", ignore_index=IGNORED, label_smoothing=smoothing
        )
    flat, wanted = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    each = flat.new_zeros(len(wanted), dtype=torch.float32)
    if host.holds(labels):
        # In masked language modelling most positions have no label.
        chosen = torch.nonzero(wanted != IGNORED).squeeze(1)
        each[chosen] = F.cross_entropy(
            flat[chosen].float(), wanted[chosen], reduction="none", label_smoothing=smoothing
        )
    else:
        size = max(1, ON_DEVICE_AT_ONCE // logits.shape[-1])
        parts = zip(flat.split(size), wanted.split(size), strict=True)
        options: dict[str, Any] = {"reduction": "none", "ignore_index": IGNORED, "label_smoothing": smoothing}
        each = torch.cat([F.cross_entropy(part.float(), of, **options) for part, of in parts])
    return each.reshape(len(labels), -1).sum(dim=1) / _labels_of_rows(labels).clamp(min=1)
