"""The formulas on noisy losses: Theorem 5.15, Lemma C.1, Corollary 5.16."""

from functools import partial

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from theory.formulas import noise
from theory.verdict import AssumptionViolated

LIMIT = 1 / (2 * np.sqrt(2))
levels = st.floats(0, 50)
inside = st.floats(0, LIMIT)
rhos = st.floats(1, 2, exclude_min=True)
p_2 = partial(noise.p_R, R=2)
sigma_max_2 = partial(noise.sigma_max_R, R=2)


@given(inside)
def test_theorem_5_15_p_is_the_printed_formula(sigma):
    assert noise.p(sigma) == pytest.approx(1 - 0.72 * (1 - np.exp(-np.sqrt(2) * sigma)), abs=1e-14)


@given(inside)
def test_theorem_5_15_p_lies_below_p_R(sigma):
    assert 0.716 < noise.p(sigma) <= noise.p_R(sigma, 2) <= 1


def test_theorem_5_15_p_at_the_ends_of_its_range():
    assert noise.p(0) == 1.0
    # 1 - .72 (1 - e^{-1/2})
    assert noise.p(LIMIT) == pytest.approx(0.7167021, abs=1e-7)
    assert noise.p(np.sqrt(2) / 4) == noise.p(noise.SIGMA_LIMIT)


@pytest.mark.parametrize("sigma", [0.5, 0.36, LIMIT * (1 + 1e-12), np.inf])
def test_theorem_5_15_p_stops_at_its_limit(sigma):
    with pytest.raises(AssumptionViolated, match=r"Theorem 5.15: sigma = .* at most 1 / \(2 sqrt 2\)"):
        noise.p(sigma)


@pytest.mark.parametrize("formula", [noise.p, p_2, noise.t_star, noise.lemma_c1_ratio])
def test_assumption_5_12_negative_sigma(formula):
    with pytest.raises(AssumptionViolated, match=r"Assumption 5\.12: sigma = -0\.1 must be at least 0"):
        formula(-0.1)
    with pytest.raises(AssumptionViolated):
        formula(np.array([0.1, -0.1]))


@pytest.mark.parametrize("formula", [noise.p, p_2, noise.t_star, noise.lemma_c1_ratio, noise.sigma_max, sigma_max_2])
def test_nan_is_a_value_error(formula):
    with pytest.raises(ValueError, match="must be a number"):
        formula(np.nan)


@pytest.mark.parametrize(
    ("formula", "argument"),
    [
        (noise.p, 0.2),
        (p_2, 2.0),
        (noise.t_star, 0.2),
        (noise.lemma_c1_ratio, 0.2),
        (noise.nu_of_t, 0.2),
        (noise.sigma_max, 1.5),
        (sigma_max_2, 1.5),
    ],
)
def test_a_float_gives_a_float_and_an_array_an_array(formula, argument):
    one = formula(argument)
    many = formula(np.full((2, 3), argument))
    assert type(one) is float
    assert many.shape == (2, 3)
    np.testing.assert_array_equal(many, one)


@given(levels)
def test_p_R_decreases_from_1_to_one_in_R(sigma):
    assert 0.5 <= p_2(sigma) <= 1
    assert p_2(sigma + 0.1) <= p_2(sigma)
    assert p_2(sigma) == pytest.approx((1 + np.exp(-2 * sigma / np.sqrt(3))) / 2)
    for R in (3, 10, 1000):
        assert 1 / R <= noise.p_R(sigma, R) <= noise.p_R(sigma, R - 1)


def test_p_R_at_its_ends():
    assert p_2(np.inf) == 0.5
    assert noise.p_R([0.0, 3.0, np.inf], 1) == pytest.approx(1.0)
    # R = 5: 1/5 + 4/5 e^{-5 sigma / 3}.
    assert noise.p_R(0.6, 5) == pytest.approx(0.2 + 0.8 * np.exp(-1.0))


def test_p_law_of_a_known_mean_of_the_largest():
    # Of two normals the larger has the mean 1/sqrt(pi), below the 1/sqrt3 of any law.
    assert noise.p_law(1.0, 2, 1 / np.sqrt(np.pi)) == pytest.approx((1 + np.exp(-2 / np.sqrt(np.pi))) / 2)
    assert noise.p_law(1.0, 2, 1 / np.sqrt(3)) == pytest.approx(p_2(1.0))
    with pytest.raises(ValueError, match="mean_of_max"):
        noise.p_law(1.0, 2, -0.1)
    with pytest.raises(ValueError, match="mean_of_max = inf"):
        noise.p_law(0.0, 2, np.inf)


def test_the_old_names_are_the_weaker_forms():
    with pytest.warns(DeprecationWarning, match="p_sharp is called"):
        old = noise.p_sharp
    assert old(0.7) == pytest.approx((1 + np.exp(-np.sqrt(2) * 0.7)) / 2)
    with pytest.warns(DeprecationWarning, match="sigma_max_sharp is called"):
        level = noise.sigma_max_sharp
    assert level(1.5) == pytest.approx(np.log(3) / np.sqrt(2))


@given(st.floats(0, 100), st.floats(1e-6, 100))
def test_lemma_c1_h_is_the_printed_formula(t, sigma):
    assert noise.h(t, sigma) == pytest.approx(2 * (1 - np.exp(-t)) / (2 + t**2 / sigma**2), abs=1e-12)


