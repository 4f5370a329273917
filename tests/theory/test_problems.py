"""What problems state about themselves, against numeric minimisation, differences and brute force."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from gsgd.linear import huber, squared
from theory.problems import controls, convex
from theory.problems.known import affine, half_line, point, segment

PROBLEMS = convex.compact_problems() + convex.interpolating_problems()
FEATURES, OFFSETS = np.random.default_rng(3).standard_normal((12, 4)), np.random.default_rng(4).standard_normal(12)
EVERY = [*PROBLEMS, convex.least_squares(FEATURES, OFFSETS, start=np.ones(4))]


def named(problems):
    return [pytest.param(known, id=f"{number}, {known.name}") for number, known in enumerate(problems)]


def around(known, count, scale=3.0, seed=0):
    return known.start + scale * np.random.default_rng(seed).standard_normal((count, known.problem.dim))


# --- Every constant, by another way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("known", named(EVERY))
def test_f_star_is_what_numeric_minimisation_finds(known):
    for start in around(known, 4):
        found = minimize(
            known.problem.objective, start, jac=lambda w: known.atom_gradients(w).mean(axis=0), options={"gtol": 1e-9}
        )
        assert found.fun == pytest.approx(known.F_star, abs=1e-12)
        # What it found lies in Phi_F; F may be as flat as a square there.
        assert known.minimisers.distance(found.x) < 1e-5


@pytest.mark.parametrize("known", named(EVERY))
def test_d0_is_the_least_distance_to_a_minimiser(known):
    # The nearest of many minimisers, found from many starts, is not nearer than the stated projection, which is one.
    found = [
        minimize(known.problem.objective, start, jac=lambda w: known.atom_gradients(w).mean(axis=0)).x
        for start in around(known, 10, seed=1)
    ]
    assert min(np.linalg.norm(found - known.start, axis=1)) >= known.D0 - 1e-4
    nearest = known.minimisers.project(known.start)
    assert known.problem.objective(nearest) == pytest.approx(known.F_star, abs=1e-12)
    assert pytest.approx(np.linalg.norm(nearest - known.start)) == known.D0


@pytest.mark.parametrize("known", named(EVERY))
def test_gradients_are_those_of_the_losses(known):
    # Central differences; second derivatives of the hinge, Huber and ReLU jump, so their error is of order h there.
    h, w = 1e-6, around(known, 40, seed=2)
    for axis, unit in enumerate(np.eye(known.problem.dim)):
        slopes = (known.atom_losses(w + h * unit) - known.atom_losses(w - h * unit)) / (2 * h)
        assert known.atom_gradients(w)[..., axis] == pytest.approx(slopes, abs=1e-5)


@pytest.mark.parametrize("known", named(EVERY))
def test_assumption_5_3_l_is_the_smallest_constant(known):
    # Pairs along the steepest feature around every atom's zero, where the scalar losses are most curved.
    rng = np.random.default_rng(4)
    centres = known.atom_minimisers[rng.integers(known.problem.n, size=3000)]
    u = centres + 0.7 * rng.standard_normal(centres.shape)
    direction = rng.standard_normal(centres.shape)
    if hasattr(known.problem, "features"):
        features = known.problem.features
        direction[::2] = features[np.argmax(np.sum(features**2, axis=1))]
    v = u + 1e-3 * direction
    moved = np.linalg.norm(known.atom_gradients(u) - known.atom_gradients(v), axis=-1)
    ratio = (moved / np.linalg.norm(u - v, axis=-1)[:, None]).max()
    assert known.L * 0.99 <= ratio <= known.L * (1 + 1e-9)


@pytest.mark.parametrize("known", named(EVERY))
def test_assumption_5_4_every_atom_attains_zero_and_is_never_below(known):
    at = known.atom_losses(known.atom_minimisers)
    assert at.shape == (known.problem.n, known.problem.n)
    assert np.diagonal(at) == pytest.approx(np.zeros(known.problem.n), abs=1e-15)
    assert known.atom_losses(around(known, 200)).min() >= 0


def members(known):
    """Points of Phi_F: a dense sample of the hull of its vertices."""
    vertices = known.minimisers.vertices
    shares = np.random.default_rng(5).dirichlet(np.ones(len(vertices)), 50)
    return np.concatenate([shares @ vertices, vertices])


@pytest.mark.parametrize("known", named(convex.compact_problems()))
@pytest.mark.parametrize("R", [1, 2, 3])
def test_definition_5_6_delta_is_the_supremum_over_the_minimisers_by_brute_force(known, R):
    tuples = np.array(list(itertools.product(range(known.problem.n), repeat=R)))
    largest = known.atom_losses(members(known))[:, tuples].max(axis=-1).mean(axis=-1)
    assert known.Delta(R) == pytest.approx(largest.max(), rel=1e-12)
    assert known.Delta(R) >= known.F_star * (1 - 1e-12)


@pytest.mark.parametrize("known", named(convex.interpolating_problems()))
def test_interpolating_problems_have_zero_loss_on_all_minimisers(known):
    assert known.F_star == pytest.approx(0, abs=1e-25)
    assert known.Delta(3) == pytest.approx(0, abs=1e-25)
    w = known.minimisers.project(around(known, 100, scale=30))
    assert known.atom_losses(w) == pytest.approx(np.zeros((100, known.problem.n)), abs=1e-20)


@pytest.mark.parametrize("known", named(EVERY))
def test_the_objective_is_the_mean_of_the_losses(known):
    w = around(known, 20).reshape(4, 5, known.problem.dim)
    assert known.atom_losses(w).shape == (4, 5, known.problem.n)
    assert known.atom_gradients(w).shape == (4, 5, known.problem.n, known.problem.dim)
    assert known.problem.objective(w) == pytest.approx(known.atom_losses(w).mean(axis=-1))


@pytest.mark.parametrize("known", named(EVERY))
def test_draws_are_uniform_over_the_atoms(known):
    # A count of Bin(20,000, 1/n) is off by 7 standard deviations with probability below 1e-11.
    n, total = known.problem.n, 20_000
    counts = np.bincount(known.problem.draw(np.random.default_rng(6), (total // 4, 4)).ravel(), minlength=n)
    assert len(counts) == n
    assert np.abs(counts - total / n).max() < 7 * np.sqrt(total / n)


# --- By hand ----------------------------------------------------------------------------------------------------------


def test_constants_by_hand():
    two, three, pair = convex.witness_quadratics(), convex.witness_three_atoms(), convex.smoothed_relu_pair(start=3.0)
    assert (two.L, two.F_star, two.Delta(2), two.D0) == pytest.approx((1, 0.5, 0.5, 2))
    # At 1/3 the losses are 1/9, 1/9, 4/9; of two draws the last is present in 5 of 9.
    assert (three.L, three.F_star, three.Delta(2)) == pytest.approx(
        (2, float(Fraction(2, 9)), float(Fraction(4, 9) * Fraction(5, 9) + Fraction(1, 9) * Fraction(4, 9)))
    )
    assert (pair.L, pair.F_star, pair.Delta(2), pair.D0) == pytest.approx((1, 1.5, 2, 2))
    assert convex.smoothed_relu_pair(start=0.5).D0 == 0
    hinge = convex.two_sided_hinge([[1.0, 0.0], [0.0, 2.0]], start=[3.0, 4.0])
    assert (hinge.L, hinge.F_star, hinge.D0) == pytest.approx((4, 0.5, 5))
    assert convex.separable_hinge(start=-2.0).D0 == 3
    assert convex.separable_hinge(start=4.0).D0 == 0
    c = convex.mean_estimation([[0.0, 0.0], [2.0, 4.0]], start=[1.0, 2.0], c=3.0)
    assert (c.L, c.F_star, c.D0) == pytest.approx((3, 7.5, 0))


def test_equation_5_fails_at_the_witnesses_as_their_docstrings_say():
    two = convex.witness_quadratics()
    assert two.Delta(2) == pytest.approx(two.F_star, rel=1e-15)
    three = convex.witness_three_atoms()
    assert three.Delta(2) > three.F_star
    losses = three.atom_losses(np.array([[1e8], [-1e8]]))
    assert losses.max(axis=-1) / losses.mean(axis=-1) == pytest.approx(np.ones(2), abs=1e-7)


@pytest.mark.parametrize("known", named(PROBLEMS))
def test_names_give_the_size(known):
    assert known.name.endswith(f"n = {known.problem.n}, d = {known.problem.dim}")


def test_lists_hold_what_checks_count_on():
    compact, interpolating = convex.compact_problems(), convex.interpolating_problems()
    assert (len(compact), len(interpolating)) == (10, 3)
    assert all(known.minimisers.compact and known.F_star > 0.01 and known.problem.n <= 4 for known in compact)
    assert [known.minimisers.compact for known in interpolating] == [True, False, False]


# --- Sets of minimisers -----------------------------------------------------------------------------------------------

_BASIS = np.linalg.qr(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))[0]
SETS = {
    "point": (point([1.0, -2.0, 0.5]), 3, lambda rng: np.tile([1.0, -2.0, 0.5], (200, 1))),
    "segment": (
        segment([0.0, 1.0, 2.0], [1.0, 1.0, -1.0]),
        3,
        lambda rng: np.array([0.0, 1.0, 2.0]) + rng.random((200, 1)) * np.array([1.0, 0.0, -3.0]),
    ),
    "affine": (
        affine([1.0, 0.0, 0.0], _BASIS),
        3,
        lambda rng: np.array([1.0, 0.0, 0.0]) + rng.uniform(-9, 9, (200, 2)) @ _BASIS.T,
    ),
    "half-line": (half_line(1.5), 1, lambda rng: 1.5 + rng.exponential(3, (200, 1))),
}


@pytest.mark.parametrize("name", SETS)
@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3), st.integers(0, 1000))
def test_projections_are_the_nearest_members(name, w, seed):
    minimisers, d, sample = SETS[name]
    w, inside = np.array(w[:d]), sample(np.random.default_rng(seed))
    projected = minimisers.project(w)
    distance = minimisers.distance(w)
    assert distance == pytest.approx(np.linalg.norm(w - projected))
    assert distance <= np.linalg.norm(w - inside, axis=1).min() + 1e-9
    # <w - Pw, z - Pw> <= 0 for every member z, which makes Pw the nearest; and members stay where they are.
    assert ((inside - projected) @ (w - projected) <= 1e-9).all()
    assert minimisers.project(projected) == pytest.approx(projected, abs=1e-9)
    assert minimisers.project(inside) == pytest.approx(inside, abs=1e-9)
    assert minimisers.distance(np.stack([w, projected])) == pytest.approx([distance, 0], abs=1e-9)


def test_vertices_lie_in_their_set_and_compactness_is_stated():
    for minimisers, _, _ in SETS.values():
        assert minimisers.distance(minimisers.vertices) == pytest.approx(0, abs=1e-12)
    assert [SETS[name][0].compact for name in SETS] == [True, True, False, False]


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: convex.mean_estimation([0.0, 1.0], start=[0.0]), r"atoms has shape \(2,\), but must be \(n, d\)"),
        (lambda: convex.two_sided_hinge([[1.0, 1.0], [2.0, 2.0]], start=[0.0, 0.0]), r"features must span R\^d"),
        (lambda: convex.least_squares([[1.0], [0.0]], [1.0, 1.0], start=[0.0]), "features of atom 1 are all 0"),
        (lambda: segment([1.0, 2.0], [1.0, 2.0]), "the ends of the segment coincide"),
    ],
)
def test_impossible_problems_are_rejected(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --- Controls ---------------------------------------------------------------------------------------------------------


def test_the_logistic_control_approaches_its_infimum_and_its_sum_is_least_at_zero():
    known = controls.logistic()
    losses = known.atom_losses(np.array([[30.0], [-30.0], [700.0]]))
    assert 0 < losses.min() < 1e-300
    found = minimize(known.problem.objective, [2.0])
    assert found.fun == pytest.approx(np.log(2))
    assert known.F_star == pytest.approx(np.log(2))
    assert found.x == pytest.approx([0], abs=1e-4)


def test_regression_about_a_centre_is_even_for_even_losses():
    for loss in (squared(), huber(1.0)):
        known = convex.symmetric_regression(loss, [[1.0, 0.5], [0.2, 1.0]], [1.0, -1.0], [0.4, 0.8], start=[4.0, 2.0])
        step = np.random.default_rng(8).standard_normal((50, 2))
        centre = np.array([1.0, -1.0])
        assert known.problem.objective(centre + step) == pytest.approx(known.problem.objective(centre - step))
