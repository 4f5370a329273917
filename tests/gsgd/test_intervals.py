"""Intervals of few measurements, against the tests that they invert and against counting how often they miss."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

pytest.importorskip("torch")

from gsgd.intervals import fieller, mean_half_width, median_interval


def test_mean():
    """t(0.975, 3) = 3.1824 (tables); the values 1, 2, 3, 6 have variance 14/3."""
    assert mean_half_width(np.array([1.0, 2, 3, 6])) == pytest.approx(3.182446 * math.sqrt(14 / 3) / 2, rel=1e-6)
    assert math.isnan(mean_half_width(np.array([1.0])))


@pytest.mark.parametrize(("n", "place"), [(1, 0), (2, 0), (5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (16, 3), (20, 5)])
def test_median(n, place):
    """Places from tables of the sign test's interval at 95%: of 9 values the second and the eighth, and so on."""
    values = np.random.default_rng(n).permutation(n) * 1.0
    assert median_interval(values) == ((n - 1) / 2, place, n - 1 - place)


@pytest.mark.parametrize("n", [6, 9, 12])
def test_the_medians_interval_misses_no_more_often_than_it_says(n):
    """Every pattern of signs is equally likely: the shares of those in which it misses, by enumeration."""
    misses = 0
    for signs in itertools.product((-1.0, 1.0), repeat=n):
        _, low, high = median_interval(np.array(signs))
        misses += low > 0 or high < 0
    assert 0 < misses / 2**n <= 0.05


@pytest.mark.parametrize("seed", range(5))
def test_fieller_inverts_the_t_test(seed):
    rng = np.random.default_rng(seed)
    bottom = 2 + rng.normal(size=6)
    top = 1.5 * bottom + rng.normal(size=6)
    ratio, low, high = fieller(top, bottom, error=0.1)
    assert ratio == pytest.approx(top.mean() / bottom.mean())
    assert low < ratio < high
    for end in (low, high):
        assert ttest_1samp(top - end * bottom, 0).pvalue == pytest.approx(0.1)
        assert ttest_1samp(top - (0.9 * end + 0.1 * ratio) * bottom, 0).pvalue > 0.1


def test_fieller_covers():
    """1000 times five normal pairs whose denominator varies by half its mean: exact, so 5% miss.

    Binomial(1000, 0.05) lies outside of 25..80 with probability below 1e-4.
    """
    rng = np.random.default_rng(3)
    misses = 0
    for _ in range(1000):
        bottom = rng.normal(1.0, 0.5, size=5)
        _, low, high = fieller(1.2 * bottom + rng.normal(0, 0.5, size=5), bottom)
        misses += not low <= 1.2 <= high
    assert 25 <= misses <= 80


@pytest.mark.parametrize(
    ("top", "bottom", "ratio"),
    [
        ([1.0], [2.0], 0.5),  # one pair
        ([1.0, -2.0, 3.0], [5.0, -4.0, 0.5], 4 / 3),  # both may be 0
        ([1.0, 2.0], [-3.0, -3.1], math.nan),  # one that is negative
        ([1.0, math.nan], [1.0, 1.0], math.nan),
    ],
)
def test_fieller_says_nothing_where_nothing_is_known(top, bottom, ratio):
    found = fieller(np.array(top), np.array(bottom))
    assert found == (pytest.approx(ratio, nan_ok=True), -math.inf, math.inf)


@pytest.mark.parametrize("sign", [1, -1])
def test_fieller_of_a_denominator_that_may_be_0(sign):
    """A t test tells the numerator from 0, not the denominator: of the ratio there is a bound on one side."""
    top, bottom = sign * np.array([4.0, 5, 6, 4.5]), np.array([3.0, -1, 2, -0.5])
    assert ttest_1samp(bottom, 0).pvalue > 0.05 > ttest_1samp(top, 0).pvalue
    ratio, low, high = fieller(top, bottom)
    bound, unbounded = (low, high) if sign > 0 else (high, low)
    assert unbounded == sign * math.inf
    assert 0 < sign * bound < sign * ratio
    assert ttest_1samp(top - bound * bottom, 0).pvalue == pytest.approx(0.05)
    for beyond in (1.01, 2, 1e3, 1e6):
        assert ttest_1samp(top - beyond * bound * bottom, 0).pvalue > 0.05


def test_fieller_of_proportional_pairs():
    assert fieller(np.array([5.0, 6, 7]), np.array([10.0, 12, 14])) == pytest.approx((0.5, 0.5, 0.5))
