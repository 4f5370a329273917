"""The speed-up measured on a ladder of budgets, on synthetic curves whose factor is known."""

import math

import numpy as np
import pytest
from scipy.stats import binom, ttest_rel

from training.comparison.speedup import ABOVE, BELOW, FALLS, ON, PlainCurve, SpeedUp, claim, speed_up

BUDGETS = 2.0 ** np.arange(5)
INNER = BUDGETS[1:-1]
SEEDS = 8


def accuracy(budget):
    """A learning curve such as Fashion-MNIST's: a power law of the budget."""
    return 0.92 - 0.06 * budget**-0.5


def experiment(rng, factor, noise=0.0015):
    """(plain (rungs, seeds), method (rungs, seeds)): a seed's runs have noise in common, and noise of their own."""
    of_seed = 0.5 * noise * rng.normal(size=SEEDS)
    plain = accuracy(BUDGETS)[:, None] + of_seed + noise * rng.normal(size=(len(BUDGETS), SEEDS))
    method = accuracy(factor * BUDGETS)[:, None] + of_seed + noise * rng.normal(size=(len(BUDGETS), SEEDS))
    return plain, method


def holds(found, factor):
    return found.low <= factor <= found.high


def within(count, of, share, error=1e-4):
    """Whether a count is as binomial counts are, but for `error` on either side."""
    low, high = binom.ppf([error, 1 - error], of, share)
    return low <= count <= high


# ---- What an interval promises ----


@pytest.mark.slow
def test_intervals_cover_a_known_factor_95_times_of_100():
    """400 experiments with a seed: at 95% the three counts lie within these limits but for 6 in 10,000 seeds."""
    rng = np.random.default_rng(20)
    counts = {"claim": 0, "rung": 0, "as a loss": 0}
    for _ in range(400):
        plain, method = experiment(rng, 1.4)
        curve = PlainCurve(BUDGETS, plain)
        counts["claim"] += holds(claim(curve, INNER, method[1:-1]), 1.4)
        counts["rung"] += holds(speed_up(curve, 4.0, method[2]), 1.4)
        losses = PlainCurve(BUDGETS, 1 - plain, higher_is_better=False)
        counts["as a loss"] += holds(speed_up(losses, 2.0, 1 - method[1]), 1.4)
    assert {name: within(count, 400, 0.95) for name, count in counts.items()} == dict.fromkeys(counts, True), counts


@pytest.mark.slow
def test_plain_under_another_name_is_significant_in_5_percent():
    """The same error probability as above, of two counts."""
    rng = np.random.default_rng(21)
    claims = rungs = 0
    for _ in range(400):
        plain, method = experiment(rng, 1.0)
        curve = PlainCurve(BUDGETS, plain)
        claims += claim(curve, INNER, method[1:-1]).significant
        rungs += speed_up(curve, 4.0, method[2]).significant
    assert within(claims, 400, 0.05), claims
    assert within(rungs, 400, 0.05), rungs


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.9])
def test_without_noise_the_factor_is_found(factor):
    """But for the cubic between the rungs, which is off by less than a percent here."""
    rng = np.random.default_rng(22)
    plain, method = experiment(rng, factor, noise=1e-7)
    curve = PlainCurve(BUDGETS, plain)
    for rung in (1, 2, 3):
        assert speed_up(curve, BUDGETS[rung], method[rung]).factor == pytest.approx(factor, rel=0.01)
    assert claim(curve, INNER, method[1:-1]).factor == pytest.approx(factor, rel=0.01)


# ---- The interval by brute force ----


@pytest.mark.parametrize("seed", range(6))
def test_the_interval_is_what_scipys_paired_t_test_does_not_reject(seed):
    """Every budget of a fine grid, tested one by one against the seeds' curves, interpolated by hand."""
    rng = np.random.default_rng([23, seed])
    plain, method = experiment(rng, 1.3, noise=0.002)
    curve = PlainCurve(BUDGETS, plain)
    found = speed_up(curve, 4.0, method[2])
    logs = np.linspace(0, math.log(16), 4001)
    kept = []
    for log in logs:
        deviations = [np.interp(log, np.log(BUDGETS), plain[:, s] - plain.mean(axis=1)) for s in range(SEEDS)]
        if ttest_rel(method[2], float(curve.mean(log)) + np.array(deviations)).pvalue >= 0.05:
            kept.append(math.exp(log) / 4)
    step = math.exp(logs[1] - logs[0]) - 1
    low = 0.0 if kept[0] == 0.25 else kept[0]
    high = math.inf if kept[-1] == pytest.approx(4.0) else kept[-1]
    assert found.low == pytest.approx(low, rel=2 * step)
    assert found.high == pytest.approx(high, rel=2 * step)


def test_a_claim_is_the_geometric_mean_of_its_rungs():
    plain, method = experiment(np.random.default_rng(24), 1.2, noise=0.0005)
    curve = PlainCurve(BUDGETS, plain)
    factors = [speed_up(curve, budget, values).factor for budget, values in zip(INNER, method[1:-1], strict=True)]
    found = claim(curve, INNER, method[1:-1])
    assert found.factor == pytest.approx(math.exp(np.mean(np.log(factors))))
    assert found.low < found.factor < found.high


