"""What selection by a score is expected to be worth: a factor in budget, of what the score keeps and what a step costs.

    progress  =  (mean exact loss of the rows kept) / (mean of all)            rho_approx of Definition 5.13, k of B
    cost      =  1  +  s B / (3 k)  +  t / 3                                   of a selecting step over a plain one
    factor    =  progress^EXPONENT / cost

with s what scoring a row computes and t what is trained of the score on a row kept, both as shares of the model's
forward pass on a row. Where every sample can be fitted progress is the speed-up of the linear rate
(`theory.formulas.improved`), at most 1 + CV sqrt((B - k) / k) (`theory.formulas.rho`); of networks it is an estimate,
whose exponent and spread come from comparisons that were measured (`gsgd figures forecasts`).

A score's overlap with the exact choice says less than its progress, as it does not tell how hard the other rows are. If
those that agree are as hard as the exact choice on average, and the others as the rows that it leaves,

    progress  =  o rho  +  (1 - o) (1 - p rho) / (1 - p),        o the overlap, p = k / B,

which is 1 at the overlap of chance, o = p.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from gsgd.ranges import whole, within

EXPONENT = 0.8
"""Least squares of the logarithms over twelve forecasts recorded beside ladders, of networks that fit their rows; with
six more that were recorded later it is .79. Proxies have one of their own (`training.diagnose.forecast`)."""
SPREAD = 1.25
"""A forecast's interval: its factor divided and multiplied by this. Of 28 that are recorded 21 lie within it."""


def expected_factor(progress: float, cost: float, exponent: float = EXPONENT) -> float:
    """At how many times the budget plain training is expected to come as far: progress^exponent / cost.

    Args:
        progress: as of the module; below 0 it counts as 0.
        cost: above 0.
        exponent: above 0; another one where progress was not measured under selection by the score.
    """
    return max(progress, 0.0) ** exponent / cost


def step_cost(scoring: float, keep: float, training: float = 0.0) -> float:
    """A selecting step over a plain one of as many rows trained on, in arithmetic: 1 + s / (3 keep) + t / 3.

    Args:
        scoring: s, at least 0.
        keep: k / B, in (0, 1].
        training: t, at least 0.
    """
    return 1 + scoring / (3 * keep) + training / 3


def progress_of_overlap(overlap: float, rho: float, keep: float) -> float:
    """The progress of a score that agrees with the exact choice in a share `overlap` of the rows it keeps, see above.

    Args:
        overlap: in [0, 1].
        rho: of the exact choice, in [1, 1 / keep].
        keep: p, in (0, 1).

    Raises:
        ValueError: for values out of range.
    """
    overlap = within("overlap", overlap, "lie in [0, 1]", lambda value: 0 <= value <= 1)
    left = _left(rho, keep)
    return overlap * rho + (1 - overlap) * left


def least_overlap(cost: float, rho: float, keep: float) -> float:
    """The overlap from which on a score pays, whose step costs `cost`: where its factor is 1.

    Args:
        cost: at least 1.
        rho, keep: as of `progress_of_overlap`.

    Returns:
        In [keep, 1]; infinity where not even the exact choice would pay at that cost.

    Raises:
        ValueError: for values out of range.
    """
    cost = within("cost", cost, "be at least 1", lambda value: value >= 1)
    left, needed = _left(rho, keep), cost ** (1 / EXPONENT)
    if needed > rho:
        return math.inf
    return keep if rho == left else (needed - left) / (rho - left)


def _left(rho: float, keep: float) -> float:
    """The mean loss of the rows that the exact choice leaves, over that of all."""
    keep = within("keep", keep, "lie in (0, 1)", lambda value: 0 < value < 1)
    rho = within("rho", rho, f"lie in [1, {1 / keep:g}], of 1 / keep", lambda value: 1 <= value <= 1 / keep)
    return (1 - keep * rho) / (1 - keep)


def ratio_kept(scores: Tensor, losses: np.ndarray, kept: int, *, random_share: float = 0.0) -> float:
    """The mean loss of the rows kept over that of all; of rows drawn at random among those left, its expectation.

    Args:
        scores: (B,), larger is harder.
        losses: (B,), exact ones, >= 0.
        kept: k, in 1..B.
        random_share: of the kept rows, drawn among those that the scores leave.

    Returns:
        1 where all losses are 0.
    """
    kept = whole("kept", kept, least=1, most=len(losses))
    mean = float(losses.mean())
    if mean == 0:
        return 1.0
    drawn = min(math.floor(random_share * kept), len(losses) - kept)
    order = np.argsort(-scores.double().cpu().numpy(), kind="stable")
    top, others = losses[order[: kept - drawn]], losses[order[kept - drawn :]]
    total = float(top.sum()) + (drawn * float(others.mean()) if drawn else 0.0)
    return total / kept / mean
