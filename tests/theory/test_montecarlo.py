"""Confidence bounds and tests: coverage and power summed exactly where samples can be enumerated, simulated elsewhere.

A simulation here repeats a test REPETITIONS times and allows as many misses as a binomial of the stated probability
exceeds with probability below FALSE_ALARM: so often would a correct bound fail one of these tests at a fresh seed.
"""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from theory.routes import montecarlo
from theory.verdict import Status

REPETITIONS = 2000
FALSE_ALARM = 1e-9


def allowed(probability, repetitions=REPETITIONS):
    return int(stats.binom.isf(FALSE_ALARM, repetitions, probability))


# Clopper-Pearson


@pytest.mark.parametrize("alpha", [0.2, 1e-3, 1e-8])
def test_clopper_pearson_agrees_with_scipy(alpha):
    for n in (1, 7, 100, 5000):
        for successes in {0, 1, n // 3, n - 1, n}:
            interval = stats.binomtest(successes, n).proportion_ci(1 - alpha, method="exact")
            assert montecarlo.probability_bounds(successes, n, alpha) == pytest.approx(tuple(interval), abs=1e-7)


def tail(successes, n, p):
    """P(Bin(n, p) >= successes) as a fraction."""
    p = Fraction(p)
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(successes, n + 1))


@pytest.mark.parametrize("alpha", [0.1, 1e-6, 1e-20])
def test_clopper_pearson_bounds_solve_their_equation_in_exact_arithmetic(alpha):
    # From alpha = 1e-16 on, 1 - alpha is 1 in float64: a routine that takes a confidence level would return [0, 1].
    for n, successes in ((12, 5), (40, 1), (40, 30)):
        low, high = montecarlo.probability_bounds(successes, n, alpha)
        assert float(tail(successes, n, low) / Fraction(alpha)) == pytest.approx(0.5, rel=1e-9)
        assert float((1 - tail(successes + 1, n, high)) / Fraction(alpha)) == pytest.approx(0.5, rel=1e-9)


def test_no_success_and_nothing_but_successes():
    assert montecarlo.probability_bounds(0, 10, 0.1) == (0.0, pytest.approx(1 - 0.05**0.1))
    assert montecarlo.probability_bounds(10, 10, 0.1) == (pytest.approx(0.05**0.1), 1.0)


@pytest.mark.parametrize("n", [1, 5, 30])
@pytest.mark.parametrize("alpha", [0.1, 1e-3])
def test_probability_tests_refute_what_is_true_with_probability_alpha_at_most(n, alpha):
    # Summed over all outcomes: no sampling.
    counts = np.arange(n + 1)
    for p in (0.0, 0.01, 0.3, 0.5, 0.77, 1.0):
        weights = stats.binom.pmf(counts, n, p)
        for test in (montecarlo.probability_equals, montecarlo.probability_at_most, montecarlo.probability_at_least):
            refuted = [test(int(k), n, p, alpha).status is Status.REFUTED for k in counts]
            assert weights[refuted].sum() <= alpha * (1 + 1e-9)


@pytest.mark.parametrize("detectable", [0.2, 0.1])
def test_a_sample_of_the_size_computed_catches_the_violation_of_a_probability(detectable):
    alpha = 0.01
    n = montecarlo.sample_size(detectable, alpha)
    counts = np.arange(n + 1)
    for p in np.linspace(0, 1 - detectable, 9):
        verdicts = [montecarlo.probability_equals(int(k), n, p, alpha) for k in counts]
        above = [v.status is Status.REFUTED for v in verdicts]
        assert stats.binom.pmf(counts, n, p + detectable)[above].sum() >= 1 - alpha
        above = [montecarlo.probability_at_most(int(k), n, p, alpha).status is Status.REFUTED for k in counts]
        assert stats.binom.pmf(counts, n, p + detectable)[above].sum() >= 1 - alpha
        below = [montecarlo.probability_at_least(int(k), n, 1 - p, alpha).status is Status.REFUTED for k in counts]
        assert stats.binom.pmf(counts, n, max(0.0, 1 - p - detectable))[below].sum() >= 1 - alpha
        assert max(v.detectable for v in verdicts) <= detectable


