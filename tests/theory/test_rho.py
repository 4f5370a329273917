"""F^_R, its k-of-B form, rho_R and Theorem 5.18 as formulas."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special

from theory.formulas import rho
from theory.verdict import AssumptionViolated

LOSSES = arrays(float, st.integers(1, 12), elements=st.floats(0, 1e6, allow_subnormal=False))
BATCHED = arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(0, 100))
R = st.integers(1, 1000)


@st.composite
def batches(draw, most=64):
    B = draw(st.integers(1, most))
    return B, draw(st.integers(1, B))


def close(a, b, scale=1.0):
    return np.all(np.abs(np.asarray(a) - b) <= 1e-12 * scale)


# --- F^_R -------------------------------------------------------------------------------------------------------------


def test_definition_5_6_by_hand():
    # Of two draws from {0, 1, 3}: max 3 in 5 of 9, 1 in 3 of 9.
    # expm1 of log1p, each right to 4 units in the last place where it is worst: 2e-15.
    assert rho.expected_max([3.0, 0.0, 1.0], 2) == pytest.approx(18 / 9, rel=1e-14)
    assert rho.rho([3.0, 0.0, 1.0], 2) == pytest.approx(1.5, rel=1e-14)


@given(LOSSES, R)
def test_definition_5_6_is_the_printed_sum(losses, R):
    f, n = np.sort(losses), len(losses)
    rank = np.arange(1, n + 1)
    printed = float(np.sum(f * ((rank / n) ** R - ((rank - 1) / n) ** R)))
    assert close(rho.expected_max(losses, R), printed, 1 + f[-1])


@given(LOSSES, R)
def test_definition_5_6_bounds(losses, R):
    value, scale = rho.expected_max(losses, R), 1 + losses.max()
    assert losses.mean() - 1e-12 * scale <= value <= min(losses.max(), R * losses.mean()) + 1e-12 * scale
    assert rho.expected_max(losses, R + 1) >= value - 1e-12 * scale


@given(LOSSES)
def test_one_draw_is_the_mean(losses):
    assert close(rho.expected_max(losses, 1), losses.mean(), 1 + losses.max())


@given(LOSSES, R, st.floats(1e-3, 1e3), st.floats(0, 1e3))
def test_expected_max_is_equivariant(losses, R, scale, shift):
    assert close(
        rho.expected_max(scale * losses + shift, R),
        scale * rho.expected_max(losses, R) + shift,
        1 + 1e3 + 1e3 * losses.max(),
    )


@given(BATCHED, st.integers(1, 20))
def test_leading_axes_are_batched(losses, R):
    rows = [rho.expected_max(row, R) for row in losses]
    assert close(rho.expected_max(losses, R), rows, 1 + losses.max())
    assert rho.expected_max(losses[None], R).shape == (1, len(losses))


def test_scalars_are_floats():
    for value in (
        rho.expected_max([1.0, 2.0], 2),
        rho.expected_top_k([1, 2], 3, 2),
        rho.cvar([1, 2], 0.5),
        rho.rho([1, 2], 2),
    ):
        assert type(value) is float
    for value in (rho.gaussian_rho(0, 1, 2), rho.nu(9), rho.gaussian_rho_bound(0, 1, 9), rho.growth(10)):
        assert type(value) is float


@pytest.mark.parametrize("draws", [2, 1000, 10**6, 10**9])
def test_many_atoms_and_draws_lose_no_digits(draws):
    # One loss of 1 among n - 1 of 0: F^ = 1 - (1 - 1/n)^R, here in 40 digits.
    n = 10**6
    losses = np.zeros(n)
    losses[123] = 1.0
    with mpmath.workdps(40):
        expected = float(1 - (1 - mpmath.mpf(1) / n) ** draws)
    assert rho.expected_max(losses, draws) == pytest.approx(expected, rel=1e-14)
    assert rho.expected_top_k(losses, draws, 1) == pytest.approx(expected, rel=1e-9)


def test_one_outlier_over_tiny_losses_keeps_both():
    # Weighted by differences of rounded powers, the small part would be lost.
    losses = np.array([1e-12] * 99 + [1e12])
    assert rho.expected_max(losses, 2) == pytest.approx(1e12 * (1 - 0.99**2) + 1e-12 * 0.99**2, rel=1e-14)
    assert rho.expected_max(losses[:99], 50) == pytest.approx(1e-12, rel=1e-15)


@pytest.mark.parametrize("losses", [[-1.0], [np.nan], [np.inf, 1.0], [], 3.0, np.zeros((2, 0)), [1.0, -1e-300]])
def test_assumption_5_4_broken_or_malformed_losses(losses):
    for function in (
        lambda f: rho.expected_max(f, 2),
        lambda f: rho.expected_top_k(f, 3, 2),
        lambda f: rho.cvar(f, 0.5),
    ):
        with pytest.raises(ValueError, match="losses"):
            function(losses)


@pytest.mark.parametrize("draws", [0, -1, 2.5, np.nan, np.inf, True, "2", None, [2, 3]])
def test_malformed_number_of_draws(draws):
    with pytest.raises(ValueError, match="R"):
        rho.expected_max([1.0], draws)


def test_integral_floats_are_integers():
    assert rho.expected_max([1.0, 2.0], 1e3) == rho.expected_max([1.0, 2.0], 1000)


def test_rho_of_zero_losses_is_undefined():
    with pytest.raises(ValueError, match="0/0"):
        rho.rho([0.0, 0.0], 2)
    with pytest.raises(ValueError, match="0/0"):
        rho.rho_top_k([[1.0, 0.0], [0.0, 0.0]], 2, 1)


@given(arrays(float, st.integers(1, 12), elements=st.floats(1e-3, 1e3)), R)
def test_definition_5_6_rho_at_most_R_and_n(losses, R):
    assert 1 - 1e-12 <= rho.rho(losses, R) <= min(R, len(losses)) * (1 + 1e-12)


def test_equation_5_bound():
    assert rho.rho_star_bound(4.0, 3.0) == 4 / 3
    assert rho.rho_star_bound([1.0, 2.0], 1.0).tolist() == [1.0, 2.0]
    with pytest.raises(AssumptionViolated, match="F\\*"):
        rho.rho_star_bound(1.0, 0.0)
    for Delta, F_star in ((1.0, 2.0), (np.nan, 1.0), (np.inf, 1.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match="0 <= F"):
            rho.rho_star_bound(Delta, F_star)


# --- the k largest of B -----------------------------------------------------------------------------------------------


def test_top_k_by_hand():
    # Two of three draws from {0, 1}: the kept mean is 1, 1, 1/2, 0 for 3, 2, 1, 0 ones.
    assert rho.expected_top_k([0.0, 1.0], 3, 2) == pytest.approx((1 + 3 + 1.5) / 8, rel=1e-14)


@given(LOSSES, batches())
def test_top_k_between_mean_and_max(losses, batch):
    B, k = batch
    value, slack = rho.expected_top_k(losses, B, k), 1e-12 * (1 + losses.max())
    assert losses.mean() - slack <= value <= min(losses.max(), B / k * losses.mean()) + slack
    assert value <= rho.expected_max(losses, B) + slack
    assert value <= rho.cvar(losses, k / B) + slack


@given(LOSSES, st.integers(1, 64))
def test_top_k_at_its_ends(losses, B):
    scale = 1 + losses.max()
    assert close(rho.expected_top_k(losses, B, 1), rho.expected_max(losses, B), scale)
    assert close(rho.expected_top_k(losses, B, B), losses.mean(), scale)


@pytest.mark.parametrize("B", [5, 64, 1000])
def test_top_k_is_the_mean_of_the_upper_order_statistics(B):
    f = np.sort(np.exp(3 * np.random.default_rng(B).standard_normal((8, 200))), axis=1)
    r = np.arange(1, B + 1)
    below = special.betainc(r, B - r + 1, (np.arange(201) / 200)[:, None])
    statistics = f @ np.diff(below, axis=0)
    for k in (1, B // 2, B):
        assert rho.expected_top_k(f, B, k) == pytest.approx(statistics[:, -k:].mean(axis=1), rel=1e-9)


@given(BATCHED, batches(most=8))
def test_top_k_batched(losses, batch):
    assert close(rho.expected_top_k(losses, *batch), [rho.expected_top_k(row, *batch) for row in losses], 101)


@pytest.mark.parametrize(("B", "k"), [(3, 4), (3, 0), (0, 0), (3, 1.5), (2.5, 1), (3, -1)])
def test_malformed_batches(B, k):
    with pytest.raises(ValueError, match=r"(B|k) = "):
        rho.expected_top_k([1.0, 2.0], B, k)


@given(LOSSES, st.integers(1, 12))
def test_cvar_is_the_mean_of_the_j_largest(losses, j):
    n = len(losses)
    j = min(j, n)
    assert close(rho.cvar(losses, j / n), np.sort(losses)[-j:].mean(), 1 + losses.max())


@given(LOSSES)
def test_cvar_at_its_ends(losses):
    assert close(rho.cvar(losses, 1.0), losses.mean(), 1 + losses.max())
    assert close(rho.cvar(losses, 1e-9), losses.max(), 1 + losses.max())


@pytest.mark.parametrize("kappa", [0.0, -0.5, 1.0001, np.nan, np.inf])
def test_malformed_kappa(kappa):
    with pytest.raises(ValueError, match="kappa"):
        rho.cvar([1.0], kappa)


def test_top_k_tends_to_cvar():
    losses = np.random.default_rng(0).random(50)
    assert rho.expected_top_k(losses, 10**8, 3 * 10**7) == pytest.approx(rho.cvar(losses, 0.3), abs=1e-4)


# --- the Gaussian prediction error ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draws", "value"), [(1, 1.0), (2, 1.6366), (4, 2.4702), (8, 3.4574), (16, 4.5495), (64, 6.9139), (1024, 11.958)]
)
def test_assumption_5_17_known_values(draws, value):
    assert rho.gaussian_rho(0.0, 1.0, draws) == pytest.approx(value, rel=5e-5)


@pytest.mark.parametrize("draws", [2, 9, 1024, 10**6, 10**9])
@pytest.mark.parametrize("ratio", [0.0, 0.5, -2.0, 9.99, 30.0, -300.0])
def test_assumption_5_17_by_40_digit_quadrature(draws, ratio):
    with mpmath.workdps(25):
        c = mpmath.mpf(abs(ratio))

        def integrand(z):
            q = (mpmath.erfc((z - c) / mpmath.sqrt(2)) + mpmath.erfc((z + c) / mpmath.sqrt(2))) / 2
            return 2 * z * -mpmath.expm1(draws * mpmath.log1p(-q)) if q < 1 else 2 * z

        low, high = max(c - 11, mpmath.mpf(0)), c + 11 + mpmath.sqrt(2 * mpmath.log(draws))
        total = low**2 + mpmath.quad(integrand, mpmath.linspace(low, high, 11), maxdegree=5)
        expected = float(total / (1 + c * c))
    assert rho.gaussian_rho(1.7 * ratio, 1.7, draws) == pytest.approx(expected, rel=1e-11)


@given(st.floats(-300, 300), st.floats(1e-3, 1e3), st.integers(1, 10**6), st.floats(1e-3, 1e3))
def test_assumption_5_17_rho_is_even_scale_free_and_in_range(c, delta, R, scale):
    value = rho.gaussian_rho(c * delta, delta, R)
    assert 1 - 1e-12 <= value <= R * (1 + 1e-12)
    assert rho.gaussian_rho(-c * delta, delta, R) == value
    assert rho.gaussian_rho(c * delta * scale, delta * scale, R) == pytest.approx(value, rel=1e-11)
    assert rho.gaussian_rho(c * delta, delta, R + 1) >= value * (1 - 1e-12)


def test_a_bias_whose_square_overflows_leaves_no_gain():
    assert rho.linear_gaussian_infimum([1e150, 1e200, 1e308], 10).tolist() == [1.0, 1.0, 1.0]


def test_assumption_5_17_broadcasts():
    value = rho.gaussian_rho(np.zeros((4, 1)), 1.0, np.array([2, 4, 8]))
    assert value.shape == (4, 3)
    assert value[3, 1] == pytest.approx(rho.gaussian_rho(0.0, 1.0, 4), rel=1e-13)


@pytest.mark.parametrize("function", [rho.gaussian_rho, rho.gaussian_rho_bound, rho.gaussian_rho_bound_sharp])
def test_assumption_5_17_broken(function):
    for delta in (0.0, -1.0):
        with pytest.raises(AssumptionViolated, match=r"Assumption 5\.17"):
            function(1.0, delta, 16)
    for eps, delta in ((np.nan, 1.0), (0.0, np.nan), (np.inf, 1.0)):
        with pytest.raises(ValueError, match="finite"):
            function(eps, delta, 16)
    for draws in (16.5, np.nan, 0):
        with pytest.raises(ValueError, match="R = "):
            function(0.0, 1.0, draws)


@pytest.mark.parametrize("draws", range(1, 9))
def test_theorem_5_18_needs_nine_draws(draws):
    for function in (rho.nu, lambda R: rho.gaussian_rho_bound(0.0, 1.0, R)):
        with pytest.raises(AssumptionViolated, match=f"R = {draws}"):
            function(draws)


def test_theorem_5_18_at_the_first_R():
    assert rho.nu(9) == pytest.approx(math.sqrt(math.pi / 2 * math.log(9 / (4 * math.log(9)))), rel=1e-14)
    assert rho.nu(np.array([9, 10])).shape == (2,)


@pytest.mark.parametrize(("draws", "value"), [(16, 0.540), (64, 2.083), (1024, 5.664)])
def test_theorem_5_18_known_bounds(draws, value):
    assert rho.gaussian_rho_bound(0.0, 1.0, draws) == pytest.approx(value, abs=5e-4)


@given(st.floats(-300, 300), st.floats(1e-3, 1e3), st.integers(9, 10**6))
def test_theorem_5_18_bound_holds_for_either_sign(c, delta, R):
    printed = rho.gaussian_rho_bound(c * delta, delta, R)
    sharp = rho.gaussian_rho_bound_sharp(c * delta, delta, R)
    assert 0 <= printed <= sharp * (1 + 1e-12) <= rho.gaussian_rho(c * delta, delta, R)


@given(st.floats(0, 300), st.integers(9, 10**6))
def test_theorem_5_18_sharp_is_the_print_for_positive_eps(eps, R):
    assert rho.gaussian_rho_bound_sharp(eps, 1.0, R) == rho.gaussian_rho_bound(eps, 1.0, R)
    assert rho.gaussian_rho_bound_sharp(-eps, 1.0, R) == rho.gaussian_rho_bound(eps, 1.0, R)


@given(st.floats(-50, 50), st.integers(9, 10**6))
def test_theorem_D_1_is_theorem_5_18(eps, R):
    level = math.log(R / (4 * math.log(R)))
    numerator = eps**2 + math.pi / 2 * level * 4 + math.sqrt(2 * math.pi * level) * eps * 2
    assert rho.gaussian_rho_bound(eps, 2.0, R) == pytest.approx(
        numerator * (1 - 1 / R) / (eps**2 + 4), rel=1e-9, abs=1e-12
    )


def test_corollary_5_19_growth():
    inner = math.log(100 / math.log(100))
    assert rho.growth(100) == pytest.approx(inner + math.sqrt(inner), rel=1e-14)
    with pytest.raises(ValueError, match="at least 2"):
        rho.growth(1)


def test_corollary_5_19_fails_for_very_negative_eps():
    assert rho.gaussian_rho(-300.0, 1.0, 1024) == pytest.approx(1.02, abs=5e-3)


def test_ceilings_by_hand():
    # Losses 1 and 3: CV = 1/2; the larger of two is 2.5 on average, 1.25 of the mean.
    assert rho.rho([1.0, 3.0], 2) == 1.25 <= rho.rho_ceiling(0.5, 2) == pytest.approx(1 + 0.5 / np.sqrt(3))
    assert rho.rho_top_k_ceiling(0.5, 8, [1, 4, 8]) == pytest.approx([1 + 0.5 * np.sqrt(7), 1.5, 1.0])
    for call in (lambda: rho.rho_ceiling(-0.1, 2), lambda: rho.rho_top_k_ceiling(0.1, 2, 3)):
        with pytest.raises(ValueError, match="must be"):
            call()


def test_the_linear_gaussian_infimum_is_rho_at_the_largest_bias():
    assert rho.linear_gaussian_infimum(0.0, 2) == pytest.approx(1 + 2 / np.pi)
    assert rho.linear_gaussian_infimum(1.5, 16) == rho.gaussian_rho(-1.5, 1.0, 16)
    with pytest.raises(ValueError, match="c ="):
        rho.linear_gaussian_infimum(-1.0, 2)