def test_lemma_c1_h_at_the_ends():
    np.testing.assert_array_equal(noise.h([0, 1, np.inf, np.inf, 0], [1, 0, 1, 0, 0]), 0)
    with pytest.raises(AssumptionViolated, match="t = -1"):
        noise.h(-1, 0.1)


@given(st.floats(1e-6, 1e6))
def test_equation_41_holds_at_t_star(sigma):
    t = noise.t_star(sigma)
    assert np.expm1(t) == pytest.approx(sigma**2 / t + t / 2, rel=1e-9)


@given(st.floats(1e-300, 1e150))
def test_equation_43_t_star_is_at_most_sqrt2_sigma(sigma):
    assert 0 < noise.t_star(sigma) <= np.sqrt(2) * sigma


@given(st.floats(1e-6, LIMIT))
def test_equation_45_t_star_is_at_least_its_share(sigma):
    assert noise.t_star(sigma) >= noise.t_star_share() * np.sqrt(2) * sigma * (1 - 1e-12)
    assert noise.t_star_share() == pytest.approx(0.7918361)


@given(st.floats(0, 30))
def test_equation_42_nu_times_t_squared(t):
    # (41) multiplied by 2t: 2 t (e^t - 1) - t^2 = t^2 nu(t).
    assert t**2 * noise.nu_of_t(t) == pytest.approx(2 * t * (np.exp(t) - 1) - t**2, rel=1e-7, abs=1e-9)


def test_equation_44_nu_at_a_half():
    assert noise.nu_of_t(0.5) == pytest.approx(1.5948851, abs=1e-7)
    assert noise.nu_of_t(0.5) == pytest.approx(noise.NU_LIMIT)
    assert noise.nu_of_t(0) == 1


@given(st.floats(1e-4, 30))
def test_lemma_c1_ratio_against_a_maximiser(sigma):
    found = optimize.minimize_scalar(
        lambda t: -noise.h(t, sigma), bounds=(0, 2 * sigma), method="bounded", options={"xatol": 1e-9 * sigma}
    )
    assert noise.lemma_c1_ratio(sigma) == pytest.approx(-found.fun / -np.expm1(-np.sqrt(2) * sigma), rel=1e-8)


@given(st.floats(0, 1e150), st.floats(0, 10))
def test_lemma_c1_ratio_increases_from_a_half(sigma, more):
    assert 0.5 - 1e-14 <= noise.lemma_c1_ratio(sigma) <= noise.lemma_c1_ratio(sigma + more) + 1e-14
    assert noise.lemma_c1_ratio(sigma) <= 1


def test_lemma_c1_best_constant():
    # 40 decimals by bisection: 0.5111455044174591094136...
    assert noise.lemma_c1_ratio(LIMIT) == pytest.approx(0.5111455044174591, abs=1e-14)
    assert noise.lemma_c1_ratio(0) == 0.5
    assert noise.t_star(0) == 0.0


def test_lemma_c1_constant_lasts_up_to_3_02():
    assert noise.lemma_c1_ratio(3.02) < noise.LEMMA_C1 < noise.lemma_c1_ratio(3.03)
    assert optimize.brentq(lambda sigma: noise.lemma_c1_ratio(sigma) - 0.72, 1, 5) == pytest.approx(3.0201, abs=1e-4)


@given(rhos)
def test_corollary_5_16_sigma_max_solves_the_printed_p(rho):
    sigma = noise.sigma_max(rho)
    assert sigma >= 0
    assert (1 - 0.72 * (1 - np.exp(-np.sqrt(2) * sigma))) * rho == pytest.approx(1)


@given(rhos)
def test_corollary_5_16_sharp_level_solves_p_R_and_is_larger(rho):
    sigma = sigma_max_2(rho)
    assert sigma >= noise.sigma_max(rho) * (1 - 1e-9)
    assert p_2(sigma) * rho == pytest.approx(1)


def test_corollary_5_16_values():
    assert noise.sigma_max(2) == pytest.approx(np.log(36 / 11) / np.sqrt(2))
    assert noise.sigma_max(1.3952) < LIMIT < noise.sigma_max(1.3953)
    assert sigma_max_2(2) == np.inf
    assert sigma_max_2(1) == 0.0


@pytest.mark.parametrize("rho", [1.0, 0.9, 2.0001, -1.0, np.inf])
def test_corollary_5_16_rho_out_of_range(rho):
    with pytest.raises(AssumptionViolated, match=r"Definition 5\.6"):
        noise.sigma_max(rho)


@pytest.mark.parametrize("rho", [0.999, 2.0001, -1.0, np.inf])
def test_corollary_5_16_sharp_rho_out_of_range(rho):
    with pytest.raises(AssumptionViolated, match=r"Definition 5\.6"):
        sigma_max_2(rho)


@given(st.floats(-14, -1), st.integers(2, 10**6))
def test_sigma_max_keeps_its_digits_for_a_rho_near_1(exponent, R):
    rho = 1 + 10**exponent
    with mpmath.workdps(50):
        exact = mpmath.sqrt(2 * R - 1) / R * mpmath.log((R - 1) * mpmath.mpf(rho) / (R - mpmath.mpf(rho)))
    assert noise.sigma_max_R(rho, R) == pytest.approx(float(exact), rel=1e-14)
