"""How far a classifier's confidence is from how often it is right."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 15


class Calibration:
    """The expected calibration error of predictions that are added batch by batch.

        ECE = sum over bins m of  n_m / n  | accuracy of bin m - mean confidence of bin m |

    The confidence of a prediction is the softmax of its class; bins are `BINS` equal parts of (0, 1]. Of a finite
    sample it is above 0 even where the confidence is right, by about sqrt(BINS / n).

    Attributes:
        sums: (3, BINS) float64, of each bin the number of predictions, of right ones, and the sum of confidences. Those
            of several ranks are added.

    Reference:
        Guo, Pleiss, Sun, Weinberger, On calibration of modern neural networks, ICML 2017, Equation 3.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.sums = torch.zeros(3, BINS, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take the predictions of a batch: logits (B, classes), labels (B,)."""
        confidence, predicted = logits.float().softmax(dim=-1).max(dim=-1)
        bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        right = (predicted == labels).double()
        of_rows = torch.stack([torch.ones_like(right), right, confidence.double()])
        self.sums.index_add_(1, bins, of_rows)

    def error(self) -> float | None:
        """The error of what was added; None if that is nothing."""
        count, right, confidence = self.sums
        if not count.sum():
            return None
        return float((right - confidence).abs().sum() / count.sum())
