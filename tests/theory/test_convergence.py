"""The bounds of Theorems 5.7, 5.8 and 5.14 and their crossing, against fractions and against a root finder."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.optimize import brentq

from theory.formulas.convergence import crossover, crossover_value, gsgd_bound, sgd_bound
from theory.verdict import AssumptionViolated

positive = st.fractions(Fraction(1, 1000), 1000, max_denominator=1000)
shares = st.fractions(Fraction(1, 100), Fraction(99, 100), max_denominator=100)
gains = st.fractions(1, 20, max_denominator=100)
steps = st.integers(1, 10**9)


@st.composite
def parameters(draw, *, excess=positive):
    """Exact eta, L, D0, rho, Delta, F_star with eta L < 1 and Delta > rho F*."""
    L, F_star, rho = draw(positive), draw(positive), draw(gains)
    return {
        "eta": draw(shares) / L,
        "L": L,
        "D0": draw(positive),
        "rho": rho,
        "Delta": rho * F_star + draw(excess),
        "F_star": F_star,
    }


def floats(q, *names):
    return {name: float(q[name]) for name in names}


def exact_gsgd(K, q):
    rate = 1 - q["eta"] * q["L"]
    return q["D0"] ** 2 / (2 * q["rho"] * q["eta"] * rate * K) + q["Delta"] / (q["rho"] * rate)


def exact_sgd(K, q):
    rate = 1 - q["eta"] * q["L"]
    return q["D0"] ** 2 / (2 * q["eta"] * rate * K) + q["eta"] * q["L"] * q["F_star"] / rate + q["F_star"]


GSGD = ("eta", "L", "D0", "rho", "Delta")
SGD = ("eta", "L", "D0", "F_star")
CROSSOVER = ("eta", "D0", "rho", "Delta", "F_star")
VALUE = ("eta", "L", "rho", "Delta", "F_star")


# --- The bounds -------------------------------------------------------------------------------------------------------


@given(steps, parameters())
def test_theorem_5_7_bound_is_the_printed_expression(K, q):
    value = gsgd_bound(K, **floats(q, *GSGD))
    assert type(value) is float
    assert value == pytest.approx(float(exact_gsgd(K, q)), rel=1e-12)


@given(steps, parameters())
def test_theorem_5_8_bound_is_the_printed_expression(K, q):
    value = sgd_bound(K, **floats(q, *SGD))
    assert type(value) is float
    assert value == pytest.approx(float(exact_sgd(K, q)), rel=1e-12)


@given(steps, parameters())
def test_without_selection_the_two_bounds_are_one(K, q):
    # rho = 1 and Delta = F*: F* / (1 - eta L) = eta L F* / (1 - eta L) + F*.
    ours = gsgd_bound(K, **floats(q | {"rho": 1, "Delta": q["F_star"]}, *GSGD))
    assert ours == pytest.approx(sgd_bound(K, **floats(q, *SGD)), rel=1e-12)


def test_theorem_5_7_by_hand():
    # 4 / (2 * 2 * .5 * .5 * K) + 3 / (2 * .5) = 4 / K + 3.
    assert gsgd_bound(4, eta=0.5, L=1.0, D0=2.0, rho=2.0, Delta=3.0) == 4.0
    # 4 / (2 * .5 * .5 * K) + .5 * 3 / .5 + 3 = 8 / K + 6.
    assert sgd_bound(4, eta=0.5, L=1.0, D0=2.0, F_star=3.0) == 8.0


def test_bounds_broadcast_over_arrays():
    K, eta = np.array([1, 10, 100]), np.array([[0.1], [0.2]])
    values = gsgd_bound(K, eta=eta, L=2.0, D0=1.0, rho=1.5, Delta=[3.0, 4.0, 5.0])
    assert values.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        one = gsgd_bound(int(K[j]), eta=eta[i, 0], L=2.0, D0=1.0, rho=1.5, Delta=[3.0, 4.0, 5.0][j])
        assert values[i, j] == one
    values = sgd_bound(K, eta=eta, L=2.0, D0=[1.0, 2.0, 3.0], F_star=0.5)
    assert values[1, 2] == sgd_bound(100, eta=0.2, L=2.0, D0=3.0, F_star=0.5)


def test_bounds_at_the_edges_of_their_hypotheses():
    q = {"eta": 0.1, "L": 1.0, "D0": 0.0, "rho": 1.0, "Delta": 0.0}
    assert gsgd_bound(1, **q) == 0.0
    assert sgd_bound(1, eta=0.1, L=1.0, D0=0.0, F_star=0.0) == 0.0
    just_below = math.nextafter(1.0, 0.0)
    assert math.isfinite(gsgd_bound(1, **q | {"eta": just_below, "D0": 1.0, "Delta": 1.0}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": 0}, "K = 0 must be at least 1"),
        ({"K": [5, 0.5]}, "K = 0.5 must be at least 1"),
        ({"D0": -1.0}, "D0 = -1 must be at least 0"),
        ({"L": 0.0}, "L = 0 must be positive"),
        ({"L": -1.0}, "L = -1 must be positive"),
        ({"L": math.nan}, "L = nan must be positive"),
        ({"rho": 0.999}, "rho = 0.999 must be at least 1"),
        ({"Delta": -0.1}, "Delta = -0.1 must be at least 0"),
        ({"Delta": math.inf}, "Delta = inf must be finite"),
        ({"K": math.nan}, "K = nan must be finite"),
        ({"rho": [1.0, math.nan]}, "rho = nan must be finite"),
        ({"eta": 0.5}, r"eta < 1/L: eta = 0.5 must lie in \(0, 1/L\) = \(0, 0.5\)"),
        ({"eta": 0.0}, r"eta = 0 must lie in"),
        ({"eta": [0.1, -0.1]}, r"eta = -0.1 must lie in"),
    ],
)
def test_theorem_5_7_outside_its_hypotheses(change, message):
    q = {"K": 5, "eta": 0.1, "L": 2.0, "D0": 1.0, "rho": 1.5, "Delta": 1.0} | change
    with pytest.raises(ValueError, match=message) as caught:
        gsgd_bound(q.pop("K"), **q)
    assert isinstance(caught.value, AssumptionViolated) == ("eta" in change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"F_star": -0.1}, "F_star = -0.1 must be at least 0"),
        ({"eta": 1 / 2.0}, "eta < 1/L: eta = 0.5 must lie"),
        ({"K": 0}, "K = 0 must be at least 1"),
        ({"D0": -1.0}, "D0 = -1 must be at least 0"),
        ({"L": 0.0}, "L = 0 must be positive"),
    ],
)
def test_theorem_5_8_outside_its_hypotheses(change, message):
    q = {"K": 5, "eta": 0.1, "L": 2.0, "D0": 1.0, "F_star": 1.0} | change
    with pytest.raises(ValueError, match=message):
        sgd_bound(q.pop("K"), **q)


# --- The crossing -----------------------------------------------------------------------------------------------------


@given(parameters())
def test_corollary_5_10_crossing_is_where_the_exact_bounds_are_equal(q):
    K = q["D0"] ** 2 * (q["rho"] - 1) / (2 * q["eta"] * (q["Delta"] - q["rho"] * q["F_star"]))
    assert crossover(**floats(q, *CROSSOVER)) == pytest.approx(float(K), rel=1e-6, abs=1e-300)
    assume(q["rho"] > 1)
    assert exact_gsgd(K, q) == exact_sgd(K, q)
    value = (q["Delta"] - q["F_star"]) / ((1 - q["eta"] * q["L"]) * (q["rho"] - 1))
    assert exact_gsgd(K, q) == value
    assert crossover_value(**floats(q, *VALUE)) == pytest.approx(float(value), rel=1e-9)


def test_corollary_5_10_crossing_is_what_a_root_finder_finds():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        q = {"eta": rng.uniform(0.01, 0.4), "L": 2.0, "D0": rng.uniform(1, 50), "rho": 1 + rng.exponential(),
             "F_star": rng.uniform(0.1, 2)}  # fmt: skip
        q["Delta"] = q["rho"] * q["F_star"] * (1 + rng.exponential(0.3))

        def difference(log_k, q=q):
            K = math.exp(log_k)
            return gsgd_bound(K, **floats(q, *GSGD)) - sgd_bound(K, **floats(q, *SGD))

        if difference(0.0) < 0 < difference(30.0):
            found += 1
            root = brentq(difference, 0.0, 30.0, xtol=1e-12)
            assert crossover(**floats(q, *CROSSOVER)) == pytest.approx(math.exp(root), rel=1e-6)
            assert gsgd_bound(math.exp(root), **floats(q, *GSGD)) == pytest.approx(
                crossover_value(**floats(q, *VALUE)), rel=1e-6
            )
    assert found > 100


def test_corollary_5_10_edges():
    q = {"eta": 0.5, "D0": 2.0}
    # 4 * .5 / (2 * .5 * (4 - 1.5 * 2)) = 2.
    assert crossover(rho=1.5, Delta=4.0, F_star=2.0, **q) == 2.0
    assert crossover(rho=1.5, Delta=3.0, F_star=2.0, **q) == math.inf
    assert crossover(rho=1.5, Delta=0.0, F_star=0.0, **q) == math.inf
    assert crossover(rho=1.0, Delta=3.0, F_star=2.0, **q) == 0.0
    assert crossover(eta=0.5, D0=0.0, rho=1.5, Delta=4.0, F_star=2.0) == 0.0
    assert type(crossover(rho=1.5, Delta=3.0, F_star=2.0, **q)) is float
    several = crossover(rho=[1.5, 1.5, 1.0], Delta=[4.0, 3.0, 3.0], F_star=2.0, **q)
    assert several.tolist() == [2.0, math.inf, 0.0]
    # At Delta = rho F* both bounds tend to F* / (1 - eta L), which is the value at infinity.
    assert crossover_value(eta=0.5, L=1.0, rho=1.5, Delta=3.0, F_star=2.0) == pytest.approx(2 / 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Delta": 2.9}, r"Equation 5: Delta = 2.9 is below rho F\* = 1.5 \* 2: impossible"),
        ({"Delta": [4.0, 2.5]}, r"Equation 5: Delta = 2.5 is below rho F\* = 1.5 \* 2"),
        ({"rho": 1.0, "Delta": 2.0}, r"rho = 1 and Delta = F\*: the two bounds coincide for every K"),
        ({"D0": 0.0, "Delta": 3.0}, r"D0 = 0 and Delta = rho F\*: the two bounds coincide for every K"),
        ({"rho": 0.9}, "rho = 0.9 must be at least 1"),
        ({"Delta": -1.0}, "Delta = -1 must be at least 0"),
        ({"F_star": -1.0}, "F_star = -1 must be at least 0"),
        ({"D0": -1.0}, "D0 = -1 must be at least 0"),
        ({"eta": 0.0}, "eta = 0 must be positive"),
        ({"F_star": math.nan}, "F_star = nan must be finite"),
    ],
)
def test_corollary_5_10_outside_its_hypotheses(change, message):
    q = {"eta": 0.1, "D0": 1.0, "rho": 1.5, "Delta": 4.0, "F_star": 2.0} | change
    with pytest.raises(ValueError, match=message) as caught:
        crossover(**q)
    assert isinstance(caught.value, AssumptionViolated) == message.startswith("Equation 5")


def test_corollary_5_10_where_the_bounds_coincide_they_do():
    q = {"eta": 0.1, "L": 2.0, "D0": 0.0, "rho": 1.5, "Delta": 3.0, "F_star": 2.0}
    for K in (1, 7, 10**6):
        assert gsgd_bound(K, **floats(q, *GSGD)) == pytest.approx(sgd_bound(K, **floats(q, *SGD)), rel=1e-15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": 1.0}, "rho = 1: the bounds cross at K = 0 only, where both are infinite"),
        ({"eta": 0.5}, "eta < 1/L: eta = 0.5 must lie"),
        ({"L": -1.0}, "L = -1 must be positive"),
        ({"L": 0.0}, "L = 0 must be positive"),
        ({"L": math.nan}, "L = nan must be positive"),
        ({"Delta": 2.9}, "Equation 5: Delta = 2.9 is below"),
    ],
)
def test_corollary_5_10_value_outside_its_hypotheses(change, message):
    q = {"eta": 0.1, "L": 2.0, "rho": 1.5, "Delta": 4.0, "F_star": 2.0} | change
    with pytest.raises(ValueError, match=message):
        crossover_value(**q)


@given(st.floats(0.01, 100), st.floats(1e-6, 50))
@example(4.572502328660836, 2.527878)
def test_equation_5_with_equality_is_allowed_for_rounded_quotients(F_star, gain):
    # rho = Delta / F* as `rho_star_bound` returns it: rho F* may be an ulp above Delta.
    Delta = F_star + gain
    K = crossover(eta=0.1, D0=1.0, rho=Delta / F_star, Delta=Delta, F_star=F_star)
    # Infinite, or, where rounding leaves a difference, as good as.
    assert K > 1e6


def test_equation_5_a_product_an_ulp_above_delta():
    F_star, Delta = 4.572502328660836, 7.100379670122917
    assert Delta / F_star * F_star > Delta
    assert crossover(eta=0.1, D0=1.0, rho=Delta / F_star, Delta=Delta, F_star=F_star) == math.inf
