"""How well the scores stand in for exact losses: what selection by them keeps of what exact losses would keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from gsgd.selectors import select_top_k
from gsgd.sift import scoring
from gsgd.sift.batch import batch_size
from gsgd.sift.engine import Sift
from gsgd.sift.exits import count_exits, unwrap


def selection_quality(sift: Sift, batch: Mapping[str, Any]) -> tuple[float, float]:
    """(overlap, rank correlation) of the early scores with exact losses on a gross batch.

    Both are scored in the engine's scoring mode; with dropout, each draws masks of its own. Nothing is counted or
    trained on, and running statistics stay as they are.

    Args:
        sift: an engine that scores.
        batch: a gross batch (B rows), on the model's device.

    Returns:
        The share of the k rows with the largest scores that are among the k with the largest exact losses, in [0, 1];
        and Spearman's rank correlation of scores and exact losses, NaN where either is constant.

    Raises:
        ValueError: if the engine scores nothing.
    """
    if sift.score is None:
        raise ValueError('score = "random" has no scores to compare with exact losses')
    model = unwrap(sift.model)
    common: dict[str, Any] = {"mode": sift.scoring_mode, "causal": sift.causal}
    with torch.no_grad():
        early = scoring.score_rows(model, batch, exit_layer=sift.exit_layer, score=sift.score, **common)
        exact = scoring.score_rows(model, batch, exit_layer=count_exits(model), score=scoring.BY_NAME["loss"], **common)
    kept = max(1, round(sift.keep * batch_size(batch)))
    chosen = [set(select_top_k(scores, kept).tolist()) for scores in (early, exact)]
    columns = [scores.double().cpu().numpy() for scores in (early, exact)]
    if any(np.ptp(column) == 0 for column in columns):
        return len(chosen[0] & chosen[1]) / kept, float("nan")
    return len(chosen[0] & chosen[1]) / kept, float(spearmanr(columns[0], columns[1]).statistic)
