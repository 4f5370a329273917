"""A model's own loss, row by row: while it runs, torch's loss functions give one value a row instead of their mean.

    with RowLosses(rows=8):
        losses = model(**batch).loss          # (8,)

A model knows best how it reads its labels: whether it shifts them, which it ignores, what an encoder-decoder feeds its
decoder, how the two losses of question answering are put together. All of that runs as it is; only the last step, from
one number a prediction to one number a batch, is replaced by one number a row, and what the model does with the result
(sums, means of two, factors) is done with a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gsgd import host, scores
from gsgd.scores import PositionScore
from gsgd.sift.models.torch_internals import memory_of

IGNORED = -100
"""The label that Hugging Face's losses skip."""
LEAST = torch.finfo(torch.float32).min
"""The score of a row without labels, so that it ranks last; of float64, too, so that parts and ranks give the same."""

SCORED_AT_ONCE = 2**20
"""Entries that a score is computed from at a time: few enough to stay in a processor's cache through all its passes."""
ON_DEVICE_AT_ONCE = 2**28
"""The same of a device, where every part costs as many operators as the whole: 1 GiB in float32, and about
four times that while a score is computed."""


def entries_at_once(logits: Tensor) -> int:
    """How many entries of a matrix of logits a score takes at a time."""
    return SCORED_AT_ONCE if host.holds(logits) else ON_DEVICE_AT_ONCE


class NoRowLoss(ValueError):
    """A model's loss has no value for each row, or not one that can be told."""


@dataclass(frozen=True)
class LossCall:
    """One call of a loss function.

    Attributes:
        name: of the function, such as "cross_entropy".
        targets: (rows, targets of a row), classes; None of other losses.
        ignore_index: the class that does not count.
        plain: whether it is the cross-entropy with neither class weights nor label smoothing.
    """

    name: str
    targets: Tensor | None = None
    ignore_index: int = IGNORED
    plain: bool = False