@pytest.mark.parametrize("n", [3, 40])
def test_what_a_probability_test_reports_as_detectable_is_caught(n):
    # A violation beyond `detectable` passes with probability alpha at most, summed over all outcomes.
    alpha, counts = 0.1, np.arange(n + 1)
    for p, truth in itertools.product((0.0, 0.2, 0.5), np.linspace(0, 1, 41)):
        weights = stats.binom.pmf(counts, n, truth)
        for test, sign in ((montecarlo.probability_at_most, 1), (montecarlo.probability_at_least, -1)):
            target = p if sign == 1 else 1 - p
            missed = [
                v.status is Status.CONSISTENT and sign * (truth - target) > v.detectable
                for v in (test(int(k), n, target, alpha) for k in counts)
            ]
            assert weights[missed].sum() <= alpha * (1 + 1e-9)
        missed = [
            v.status is Status.CONSISTENT and abs(truth - p) > v.detectable
            for v in (montecarlo.probability_equals(int(k), n, p, alpha) for k in counts)
        ]
        assert weights[missed].sum() <= alpha * (1 + 1e-9)


def test_verdicts_of_a_probability_report_what_was_seen():
    found = montecarlo.probability_equals(30, 100, 0.9, 1e-6)
    assert (found.status, found.value, found.bound) == (Status.REFUTED, 0.3, 0.9)
    assert found.slack < 0
    assert found.witness.startswith("confidence interval [0.1")
    assert montecarlo.probability_at_most(30, 100, 0.9, 1e-6).witness is None


@pytest.mark.parametrize(
    ("successes", "n", "alpha", "message"),
    [
        (-1, 10, 0.1, r"successes = -1 must lie in \[0, n\] = \[0, 10\]"),
        (11, 10, 0.1, r"successes = 11 must lie in"),
        (0, 0, 0.1, r"with n >= 1"),
        (5, 10, 0.0, r"alpha = 0.0 must lie in \(0, 1\)"),
        (5, 10, 1.0, r"alpha = 1.0 must lie in \(0, 1\)"),
        (5, 10, math.nan, r"alpha = nan must lie in \(0, 1\)"),
    ],
)
def test_impossible_counts_and_levels_are_rejected(successes, n, alpha, message):
    with pytest.raises(ValueError, match=message):
        montecarlo.probability_bounds(successes, n, alpha)


# Sample sizes


@given(st.floats(1e-3, 0.999), st.floats(1e-12, 0.5))
def test_sample_size_is_where_both_halves_meet(detectable, alpha):
    n = montecarlo.sample_size(detectable, alpha)
    assert 2 * montecarlo.hoeffding_width(n, alpha / 2) <= detectable * (1 + 1e-12)
    assert n == 1 or 2 * montecarlo.hoeffding_width(n - 1, alpha / 2) > detectable * (1 - 1e-12)


@pytest.mark.parametrize("detectable", [0.0, 1.0, -0.1, math.nan])
def test_sample_size_needs_a_violation_between_0_and_1(detectable):
    with pytest.raises(ValueError, match=r"detectable = .* must lie in \(0, 1\)"):
        montecarlo.sample_size(detectable, 0.1)


@pytest.mark.parametrize("alpha", [0.0, 1.0, math.nan])
def test_sample_size_needs_a_level_between_0_and_1(alpha):
    with pytest.raises(ValueError, match=r"alpha = .* must lie in \(0, 1\)"):
        montecarlo.sample_size(0.1, alpha)


# Means by betting


