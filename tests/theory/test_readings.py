"""Predictions beside measured numbers: on margins that are Gaussian, and on noise that does not depend on the loss."""

import math

import numpy as np
import pytest
from scipy import stats

from theory import readings as formulas
from theory.routes.montecarlo import mean_at_least, mean_equals
from theory.verdict import Status

ALPHA = 1e-9
"""Error probability of each simulated comparison."""


def larger_of_pairs(losses, scores):
    """Mean over pairs of the loss of the row with the larger score, over the mean; the whole table of pairs."""
    i, j = np.triu_indices(losses.shape[1], 1)
    a, b = losses[:, i], losses[:, j]
    first = np.sign(scores[:, i] - scores[:, j])
    picked = np.where(first > 0, a, np.where(first < 0, b, (a + b) / 2))
    return picked.mean(axis=1) / losses.mean(axis=1)


def correlations(one, other):
    """Pearson's, row by row."""
    one, other = (columns - columns.mean(axis=1, keepdims=True) for columns in (one, other))
    return (one * other).sum(axis=1) / np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))


def readings(scores, losses, kept, sigma=None):
    """Readings of (batches, B) columns, by definition."""
    batches, B = losses.shape
    order, exact = np.argsort(-scores, axis=1), np.argsort(-losses, axis=1)
    i, j = np.triu_indices(B, 1)
    alike = (scores[:, i] > scores[:, j]) == (losses[:, i] > losses[:, j])
    ratio = np.log(scores / losses)
    ranks = {name: stats.rankdata(of, axis=1) for name, of in (("score", scores), ("loss", losses), ("ratio", ratio))}
    of_all = {
        "rho": np.take_along_axis(losses, exact[:, :kept], axis=1).mean(axis=1) / losses.mean(axis=1),
        "rho_approx": np.take_along_axis(losses, order[:, :kept], axis=1).mean(axis=1) / losses.mean(axis=1),
        "rho_pairs": larger_of_pairs(losses, losses),
        "rho_pairs_approx": larger_of_pairs(losses, scores),
        "sigma": ratio.std(axis=1, ddof=1) if sigma is None else np.full(batches, sigma),
        "independence": correlations(ranks["ratio"], ranks["loss"]),
        "margin_correlation": correlations(-np.log(np.expm1(scores)), -np.log(np.expm1(losses))),
        "pairwise_agreement": alike.mean(axis=1),
        "overlap": np.array([len(set(a[:kept]) & set(b[:kept])) / kept for a, b in zip(order, exact, strict=True)]),
        "rank_correlation": correlations(ranks["score"], ranks["loss"]),
    }
    where = {"exit_layer": 1, "rows": B, "kept": kept}
    return [{"step": b, **where, **{name: of[b] for name, of in of_all.items()}} for b in range(batches)]


def gaussian_margins(beta, B, batches, seed):
    """Scores and losses log(1 + e^-m) of margins of correlation beta, with means and spreads of their own."""
    rng = np.random.default_rng(seed)
    last = rng.standard_normal((batches, B))
    early = beta * last + math.sqrt(1 - beta**2) * rng.standard_normal((batches, B))
    return np.log1p(np.exp(-(0.4 + 0.7 * early))), np.log1p(np.exp(-(1.5 + 2 * last)))


@pytest.fixture(scope="module")
def gaussian():
    return {beta: readings(*gaussian_margins(beta, 24, 6000, seed=11), kept=12) for beta in (0.3, 0.8)}


@pytest.fixture(scope="module")
def predictions(gaussian):
    return {beta: [formulas.compare(row) for row in rows] for beta, rows in gaussian.items()}


def column(rows, name):
    return np.array([row[name] for row in rows])


# ---- Gaussian margins: Theorem 6.2 and the law of the overlap ----


@pytest.mark.parametrize("beta", [0.3, 0.8])
@pytest.mark.parametrize(
    ("measured", "predicted"), [("pairwise_agreement", "agreement_predicted"), ("overlap", "overlap_finite")]
)
def test_theorem_62_at_the_true_beta(gaussian, beta, measured, predicted):
    """Errs with probability 1e-9 each; arcsin's slope times 0.9 (off by 0.01 and 0.03) is refuted."""
    of_beta = formulas.compare({**gaussian[beta][0], "margin_correlation": beta})
    expected = of_beta[predicted]
    found = column(gaussian[beta], measured)
    assert mean_equals(found, expected, ALPHA, cap=1.0).status is Status.CONSISTENT
    flatter = 0.5 + 0.9 * (expected - 0.5)
    assert mean_equals(found, flatter, ALPHA, cap=1.0).status is Status.REFUTED


