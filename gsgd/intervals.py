"""Intervals of a few measurements: of a mean, a median, and a ratio of means."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom
from scipy.stats import t as student

Column = np.ndarray[tuple[int], np.dtype[np.float64]]


def mean_half_width(values: Column, *, error: float = 0.05) -> float:
    """Half the width of the mean's interval by Student's t; NaN of fewer than two values.

    Args:
        values: (n,), independent.
        error: probability of missing the expectation, if the mean is normally distributed.
    """
    if len(values) < 2:
        return math.nan
    return float(student.ppf(1 - error / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))


def median_interval(values: Column, *, error: float = 0.05) -> tuple[float, float, float]:
    """(median, low, high): the narrowest pair of order statistics that misses the median with at most `error`.

    Nothing is assumed of the distribution: as many values lie below the median as a fair coin shows heads. Of too few
    values (fewer than six, for 5%) it is their range, which misses the median with probability 2^(1 - n).

    Args:
        values: (n,), independent, n >= 1.
    """
    ordered = np.sort(values)
    # The median lies below ordered[k] if at most k values lie below it: with probability up to error / 2.
    k = max(0, int(binom.ppf(error / 2, len(ordered), 0.5)) - 1)
    return float(np.median(ordered)), float(ordered[k]), float(ordered[-1 - k])


def fieller(numerators: Column, denominators: Column, *, error: float = 0.05) -> tuple[float, float, float]:
    """(ratio, low, high) of the means of pairs (a_i, b_i): every lambda that a t test does not tell from the ratio.

        | mean of d_i | <= t s(d) / sqrt(n),    d_i = a_i - lambda b_i

    This is exact for normal pairs, few as they may be, and takes account of what a_i and b_i have in common; the
    interval of the ratio's linearisation is too narrow where the denominator is hardly known. Such a denominator, which
    may be 0, leaves the lambdas beyond a bound on either side; here only those of the numerator's sign, since the
    expectation of the denominator is taken to be positive.

    Args:
        numerators, denominators: (n,), the pairs, independent of each other.
        error: probability of missing the ratio of expectations (up to 1.5 times that for a negative one).

    Returns:
        The ratio is NaN unless the mean denominator is positive. Ends are infinite where nothing bounds the ratio, and
        both are if neither mean can be told from 0, or there is only one pair.

    Reference:
        Fieller, Some problems in interval estimation, J. R. Stat. Soc. B 16 (1954) 175-185.
    """
    count, top, bottom = len(numerators), float(numerators.mean()), float(denominators.mean())
    ratio = top / bottom if bottom > 0 else math.nan
    if count < 2 or not math.isfinite(ratio):
        return ratio, -math.inf, math.inf
    factor = float(student.ppf(1 - error / 2, count - 1)) ** 2 / count
    (tops, both), (_, bottoms) = (np.cov(numerators, denominators) * factor).tolist()
    # The lambdas with  square lambda^2 - 2 half lambda + rest <= 0.
    square, half, rest = bottom**2 - bottoms, top * bottom - both, top**2 - tops
    if square == 0 or (square < 0 and rest <= 0):
        return ratio, -math.inf, math.inf
    root = math.sqrt(max(0.0, half**2 - square * rest))
    if square < 0:
        # One root of either sign, and what satisfies the inequality lies outside of them.
        return (ratio, (half - root) / square, math.inf) if top > 0 else (ratio, -math.inf, (half + root) / square)
    return ratio, (half - root) / square, (half + root) / square