@pytest.fixture(scope="module")
def sequences():
    """All 0-1 sequences of length 10, and their bounds at alpha = .2: the bet depends on the order of the samples."""
    x = np.array(list(itertools.product((0.0, 1.0), repeat=10)))
    bounds = np.array([(montecarlo.mean_lower(r, 0.2, cap=1.0), montecarlo.mean_upper(r, 0.2, cap=1.0)) for r in x])
    return x.sum(axis=1), *bounds.T


def test_betting_covers_a_coin_summed_over_all_sequences(sequences):
    heads, low, high = sequences
    missed = []
    for p in np.linspace(0, 1, 201):
        weights = p**heads * (1 - p) ** (10 - heads)
        missed.append((weights[low > p].sum(), weights[high < p].sum()))
        assert weights[low <= p].sum() >= 0.8
        assert weights[high >= p].sum() >= 0.8
    # The bound is no empty promise: it does fail sometimes.
    assert np.max(missed) > 0.05


LAWS = {
    "beta(2, 50)": lambda rng, n: rng.beta(2, 50, n),
    "rare ones": lambda rng, n: (rng.random(n) < 0.02).astype(float),
    "fair coin": lambda rng, n: (rng.random(n) < 0.5).astype(float),
    "uniform": lambda rng, n: rng.random(n),
}
MEANS = {"beta(2, 50)": 2 / 52, "rare ones": 0.02, "fair coin": 0.5, "uniform": 0.5}


@pytest.mark.parametrize("name", LAWS)
def test_betting_misses_the_mean_no_more_often_than_alpha(name):
    rng, alpha, mean = np.random.default_rng(1), 0.1, MEANS[name]
    above = below = unseen = 0
    for _ in range(REPETITIONS):
        x = LAWS[name](rng, 60)
        verdict = montecarlo.mean_at_most(x, mean, alpha, cap=1.0)
        above += verdict.status is Status.REFUTED
        high = mean - verdict.slack + verdict.detectable
        below += high < mean
        # Against the bound mean - .05: caught, or reported as too small to be seen.
        unseen += mean - verdict.slack <= mean - 0.05 and verdict.detectable < 0.05
    assert above <= allowed(alpha)
    assert below <= allowed(alpha)
    assert unseen <= allowed(alpha)


def test_lower_bound_of_an_unbounded_mean_covers_it():
    # Pareto with index 1.5: mean 3 - 1 = 2, infinite variance.
    rng, alpha = np.random.default_rng(2), 0.1
    samples = rng.pareto(1.5, (REPETITIONS, 60))
    missed = sum(montecarlo.mean_lower(row, alpha, cap=20.0) > 2.0 for row in samples)
    assert missed <= allowed(alpha)
    assert montecarlo.mean_lower(rng.pareto(1.5, 20_000), 1e-6, cap=50.0) > 1.2


def test_the_violation_asked_for_is_caught():
    # A coin has the largest variance there is. Each test misses with probability alpha at most.
    rng, alpha, detectable = np.random.default_rng(3), 0.05, 0.25
    n = montecarlo.sample_size(detectable, alpha)
    missed = np.zeros(3, int)
    repetitions = 1000
    for _ in range(repetitions):
        x = 4.0 * (rng.random(n) < 0.5)
        gap = 4.0 * detectable
        verdicts = (
            montecarlo.mean_at_most(x, 2.0 - gap, alpha, cap=4.0),
            montecarlo.mean_at_least(x, 2.0 + gap, alpha, cap=4.0),
            montecarlo.mean_equals(x, 2.0 + gap, alpha, cap=4.0),
        )
        missed += [verdict.status is Status.CONSISTENT for verdict in verdicts]
    assert (missed <= allowed(alpha, repetitions)).all()


unit_samples = st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), min_size=1, max_size=50)


