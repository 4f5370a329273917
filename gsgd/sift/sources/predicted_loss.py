"""A head on an exit's features that predicts the exact loss of a row.

    sift = Sift(model, score=PredictedLoss(), exit_layer=1)

    score  =  u^2,        u = softplus(v_y . h + b_y),        y the row's class

    trained to lower  mean over the rows trained on of  (u - sqrt(exact loss))^2

The exact loss is known of the rows that are trained on, out of the training pass, and of no others. The distance of
roots is the square of delta, by which a score is bounded from what it loses (`theory.formulas.stale`): what is learnt
is the bound itself, on the rows chosen. Of rows that were not chosen it knows by what they have in common with those
that were, and rows that it holds for easy it would never see: a quarter of the rows kept is therefore drawn at random,
unless `random_share` says otherwise.

Reference:
    Yoo and Kweon: Learning Loss for Active Learning. CVPR 2019, arXiv:1905.03677; there labels are unknown, several
    layers are read, and pairs are ranked, here the row's label is known.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gsgd.sift.score_source import TrainedRows
from gsgd.sift.scoring_pass.row_losses import IGNORED, LEAST
from gsgd.sift.sources.exit_head import ExitHead


class PredictedLoss(ExitHead):
    """Scores rows by what a head on an exit's features predicts their exact losses to be.

    Losses that are negative or not finite are not learnt from, and rows with the label -100 neither.

    Args:
        lr, labels: as of `ExitHead`.
    """

    needs_losses = learns_from_kept = True

    def row_scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(B,): predicted losses; float32's least number of rows with the label -100."""
        return torch.where(labels == IGNORED, LEAST, _roots(outputs, labels).square())

    def loss(self, trained: TrainedRows) -> Tensor | None:
        """The mean square of the roots' distance, over the rows trained on."""
        if trained.gross is None or trained.features is None or trained.losses is None:
            return None
        labels = self.classes_of(trained.batch, len(trained.features))
        exact = trained.losses.to(trained.features)
        known = torch.isfinite(exact) & (exact >= 0) & (labels != IGNORED)
        wanted = torch.where(known, exact, 0.0).sqrt()
        with torch.enable_grad():
            outputs = self.outputs(trained.features, trained.gross.exit_losses.features().classes)
            apart = torch.where(known, _roots(outputs, labels) - wanted, 0.0)
            return apart.square().sum() / known.sum().clamp(min=1)


def _roots(outputs: Tensor, labels: Tensor) -> Tensor:
    """(B,): the root of the predicted loss of each row, at the output of its class."""
    own = outputs.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)
    return F.softplus(own)
