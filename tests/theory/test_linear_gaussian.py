"""The linear model with Gaussian features."""

import numpy as np
import pytest

from theory.problems.linear_gaussian import LinearGaussian

W_STAR = np.array([1.0, -2.0])
MEAN = np.array([0.5, 0.25])
COVARIANCE = np.array([[2.0, 0.5], [0.5, 1.0]])


@pytest.fixture
def problem():
    return LinearGaussian(W_STAR, MEAN, COVARIANCE)


def test_equation_6_losses_and_gradients(problem):
    w, x = np.array([3.0, -1.0]), np.array([[1.0, 2.0], [0.0, -1.0]])
    # <w, x> - <w*, x> = 2 x_1 + x_2.
    assert problem.losses(w, x).tolist() == [16.0, 1.0]
    assert problem.gradients(w, x).tolist() == [[8.0, 16.0], [0.0, 2.0]]


def test_gradients_are_differences_of_losses(problem):
    rng = np.random.default_rng(0)
    w, x, h = rng.standard_normal((5, 2)), problem.draw(rng, (5, 3)), 1e-5
    for axis in range(2):
        step = h * np.eye(2)[axis]
        slope = (problem.losses(w + step, x) - problem.losses(w - step, x)) / (2 * h)
        np.testing.assert_allclose(problem.gradients(w, x)[..., axis], slope, atol=1e-7)


def test_shapes(problem):
    rng = np.random.default_rng(0)
    assert problem.dim == 2
    assert problem.draw(rng, (4, 3)).shape == (4, 3, 2)
    assert problem.draw(rng, 7).shape == (7, 2)
    w = rng.standard_normal((4, 2))
    x = problem.draw(rng, (4, 3))
    assert problem.losses(w, x).shape == (4, 3)
    assert problem.gradients(w, x).shape == (4, 3, 2)
    assert problem.objective(w).shape == problem.eps(w).shape == problem.delta(w).shape == (4,)
    np.testing.assert_array_equal(problem.losses(w, x)[1], problem.losses(w[1], x[1]))


def test_equation_47_by_hand(problem):
    w = np.array([3.0, -1.0])
    assert problem.eps(w) == pytest.approx(1.25)
    assert problem.delta(w) ** 2 == pytest.approx(2 * 4 + 2 * 0.5 * 2 + 1)
    assert problem.objective(w) == pytest.approx(1.25**2 + 11)
    assert problem.objective(W_STAR) == 0


def test_assumption_5_17_moments_of_the_features(problem):
    # 10^6 draws: a deviation of 6 standard errors (at most 6e-3 * 2) has probability below 1e-8 per moment.
    x = problem.draw(np.random.default_rng(0), (1_000_000,))
    np.testing.assert_allclose(x.mean(axis=0), MEAN, atol=0.009)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, atol=0.018)


def test_noise_replaces_the_normal_law():
    problem = LinearGaussian(W_STAR, MEAN, np.eye(2), noise=lambda rng, size: np.ones(size))
    assert problem.draw(np.random.default_rng(0), (2,)).tolist() == [[1.5, 1.25]] * 2


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((W_STAR, MEAN, np.eye(3)), "shapes"),
        ((W_STAR, MEAN[:1], COVARIANCE), "shapes"),
        ((W_STAR, MEAN, np.array([[1.0, 0.2], [0.0, 1.0]])), "symmetric"),
        ((W_STAR, MEAN, np.array([[1.0, 1.0], [1.0, 1.0]])), "positive definite"),
        ((W_STAR, MEAN, np.array([[1.0, 2.0], [2.0, 1.0]])), "positive definite"),
    ],
)
def test_malformed_models(arguments, match):
    with pytest.raises(ValueError, match=match):
        LinearGaussian(*arguments)
