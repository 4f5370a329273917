import math

import numpy as np
import pytest

from theory.problems import linear_network as networks
from theory.verdict import AssumptionViolated, Status


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_equation_8_products(rng):
    network = networks.near_identity(rng, k=3, d=4, noise=0.5)
    W1, W2, W3 = network.weights
    np.testing.assert_allclose(network.A(1), W1)
    np.testing.assert_allclose(network.A(3), W3 @ W2 @ W1)
    np.testing.assert_allclose(network.B(1), W3 @ W2)
    np.testing.assert_array_equal(network.B(3), np.eye(4))
    for j in (1, 2, 3):
        np.testing.assert_allclose(network.B(j) @ network.A(j), network.A(3))
        np.testing.assert_allclose(network.directions()[j - 1], network.A(j).T @ network.theta)


@pytest.mark.parametrize("sign", [networks.PRINTED_SIGN, networks.USUAL_SIGN])
def test_equations_7_to_11_as_printed(rng, sign):
    network = networks.near_identity(rng, k=3, d=4, noise=0.5, sign=sign)
    x, y = rng.standard_normal((50, 4)), rng.integers(2, size=50)
    for j in (1, 2, 3):
        prediction = 1 / (1 + np.exp(sign * (network.theta @ network.A(j) @ x.T)))
        loss = -y * np.log(prediction) - (1 - y) * np.log(1 - prediction)
        np.testing.assert_allclose(network.predictions(x)[j - 1], prediction)
        np.testing.assert_allclose(network.losses(x, y)[j - 1], loss)


def test_losses_stay_finite_and_ordered_where_predictions_round():
    network = networks.DeepLinearNetwork(np.eye(1)[None], np.array([1.0]))
    losses = network.losses(np.array([[-600.0], [-500.0], [500.0], [600.0]]), np.ones(4))[0]
    assert np.all(np.diff(losses) > 0)


def test_keeps_argmax_by_hand():
    # A swap of coordinates: the exit sees the first, the last layer the second.
    network = networks.DeepLinearNetwork(np.array([np.eye(2), [[0.0, 1.0], [1.0, 0.0]]]), np.array([1.0, 0.0]))
    x = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]])
    kept = network.keeps_argmax(x, np.ones((2, 2)))
    np.testing.assert_array_equal(kept, [[False, True], [True, True]])


def test_theorem_62_beta_of_rotations():
    network = networks.rotations([0.4, 0.5, 0.3])
    assert network.k == 3
    assert network.d == 2
    assert [network.beta(j) for j in (1, 2, 3)] == pytest.approx([math.cos(0.8), math.cos(0.3), 1.0])


def test_theorem_62_instances_have_the_signs_they_claim():
    for network in (networks.ROTATIONS, networks.RESIDUAL, networks.USUAL):
        betas = [network.beta(j) for j in range(1, network.k)]
        assert all(0.3 < beta < 0.96 for beta in betas)


def test_assumption_61_margins_are_u(rng):
    data = networks.EvenLabels(np.array([0.5, -1.0]), 1.5)
    x, y = data.draw(rng, (1000, 2))
    assert x.shape == (1000, 2, 2)
    assert y.shape == (1000, 2)
    assert 0 < y.mean() < 1
    np.testing.assert_array_equal(y, data.label(x))
    np.testing.assert_array_equal(data.label(x), data.label(-x))
    u = (2 * y - 1)[..., None] * x
    # 2,000 standard normals per coordinate: .12 is over five standard errors, and the seed is fixed.
    assert u.mean(axis=(0, 1)) == pytest.approx(data.mean, abs=0.12)
    np.testing.assert_array_equal(networks.centred_difference(x, y), u[:, 0] - u[:, 1])


def test_assumption_61_predicates_accept_and_reject(rng):
    good, bad = networks.EvenLabels(np.zeros(2), 1.0), networks.SignLabels(np.array([1.0, 0.0]))
    assert networks.verify_even_labels(good, rng).status is Status.PROVED
    # False alarm with probability 1e-8; the seed is fixed.
    verdict = networks.verify_gaussian_difference(good, rng, directions=np.eye(2), alpha=1e-8)
    assert verdict.status is Status.CONSISTENT
    with pytest.raises(AssumptionViolated, match="not even"):
        networks.verify_even_labels(bad, rng)
    with pytest.raises(AssumptionViolated, match="not N"):
        networks.verify_gaussian_difference(bad, rng, directions=np.eye(2), alpha=1e-8)


def test_assumption_61_is_broken_by_a_scale(rng):
    data = networks.EvenLabels(np.zeros(2), 1.0, lambda rng, shape: 1.1 * rng.standard_normal(shape))
    assert networks.verify_even_labels(data, rng).status is Status.PROVED
    with pytest.raises(AssumptionViolated, match="not N"):
        networks.verify_gaussian_difference(data, rng, directions=np.eye(2), alpha=1e-8)


def test_count_kept_counts_every_draw_once(rng):
    network, data = networks.ROTATIONS, networks.PLANE
    n = 450_001  # more than two chunks at R = 2
    counts = networks.count_kept(network, data, rng, n=n)
    assert counts.shape == (3,)
    assert counts[-1] == n
    assert np.all(counts[:-1] < n)


@pytest.mark.parametrize(
    ("weights", "theta", "sign"),
    [
        (np.eye(2), np.ones(2), 1),
        (np.ones((2, 3, 3)), np.ones(2), 1),
        (np.ones((0, 2, 2)), np.ones(2), 1),
        (np.ones((1, 2, 2)), np.ones((2, 1)), 1),
        (np.ones((1, 2, 2)), np.ones(2), 0),
    ],
)
def test_malformed_networks(weights, theta, sign):
    with pytest.raises(ValueError, match=r"need|must be"):
        networks.DeepLinearNetwork(weights, theta, sign)


@pytest.mark.parametrize("j", [0, 4, 1.5])
def test_exits_that_do_not_exist(j):
    with pytest.raises(ValueError, match="must be a layer"):
        networks.ROTATIONS.beta(j)