@pytest.mark.parametrize("beta", [0.3, 0.8])
@pytest.mark.parametrize(("measured", "predicted"), [pair[:2] for pair in formulas.PAIRS if pair[1] != "overlap_limit"])
def test_theorem_62_at_the_measured_beta(gaussian, predictions, beta, measured, predicted):
    """The difference's mean is 0 up to 1/B = 0.04, as a measured beta errs by so much; errs with probability 1e-9."""
    difference = column(gaussian[beta], measured) - column(predictions[beta], predicted)
    shifted = np.clip((difference + 1) / 2, 0, 1)  # in [0, 1], where 1/2 is no difference
    low, high = (mean_equals(shifted, 0.5 + bias / 2, ALPHA, cap=1.0) for bias in (-0.02, 0.02))
    assert low.status is Status.REFUTED
    assert high.status is Status.REFUTED
    assert abs(difference.mean()) < 0.012


def test_losses_of_gaussian_margins_are_no_noise_of_assumption_512(predictions):
    """A correlation of 0.3 turns large losses down and small ones up, and the meters see it in every batch."""
    assert np.mean(column(predictions[0.3], "independence_level") < 0.05) > 0.9


def test_the_limit_takes_the_kept_share_of_the_batch(gaussian):
    row = {**gaussian[0.8][0], "rows": 60, "kept": 15}
    beta = row["margin_correlation"]
    q = stats.norm.ppf(0.25)
    joint = stats.multivariate_normal.cdf([q, q], cov=[[1, beta], [beta, 1]], abseps=1e-9, releps=1e-9)
    assert formulas.compare(row)["overlap_limit"] == pytest.approx(joint / 0.25, abs=1e-6)
    assert formulas.compare({**row, "kept": 30})["overlap_limit"] == pytest.approx(0.5 + math.asin(beta) / math.pi)


# ---- Noise that does not depend on the loss: Theorem 5.15, Corollary 5.16 ----


def noisy(sigma, batches, seed, B=16):
    """Assumption 5.12 with Rademacher noise, which loses the most, on exponential losses."""
    rng = np.random.default_rng(seed)
    losses = rng.exponential(size=(batches, B))
    return losses * np.exp(0.3 + sigma * rng.choice([-1.0, 1.0], size=losses.shape)), losses


@pytest.mark.parametrize("sigma", [0.2, 0.7])
def test_theorem_515_guarantees_less_than_is_measured(sigma):
    """In the mean over batches; a guarantee from half the noise (sigma = 0.7) is refuted. Error probability 1e-9."""
    rows = readings(*noisy(sigma, 12000, seed=5), kept=8, sigma=sigma)
    found = column(rows, "rho_pairs_approx")
    guaranteed = (1 + math.exp(-2 * sigma / math.sqrt(3))) / 2 * column(rows, "rho_pairs")
    said = [formulas.compare(row)["rho_pairs_guaranteed"] for row in rows[:300]]
    assert said == pytest.approx(guaranteed[:300])
    excess = (found - guaranteed + 2) / 4  # both lie in [0, 2]
    assert mean_at_least(excess, 0.5, ALPHA, cap=1.0).status is Status.CONSISTENT
    if sigma == 0.7:
        weaker = 1 - (1 - math.exp(-math.sqrt(2) * 0.05)) / 2
        excess = (found - weaker * column(rows, "rho_pairs") + 2) / 4
        assert mean_at_least(excess, 0.5, ALPHA, cap=1.0).status is Status.REFUTED


def test_assumption_512_holds_where_it_does():
    """The level of independent columns is uniform: 0.05 of them are below 0.05, by exact binomial bounds at 1e-9."""
    rng = np.random.default_rng(1)
    losses = rng.exponential(size=(3000, 30))
    rows = readings(losses * np.exp(0.5 * rng.standard_normal(losses.shape)), losses, kept=15)
    below = sum(formulas.compare(row)["independence_level"] < 0.05 for row in rows)
    assert stats.binomtest(below, len(rows), 0.05).pvalue > 1e-9
    assert stats.binomtest(below, len(rows), 0.1).pvalue < 1e-9
    summary = formulas.summarise(rows)
    assert summary.tested == 3000
    assert summary.dependent == below / 3000


def test_the_level_is_spearmans():
    rng = np.random.default_rng(2)
    one, other = rng.standard_normal((2, 20))
    found = stats.spearmanr(one, one + 2 * other)
    reading = {**SOME, "rows": 20, "kept": 10, "independence": found.statistic}
    assert formulas.compare(reading)["independence_level"] == pytest.approx(found.pvalue)
    assert formulas.compare({**reading, "independence": 1.0})["independence_level"] == 0.0


SOME = {
    **{"step": 7, "exit_layer": 1, "rows": 64, "kept": 32, "rho": 1.6, "rho_approx": 1.3, "rho_pairs": 1.4},
    **{"rho_pairs_approx": 1.2, "sigma": 0.3, "independence": -0.2, "margin_correlation": 0.7},
    **{"pairwise_agreement": 0.75, "overlap": 0.72, "rank_correlation": 0.6},
}


