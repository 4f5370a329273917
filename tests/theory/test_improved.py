"""The bounds beyond Theorem 5.7, against fractions and by hand; their checks and mutants run in `test_checks.py`."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from theory.formulas import improved
from theory.formulas.convergence import crossover_tuned, gsgd_bound, sgd_bound
from theory.formulas.improved import gsgd_bound_improved, gsgd_bound_sharp
from theory.problems.adversaries import random_hubers
from theory.routes import exact
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


def by_recursion(K, q, alpha, beta):
    """The weighted sum of the proof's inequalities (i) and (ii), term by term; a_1, a_2, ... drop out."""
    c = 2 * q["rho"] * q["eta"] * alpha
    weights = [(1 - c * q["L"] / 2) ** (K - 1 - k) for k in range(K)]
    assert all(0 <= u <= 1 for u in weights)
    coefficient = [(1 - u) / c + u * q["L"] / 2 for u in weights] + [Fraction(0)]
    for k in range(1, K + 1):
        assert coefficient[k] - (1 - weights[k - 1]) / c == 0
    noise = sum((1 - u) / c * 2 * q["eta"] * beta * q["Delta"] for u in weights)
    return (coefficient[0] * q["D0"] ** 2 + noise + sum(weights) * q["F_star"]) / K


@given(st.integers(1, 30), parameters(), st.fractions(Fraction(1, 10), Fraction(9, 10), max_denominator=10))
def test_the_bound_is_the_weighted_sum_of_its_proof(K, q, share):
    h = q["eta"] * q["L"]
    alpha = 1 - h + share * h
    beta = 1 / (2 - h - alpha)
    if q["rho"] * h * alpha <= 1:
        expected = by_recursion(K, q, alpha, beta)
    else:
        two_terms = q["D0"] ** 2 / (2 * q["eta"] * K) + beta * q["Delta"]
        at_the_start = q["F_star"] + q["L"] * q["D0"] ** 2 / 2
        expected = min(two_terms / (q["rho"] * alpha), at_the_start if K == 1 else np.inf)
    assert gsgd_bound_sharp(K, alpha=float(alpha), **floats(q)) == pytest.approx(float(expected), rel=1e-9)


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
    # x = 1 at rho = 4, eta L = alpha = 1/2, where beta = 1: s = 1/K.
    q = {"eta": 0.5, "L": 1.0, "D0": 1.0, "Delta": 8.0, "F_star": 1.0, "alpha": 0.5}
    for K in (1, 2, 7):
        at_one = gsgd_bound_sharp(K, rho=4.0, **q)
        assert at_one == pytest.approx(1.5 / K + (1 - 1 / K) * 4.0)
        assert gsgd_bound_sharp(K, rho=4.0 * (1 - 1e-12), **q) == pytest.approx(at_one, rel=1e-9)
        if K > 1:
            printed = gsgd_bound(K, eta=0.5, L=1.0, D0=1.0, rho=5.0, Delta=8.0)
            assert gsgd_bound_sharp(K, rho=5.0, **q) == pytest.approx(printed)


def test_at_one_iteration_smoothness_is_a_bound_for_every_rho():
    # The paper's pair gives 2.173 here, linear programs of (i) and (ii) .682: F* + L D0^2 / 2.
    q = {"eta": 0.6511, "rho": 7.3562, "D0": 0.3858, "Delta": 5.4633, "F_star": 0.6073, "L": 1.0}
    assert gsgd_bound_sharp(1, **q) == pytest.approx(0.6073 + 0.3858**2 / 2)


def test_equation_5_must_hold():
    with pytest.raises(AssumptionViolated, match="Equation 5"):
        gsgd_bound_sharp(10, eta=0.1, L=1.0, D0=1.0, rho=1.5, Delta=1.0, F_star=5.0)


# K, h, Delta, worst case, this bound, with the paper's pair, Theorem 5.7: n = R = 2, rho = D0 = L = 1.
TABLE = [(2, 0.1, 0.25, 0.7054, 0.7264, 0.7288, 3.056), (3, 0.9, 0.25, 0.480, 0.781, 0.903, 4.352)]


@pytest.mark.parametrize(("K", "h", "Delta", "worst", "ours", "pair", "printed"), TABLE)
def test_known_values_between_the_worst_case_and_the_print(K, h, Delta, worst, ours, pair, printed):
    q = {"eta": h, "L": 1.0, "D0": 1.0, "rho": 1.0, "Delta": Delta}
    if K == 2:
        assert gsgd_bound(K, **q) == pytest.approx(printed, abs=5e-4)
    assert gsgd_bound_sharp(K, F_star=Delta, **q) == pytest.approx(ours, abs=5e-4)
    assert gsgd_bound_sharp(K, F_star=Delta, alpha=1 - h, **q) == pytest.approx(pair, abs=5e-4)
    assert worst < ours < pair < printed


