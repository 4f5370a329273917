"""How well a classifier ranks the rows of one class before all others, whatever it takes for a threshold."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST, STEP = 40.0, 1e-3
"""Log odds are told apart within this, to a thousandth: rows that share a bin are ranked alike."""
BINS = round(2 * LARGEST / STEP)


class AveragePrecision:
    """The average precision of one class, of predictions that are added batch by batch.

        AP = sum over thresholds t, falling, of  (recall(t) - recall(t before)) precision(t)

    Rows are ranked by the log odds of the class. For a rare class it says what accuracy does not: always to predict
    the others is right nearly always, and has an average precision of the class's share.

    Attributes:
        sums: (2, BINS) float64, rows of the class and all rows by their log odds. Those of several ranks are added.
    """

    def __init__(self, of_class: int, device: torch.device | str = "cpu"):
        self.of_class = of_class
        self.sums = torch.zeros(2, BINS, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take the predictions of a batch: logits (B, classes), labels (B,)."""
        logits = logits.double()
        others = torch.cat([logits[:, : self.of_class], logits[:, self.of_class + 1 :]], dim=1)
        odds = logits[:, self.of_class] - others.logsumexp(dim=1)
        bins = ((odds + LARGEST) / STEP).long().clamp(0, BINS - 1)
        of_rows = torch.stack([(labels == self.of_class).double(), torch.ones_like(odds)])
        self.sums.index_add_(1, bins, of_rows)

    def value(self) -> float:
        """The average precision of what was added, in [0, 1].

        Raises:
            ValueError: if no row of the class was.
        """
        hits, rows = self.sums.flip(1).cumsum(dim=1)
        if not hits[-1]:
            raise ValueError(f"the held-out rows have none of class {self.of_class}, so it has no average precision")
        gained = torch.diff(hits, prepend=hits.new_zeros(1))
        return float((gained * hits / rows.clamp(min=1)).sum() / hits[-1])
