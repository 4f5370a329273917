"""The laws of zeta and the exact law of the noisy choice (Assumption 5.12, Definition 5.13)."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from theory.formulas import noise_laws, rho
from theory.formulas.noise_laws import LAWS, Continuous, Discrete, expected_selected, selection_probabilities
from theory.routes import exact
from theory.verdict import AssumptionViolated

by_name = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
losses_of_atoms = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5]) | st.floats(1e-3, 1e3), min_size=1, max_size=5)


def by_enumeration(losses, R, sigma, law):
    """Every tuple of candidates and noises, the first of the largest approximate losses chosen."""
    n, chosen = len(losses), np.zeros(len(losses))
    for candidates in product(range(n), repeat=R):
        for noises in product(range(len(law.atoms)), repeat=R):
            values = [
                np.log(losses[i]) + sigma * law.atoms[k] if losses[i] else -np.inf
                for i, k in zip(candidates, noises, strict=True)
            ]
            chosen[candidates[int(np.argmax(values))]] += np.prod([law.weights[k] for k in noises]) / n**R
    return chosen


@by_name
def test_assumption_5_12_mean_0_variance_1(law):
    noise_laws.verify_standardised(law)
    assert law.moments() == pytest.approx((0, 1), abs=1e-12)


@by_name
def test_assumption_5_12_draws_have_the_asked_shape_and_moments(law):
    zeta = law.draw(np.random.default_rng(0), (400_000, 2))
    assert zeta.shape == (400_000, 2)
    # Standard errors .0011 and at most .0047 (the lopsided law, fourth moment 18.05): fixed seed, 6 standard errors.
    assert zeta.mean() == pytest.approx(0, abs=0.007)
    assert zeta.var() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("q", [0.01, 0.3, 0.5, 0.9])
def test_assumption_5_12_two_point_laws(q):
    noise_laws.verify_standardised(noise_laws.two_point(q))


@pytest.mark.parametrize("q", [0.0, 1.0, -0.1, np.nan])
def test_two_point_weight_out_of_range(q):
    with pytest.raises(ValueError, match="must lie in"):
        noise_laws.two_point(q)


@pytest.mark.parametrize("weights", [(1.0,), (0.5, 0.4), (1.0, 0.0), (1.5, -0.5)])
def test_weights_must_be_a_distribution(weights):
    with pytest.raises(ValueError, match="positive weight"):
        Discrete(name="broken", atoms=(-1.0, 1.0), weights=weights)


@pytest.mark.parametrize(
    ("law", "reference"),
    [
        (noise_laws.gaussian, stats.norm()),
        (noise_laws.laplace, stats.laplace(scale=np.sqrt(0.5))),
        (noise_laws.exponential, stats.expon(loc=-1)),
    ],
    ids=["gaussian", "laplace", "exponential"],
)
def test_densities_and_distribution_functions_are_the_library_s(law, reference):
    z = np.linspace(-8, 8, 401)
    np.testing.assert_allclose(law.pdf(z), reference.pdf(z), atol=1e-14)
    np.testing.assert_allclose(law.cdf(z), reference.cdf(z), atol=1e-14)


@by_name
def test_difference_is_symmetric_with_the_right_ends(law):
    s = np.concatenate([np.linspace(-6, 6, 241), [2.0, -2.0]])
    np.testing.assert_allclose(law.difference_sf(s) + law.difference_sf(-s) + law.difference_atom(s), 1, atol=1e-14)
    np.testing.assert_allclose(law.difference_sf(np.array([np.inf, -np.inf])), [0, 1], rtol=1e-15)


@by_name
def test_difference_by_quadrature_or_histogram(law):
    for s in (-2.5, -1.0, 0.3, 1.0, 3.0):
        if isinstance(law, Continuous):
            z, weight = law.nodes(*(kink - s for kink in law.kinks))
            tail = np.sum(weight * law.pdf(z) * (1 - law.cdf(z + s)))
        else:
            pairs = product(zip(law.atoms, law.weights, strict=True), repeat=2)
            tail = sum(w1 * w2 for (a1, w1), (a2, w2) in pairs if a2 - a1 > s)
        assert law.difference_sf(s) == pytest.approx(tail, abs=1e-13)


def test_rademacher_difference_has_ties():
    np.testing.assert_array_equal(noise_laws.rademacher.difference_atom([-2.0, 0.0, 2.0, 1.0]), [0.25, 0.5, 0.25, 0])
    np.testing.assert_array_equal(noise_laws.rademacher.difference_sf([-2.0, 0.0, 1.9, 2.0]), [0.75, 0.25, 0.25, 0])


@by_name
@pytest.mark.parametrize("R", [1, 2, 3])
@given(losses=losses_of_atoms, sigma=st.sampled_from([0.0, 1e-3, 0.3, 2.0, 50.0]))
@settings(max_examples=25, deadline=None)
def test_definition_5_13_is_a_distribution_between_random_and_greedy(law, R, losses, sigma):
    chosen = selection_probabilities(losses, R, sigma, law)
    assert chosen.sum() == pytest.approx(1)
    assert np.all(chosen >= 0)
    selected = expected_selected(losses, R, sigma, law)
    scale = max(losses) + 1e-300
    assert np.mean(losses) / scale - 1e-12 <= selected / scale <= rho.expected_max(losses, R) / scale + 1e-12


@pytest.mark.parametrize("law", [noise_laws.rademacher, noise_laws.lopsided], ids=lambda law: law.name)
@pytest.mark.parametrize("R", [2, 3])
@pytest.mark.parametrize("losses", [[1.0, 0.5, 0.0, 0.5, 0.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
def test_definition_5_13_against_plain_enumeration(law, R, losses):
    for sigma in (0.1, 0.4, 3.0):
        expected = by_enumeration(losses, R, sigma, law)
        np.testing.assert_allclose(selection_probabilities(losses, R, sigma, law), expected, atol=1e-13)


def test_definition_5_13_ties_made_by_the_noise():
    # f = (4, 1) and e^{2 sigma} = 4: (zeta = -1, f = 4) ties with (zeta = 1, f = 1) at 2 (in powers of 2, exactly).
    sigma = np.log(4.0) / 2
    for R in (2, 3):
        expected = by_enumeration([4.0, 1.0], R, sigma, noise_laws.rademacher)
        chosen = selection_probabilities([4.0, 1.0], R, sigma, noise_laws.rademacher)
        np.testing.assert_allclose(chosen, expected, atol=1e-14)


@by_name
@pytest.mark.parametrize("R", [1, 2, 3, 10])
def test_definition_5_13_without_noise_is_the_exact_choice(law, R):
    losses = np.array([[3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    chosen = selection_probabilities(losses, R, 0.0, law)
    np.testing.assert_allclose(chosen, exact.greedy_probabilities(losses, R), atol=1e-14)
    np.testing.assert_allclose(expected_selected(losses, R, 0.0, law), rho.expected_max(losses, R))


@by_name
def test_definition_5_13_the_limits_of_little_and_much_noise(law):
    losses = np.array([3.0, 1.0, 2.0, 0.0])
    little = selection_probabilities(losses, 3, 1e-3, law)
    np.testing.assert_allclose(little, exact.greedy_probabilities(losses, 3), atol=1e-12)
    # A loss of 0 is chosen only if all three candidates have it; the others become alike, but for the atoms' ties.
    assert selection_probabilities(losses, 3, 1e6, law)[3] == pytest.approx(1 / 64)


@pytest.mark.parametrize("law", noise_laws.LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("sigma", [0.01, 0.35, 3.0])
def test_definition_5_13_pairs_agree_with_the_general_rule(law, sigma):
    losses = np.exp(np.random.default_rng(5).standard_normal((30, 5)))
    losses[::10, 0], losses[::7, 1] = 0.0, losses[::7, 2]
    if isinstance(law, noise_laws.Continuous):
        other = noise_laws.chosen_by_quadrature(losses, R=2, sigma=sigma, law=law)
    else:
        other = noise_laws.chosen_by_atoms(losses, R=2, sigma=sigma, law=law)
    assert noise_laws.selection_probabilities(losses, 2, sigma, law) == pytest.approx(other, abs=1e-9)


def test_definition_5_13_gaussian_pair_is_the_closed_form():
    first = 0.25 + special.ndtr(np.log(3) / (np.sqrt(2) * 0.7)) / 2
    chosen = selection_probabilities([3.0, 1.0], 2, 0.7, noise_laws.gaussian)
    np.testing.assert_allclose(chosen, [first, 1 - first], rtol=1e-14)
    np.testing.assert_allclose(
        noise_laws.chosen_by_quadrature(np.array([3.0, 1.0]), R=2, sigma=0.7, law=noise_laws.gaussian),
        chosen,
        rtol=1e-13,
    )


@by_name
def test_definition_5_13_batches_are_rows(law):
    losses = np.random.default_rng(1).exponential(size=(3, 4, 5))
    for R in (2, 3):
        chosen = selection_probabilities(losses, R, 0.4, law)
        assert chosen.shape == losses.shape
        # A batch's sums may be added up in another order than a row's.
        np.testing.assert_allclose(chosen[1, 2], selection_probabilities(losses[1, 2], R, 0.4, law), atol=1e-14)
        assert expected_selected(losses, R, 0.4, law).shape == (3, 4)
    assert selection_probabilities(np.empty((0, 3)), 2, 0.4, law).shape == (0, 3)


@pytest.mark.slow
def test_definition_5_13_many_rows_in_pieces():
    losses = np.random.default_rng(2).exponential(size=(100_000, 12))
    chosen = selection_probabilities(losses, 2, 0.3, noise_laws.gaussian)
    rows = [0, 55_555, 99_999]
    np.testing.assert_allclose(chosen[rows], selection_probabilities(losses[rows], 2, 0.3, noise_laws.gaussian))


@by_name
@pytest.mark.parametrize("R", [64, 1024])
def test_definition_5_13_many_candidates(law, R):
    losses = np.array([1.0, 0.9, 0.5, 0.0])
    chosen = selection_probabilities(losses, R, 0.3, law)
    assert chosen.sum() == pytest.approx(1, abs=1e-12)
    assert np.all(np.diff(chosen) <= 1e-15)


@given(st.floats(0.01, 100))
def test_definition_5_13_does_not_depend_on_the_scale_of_the_losses(scale):
    losses = np.array([1.0, 0.3, 2.0])
    np.testing.assert_allclose(
        selection_probabilities(scale * losses, 2, 0.5, noise_laws.laplace),
        selection_probabilities(losses, 2, 0.5, noise_laws.laplace),
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, -1.0], 2, 0.1), "loss -1.0 is negative"),
        (([1.0, 2.0], 2, -0.1), "sigma = -0.1 must be at least 0"),
    ],
)
def test_assumption_5_12_broken_hypotheses(arguments, message):
    with pytest.raises(AssumptionViolated, match=message):
        selection_probabilities(*arguments, noise_laws.gaussian)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 2, 0.1), "no atoms"),
        (([], 2, 0.1), "no atoms"),
        (([1.0, np.nan], 2, 0.1), "finite"),
        (([1.0, np.inf], 2, 0.1), "finite"),
        (([1.0], 0, 0.1), "R = 0"),
        (([1.0], 1.5, 0.1), "R = 1.5"),
        (([1.0], 2, np.nan), "sigma = nan"),
        (([1.0], 2, np.inf), "sigma = inf"),
    ],
)
def test_malformed_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        selection_probabilities(*arguments, noise_laws.gaussian)


def test_assumption_5_12_a_biased_coin_is_named():
    with pytest.raises(AssumptionViolated, match=r"zeta \(coin\) has mean 0.5 and variance 0.25"):
        noise_laws.verify_standardised(Discrete(name="coin", atoms=(0.0, 1.0), weights=(0.5, 0.5)))
