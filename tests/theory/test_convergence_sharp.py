"""The sharper bound beyond Theorem 5.7, against fractions; its checks and mutants run in `test_checks.py`."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.formulas.convergence import gsgd_bound, gsgd_bound_sharp, sgd_bound
from theory.verdict import AssumptionViolated

positive = st.fractions(Fraction(1, 1000), 1000, max_denominator=1000)
shares = st.fractions(Fraction(1, 100), Fraction(99, 100), max_denominator=100)
gains = st.fractions(1, 20, max_denominator=100)


@st.composite
def parameters(draw):
    """Exact eta, L, D0, rho, Delta, F_star with eta L < 1 and Delta >= rho F*."""
    L, F_star, rho = draw(positive), draw(positive), draw(gains)
    return {
        "eta": draw(shares) / L,
        "L": L,
        "D0": draw(positive),
        "rho": rho,
        "Delta": rho * F_star + draw(st.just(Fraction(0)) | positive),
        "F_star": F_star,
    }


def floats(q):
    return {name: float(value) for name, value in q.items()}


def by_recursion(K, q):
    """The weighted sum of the proof's inequalities (i) and (ii), term by term; a_1, a_2, ... drop out."""
    c = 2 * q["rho"] * q["eta"] * (1 - q["eta"] * q["L"])
    weights = [(1 - c * q["L"] / 2) ** (K - 1 - k) for k in range(K)]
    assert all(0 <= u <= 1 for u in weights)
    coefficient = [(1 - u) / c + u * q["L"] / 2 for u in weights] + [Fraction(0)]
    for k in range(1, K + 1):
        assert coefficient[k] - (1 - weights[k - 1]) / c == 0
    noise = sum((1 - u) / c * 2 * q["eta"] * q["Delta"] for u in weights)
    return (coefficient[0] * q["D0"] ** 2 + noise + sum(weights) * q["F_star"]) / K


@given(st.integers(1, 30), parameters())
def test_the_bound_is_the_weighted_sum_of_its_proof(K, q):
    if q["rho"] * q["eta"] * q["L"] * (1 - q["eta"] * q["L"]) <= 1:
        expected = by_recursion(K, q)
    else:
        floor = q["Delta"] / (q["rho"] * (1 - q["eta"] * q["L"]))
        expected = q["D0"] ** 2 / (2 * q["rho"] * q["eta"] * (1 - q["eta"] * q["L"]) * K) + floor
    assert gsgd_bound_sharp(K, **floats(q)) == pytest.approx(float(expected), rel=1e-9)


@given(st.integers(1, 10**9), parameters())
def test_the_bound_is_at_most_theorem_5_7_and_at_least_the_minimum(K, q):
    q = floats(q)
    value = gsgd_bound_sharp(K, **q)
    assert q["F_star"] * (1 - 1e-9) <= value
    assert value <= gsgd_bound(K, **{name: item for name, item in q.items() if name != "F_star"}) * (1 + 1e-9)


@given(st.integers(1, 10**9), parameters())
def test_with_rho_1_and_Delta_the_minimum_it_sharpens_theorem_5_8(K, q):
    q = floats(q)
    value = gsgd_bound_sharp(K, **q | {"rho": 1.0, "Delta": q["F_star"]})
    assert value <= sgd_bound(K, **{name: q[name] for name in ("eta", "L", "D0", "F_star")}) * (1 + 1e-9)


def test_one_iteration_is_smoothness_at_the_start():
    assert gsgd_bound_sharp(1, eta=0.3, L=2.0, D0=3.0, rho=1.5, Delta=4.0, F_star=0.5) == pytest.approx(0.5 + 9.0)


def test_where_the_weights_end_at_the_first_step_both_forms_agree():
    # x = 1 at rho = 4, eta L = 1/2: s = 1/K.
    q = {"eta": 0.5, "L": 1.0, "D0": 1.0, "Delta": 8.0, "F_star": 1.0}
    for K in (1, 2, 7):
        at_one = gsgd_bound_sharp(K, rho=4.0, **q)
        assert at_one == pytest.approx(1.5 / K + (1 - 1 / K) * 4.0)
        assert gsgd_bound_sharp(K, rho=4.0 * (1 - 1e-12), **q) == pytest.approx(at_one, rel=1e-9)
        assert gsgd_bound_sharp(K, rho=5.0, **q) == gsgd_bound(K, eta=0.5, L=1.0, D0=1.0, rho=5.0, Delta=8.0)


def test_many_iterations_leave_theorem_5_7s_limit_and_digits():
    q = {"eta": 1e-9, "L": 1.0, "D0": 1.0, "rho": 1.5, "Delta": 3.0, "F_star": 1.0}
    # x K = 1.5e-3: s = 1 - x (K - 1) / 2 + ..., which (1 - (1 - x)^K) / (x K) in float64 would lose.
    x, K = 1.5e-9 * (1 - 1e-9), 10**6
    s = 1 - x * (K - 1) / 2 + x**2 * (K - 1) * (K - 2) / 6 - x**3 * K**3 / 24
    assert gsgd_bound_sharp(K, **q) == pytest.approx(s * 1.5 + (1 - s) * 2 / (1 - 1e-9), rel=1e-12)
    assert gsgd_bound_sharp(10**15, **q) == pytest.approx(2.0, rel=1e-3)


def test_arrays_broadcast():
    K, rho = np.array([[1], [5]]), np.array([1.0, 2.0, 6.0])
    values = gsgd_bound_sharp(K, eta=0.25, L=2.0, D0=1.0, rho=rho, Delta=3.0, F_star=0.4)
    assert values.shape == (2, 3)
    for i, k in enumerate((1, 5)):
        for j, gain in enumerate((1.0, 2.0, 6.0)):
            single = gsgd_bound_sharp(k, eta=0.25, L=2.0, D0=1.0, rho=gain, Delta=3.0, F_star=0.4)
            assert isinstance(single, float)
            assert values[i, j] == single


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"F_star": -1.0}, "F_star"), ({"F_star": np.nan}, "F_star"), ({"rho": 0.5}, "rho"), ({"D0": -1.0}, "D0")],
)
def test_bad_arguments_are_refused(wrong, match):
    q = {"eta": 0.25, "L": 2.0, "D0": 1.0, "rho": 1.5, "Delta": 3.0, "F_star": 0.4}
    with pytest.raises(ValueError, match=match):
        gsgd_bound_sharp(3, **{**q, **wrong})


def test_the_step_size_is_theorem_5_7s():
    with pytest.raises(AssumptionViolated):
        gsgd_bound_sharp(3, eta=0.5, L=2.0, D0=1.0, rho=1.5, Delta=3.0, F_star=0.4)
