import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from theory.formulas import early_exit
from theory.verdict import AssumptionViolated

correlations = st.floats(-1, 1)
non_negative = st.floats(0, 1)


def rotation(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@given(st.floats(-math.pi, math.pi), st.floats(-math.pi, math.pi), st.floats(1e-3, 1e3))
def test_theorem_62_beta_of_a_rotation_is_its_cosine(before, after, scale):
    theta = scale * np.array([0.3, -2.0])
    assert early_exit.beta(theta, rotation(before), rotation(after)) == pytest.approx(math.cos(after), abs=1e-14)


def test_theorem_62_beta_as_printed():
    rng = np.random.default_rng(0)
    theta, A, B = rng.standard_normal(4), rng.standard_normal((4, 4)), rng.standard_normal((4, 4))
    a, b = A.T @ theta, A.T @ B.T @ theta
    assert early_exit.beta(theta, A, B) == pytest.approx(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_beta_neither_overflows_nor_exceeds_one(scale):
    theta = np.array([1.0, 1 / 3, 0.1])
    assert early_exit.beta(scale * theta, np.eye(3), 3 * np.eye(3)) == pytest.approx(1.0, abs=1e-15)
    assert early_exit.beta(scale * theta, scale * np.eye(3), scale * np.eye(3)) == pytest.approx(1.0, abs=1e-15)
    assert early_exit.beta(scale * theta, np.eye(3), 3 * np.eye(3)) <= 1.0


@pytest.mark.parametrize(
    ("theta", "A", "B"),
    [
        (np.ones(2), np.eye(3), np.eye(3)),
        (np.ones(3), np.eye(3), np.ones((3, 2))),
        (np.ones((3, 1)), np.eye(3), np.eye(3)),
        (np.ones(0), np.ones((0, 0)), np.ones((0, 0))),
        (np.zeros(3), np.eye(3), np.eye(3)),
        (np.ones(3), np.zeros((3, 3)), np.eye(3)),
        (np.ones(3), np.eye(3), np.zeros((3, 3))),
        (np.array([1.0, math.nan, 0.0]), np.eye(3), np.eye(3)),
        (np.ones(3), math.inf * np.ones((3, 3)), np.eye(3)),
    ],
)
def test_beta_rejects_malformed_arguments(theta, A, B):
    with pytest.raises(ValueError, match="theta"):
        early_exit.beta(theta, A, B)


@pytest.mark.parametrize(
    ("beta", "p"),
    [
        (-1.0, 0.0),
        (-0.5, 1 / 3),
        (0.0, 0.5),
        (0.5, 2 / 3),
        (math.sqrt(0.5), 0.75),
        (math.sqrt(0.75), 5 / 6),
        (1.0, 1.0),
    ],
)
def test_theorem_62_at_known_angles(beta, p):
    assert early_exit.agreement(beta) == pytest.approx(p, abs=1e-15)
    assert early_exit.agreement_integral(beta, continued=True) == pytest.approx(p, abs=1e-14)
    assert early_exit.agreement_R(beta, 2) == pytest.approx(p, abs=1e-14)
    assert early_exit.top_half_overlap(beta) == early_exit.agreement(beta)


@given(correlations)
def test_theorem_62_is_odd_about_a_half_and_invertible(beta):
    p = early_exit.agreement(beta)
    assert early_exit.agreement(-beta) == pytest.approx(1 - p, abs=1e-15)
    assert early_exit.beta_from_agreement(p) == pytest.approx(beta, abs=1e-14)


@given(correlations)
def test_equation_13_is_the_closed_form(beta):
    assert early_exit.agreement_integral(beta, continued=True) == pytest.approx(early_exit.agreement(beta), abs=1e-13)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.6, 0.9, 0.99])
def test_equation_13_by_adaptive_quadrature_of_the_print(beta):
    value, _ = integrate.quad(
        lambda y: math.exp(-(y**2) / 4) * math.erfc(beta * y / (2 * math.sqrt(1 - beta**2))), 0, np.inf
    )
    assert early_exit.agreement_integral(beta) == pytest.approx(1 - value / (2 * math.sqrt(math.pi)), abs=1e-9)


@given(non_negative)
def test_equation_14_and_sharper_bounds_in_order(beta):
    p = early_exit.agreement(beta)
    printed, sharp = early_exit.agreement_bound(beta), early_exit.agreement_bound_sharp(beta)
    sharpest = early_exit.corollary_bound_sharp(1 - beta)
    assert printed <= sharp + 1e-15
    assert sharp <= sharpest + 1e-15
    assert sharpest <= p + 1e-15


@given(correlations)
def test_bound_for_either_sign(beta):
    assert early_exit.agreement_bound_signed(beta) <= early_exit.agreement(beta) + 1e-15


@given(st.floats(-0.999, -0.001))
def test_sharp_bound_does_not_extend_below_zero(beta):
    assert 1 - math.sqrt(1 - beta**2) / 2 > early_exit.agreement(beta)


