import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from theory.formulas import facts
from theory.verdict import AssumptionViolated

positive = st.floats(1e-3, 1e3)


@given(positive, positive, st.floats(-10, 10))
def test_fact_a1_holds_with_equality_for_a_parabola(L, curvature, y):
    # g = curvature y^2 / 2 is L-smooth for every L >= curvature.
    L = max(L, curvature)
    assert (curvature * y) ** 2 <= facts.gradient_bound(L, curvature * y**2 / 2) * (1 + 1e-12) + 1e-300
    assert facts.gradient_bound(curvature, curvature * y**2 / 2) == pytest.approx((curvature * y) ** 2)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), positive)
def test_fact_a2_holds_for_the_uniform_law_on_any_list(values, t):
    y = np.array(values)
    tail = np.mean(y - y.mean() >= t)
    assert tail <= facts.cantelli_bound(y.var(), t) + 1e-9


@given(st.floats(0.05, 20), st.floats(0.05, 20))
def test_fact_a2_is_attained(sigma, t):
    p = facts.cantelli_bound(sigma**2, t)
    low = -(sigma**2) / t
    assert p * t + (1 - p) * low == pytest.approx(0, abs=1e-9 * max(t, -low))
    assert p * t**2 + (1 - p) * low**2 == pytest.approx(sigma**2)


def test_fact_a2_of_a_constant():
    assert facts.cantelli_bound(0.0, 0.5) == 0.0


@given(st.floats(-30, 30))
def test_fact_a3_bounds_erf(t):
    assert math.erf(t) <= facts.erf_bound(t) + 1e-15


def test_fact_a3_at_its_ends():
    assert facts.erf_bound(0.0) == 0.0
    assert facts.erf_bound(math.inf) == 1.0


def test_fact_a3_mass_of_square_and_disc():
    # The proof: the same mass as the square's, moved to the disc of equal area, grows.
    t = 0.8
    square = integrate.dblquad(lambda x, y: np.exp(-x * x - y * y) / np.pi, -t, t, -t, t)[0]
    radius = 2 * t / np.sqrt(np.pi)
    disc = integrate.quad(lambda r: 2 * r * np.exp(-r * r), 0, radius)[0]
    assert math.erf(t) ** 2 == pytest.approx(square)
    assert facts.erf_bound(t) ** 2 == pytest.approx(disc)


@given(st.floats(0, 26))
def test_fact_a4_bounds_erfc(t):
    assert math.erfc(t) <= facts.erfc_bound_sharp(t) * (1 + 1e-12) <= facts.erfc_bound(t) * (1 + 1e-12)


@given(st.floats(-8, -0.64))
def test_fact_a4_is_false_below_minus_064(t):
    assert math.erfc(t) > facts.erfc_bound(t)


def test_fact_a4_as_printed_fails_at_minus_one():
    assert math.erfc(-1) == pytest.approx(1.8427, abs=1e-4)
    assert facts.erfc_bound(-1.0) == pytest.approx(1.2131, abs=1e-4)


@given(st.floats(-5, 5))
def test_fact_a4_erf_is_the_probability_with_sqrt2(t):
    assert facts.erf_as_probability(t) == pytest.approx(math.erf(t), abs=1e-14)
    assert facts.erf_as_probability(t) == pytest.approx(2 * (stats.norm.cdf(t, scale=math.sqrt(0.5)) - 0.5), abs=1e-14)


def test_fact_a4_identity_as_printed_is_the_normal_law_itself():
    assert facts.erf_as_printed(1.0) == pytest.approx(0.682689, abs=1e-6)


@given(positive)
def test_fact_a5_is_half_a_gaussian(t):
    value = integrate.quad(lambda y: np.exp(-(y**2) / (2 * t**2)), 0, 40 * t)[0]
    assert facts.half_gaussian_integral(t) == pytest.approx(value)


@pytest.mark.parametrize(
    ("formula", "arguments"),
    [
        (facts.gradient_bound, (2.0, 3.0)),
        (facts.cantelli_bound, (1.0, 2.0)),
        (facts.erf_bound, (0.5,)),
        (facts.erfc_bound, (0.5,)),
        (facts.erfc_bound_sharp, (0.5,)),
        (facts.erf_as_printed, (0.5,)),
        (facts.erf_as_probability, (0.5,)),
        (facts.half_gaussian_integral, (0.5,)),
    ],
)
def test_float_in_float_out_and_arrays_elementwise(formula, arguments):
    value = formula(*arguments)
    assert type(value) is float
    array = formula(*(np.full((2, 3), argument) for argument in arguments))
    assert array.shape == (2, 3)
    assert np.all(array == value)
    with pytest.raises(ValueError, match="must be a number"):
        formula(math.nan, *arguments[1:])


@pytest.mark.parametrize(
    ("formula", "arguments"),
    [
        (facts.cantelli_bound, (1.0, 0.0)),
        (facts.cantelli_bound, (1.0, -1.0)),
        (facts.erfc_bound_sharp, (-1e-9,)),
        (facts.half_gaussian_integral, (0.0,)),
        (facts.half_gaussian_integral, (np.array([1.0, -1.0]),)),
    ],
)
def test_outside_the_hypothesis(formula, arguments):
    with pytest.raises(AssumptionViolated):
        formula(*arguments)


@pytest.mark.parametrize(
    ("formula", "arguments"),
    [
        (facts.gradient_bound, (0.0, 1.0)),
        (facts.gradient_bound, (math.inf, 1.0)),
        (facts.gradient_bound, (1.0, -1.0)),
        (facts.cantelli_bound, (-1.0, 1.0)),
    ],
)
def test_malformed_arguments(formula, arguments):
    with pytest.raises(ValueError, match="must be"):
        formula(*arguments)
