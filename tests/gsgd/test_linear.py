import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsgd import linear

LOSSES = [
    linear.squared(2.0),
    linear.squared_hinge(0.5),
    linear.huber(0.7),
    linear.pseudo_huber(1.3),
    linear.smoothed_relu(2.0),
]
# phi(z) by their textbook definitions, in plain Python.
TEXTBOOK = {
    "squared": lambda z: 2.0 * z**2 / 2,
    "squared hinge": lambda z: 0.5 * max(z, 0.0) ** 2 / 2,
    "Huber": lambda z: z**2 / 2 if abs(z) <= 0.7 else 0.7 * abs(z) - 0.7**2 / 2,
    "pseudo-Huber": lambda z: 1.3**2 * ((1 + (z / 1.3) ** 2) ** 0.5 - 1),
    "smoothed ReLU": lambda z: 0.0 if z <= 0 else z**2 / 4 if z <= 2 else z - 1,
}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@given(z=st.floats(-50, 50))
def test_values_follow_the_textbook(loss, z):
    assert loss.value(z, loss.c) == pytest.approx(TEXTBOOK[loss.name](z), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@given(z=st.floats(-20, 20))
def test_slopes_are_derivatives_and_curvature_bounds_them(loss, z):
    h = 1e-6
    difference = (TEXTBOOK[loss.name](z + h) - TEXTBOOK[loss.name](z - h)) / (2 * h)
    assert loss.slope(z, loss.c) == pytest.approx(difference, abs=1e-4)
    assert abs(loss.slope(z + 0.5, loss.c) - loss.slope(z, loss.c)) <= loss.curvature * 0.5 * (1 + 1e-12)


@pytest.mark.parametrize("make", [linear.squared, linear.huber, linear.smoothed_relu])
@pytest.mark.parametrize("c", [0.0, -1.0, float("nan"), float("inf")])
def test_parameters_out_of_range_are_named(make, c):
    with pytest.raises(ValueError, match="must be positive and finite"):
        make(c)


def test_losses_gradients_and_objective_agree_with_matrix_arithmetic():
    rng = np.random.default_rng(0)
    for d in (1, 2, 3, 4, 5, 9):
        features, offsets = rng.standard_normal((7, d)), rng.standard_normal(7)
        problem = linear.LinearProblem(features, offsets, linear.squared())
        w = rng.standard_normal((3, d))
        atoms = np.broadcast_to(np.arange(7), (3, 7))
        residuals = w @ features.T - offsets
        np.testing.assert_allclose(problem.losses(w, atoms), residuals**2 / 2, rtol=1e-12)
        np.testing.assert_allclose(problem.gradients(w, atoms), residuals[..., None] * features, rtol=1e-12)
        np.testing.assert_allclose(problem.objective(w), (residuals**2 / 2).mean(-1), rtol=1e-12)


def test_smoothness_is_the_largest_hessian_norm():
    features = np.array([[3.0, 4.0], [1.0, 0.0]])
    problem = linear.LinearProblem(features, np.zeros(2), linear.squared(2.0))
    largest = max(np.linalg.eigvalsh(2.0 * np.outer(x, x))[-1] for x in features)
    assert problem.smoothness == pytest.approx(largest)


@pytest.mark.parametrize(
    ("features", "offsets", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0), r"\(0, 2\)"),
        (np.zeros(3), np.zeros(3), r"\(3,\)"),
        (np.zeros((3, 2)), np.zeros(2), r"\(2,\)"),
        (np.full((1, 1), np.nan), np.zeros(1), "finite"),
    ],
)
def test_bad_problems_are_named(features, offsets, message):
    with pytest.raises(ValueError, match=message):
        linear.LinearProblem(features, offsets, linear.squared())
