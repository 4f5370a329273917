"""Predicates of Section 5: every control breaks the one it is named for and no other, every sound problem none."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsgd.linear import LinearProblem, ScalarLoss, huber, squared
from theory import assumptions
from theory.formulas import convergence
from theory.problems import controls, convex
from theory.problems.known import KnownProblem, half_line, point, segment
from theory.verdict import AssumptionViolated

PREDICATES = {
    "Assumption 5.1": assumptions.verify_continuity,
    "Assumption 5.2": assumptions.verify_convexity,
    "Assumption 5.3": assumptions.verify_smoothness,
    "Assumption 5.4": assumptions.verify_zero_minimum,
    "Phi_F as stated": assumptions.verify_minimisers,
    "Phi_F compact": assumptions.verify_compact,
}
PROBLEMS = convex.compact_problems() + convex.interpolating_problems()
SEEDS = range(10)


def rng(seed=0):
    return np.random.default_rng(seed)


def broken(known, seed=0):
    """What the predicates say of `known`: a mapping from the broken assumption to its error."""
    found = {}
    for assumption, verify in PREDICATES.items():
        try:
            verify(known, rng(seed))
        except AssumptionViolated as error:
            found[assumption] = error
    assert all(error.assumption == assumption for assumption, error in found.items())
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("control", "assumption", "message"),
    [
        (controls.non_convex, "Assumption 5.2", r"atom \d: convexity fails between w = \(.*\) to \("),
        (controls.not_smooth, "Assumption 5.3", r"atom \d: the gradient moves faster than L = 1 from w = "),
        (controls.understated_smoothness, "Assumption 5.3", r"claims L = 0.9, but sup phi'' max \|x\|\^2 = 1$"),
        (controls.logistic, "Assumption 5.4", r"attains no minimum: the least loss seen is .* > 0"),
        (controls.positive_minimum, "Assumption 5.4", r"has min f\(., x_\d\) = 1, not 0"),
        (controls.wrong_minimiser, "Phi_F as stated", r"below F at the stated minimiser of quadratic with a wrong"),
        (lambda: convex.interpolating_problems()[1], "Phi_F compact", "its minimisers are unbounded"),
        (lambda: convex.interpolating_problems()[2], "Phi_F compact", "its minimisers are unbounded"),
    ],
)
def test_every_control_breaks_the_assumption_it_is_named_for_and_no_other(control, assumption, message, seed):
    found = broken(control(), seed)
    assert list(found) == [assumption]
    with pytest.raises(AssumptionViolated, match=message) as caught:
        assumptions.verify_section_5(control(), rng(seed))
    assert caught.value.assumption == assumption


@pytest.mark.parametrize("seed", SEEDS)
def test_assumption_5_1_a_jump_breaks_continuity_before_convexity_and_nothing_else(seed):
    # A convex function is continuous, so the jump cannot but break convexity, too.
    assert list(broken(controls.jump(), seed)) == ["Assumption 5.1", "Assumption 5.2"]
    with pytest.raises(AssumptionViolated, match=r"quadratic with a jump jumps by 1 at w = \(0.5\)"):
        assumptions.verify_section_5(controls.jump(), rng(seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("known", PROBLEMS, ids=lambda known: known.name)
def test_sound_problems_break_nothing(known, seed):
    assert list(broken(known, seed)) == ([] if known.minimisers.compact else ["Phi_F compact"])
    assumptions.verify_section_5(known, rng(seed), compact=known.minimisers.compact)


@pytest.mark.parametrize("predicate", PREDICATES.values(), ids=PREDICATES)
def test_a_loss_that_is_not_a_number_passes_nowhere(predicate):
    loss = ScalarLoss("undefined", lambda z, c: np.full_like(z, np.nan), lambda z, c: np.full_like(z, np.nan), 1.0, 1.0)
    problem = LinearProblem(np.ones((2, 1)), np.zeros(2), loss)
    known = KnownProblem("undefined", problem, 1.0, point([0.0]), np.zeros((2, 1)), np.ones(1))
    with pytest.raises(AssumptionViolated):
        predicate(known, rng())


# --- Smoothness -------------------------------------------------------------------------------------------------------


def test_assumption_5_3_of_a_linear_problem_is_checked_exactly():
    known = convex.compact_problems()[3]
    assumptions.verify_smoothness(known, rng())
    assumptions.verify_smoothness(replace(known, L=2 * known.L), rng())
    # No pair of points shows so small a difference.
    with pytest.raises(AssumptionViolated, match="claims L ="):
        assumptions.verify_smoothness(replace(known, L=known.L * (1 - 1e-9)), rng())


def test_assumption_5_3_of_another_problem_is_checked_at_pairs():
    known = convex.witness_three_atoms()
    assumptions.verify_smoothness(known, rng())
    with pytest.raises(AssumptionViolated, match=r"faster than L = 1.99"):
        assumptions.verify_smoothness(replace(known, L=1.99), rng())


def test_a_gradient_that_is_not_the_losss_own_breaks_convexity():
    # Half of the slope is 1-Lipschitz as well; only the tangent tells.
    loss = replace(squared(), slope=lambda z, c: z / 2, value=lambda z, c: z * z / 2)
    known = replace(controls.understated_smoothness(), L=1.0)
    known = replace(known, problem=replace(known.problem, loss=loss))
    assert list(broken(known)) == ["Assumption 5.2"]
    with pytest.raises(AssumptionViolated, match="the tangent exceeds the loss between"):
        assumptions.verify_convexity(known, rng())


# --- Zero minimum -----------------------------------------------------------------------------------------------------


def test_assumption_5_4_names_the_atom_whose_minimiser_is_wrong():
    known = convex.witness_three_atoms()
    atoms = known.atom_minimisers.copy()
    atoms[2] = 0.5
    with pytest.raises(AssumptionViolated, match=r"has min f\(., x_2\) = 0.25, not 0"):
        assumptions.verify_zero_minimum(replace(known, atom_minimisers=atoms), rng())


def test_assumption_5_4_a_negative_loss():
    loss = replace(squared(), value=lambda z, c: z * z / 2 - 1)
    known = controls.understated_smoothness()
    known = replace(known, problem=replace(known.problem, loss=loss))
    with pytest.raises(AssumptionViolated, match="has a negative loss -1"):
        assumptions.verify_zero_minimum(known, rng())


# --- Phi_F ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (segment([-1.2], [1.0]), "below F at the stated minimiser"),
        (segment([-0.5], [0.5]), r"has a further minimiser at \(-?[01]\."),
        (point([0.0]), r"has a further minimiser at \(-?[01]\."),
        (half_line(-1.0), "the projection of smoothed ReLU pair, n = 2, d = 1 leaves the minimisers"),
    ],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_minimisers_must_be_all_and_only_those_stated(stated, message, seed):
    # Truly, Phi_F = [-1, 1].
    known = replace(convex.smoothed_relu_pair(start=3.0), minimisers=stated)
    with pytest.raises(AssumptionViolated, match=message):
        assumptions.verify_minimisers(known, rng(seed))


def test_a_residual_beyond_hubers_c_leaves_no_single_minimiser():
    # phi'' = 0 at both residuals: F is constant on |w - 1/2| <= 1.
    known = convex.symmetric_regression(huber(1.0), [[1.0]], [0.5], [2.0], start=[4.0])
    with pytest.raises(AssumptionViolated, match="has a further minimiser"):
        assumptions.verify_minimisers(known, rng())
    assumptions.verify_minimisers(replace(known, minimisers=segment([-0.5], [1.5])), rng())


def test_a_flat_direction_that_no_sample_hits_is_found_among_the_singular_vectors():
    # Stated as a point, although n < d: random directions never lie in the kernel.
    known = convex.interpolating_problems()[1]
    known = replace(known, minimisers=point(known.minimisers.vertices[0]))
    with pytest.raises(AssumptionViolated, match="stays at F\\* along") as caught:
        assumptions.verify_section_5(known, rng())
    assert caught.value.assumption == "Phi_F compact"


# --- Step sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("L", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("eta_L", [5e-324, 1e-300, 0.5, math.nextafter(1.0, 0.0)])
def test_theorem_5_7_allows_steps_below_one_over_L(eta_L, L):
    eta = eta_L / L
    if eta > 0 and eta * L < 1:
        convergence.verify_step_size(eta, L)
    else:
        with pytest.raises(AssumptionViolated):
            convergence.verify_step_size(eta, L)


@pytest.mark.parametrize("eta", [0.5, 0.5000001, 7.0, 0.0, -0.1, -0.0, math.nan, math.inf])
def test_theorem_5_7_forbids_other_steps(eta):
    with pytest.raises(AssumptionViolated, match=rf"eta = {eta:.6g} must lie in \(0, 1/L\) = \(0, 0.5\)") as caught:
        convergence.verify_step_size(eta, 2.0)
    assert caught.value.assumption == "eta < 1/L"


def test_of_many_steps_the_first_bad_one_is_named():
    with pytest.raises(AssumptionViolated, match=r"eta = 0\.7 must"):
        convergence.verify_step_size([0.1, 0.7, 0.9], 2.0)
    convergence.verify_step_size([0.1, 0.4], 2.0)


# --- Properties -------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 4), st.floats(0.01, 100))
def test_any_least_squares_problem_is_sound(seed, n, d, scale):
    features = scale * rng(seed).standard_normal((n, d))
    known = convex.least_squares(features, scale * rng(seed + 1).standard_normal(n), start=np.zeros(d))
    for verify in list(PREDICATES.values())[:5]:
        verify(known, rng(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 20))
def test_assumption_5_2_any_cosine_of_some_size_is_seen(seed, frequency):
    # z^2 / 2 + (1 - cos(t z)) (2 / t^2): its curvature 1 + 2 cos(t z) falls to -1.
    def value(z, c):
        return z * z / 2 + 2 * (1 - np.cos(frequency * z)) / frequency**2

    loss = ScalarLoss("wave", value, lambda z, c: z + 2 * np.sin(frequency * z) / frequency, 1.0, 3.0)
    problem = LinearProblem(np.ones((1, 1)), np.zeros(1), loss)
    known = KnownProblem("wave", problem, 3.0, point([0.0]), np.zeros((1, 1)), np.ones(1))
    with pytest.raises(AssumptionViolated, match="wave, atom 0"):
        assumptions.verify_convexity(known, rng(seed))