def test_improved_by_hand():
    q = {"eta": 0.5, "L": 1.0, "D0": 2.0, "rho": 1.25, "Delta": 3.0}
    # alpha = 1: beta = 2. alpha = 3/4 = 1 - h/2: beta = 4/3.
    assert gsgd_bound_improved(4, alpha=1.0, **q) == pytest.approx((1 + 6) / 1.25)
    assert gsgd_bound_improved(4, alpha=0.75, **q) == pytest.approx((1 + 4) / (1.25 * 0.75))
    # With a floor of 1: beta (Delta - 1) + alpha.
    assert gsgd_bound_improved(4, alpha=0.75, floor=1.0, **q) == pytest.approx((1 + 8 / 3 + 0.75) / (1.25 * 0.75))
    with pytest.raises(ValueError, match="floor"):
        gsgd_bound_improved(4, floor=4.0, **q)
    with pytest.raises(AssumptionViolated, match="alpha"):
        gsgd_bound_improved(4, alpha=0.4, **q)


@given(st.integers(1, 100), st.floats(0.01, 1.99), st.floats(0, 5), st.floats(0, 5))
@example(K=1, h=1.0, D0=1.7310259177590586e-59, Delta=4.827042140553825e-269)  # squares that are 0 in float64
def test_the_best_alpha_is_at_least_as_good_as_a_grid_of_them(K, h, D0, Delta):
    q = {"eta": h, "L": 1.0, "D0": D0, "rho": 1.3, "Delta": Delta}
    alpha = np.linspace(max(1 - h, 1e-6), min(1.0, (2 - h) * (1 - 1e-9)), 500)
    # Numbers below 1e-300 have few digits in float64.
    assert gsgd_bound_improved(K, **q) <= gsgd_bound_improved(K, alpha=alpha, **q).min() * (1 + 1e-12) + 1e-300


def test_best_step_and_crossing_by_hand():
    # L D0^2 / (2 K) = 4, Delta = 1: eta = 2 / (L 3).
    assert improved.best_step(1, L=2.0, D0=2.0, Delta=1.0) == pytest.approx(1 / 3)
    assert improved.best_step_bound(1, L=2.0, D0=2.0, rho=1.5, Delta=1.0) == pytest.approx(6.0)
    assert improved.best_step(7, L=2.0, D0=2.0, Delta=0.0) == 0.5
    # rho = 4, F* = 1, Delta = 9: (L D0^2 / 2) ((2 - 1) / (3 - 2))^2.
    assert crossover_tuned(L=2.0, D0=3.0, rho=4.0, Delta=9.0, F_star=1.0) == pytest.approx(9.0)
    assert crossover_tuned(L=2.0, D0=3.0, rho=4.0, Delta=4.0, F_star=1.0) == np.inf
    assert crossover_tuned(L=2.0, D0=3.0, rho=1.0, Delta=4.0, F_star=1.0) == 0.0


def test_last_iterate_by_hand():
    q = {"eta": 0.5, "L": 1.0, "D0": 2.0, "rho": 1.0, "mu": 0.5}
    # alpha = 1, beta = 2: q = 3/4, noise 2 (2 Delta - F*) / mu.
    value = improved.last_iterate_bound(2, Delta=1.0, F_star=0.5, alpha=1.0, **q)
    assert value == pytest.approx(9 / 16 * 4 + 7 / 16 * 2 * 1.5 / 0.5)
    assert improved.last_iterate_bound(2, Delta=0.0, F_star=0.0, **q) == pytest.approx(9 / 16 * 4)
    with pytest.raises(ValueError, match="mu"):
        improved.last_iterate_bound(2, Delta=1.0, F_star=0.5, **{**q, "mu": 2.0})


def test_decreasing_steps_by_hand():
    # (D0^2 + 2 Delta (1/2 / (1/2) + 1/4 / (3/4))) / (2 rho 3/4)
    found = improved.decreasing_steps_bound([0.5, 0.25], L=1.0, D0=2.0, rho=1.5, Delta=3.0)
    assert found == pytest.approx((4 + 6 * (1 + 1 / 3)) / 2.25)
    with pytest.raises(AssumptionViolated):
        improved.decreasing_steps_bound([0.5, 1.0], L=1.0, D0=2.0, rho=1.5, Delta=3.0)


def test_many_iterations_leave_theorem_5_7s_limit_and_digits():
    q = {"eta": 1e-9, "L": 1.0, "D0": 1.0, "rho": 1.5, "Delta": 3.0, "F_star": 1.0}
    # x K = 1.5e-3: s = 1 - x (K - 1) / 2 + ..., which (1 - (1 - x)^K) / (x K) in float64 would lose.
    x, K = 1.5e-9 * (1 - 1e-9), 10**6
    s = 1 - x * (K - 1) / 2 + x**2 * (K - 1) * (K - 2) / 6 - x**3 * K**3 / 24
    paper = gsgd_bound_sharp(K, alpha=1 - 1e-9, **q)
    assert paper == pytest.approx(s * 1.5 + (1 - s) * 2 / (1 - 1e-9), rel=1e-12)
    assert gsgd_bound_sharp(K, **q) <= paper
    assert gsgd_bound_sharp(10**15, **q) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("K", [1, 2, 5, 40])
