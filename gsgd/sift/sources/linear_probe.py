"""A linear classifier on an exit's features, trained on every row that is scored: a linear probe.

    sift = Sift(model, score=LinearProbe(), exit_layer=1)

A model's own exit is trained by the rows that are kept, or not at all. Those are the rows that it found hard, so that
it is trained away from the rows that it is to judge. The labels of all scored rows are known, and the exit's pass has
computed what a head reads of them: a head of its own is trained on all, for 4 d C operations a row.

Reference:
    Alain and Bengio: Understanding intermediate layers using linear classifier probes. ICLR workshop 2017,
    arXiv:1610.01644.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gsgd.sift.score_source import TrainedRows
from gsgd.sift.scoring_pass.row_losses import IGNORED, LEAST
from gsgd.sift.sources.exit_head import ExitHead


class LinearProbe(ExitHead):
    """Scores rows by the losses of a linear classifier on an exit's features; each selecting step trains it on all.

    Args:
        lr, labels: as of `ExitHead`.
    """

    def row_scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(B,): cross-entropies; float32's least number of rows with the label -100."""
        losses = F.cross_entropy(outputs, labels, reduction="none", ignore_index=IGNORED)
        return torch.where(labels == IGNORED, LEAST, losses)

    def loss(self, trained: TrainedRows) -> Tensor | None:
        """The mean cross-entropy of all rows of the gross batch."""
        if trained.gross is None:
            return None
        features = trained.gross.exit_losses.features()
        labels = self.classes_of(trained.gross.batch, trained.gross.size)
        with torch.enable_grad():
            outputs = self.outputs(features.values, features.classes)
            total = F.cross_entropy(outputs, labels, reduction="sum", ignore_index=IGNORED)
            return total / (labels != IGNORED).sum().clamp(min=1)