def test_a_claim_of_one_rung_is_that_rungs():
    """Dividing by a slope changes no t test."""
    plain, method = experiment(np.random.default_rng(25), 1.2, noise=0.0005)
    curve = PlainCurve(BUDGETS, plain)
    one, rung = claim(curve, [4.0], method[2:3]), speed_up(curve, 4.0, method[2])
    assert (one.factor, one.low, one.high) == pytest.approx((rung.factor, rung.low, rung.high), rel=1e-6)


def test_what_all_seeds_have_in_common_does_not_count():
    """A difference of 1 between seeds, and still an interval of percents."""
    plain, method = experiment(np.random.default_rng(26), 1.2, noise=1e-4)
    seeds = np.linspace(0, 1, SEEDS)
    found = speed_up(PlainCurve(BUDGETS, plain + seeds), 4.0, method[2] + seeds)
    assert 1.1 < found.low < found.high < 1.3


# ---- The curve by brute force ----


def test_the_curve_is_monotone_and_never_leaves_its_rungs():
    """Over 200 ladders of noisy means, many of them out of order, and a grid of budgets between the rungs."""
    rng = np.random.default_rng(27)
    for _ in range(200):
        values = rng.normal(size=(5, 3)) + np.linspace(0, rng.uniform(0, 4), 5)[:, None]
        curve = PlainCurve(BUDGETS, values)
        grid = np.linspace(curve.logs[0], curve.logs[-1], 401)
        on_grid = curve.mean(grid)
        assert (np.diff(on_grid) >= -1e-12).all()
        for left, right, one, other in zip(
            curve.logs[:-1], curve.logs[1:], curve.knots[:-1], curve.knots[1:], strict=True
        ):
            between = on_grid[(grid >= left) & (grid <= right)]
            assert ((between >= one - 1e-12) & (between <= other + 1e-12)).all()
        # Isotonic regression by its formula: the largest least mean around each rung.
        means = values.mean(axis=1)
        by_formula = [max(min(means[j : k + 1].mean() for k in range(i, 5)) for j in range(i + 1)) for i in range(5)]
        np.testing.assert_allclose(curve.knots, by_formula, atol=1e-12)


def test_where_the_means_are_in_order_the_curve_goes_through_them_and_its_seeds_through_theirs():
    plain, _ = experiment(np.random.default_rng(28), 1.0, noise=1e-4)
    curve = PlainCurve(BUDGETS, plain)
    np.testing.assert_allclose(curve.mean(curve.logs), plain.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(curve.of_seeds(curve.logs), plain, atol=1e-12)
    between = np.linspace(curve.logs[0], curve.logs[-1], 50)
    np.testing.assert_allclose(curve.of_seeds(between).mean(axis=1), curve.mean(between), atol=1e-12)


@pytest.mark.parametrize("value", [0.865, 0.88, 0.8999])
def test_the_budget_that_reaches_a_value_is_a_grids(value):
    curve = PlainCurve(BUDGETS, np.repeat(accuracy(BUDGETS)[:, None], 2, axis=1))
    grid = np.linspace(curve.logs[0], curve.logs[-1], 100_001)
    nearest = grid[np.abs(curve.mean(grid) - value).argmin()]
    assert curve.reached(value) == (pytest.approx(nearest, abs=1e-4), ON)


def test_of_a_flat_stretch_the_middle_is_taken():
    curve = PlainCurve([1.0, 2.0, 8.0, 16.0], [[0.1], [0.5], [0.5], [0.7]])
    assert curve.reached(0.5) == (pytest.approx(math.log(4.0)), ON)


# ---- Never extrapolated ----


def test_beyond_the_ladder_there_is_no_factor():
    plain, _ = experiment(np.random.default_rng(29), 1.0, noise=1e-4)
    curve = PlainCurve(BUDGETS, plain)
    above = speed_up(curve, 8.0, np.full(SEEDS, 0.95) + 1e-5 * np.arange(SEEDS))
    below = speed_up(curve, 2.0, np.full(SEEDS, 0.5) + 1e-5 * np.arange(SEEDS))
    assert (math.isnan(above.factor), above.low, above.high, above.place) == (True, pytest.approx(2.0), math.inf, ABOVE)
    assert (math.isnan(below.factor), below.low, below.high, below.place) == (True, 0.0, pytest.approx(0.5), BELOW)
    assert above.significant
    assert below.significant
    assert np.isnan(curve.mean([-0.1, curve.logs[-1] + 0.1])).all()


def test_no_factor_lies_beyond_the_ladder():
    """Of 300 methods from far below to far above plain training."""
    rng = np.random.default_rng(30)
    for _ in range(300):
        plain, method = experiment(rng, 1.0, noise=0.01)
        found = speed_up(PlainCurve(BUDGETS, plain), 4.0, method[2] + rng.normal() * 0.05)
        assert math.isnan(found.factor) == (found.place != ON)
        assert found.place != ON or 0.25 <= found.factor <= 4.0
        assert found.low == 0.0 or 0.25 <= found.low <= 4.0 * (1 + 1e-12)
        assert found.high == math.inf or 0.25 * (1 - 1e-12) <= found.high <= 4.0


def test_a_claim_beyond_the_ladder_is_a_bound():
    """The first rung's factor is 1, the second's at least 4, where the ladder ends."""
    plain = accuracy(BUDGETS)[:, None] + 1e-5 * np.random.default_rng(31).normal(size=(5, SEEDS))
    own = np.stack([accuracy(2.0) + 1e-5 * np.arange(SEEDS) / SEEDS, np.full(SEEDS, 0.95)])
    found = claim(PlainCurve(BUDGETS, plain), [2.0, 4.0], own)
    assert found.place == ABOVE
    assert found.factor == pytest.approx(2.0, rel=1e-2)
    assert found.high == math.inf
    assert found.low <= found.factor
    assert found.low == pytest.approx(2.0, rel=1e-2)
    both = claim(PlainCurve(BUDGETS, plain), [2.0, 4.0], np.stack([np.full(SEEDS, 0.5), np.full(SEEDS, 0.95)]))
    assert (math.isnan(both.factor), both.low, both.high) == (True, 0.0, math.inf)


# ---- Few seeds, bad input ----


def test_of_one_seed_there_is_no_interval():
    plain, method = experiment(np.random.default_rng(32), 1.3, noise=1e-4)
    found = speed_up(PlainCurve(BUDGETS, plain[:, :1]), 4.0, method[2, :1])
    assert found.place == ON
    assert (found.low, found.high, found.significant) == (0.0, math.inf, False)


def test_seeds_that_all_agree_leave_the_factor_alone():
    curve = PlainCurve(BUDGETS, np.repeat(accuracy(BUDGETS)[:, None], 3, axis=1))
    found = speed_up(curve, 4.0, [accuracy(4.0)] * 3)
    assert (found.factor, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0), rel=1e-6)