def test_equation_14_at_its_ends_and_where_it_becomes_useful():
    assert early_exit.agreement_bound(0.0) == 0.0
    assert early_exit.agreement_bound(1.0) == 1.0
    assert early_exit.agreement_bound(math.sqrt(6 / 7)) == pytest.approx(0.5)
    # Below zero it would be wrong: at beta = -1 it says 1, where p_j = 0.
    assert early_exit.agreement(-1.0) == pytest.approx(0.0, abs=1e-15)


@given(st.floats(0, 2))
def test_corollary_63_disagreement_is_one_minus_agreement(tau):
    # 1 - tau rounds to 1e-16, which the arcsin's vertical slope at the ends turns into 1e-8.
    assert early_exit.disagreement(tau) == pytest.approx(1 - early_exit.agreement(1 - tau), abs=1e-8)


@given(non_negative)
def test_corollary_63_bounds(tau):
    truth = early_exit.disagreement(tau)
    assert truth <= 1 - early_exit.corollary_bound_sharp(tau) + 1e-15
    assert 1 - early_exit.corollary_bound_sharp(tau) <= 1 - early_exit.corollary_bound(tau)
    assert 1 - early_exit.corollary_bound(tau) <= 4.4429 * truth + 1e-15  # pi sqrt2


def test_corollary_63_keeps_digits_of_tiny_tau():
    assert early_exit.disagreement(1e-30) == pytest.approx(math.sqrt(2e-30) / math.pi, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    "formula",
    [
        early_exit.agreement_integral,
        early_exit.agreement_bound,
        early_exit.agreement_bound_sharp,
        lambda beta: early_exit.corollary_bound(1 - beta),
        lambda beta: early_exit.corollary_bound_sharp(1 - beta),
    ],
)
@pytest.mark.parametrize("beta", [-0.001, -1.0, np.array([0.5, -0.5])])
def test_theorem_62_asks_for_non_negative_beta(formula, beta):
    with pytest.raises(AssumptionViolated, match="beta_j >= 0"):
        formula(beta)


@pytest.mark.parametrize(
    "formula",
    [
        early_exit.agreement,
        early_exit.agreement_integral,
        early_exit.agreement_bound,
        early_exit.agreement_bound_sharp,
        early_exit.agreement_bound_signed,
        early_exit.top_half_overlap,
        early_exit.beta_from_agreement,
        early_exit.disagreement,
        early_exit.corollary_bound,
        early_exit.corollary_bound_sharp,
    ],
)
def test_float_in_float_out_arrays_elementwise_and_range(formula):
    value = formula(0.4)
    assert type(value) is float
    array = formula(np.full((2, 3), 0.4))
    assert array.shape == (2, 3)
    np.testing.assert_allclose(array, value, rtol=1e-14)
    for bad in (2.5, math.nan, [0.5, 3.0]):
        with pytest.raises(ValueError, match="must"):
            formula(bad)


def orthant(beta, R):
    """R P(sample 1 exceeds the others on both sides), by scipy's multivariate normal integral."""
    m = R - 1
    same = np.eye(m) + np.ones((m, m))  # covariances of u_1 - u_i
    covariance = np.block([[same, beta * same], [beta * same, same]])
    zero = np.zeros(2 * m)
    return R * stats.multivariate_normal.cdf(zero, zero, covariance, abseps=1e-6, rng=np.random.default_rng(0))


@pytest.mark.parametrize("R", [3, 4])
@pytest.mark.parametrize("beta", [-0.4, 0.3, 0.8])
def test_general_R_is_an_orthant_probability(beta, R):
    # The lattice rule is asked for 1e-6; it is randomised, and the seed is fixed.
    assert early_exit.agreement_R(beta, R) == pytest.approx(orthant(beta, R), abs=2e-5)


@pytest.mark.parametrize("R", [2, 7, 1000])
def test_general_R_at_the_ends(R):
    assert early_exit.agreement_R(0.0, R) == pytest.approx(1 / R, rel=1e-10)
    assert early_exit.agreement_R(1.0, R) == pytest.approx(1.0, abs=1e-12)
    assert early_exit.agreement_R(-1.0, R) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: early_exit.agreement_R(0.5, 1),
        lambda: early_exit.agreement_R(0.5, 2.5),  # type: ignore[arg-type]
        lambda: early_exit.agreement_R(1.5, 3),
        lambda: early_exit.agreement_R(math.nan, 3),
        lambda: early_exit.agreement_R(0.5, math.inf),  # type: ignore[arg-type]
        lambda: early_exit.agreement_R(0.5, math.nan),  # type: ignore[arg-type]
        lambda: early_exit.agreement_R(0.5, 3, nodes=1),
    ],
)
def test_malformed_numbers_of_candidates(call):
    with pytest.raises(ValueError, match=r"must be|must lie|NaN"):
        call()
