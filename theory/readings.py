"""Measured training against the formulas: what a reading's numbers would be if the assumptions held.

A reading is a mapping of the numbers that `gsgd.sift.measures.readings.Reading` has: two columns, scores and exact
losses of the rows of a gross batch, said in fourteen numbers. Whoever measured them need not be known here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from gsgd.intervals import mean_half_width
from theory.formulas import early_exit, noise
from theory.formulas.overlap import overlap_curve, overlap_limit

_sigma_max_2 = functools.partial(noise.sigma_max_R, R=2)

MEASURED = (
    *("step", "exit_layer", "rows", "kept", "rho", "rho_approx", "rho_pairs", "rho_pairs_approx", "sigma"),
    *("independence", "margin_correlation", "pairwise_agreement", "overlap", "rank_correlation"),
)
"""The names of a reading's numbers."""
PREDICTED = (
    *("overlap_finite", "overlap_limit", "agreement_predicted", "beta_from_agreement"),
    *("sigma_max", "sigma_max_sharp", "rho_pairs_guaranteed", "independence_level"),
)
"""The names of what `compare` puts beside them."""
PAIRS = (
    ("pairwise_agreement", "agreement_predicted", "p_j (Theorem 6.2)"),
    ("overlap", "overlap_finite", "overlap (its law)"),
    ("overlap", "overlap_limit", "overlap (the limit)"),
    ("margin_correlation", "beta_from_agreement", "beta (told by p_j)"),
)
"""(measured, predicted, what it is): numbers that are equal in expectation for Gaussian margins, as B grows."""
LEVEL = 0.05
"""Of the test of independence."""


@dataclass(frozen=True)
class Promise:
    """Whether Corollary 5.16 promises that selection by these scores beats none, rho_{2,approx} > 1, in three forms.

    It speaks of GSGD with R = 2 on convex problems, of its bound against SGD's at the same step size.

    Attributes:
        printed: sigma < sigma_max(rho) and, as its proof supposes, sigma <= 1 / (2 sqrt 2).
        corrected: sigma < sigma_max(rho), which is enough, because p_2 >= p for every sigma.
        sharp: sigma < sigma_max_R(rho) at R = 2, which is at least as much.
    """

    printed: bool
    corrected: bool
    sharp: bool


def compare(reading: Mapping[str, Any]) -> dict[str, float]:
    """What the formulas say beside the numbers of a reading (Theorems 5.15 and 6.2, Corollary 5.16).

    Args:
        reading: with the names `MEASURED`; a number that was not defined on its batch is NaN.

    Returns:
        The names `PREDICTED`, NaN where a number that it takes is.
        overlap_finite: `theory.formulas.overlap.overlap` of k of B rows at beta = margin_correlation, beside `overlap`.
        overlap_limit: its limit for large batches, 1/2 + arcsin(beta)/pi at k = B/2.
        agreement_predicted: p_j at that beta (Theorem 6.2), beside `pairwise_agreement`; exact for every B.
        beta_from_agreement: the beta that `pairwise_agreement` tells, beside `margin_correlation`.
        sigma_max, sigma_max_sharp: noise below which Corollary 5.16 promises rho_{2,approx} > 1 at `rho_pairs`, as
            printed and sharp, beside `sigma`; 0 where rho_pairs is 1 (all losses are the same).
        rho_pairs_guaranteed: p_R(sigma) rho_pairs at R = 2, below which `rho_pairs_approx` cannot lie in expectation
            over the noise (Theorem 5.15 for every sigma).
        independence_level: the probability that independent columns have a Spearman correlation as far from 0 as
            `independence` (Student's t with B - 2 degrees of freedom); Assumption 5.12 makes it uniform on [0, 1].

    Raises:
        ValueError: if a number is missing or out of range, naming it.
    """
    if missing := [name for name in MEASURED if name not in reading]:
        raise ValueError(f"the reading lacks {', '.join(missing)}")
    B, k = _whole(reading, "rows", 0), _whole(reading, "kept", 0)
    beta = _within(reading, "margin_correlation", -1, 1)
    agreement = _within(reading, "pairwise_agreement", 0, 1)
    rho, sigma = _within(reading, "rho_pairs", 1, 2), _within(reading, "sigma", 0, math.inf)
    independence = _within(reading, "independence", -1, 1)
    known = not math.isnan(beta) and 1 <= k <= B and B >= 2
    return {
        "overlap_finite": overlap_curve(B, k)(beta) if known else math.nan,
        "overlap_limit": overlap_limit(beta, k / B) if known else math.nan,
        "agreement_predicted": math.nan if math.isnan(beta) else early_exit.agreement(beta),
        "beta_from_agreement": math.nan if math.isnan(agreement) else early_exit.beta_from_agreement(agreement),
        "sigma_max": _level(rho, noise.sigma_max),
        "sigma_max_sharp": _level(rho, _sigma_max_2),
        "rho_pairs_guaranteed": math.nan if math.isnan(sigma) else noise.p_R(sigma, 2) * rho,
        "independence_level": _two_sided(independence, B),
    }


