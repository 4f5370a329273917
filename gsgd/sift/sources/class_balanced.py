"""A control: rows drawn at random, so that classes are as even as the gross batch allows.

    sift = Sift(model, score=ClassBalanced())

Hard rows are often rows of rare classes. What a score gains beyond this control is not the balance of classes. Rows of
each class are numbered in a random order; all first ones come before all second ones, and so on, those of one number in
a random order. Nothing is computed of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gsgd import host
from gsgd.sift.score_source import GrossBatch, ScoreSource


class ClassBalanced(ScoreSource):
    """Draws rows evenly over classes.

    Args:
        labels: the batch's entry of classes, one a row.
    """

    def __init__(self, labels: str = "labels"):
        self.labels = labels

    def scores(self, gross: GrossBatch) -> Tensor:
        """(B,), at most 0: less the number of a row in its class, and less a draw from [0, 1).

        If ranks select together, rows are numbered among those of all of them.

        Raises:
            ValueError: if rows have not one class each.
        """
        labels = gross.batch.get(self.labels)
        if not isinstance(labels, Tensor) or labels.shape != (gross.size,) or labels.is_floating_point():
            found = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise ValueError(
                f"{self.labels!r} is {found}, but a class-balanced draw needs one class a row, ({gross.size},)"
            )
        ranks, first = self.ranks, 0
        classes = labels
        if ranks.together:
            classes, first = ranks.gathered(labels), ranks.rank * gross.size
        order, ties = torch.rand(2, len(classes), generator=gross.generator)
        order, ties = host.sent(order, labels.device), host.sent(ties, labels.device)
        own = slice(first, first + gross.size)
        before = (classes[None] == labels[:, None]) & (order[None] < order[own, None])
        return -(before.sum(dim=1) + ties[own])
