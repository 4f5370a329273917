from dataclasses import dataclass

import numpy as np
import pytest

from gsgd import linear
from gsgd.oracle import Draws, Noise, Oracle
from gsgd.selectors import select_top_k

PROBLEM = linear.LinearProblem(np.array([[1.0], [1.0], [1.0]]), np.array([0.0, 1.0, 5.0]), linear.squared())


def test_definition_4_1_shows_candidates_with_their_losses_and_one_gradient():
    oracle = Oracle(PROBLEM, 2)
    query = oracle.query(np.array([2.0]), Draws(np.array([0, 2]), None))
    assert query.scores == pytest.approx([2.0, 4.5])  # (2 - 0)^2 / 2, (2 - 5)^2 / 2
    assert query.gradients(select_top_k(query.scores, 1)) == pytest.approx(np.array([[-3.0]]))
    with pytest.raises(ValueError, match=r"already returned its gradient: Definition 4.1"):
        query.gradients(np.array([0]))


def test_draws_have_the_asked_shape_and_depend_on_the_generator_alone():
    oracle = Oracle(PROBLEM, 4, Noise(0.5))
    draws = oracle.draw(np.random.default_rng(3), (10, 20))
    again = oracle.draw(np.random.default_rng(3), (10, 20))
    assert draws.candidates.shape == draws.factors.shape == (10, 20, 4)
    np.testing.assert_array_equal(draws.candidates, again.candidates)
    np.testing.assert_array_equal(draws.factors, again.factors)


def test_assumption_5_12_noise_is_drawn_per_candidate_not_per_atom():
    draws = Oracle(PROBLEM, 2, Noise(1.0)).draw(np.random.default_rng(0), (1000,))
    same_atom = draws.candidates[:, 0] == draws.candidates[:, 1]
    assert same_atom.sum() > 100
    assert (draws.factors[same_atom, 0] != draws.factors[same_atom, 1]).all()


def test_assumption_5_12_scores_are_losses_times_exp_of_mu_plus_sigma_zeta():
    noise = Noise(0.3, zeta=lambda rng, size: np.ones(size), mu=lambda w: w[..., 0])
    oracle = Oracle(PROBLEM, 2, noise)
    draws = oracle.draw(np.random.default_rng(0), (5,))
    w = np.full((5, 1), 2.0)
    expected = (2.0 - np.array([0.0, 1.0, 5.0])[draws.candidates]) ** 2 / 2 * np.exp(2.0 + 0.3)
    np.testing.assert_allclose(oracle.query(w, draws).scores, expected, rtol=1e-14)


def test_continuous_samples_are_candidates_too():
    @dataclass
    class Gaussian:
        dim: int = 2

        def draw(self, rng, size):
            return rng.standard_normal((*size, self.dim))

        def losses(self, w, candidates):
            return np.sum((w[..., None, :] - candidates) ** 2, axis=-1)

        def gradients(self, w, candidates):
            return 2 * (w[..., None, :] - candidates)

        def objective(self, w):
            return np.sum(w**2, axis=-1) + self.dim

    oracle = Oracle(Gaussian(), 3)
    draws = oracle.draw(np.random.default_rng(0), (4,))
    w = np.zeros((4, 2))
    query = oracle.query(w, draws)
    chosen = select_top_k(query.scores, 1)
    farthest = np.array([max(row, key=np.linalg.norm) for row in draws.candidates])
    np.testing.assert_allclose(query.gradients(chosen)[:, 0], -2 * farthest)


@pytest.mark.parametrize("R", [0, -1, 1.5, True])
def test_the_number_of_candidates_is_checked(R):
    with pytest.raises(ValueError, match=r"R = .* must be a whole number of at least 1"):
        Oracle(PROBLEM, R)


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_assumption_5_12_noise_level_is_checked(sigma):
    with pytest.raises(ValueError, match=r"sigma = .*Assumption 5.12"):
        Noise(sigma)


@pytest.mark.parametrize(("offset", "named"), [(-1.0, "-1.0"), (float("nan"), "nan")])
def test_assumption_5_4_a_negative_or_undefined_loss_is_named(offset, named):
    loss = linear.ScalarLoss("bad", lambda z, c: np.full_like(z, offset), lambda z, c: z, 1.0, 1.0)
    oracle = Oracle(linear.LinearProblem(np.ones((2, 1)), np.zeros(2), loss), 2)
    with pytest.raises(ValueError, match=rf"f\(w, x\) = {named}.*Assumption 5.4"):
        oracle.query(np.zeros(1), Draws(np.array([0, 1]), None))