@settings(max_examples=50, deadline=None)
@given(unit_samples, st.sampled_from([0.3, 1e-2, 1e-9]))
def test_a_bound_is_never_further_from_the_sample_mean_than_hoeffdings(samples, alpha):
    # Whatever the samples: with Hoeffding's inequality for the sample mean this is the promise of `sample_size`.
    low, high = (bound(samples, alpha, cap=1.0) for bound in (montecarlo.mean_lower, montecarlo.mean_upper))
    mean, width = np.mean(samples), montecarlo.hoeffding_width(len(samples), alpha / 2)
    assert max(0.0, mean - width) - 1e-9 <= low <= 1
    assert 0 <= high <= min(1.0, mean + width) + 1e-9


@settings(max_examples=30, deadline=None)
@given(unit_samples, st.floats(0.01, 100))
def test_bounds_scale_mirror_and_widen(samples, cap):
    x = np.array(samples)
    low, high = montecarlo.mean_lower(x, 0.05, cap=1.0), montecarlo.mean_upper(x, 0.05, cap=1.0)
    assert montecarlo.mean_upper(cap * x * (1 - 1e-15), 0.05, cap=cap) == pytest.approx(cap * high, rel=1e-6)
    assert montecarlo.mean_lower(1 - x, 0.05, cap=1.0) == pytest.approx(1 - high, abs=1e-6)
    assert montecarlo.mean_upper(x, 0.001, cap=1.0) >= high
    assert montecarlo.mean_lower(x, 0.001, cap=1.0) <= low


def test_betting_is_tighter_than_hoeffding_where_the_variance_is_small():
    # The figures of the literature's example: beta(2, 50), n = 10^4, level 1e-6; mean .0385, Hoeffding .0649.
    x = np.random.default_rng(4).beta(2, 50, 10_000)
    assert 2 / 52 < montecarlo.mean_upper(x, 1e-6, cap=1.0) < 0.043
    assert x.mean() + montecarlo.hoeffding_width(10_000, 1e-6) > 0.064


def test_constant_samples_do_not_detect_everything():
    # A mean of 1e-2 yields 100 zeros with probability .37: a power of zero would be a lie.
    zeros = montecarlo.mean_at_most(np.zeros(100), 0.0, 0.05, cap=1.0)
    ones = montecarlo.mean_at_least(np.ones(100), 1.0, 0.05, cap=1.0)
    assert zeros.status is ones.status is Status.CONSISTENT
    # log(1 / alpha) / n: a smaller mean leaves no trace with probability alpha.
    assert zeros.detectable >= 0.03
    assert ones.detectable >= 0.03


def test_tests_of_a_mean_refute_what_is_false_and_say_by_what():
    x = np.random.default_rng(5).beta(2, 2, 3000)
    assert montecarlo.mean_equals(x, 0.5, 1e-6, cap=1.0).status is Status.CONSISTENT
    for expected in (0.4, 0.6):
        found = montecarlo.mean_equals(x, expected, 1e-6, cap=1.0)
        assert found.status is Status.REFUTED
        assert found.witness.startswith("confidence interval [0.4")
        assert found.slack < 0
    low = montecarlo.mean_at_most(x, 0.4, 1e-6, cap=1.0)
    assert low.status is Status.REFUTED
    assert low.witness.startswith("mean >= 0.4")
    high = montecarlo.mean_at_least(x, 0.6, 1e-6, cap=1.0)
    assert high.status is Status.REFUTED
    assert high.witness.startswith("mean <= 0.5")
    assert low.value == high.value == x.mean()


def test_samples_beyond_the_cap_are_cut_off_in_a_lower_bound():
    x = np.array([0.5, 0.5, 1e6, math.inf] * 50)
    assert montecarlo.mean_lower(x, 0.1, cap=1.0) <= 0.75
    assert montecarlo.mean_lower(x, 0.1, cap=1.0) == montecarlo.mean_lower(np.minimum(x, 1.0), 0.1, cap=1.0)
    # Every excess lies beyond the cap: the test cannot see it, whatever `detectable` says of E min(X, cap).
    heavy = np.repeat([0.0, 1e9], [500, 500])
    assert montecarlo.mean_at_most(heavy, 1.0, 0.1, cap=1.0).status is Status.CONSISTENT