def promise(*, sigma: float, rho_pairs: float) -> Promise | None:
    """What Corollary 5.16 promises at this noise and rho_2; None where either is NaN.

    Raises:
        ValueError: if sigma is negative or rho_pairs outside [1, 2].
    """
    numbers = {"sigma": sigma, "rho_pairs": rho_pairs}
    sigma, rho = _within(numbers, "sigma", 0, math.inf), _within(numbers, "rho_pairs", 1, 2)
    if math.isnan(sigma) or math.isnan(rho):
        return None
    corrected = sigma < _level(rho, noise.sigma_max)
    sharp = sigma < _level(rho, _sigma_max_2)
    return Promise(corrected and sigma <= noise.SIGMA_LIMIT, corrected, sharp)


@dataclass(frozen=True)
class Line:
    """One measured number beside its prediction, in the mean over readings that have both.

    Attributes:
        measured_name, predicted_name: of the numbers.
        quantity: what they are, in words.
        readings: how many there are.
        measured, predicted: means; NaN without a reading.
        half_width: of the 95% interval of their difference (Student's t over readings); NaN of fewer than two.
    """

    measured_name: str
    predicted_name: str
    quantity: str
    readings: int
    measured: float
    predicted: float
    half_width: float

    @property
    def difference(self) -> float:
        """measured - predicted."""
        return self.measured - self.predicted


@dataclass(frozen=True)
class Summary:
    """Many readings against the formulas.

    Attributes:
        lines: one for each of `PAIRS`.
        noisy: readings that have a sigma.
        obeying: share of them with rho_pairs_approx >= rho_pairs_guaranteed (Theorem 5.15).
        printed, corrected, sharp: share of them to which Corollary 5.16 promises rho_{2,approx} > 1; see `Promise`.
        ahead: share of them with rho_pairs_approx > 1, what it promises.
        tested: readings that have an `independence`.
        dependent: share of them whose noise depends on the loss at level 0.05; Assumption 5.12 would give 0.05.
    """

    lines: tuple[Line, ...]
    noisy: int
    obeying: float
    printed: float
    corrected: float
    sharp: float
    ahead: float
    tested: int
    dependent: float


def summarise(readings: Sequence[Mapping[str, Any]]) -> Summary:
    """Means over readings, measured beside predicted.

    Raises:
        ValueError: as `compare`.
    """
    beside = [{**reading, **compare(reading)} for reading in readings]
    noisy = [row for row in beside if not math.isnan(row["sigma"] + row["rho_pairs"] + row["rho_pairs_approx"])]
    promises = [promise(sigma=row["sigma"], rho_pairs=_within(row, "rho_pairs", 1, 2)) for row in noisy]
    found = [each for each in promises if each is not None]
    tested = [row["independence_level"] for row in beside if not math.isnan(row["independence_level"])]
    return Summary(
        lines=tuple(_line(beside, *pair) for pair in PAIRS),
        noisy=len(noisy),
        # A rounding error is no violation.
        obeying=_share([row["rho_pairs_approx"] >= row["rho_pairs_guaranteed"] - 1e-12 for row in noisy]),
        printed=_share([each.printed for each in found]),
        corrected=_share([each.corrected for each in found]),
        sharp=_share([each.sharp for each in found]),
        ahead=_share([row["rho_pairs_approx"] > 1 for row in noisy]),
        tested=len(tested),
        dependent=_share([level < LEVEL for level in tested]),
    )


def _line(rows: Sequence[Mapping[str, Any]], measured: str, predicted: str, quantity: str) -> Line:
    pairs = np.array([(row[measured], row[predicted]) for row in rows], dtype=float).reshape(-1, 2)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    count = len(pairs)
    means = pairs.mean(axis=0) if count else (math.nan, math.nan)
    half_width = mean_half_width(pairs[:, 0] - pairs[:, 1])
    return Line(measured, predicted, quantity, count, float(means[0]), float(means[1]), half_width)


def _share(holds: Sequence[bool]) -> float:
    return sum(holds) / len(holds) if holds else math.nan


def _level(rho: float, formula: Any) -> float:
    """A noise level of Corollary 5.16; at rho = 1, which it leaves out, none is admissible."""
    if math.isnan(rho):
        return math.nan
    return float(formula(rho)) if rho > 1 else 0.0


def _two_sided(correlation: float, B: int) -> float:
    if math.isnan(correlation) or B < 3:
        return math.nan
    if abs(correlation) == 1:
        return 0.0
    return float(2 * student.sf(abs(correlation) * math.sqrt((B - 2) / (1 - correlation**2)), B - 2))


def _within(numbers: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """The number, moved into its range if only rounding took it out; NaN stays NaN."""
    value = float(numbers[name])
    slack = 1e-6
    if value < low - slack or value > high + slack or math.isinf(value):
        raise ValueError(f"{name} = {value} must lie in [{low}, {high}]: no reading has such a number")
    return value if math.isnan(value) else min(max(value, low), high)


def _whole(numbers: Mapping[str, Any], name: str, least: int) -> int:
    value = numbers[name]
    if not float(value).is_integer() or value < least:
        raise ValueError(f"{name} = {value} must be a whole number of at least {least}")
    return int(value)