class RowLosses(TorchFunctionMode):
    """Within the block loss functions return (rows,), the mean (or sum, as they were asked) over each row's own part.

    Args:
        rows: B, of the batch that runs.
        score: what is computed of each prediction of classes, one of `gsgd.scores`.
        labels, label_rows: where the model is given labelled positions only, their labels (1, N) and their rows (N,);
            or, of the same number of positions of each row, a range of rows.
        before: called when the first loss function is.
        computed: what computes the score of positions, if not `scores.of_positions(score)`: that compiled.

    Attributes:
        calls: of the loss functions, in order.
        labelled: (rows,), whether a row had any label that counts; None before the first call.

    Raises:
        NoRowLoss: in the block, where predictions do not belong to rows, or have no such score.
    """

    def __init__(
        self,
        rows: int,
        score: Callable[..., Tensor] = scores.cross_entropy,
        labels: Tensor | None = None,
        label_rows: Tensor | range | None = None,
        before: Callable[[], object] = lambda: None,
        computed: PositionScore | None = None,
    ):
        super().__init__()
        self.before = before
        self.computed = scores.of_positions(score) if computed is None else computed
        self.labels = labels
        self.label_rows = label_rows
        self.rows = rows
        self.score = score
        self.is_loss = score is scores.cross_entropy
        self.calls: list[LossCall] = []
        self.labelled: Tensor | None = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_row = _BY_ROW.get(function)
        if by_row is None:
            return function(*args, **(kwargs or {}))
        if not self.calls:
            self.before()
        return by_row(self, *args, **(kwargs or {}))

    def cross_entropy(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: Any = None,
        ignore_index: int = IGNORED,
        reduce: Any = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Tensor:
        logits = (input if input.dim() < 3 else input.movedim(1, -1)).reshape(-1, input.shape[min(1, input.dim() - 1)])
        if target.is_floating_point():
            self._only_loss("cross_entropy")
            each = F.cross_entropy(_wide(input), target, weight, reduction="none", label_smoothing=label_smoothing)
            self.calls.append(LossCall("cross_entropy"))
            return self._reduced(each, torch.ones_like(each), reduction)
        at_positions = self.labels is not None and _same_memory(target, self.labels)
        targets = None if at_positions else self._by_row("cross_entropy", target)
        plain = weight is None and label_smoothing == 0
        self.calls.append(LossCall("cross_entropy", targets, ignore_index, plain))
        flat = target.reshape(-1)

        def position_loss(z: Tensor, y: Tensor) -> Tensor:
            if plain or not self.is_loss:
                return self.computed(z, y)
            return F.cross_entropy(_wide(z), y, weight, reduction="none", label_smoothing=label_smoothing)

        counts = flat != ignore_index
        each = at_labelled(position_loss, logits, flat, counts)
        weights = counts.to(each.dtype)
        if weight is not None:
            weights = weights * weight[flat.clamp(0, logits.shape[1] - 1)].to(each.dtype)
        if weight is not None and not self.is_loss:
            each = each * weights  # the loss has them already
        if not at_positions:
            return self._reduced(each, weights, reduction)
        total, count = (self._by_label_row(part) for part in (each, weights))
        return self._summed(total, count, reduction)

    def _by_label_row(self, each: Tensor) -> Tensor:
        """(rows,): sums over the labelled positions (N,) of each row."""
        if not isinstance(self.label_rows, range):
            assert self.label_rows is not None
            return each.new_zeros(self.rows).index_add_(0, self.label_rows, each)
        found = each.view(len(self.label_rows), -1).sum(dim=1)
        if len(found) == self.rows:
            return found
        total = each.new_zeros(self.rows)
        total[self.label_rows.start : self.label_rows.stop] = found
        return total

    def binary_cross_entropy_with_logits(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> Tensor:
        if not self.is_loss:
            if self.score is not scores.entropy:
                self._only_loss("binary_cross_entropy_with_logits")
            target = torch.sigmoid(input)  # the cross-entropy of a prediction with itself
        input = _wide(input)
        each = F.binary_cross_entropy_with_logits(input, target, weight, reduction="none", pos_weight=pos_weight)
        return self._elementwise("binary_cross_entropy_with_logits", each, reduction)

    def ctc_loss(
        self,
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Any,
        target_lengths: Any,
        blank: int = 0,
        reduction: str = "mean",
        zero_infinity: bool = False,
    ) -> Tensor:
        self._only_loss("ctc_loss")
        each = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, "none", zero_infinity)
        if each.shape != (self.rows,):
            raise NoRowLoss(f"ctc_loss was given {each.numel()} sequences for {self.rows} rows")
        self.calls.append(LossCall("ctc_loss"))
        if reduction == "mean":
            each = each / torch.as_tensor(target_lengths, device=each.device).clamp(min=1)
        return self._reduced(each, torch.ones_like(each), "mean")

    def _elementwise(self, name: str, each: Tensor, reduction: str) -> Tensor:
        self.calls.append(LossCall(name))
        return self._reduced(each, torch.ones_like(each), reduction)

    def _reduced(self, each: Tensor, weights: Tensor, reduction: str) -> Tensor:
        """(rows,): sums of each row's values, over those of its weights for "mean"."""
        values, weights = self._by_row("its loss", each), self._by_row("its loss", weights)
        return self._summed(values.sum(dim=1), weights.sum(dim=1), reduction)

    def _summed(self, total: Tensor, count: Tensor, reduction: str) -> Tensor:
        there = count != 0
        self.labelled = there if self.labelled is None else self.labelled | there
        if reduction == "sum":
            return total
        if reduction != "mean":
            raise NoRowLoss(f"the loss is asked for with reduction={reduction!r}, and what becomes of it is not known")
        # Where there is nothing to count, the sum is 0; class weights may be small.
        return total / count.clamp(min=torch.finfo(count.dtype).tiny)

    def _by_row(self, name: str, value: Tensor) -> Tensor:
        if value.numel() == 0 or value.numel() % self.rows:
            raise NoRowLoss(
                f"{name} has {value.numel()} predictions for {self.rows} rows, not as many for each of them"
            )
        return value.reshape(self.rows, -1)

    def _only_loss(self, name: str) -> None:
        if not self.is_loss:
            score = getattr(self.score, "__name__", "this score")
            raise NoRowLoss(f"{score} needs the probabilities of classes, but the model's loss is {name}")


def at_labelled(score: PositionScore, logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """(n,) scores of positions, 0 where no label counts.

    Where the host holds the logits, labelled positions are picked out of the others. Else all are computed, without a
    look at any value.

    Args:
        logits: (n, C).
        labels: (n,); one out of range gives NaN on a device.
        counts: (n,), which labels count.

    Raises:
        ValueError: for a label out of range that the host can see.
    """
    classes = logits.shape[1]
    if host.holds(logits):
        chosen = torch.nonzero(counts).squeeze(1)
        if len(chosen) == 0:
            return _wide(logits.new_zeros(len(labels)))
        if len(chosen) < len(labels):
            logits, labels = logits[chosen], labels[chosen]
        least, most = torch.aminmax(labels)
        if least < 0 or most >= classes:
            scores.check_labels(labels, torch.ones_like(labels, dtype=torch.bool), classes)
        values = _in_parts(score, logits, labels)
        if len(chosen) == len(counts):
            return values
        return values.new_zeros(len(counts)).index_copy_(0, chosen, values)
    within = labels.clamp(0, classes - 1)
    values = _in_parts(score, logits, within)
    return values.masked_fill_(within != labels, math.nan).masked_fill_(~counts, 0)


def _in_parts(score: PositionScore, logits: Tensor, labels: Tensor) -> Tensor:
    size = max(1, entries_at_once(logits) // logits.shape[1])
    if len(labels) <= size:
        return score(logits, labels)
    return torch.cat([score(*part) for part in zip(logits.split(size), labels.split(size), strict=True)])


def _same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors begin at the same place; those of the device "meta" have no address to tell it by."""
    return memory_of(one) == memory_of(other) and one.storage_offset() == other.storage_offset()


def _wide(value: Tensor) -> Tensor:
    """Half precision as float32."""
    return value if value.dtype == torch.float64 else value.float()


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss of pairs of numbers, by row."""

    def by_row(
        losses: RowLosses, input: Tensor, target: Tensor, *args: Any, reduction: str = "mean", **more: Any
    ) -> Any:
        losses._only_loss(function.__name__)
        more = {name: value for name, value in more.items() if name not in ("size_average", "reduce")}
        each = function(input, target, *args, reduction="none", **more)
        if function is F.kl_div and reduction == "batchmean":
            return losses._elementwise("kl_div", each, "sum") * (losses.rows / input.shape[0])
        return losses._elementwise(function.__name__, each, reduction)

    return by_row


_ELEMENTWISE = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy, F.kl_div)
_BY_ROW: dict[Any, Callable[..., Tensor]] = {
    F.cross_entropy: RowLosses.cross_entropy,
    F.nll_loss: RowLosses.cross_entropy,  # log-probabilities are logits whose softmax they are; the same arguments
    F.binary_cross_entropy_with_logits: RowLosses.binary_cross_entropy_with_logits,
    F.ctc_loss: RowLosses.ctc_loss,
    **{function: _elementwise(function) for function in _ELEMENTWISE},
}