def test_corollary_516_by_hand():
    found = formulas.compare(SOME)
    assert found["sigma_max"] == pytest.approx(math.log(18 * 1.4 / (25 - 7 * 1.4)) / math.sqrt(2))
    assert found["sigma_max_sharp"] == pytest.approx(math.log(1.4 / 0.6) * math.sqrt(3) / 2)
    assert found["rho_pairs_guaranteed"] == pytest.approx(1.4 * (1 + math.exp(-0.6 / math.sqrt(3))) / 2)
    assert found["beta_from_agreement"] == pytest.approx(math.sin(math.pi / 4))
    assert found["agreement_predicted"] == pytest.approx(0.5 + math.asin(0.7) / math.pi)


@pytest.mark.parametrize(
    ("sigma", "rho", "expected"),
    [
        # sigma_max(1.4) = 0.3575 > 1 / (2 sqrt 2) = 0.3536, and the sharp level is 0.734.
        (0.35, 1.4, (True, True, True)),
        (0.355, 1.4, (False, True, True)),
        (0.36, 1.4, (False, False, True)),
        (0.74, 1.4, (False, False, False)),
        (5.0, 2.0, (False, False, True)),
        (0.0, 1.0, (False, False, False)),
        (0.0, 1.001, (True, True, True)),
    ],
)
def test_corollary_516_in_three_readings(sigma, rho, expected):
    found = formulas.promise(sigma=sigma, rho_pairs=rho)
    assert (found.printed, found.corrected, found.sharp) == expected


def test_what_was_not_defined_stays_so():
    nothing = dict.fromkeys(formulas.MEASURED, math.nan) | {"step": 0, "exit_layer": 1, "rows": 0, "kept": 0}
    found = formulas.compare(nothing)
    assert tuple(found) == formulas.PREDICTED
    assert all(math.isnan(value) for value in found.values())
    assert formulas.promise(sigma=math.nan, rho_pairs=1.5) is None
    summary = formulas.summarise([nothing])
    assert (summary.noisy, summary.tested) == (0, 0)
    assert all(line.readings == 0 and math.isnan(line.difference) for line in summary.lines)


def test_equal_losses_leave_no_room_for_noise():
    found = formulas.compare({**SOME, "rho_pairs": 1.0})
    assert (found["sigma_max"], found["sigma_max_sharp"]) == (0.0, 0.0)
    assert formulas.compare({**SOME, "rho_pairs": 1 - 1e-12})["sigma_max"] == 0.0
    assert formulas.compare({**SOME, "rho_pairs": 2 + 1e-12})["sigma_max_sharp"] == math.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": None}, "lacks overlap"),
        ({"rows": 3.5}, "rows = 3.5 must be a whole number"),
        ({"margin_correlation": 1.2}, r"margin_correlation = 1.2 must lie in \[-1, 1\]"),
        ({"pairwise_agreement": -0.1}, "pairwise_agreement"),
        ({"rho_pairs": 2.5}, "rho_pairs = 2.5"),
        ({"sigma": -1.0}, "sigma = -1.0"),
        ({"independence": 3.0}, "independence"),
    ],
)
def test_what_no_reading_has_is_named(changes, message):
    reading = {name: value for name, value in {**SOME, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        formulas.compare(reading)


# ---- Many readings ----


def test_a_summary_by_hand():
    agreements = (0.7, 0.75, 0.8)
    rows = [{**SOME, "pairwise_agreement": p} for p in agreements]
    rows[2] |= {"sigma": 0.9, "rho_pairs_approx": 0.95}
    line = formulas.summarise(rows).lines[0]
    expected = 0.5 + math.asin(0.7) / math.pi
    assert (line.measured_name, line.readings) == ("pairwise_agreement", 3)
    assert line.measured == pytest.approx(0.75)
    assert line.predicted == pytest.approx(expected)
    assert line.difference == pytest.approx(0.75 - expected)
    low, high = stats.t.interval(0.95, 2, loc=0.75, scale=stats.sem(agreements))
    assert line.half_width == pytest.approx((high - low) / 2)
    summary = formulas.summarise(rows)
    assert summary.noisy == 3
    assert (summary.printed, summary.corrected, summary.sharp) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    # 1.4 (1 + e^(-0.9 sqrt2)) / 2 = 0.896 <= 0.95, and 1.158 <= 1.2 of the others.
    assert (summary.obeying, summary.ahead) == pytest.approx((1.0, 2 / 3))
    worse = [*rows, {**SOME, "rho_pairs_approx": 1.1}]
    assert formulas.summarise(worse).obeying == 0.75


def test_one_reading_has_no_interval():
    assert math.isnan(formulas.summarise([SOME]).lines[0].half_width)