@pytest.mark.parametrize("bound", [montecarlo.mean_lower, montecarlo.mean_upper])
@pytest.mark.parametrize(
    ("samples", "alpha", "cap", "message"),
    [
        ([], 0.1, 1.0, "no samples: a mean needs at least one"),
        ([0.5, -0.1], 0.1, 1.0, "sample -0.1 is negative or NaN"),
        ([0.5, math.nan], 0.1, 1.0, "sample nan is negative or NaN"),
        ([0.5], 0.1, 0.0, "cap = 0.0 must be positive and finite"),
        ([0.5], 0.1, math.inf, "cap = inf must be positive and finite"),
        ([0.5], 0.1, math.nan, "cap = nan must be positive and finite"),
        ([0.5], 0.0, 1.0, r"alpha = 0.0 must lie in \(0, 1\)"),
        ([0.5], 1.0, 1.0, r"alpha = 1.0 must lie in \(0, 1\)"),
    ],
)
def test_a_mean_needs_samples_a_cap_and_a_level(bound, samples, alpha, cap, message):
    with pytest.raises(ValueError, match=message):
        bound(samples, alpha, cap=cap)


@pytest.mark.parametrize("test", [montecarlo.mean_at_least, montecarlo.mean_equals])
def test_an_upper_bound_of_a_mean_needs_bounded_samples(test):
    with pytest.raises(ValueError, match=r"sample 1.5 exceeds cap = 1.0"):
        test([0.5, 1.5], 0.5, 0.1, cap=1.0)
    with pytest.raises(ValueError, match=r"sample inf exceeds cap = 1.0"):
        montecarlo.mean_upper([0.5, math.inf], 0.1, cap=1.0)


# Distribution functions


@pytest.mark.parametrize("n", [1, 2, 20, 1000])
@pytest.mark.parametrize("alpha", [0.5, 0.1, 1e-6])
def test_distribution_test_errs_with_probability_alpha_at_most_by_kolmogorovs_exact_law(n, alpha):
    threshold = montecarlo.distribution_equals(np.full(n, 0.5), stats.uniform.cdf, alpha).bound
    assert stats.kstwo.sf(threshold, n) <= alpha


def test_distance_between_distribution_functions_agrees_with_scipy():
    rng = np.random.default_rng(6)
    for n in (1, 5, 400):
        x = rng.standard_normal(n)
        found = montecarlo.distribution_equals(x, stats.norm.cdf, 0.01)
        assert found.value == pytest.approx(stats.kstest(x, "norm").statistic)
        assert found.status is Status.CONSISTENT


def test_distribution_test_catches_what_it_reports_as_detectable():
    # Uniform samples against u -> u / (1 - d) on [0, 1 - d]: the distribution functions are d apart.
    rng, alpha, n = np.random.default_rng(7), 0.1, 60
    d = montecarlo.distribution_equals(rng.random(n), stats.uniform.cdf, alpha).detectable * (1 + 1e-9)
    missed = sum(
        montecarlo.distribution_equals(
            x, lambda u: np.clip(u / (1 - d), 0, 1) if d < 1 else np.ones_like(u), alpha
        ).status
        is Status.CONSISTENT
        for x in rng.random((REPETITIONS, n))
    )
    assert 0 < d < 1
    assert missed <= allowed(alpha)


@pytest.mark.parametrize(
    ("samples", "message"), [([], "0 samples"), ([0.1, math.nan, 0.2], "3 samples, with a NaN among them")]
)
def test_a_distribution_function_needs_numbers(samples, message):
    with pytest.raises(ValueError, match=message):
        montecarlo.distribution_equals(samples, stats.uniform.cdf, 0.1)