def test_a_small_alpha_leaves_its_digits(K):
    """1 - s is then about x (K - 1) / 2, and multiplied by 1 / alpha."""
    q = {"eta": Fraction(3, 2), "L": Fraction(1), "D0": Fraction(1, 8), "rho": Fraction(3, 2), "Delta": Fraction(2)}
    alpha = Fraction(1, 2**40)
    expected = by_recursion(K, q | {"F_star": Fraction(1)}, alpha, 1 / (Fraction(1, 2) - alpha))
    assert gsgd_bound_sharp(K, alpha=float(alpha), F_star=1.0, **floats(q)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("gap", [2.0**-52, 1e-12, 1e-9, 1e-6])
@pytest.mark.parametrize("K", [2, 5, 1000])
def test_just_below_2_over_L_it_is_above_what_it_bounds(gap, K):
    """SGD on (w -+ 1)^2 / 2 from 0: E w_k^2 grows by eta^2 a step, so the mean of E F(w_k) is nearly 1/2 + (K - 1)."""
    eta, variance, total = 2 - gap, 0.0, 0.0
    for _ in range(K):
        total += 0.5 + variance / 2
        variance = (1 - eta) ** 2 * variance + eta**2
    known = {"eta": eta, "L": 1.0, "D0": 0.0, "rho": 1.0, "Delta": 0.5}
    assert total / K <= gsgd_bound_sharp(K, F_star=0.5, **known) <= gsgd_bound_improved(K, **known)


def test_last_iterate_with_next_to_no_growth_adds_up_the_noise():
    # q = 1: D0^2 + K 2 eta (beta Delta - alpha rho F*), alpha = 1 and beta = 2.
    q = {"eta": 0.5, "L": 1.0, "D0": 2.0, "rho": 1.0, "Delta": 1.0, "F_star": 0.5, "alpha": 1.0}
    for mu in (1e-12, 1e-18, 1e-300):
        assert improved.last_iterate_bound(7, mu=mu, **q) == pytest.approx(4 + 7 * 1.5, rel=1e-10)


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
    [
        ({"L": np.inf}, "L = inf"),
        ({"F_star": -1.0}, "F_star"),
        ({"F_star": np.nan}, "F_star"),
        ({"rho": 0.5}, "rho"),
        ({"D0": -1.0}, "D0"),
    ],
)
def test_bad_arguments_are_refused(wrong, match):
    q = {"eta": 0.25, "L": 2.0, "D0": 1.0, "rho": 1.5, "Delta": 3.0, "F_star": 0.4}
    with pytest.raises(ValueError, match=match):
        gsgd_bound_sharp(3, **{**q, **wrong})


def test_steps_up_to_2_over_L_are_allowed():
    q = {"L": 2.0, "D0": 1.0, "rho": 1.5, "Delta": 3.0}
    assert np.isfinite(gsgd_bound_sharp(3, eta=0.99, F_star=0.4, **q))
    for eta in (1.0, 0.0):
        with pytest.raises(AssumptionViolated, match="eta < 2/L"):
            gsgd_bound_sharp(3, eta=eta, F_star=0.4, **q)


def test_random_problems_do_not_break_the_last_iterate_nor_decreasing_steps():
    """Exact trees of 120 problems of 2 to 4 losses; mu is the growth of F over the points that are reached."""
    rng, nearest = np.random.default_rng(0), np.zeros(2)
    for number, known in enumerate(random_hubers(rng, 120)):
        law = exact.greedy(known.problem.n, 1 + number % 3)
        Delta, K = exact.Delta(known, law), 4
        eta = rng.uniform(0.05, 1.9)
        tree = exact.walk(known, law, eta=eta, K=K + 1)
        reached = np.concatenate(tree.points)
        squares = known.minimisers.distance(reached) ** 2
        growth = 2 * (known.problem.objective(reached) - known.F_star)[squares > 1e-12] / squares[squares > 1e-12]
        mu = float(np.clip(growth.min(), 1e-9, known.L))
        q = {"L": known.L, "D0": known.D0, "rho": exact.rho_over(known, law, tree.points, Delta), "Delta": Delta}
        last = float(tree.probabilities[K] @ known.minimisers.distance(tree.points[K]) ** 2)
        limit = improved.last_iterate_bound(K, eta=eta, F_star=known.F_star, mu=mu, **q)
        assert last <= limit * (1 + 1e-9) + 1e-12

        etas = rng.uniform(0.05, 0.95, K)
        shorter = exact.walk(known, law, eta=etas, K=K)
        q["rho"] = exact.rho_over(known, law, shorter.points, Delta)
        average = improved.decreasing_steps_bound(etas, **q)
        assert shorter.averages[-1] <= average * (1 + 1e-9)
        nearest = np.maximum(nearest, [last / max(limit, 1e-9), shorter.averages[-1] / average])
    assert nearest[0] > 0.9
    assert nearest[1] > 0.6
