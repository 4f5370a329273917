"""Labelled positions of a batch as the same number of each row, so that no device is asked how many there are.

The labelled positions of a row come first, in their order, then others, whose label is made the ignored one. The number
is learnt from the first batch of a form, where the host looks once; whether a row of a later batch has more labels is
found on the device and read a step later (`gsgd.sift.scoring_pass.late_checks`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Form = tuple[tuple[str, str, int], ...]

ALL_AT_MOST = 2**24
"""Logits of a batch up to which all positions are taken: it costs a GPU less than to learn how few would do."""


@dataclass(frozen=True)
class Positions:
    """P positions of each row.

    Attributes:
        rows, columns: (B P,), where they are, row by row.
        labels: (B, P), their labels, the ignored one where there is none.
    """

    rows: Tensor
    columns: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Fullest:
    """The most labels that a row of some batches had, of which the first `taken` positions were taken.

    Attributes:
        most: without axes, on the labels' device.
        length: T, of the rows.
    """

    form: Form
    length: int
    taken: int
    most: Tensor


class PositionsPerRow:
    """How many positions of a row are taken, for each form of batch."""

    def __init__(self) -> None:
        self._learnt: dict[Form, tuple[int, int]] = {}
        self._fullest: dict[tuple[Form, int, int], Tensor] = {}

    def of(self, form: Form, labels: Tensor, *, ignored: int, classes: int | None, every: bool = False) -> Positions:
        """Positions of a batch: all labelled ones, unless a row has more of them than rows are expected to have.

        The first batch of a form with many positions is read.

        Args:
            labels: (B, T), beside the predictions that they are of.
            ignored: the label that does not count.
            classes: of a prediction, if that is known.
            every: whether to take all positions, and to learn nothing: of a few rows that serve as a probe.
        """
        length = labels.shape[1]
        labelled = labels != ignored
        if every or (classes is not None and labels.numel() * classes <= ALL_AT_MOST):
            return _first(labels, labelled, length, ignored)
        counts = labelled.sum(dim=1)
        if form not in self._learnt:
            self.learn(form, length, int(counts.max()))
        taken = self.taken(form, length)
        if taken < length:
            most, key = counts.max(), (form, length, taken)
            before = self._fullest.get(key)
            self._fullest[key] = most if before is None else torch.maximum(before, most)
        return _first(labels, labelled, taken, ignored)

    def learn(self, form: Form, length: int, most: int) -> None:
        """Rows of `length` tokens may have `most` labels: expect as many from now on, and a margin."""
        self._learnt[form] = most, length

    def fullest(self) -> list[Fullest]:
        """What was noted of batches since this was last asked for, where a row may have had more labels."""
        found = [Fullest(*key, most) for key, most in self._fullest.items()]
        self._fullest = {}
        return found

    def taken(self, form: Form, length: int) -> int:
        """P, of rows of `length` tokens, once it was learnt how many labels they have."""
        most, of = self._learnt[form]
        # Shares of longer rows vary less, so their fullest row has at most as large a share.
        expected = most * max(1.0, length / of)
        # Counts of independent draws vary by about their root.
        margin = max(expected / 4, 4 * math.sqrt(expected))
        return min(length, max(8, 8 * math.ceil((expected + margin) / 8)))


def _first(labels: Tensor, labelled: Tensor, taken: int, ignored: int) -> Positions:
    """The first `taken` positions of each row, when labelled ones come before others."""
    number, length = labels.shape
    rows = torch.arange(number, device=labels.device).unsqueeze(1).expand(number, taken)
    if taken == length:
        columns = torch.arange(length, device=labels.device).expand(number, length)
    else:
        columns = torch.argsort(labelled.to(torch.uint8), dim=1, descending=True, stable=True)[:, :taken]
        labels = torch.gather(torch.where(labelled, labels, ignored), 1, columns)
    return Positions(rows.reshape(-1), columns.reshape(-1), labels)
