"""The mean loss of each class, of which that of rows with another share of each class follows."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class ClassLosses:
    """Cross-entropy by class, of predictions that are added batch by batch.

    Attributes:
        sums: (2, classes) float64, of each class the number of rows and the sum of their losses; without columns until
            something is added. Those of several ranks are added.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.sums = torch.zeros(2, 0, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take the predictions of a batch: logits (B, classes), labels (B,)."""
        if not self.sums.shape[1]:
            self.sums = self.sums.new_zeros(2, logits.shape[1])
        losses = F.cross_entropy(logits.float(), labels, reduction="none").double()
        self.sums.index_add_(1, labels, torch.stack([torch.ones_like(losses), losses]))

    def mean(self, classes: np.ndarray) -> float | None:
        """The mean loss of rows of these classes (n,), as of those that were added; of classes of which none was, none.

        Returns:
            None where none is left.
        """
        count, loss = self.sums.cpu().numpy()
        wanted = np.bincount(classes, minlength=len(count))[: len(count)] * (count > 0)
        return float(wanted @ (loss / np.maximum(count, 1)) / wanted.sum()) if wanted.any() else None