def test_a_flat_curve_bounds_nothing():
    curve = PlainCurve(BUDGETS, np.tile([0.5, 0.51, 0.49], (5, 1)))
    found = claim(curve, INNER, np.full((3, 3), 0.5))
    assert (found.low, found.high) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("budgets", "values", "message"),
    [
        ([1.0], [[1.0]], r"budgets of shape \(1,\) must be at least 2"),
        ([2.0, 1.0], [[1.0], [1.0]], "must be above 0, finite and ascending"),
        ([0.0, 1.0], [[1.0], [1.0]], "must be above 0, finite and ascending"),
        ([1.0, 2.0], [1.0, 1.0], r"must be \(2, seeds\)"),
        ([1.0, 2.0], [[1.0], [math.nan]], "must be finite: a run that diverged has none"),
    ],
)
def test_what_is_no_curve(budgets, values, message):
    with pytest.raises(ValueError, match=message):
        PlainCurve(budgets, values)


def test_what_is_no_pair():
    curve = PlainCurve([1.0, 2.0], [[0.1, 0.2], [0.3, 0.4]])
    with pytest.raises(ValueError, match="must have 2 seeds, as plain training has"):
        speed_up(curve, 1.0, [0.1])
    with pytest.raises(ValueError, match="must be finite"):
        speed_up(curve, 1.0, [0.1, math.nan])
    with pytest.raises(ValueError, match="a claim needs at least one rung"):
        claim(curve, [], np.zeros((0, 2)))
    with pytest.raises(ValueError, match="values of 1 rungs must be of 2"):
        claim(curve, [1.0, 2.0], [[0.1, 0.2]])


def test_significance_leaves_out_1():
    assert SpeedUp(1.3, 1.1, 1.5, ON).significant
    assert SpeedUp(0.8, 0.7, 0.9, ON).significant
    assert not SpeedUp(1.3, 0.9, math.inf, ON).significant


# ---- Where plain training gets worse ----


def test_where_plain_training_gets_worse_with_the_budget_there_is_no_factor():
    """A cross-entropy of 1.1, .94 and 1.2 with seeds .02 apart: no budget stands for one of .92."""
    spread = np.array([-0.02, 0.0, 0.02])
    worse = PlainCurve([1, 2, 4], np.array([[1.1], [0.94], [1.2]]) + spread, higher_is_better=False)
    assert worse.falls()
    for found in (speed_up(worse, 2, 0.92 + spread), claim(worse, [2], [0.92 + spread])):
        assert math.isnan(found.factor)
        assert (found.low, found.high, found.place) == (0.0, math.inf, FALLS)
        assert not found.significant


def test_noise_is_no_fall():
    """By hand: differences -.04, -.01 and .02 of the last rung have the mean -.01 and a half width of .075."""
    plain = [[0.50, 0.51, 0.52], [0.70, 0.70, 0.70], [0.66, 0.69, 0.72]]
    curve = PlainCurve([1, 2, 4], plain)
    assert not curve.falls()
    assert curve.falls(error=0.7)  # the half width at 70% is .0077
    assert speed_up(curve, 2, plain[1]).place != FALLS
    assert not PlainCurve([1, 2], [[0.7], [0.6]]).falls()  # of one seed nobody can tell
