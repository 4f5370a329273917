"""Checks of Section 6.1's model: networks, early predictions, losses (Equations 7 to 12 and 62), and Assumption 6.1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

from theory.formulas import early_exit
from theory.problems.linear_network import (
    PLANE,
    PRINTED_SIGN,
    RESIDUAL,
    ROTATIONS,
    SPACE,
    USUAL,
    USUAL_SIGN,
    DeepLinearNetwork,
    SignLabels,
    centred_difference,
    count_kept,
    rotations,
    verify_even_labels,
    verify_gaussian_difference,
)
from theory.routes import montecarlo
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_most, check, equal, worst


@check("Equation 7", Route.EXACT, expected=Status.REFUTED)
def weights_as_printed(context: Context, *, last=lambda k, d: d) -> Verdict:
    """as printed: the k-layer network has weights W_1, ..., W_d; k = 3, d = 2, counting those that y^ reacts to"""
    return _used_weights(context, last)


@check("Equation 7", Route.EXACT)
def weights(context: Context, *, last=lambda k, d: k) -> Verdict:
    """corrected: the k-layer network has weights W_1, ..., W_k; counted at k = 3, d = 2"""
    return _used_weights(context, last)


def _used_weights(context: Context, last: Callable[[int, int], int]) -> Verdict:
    network, x = ROTATIONS, context.rng.standard_normal((8, 2))
    before = network.predictions(x)[-1]
    used = 0
    for i in range(network.k):
        shifted = network.weights.copy()
        shifted[i] += 0.1
        used += int(np.any(DeepLinearNetwork(shifted, network.theta).predictions(x)[-1] != before))
    return equal(used, last(network.k, network.d), where=f"k = {network.k}, d = {network.d}")


@check("Equation 8", Route.EXACT)
def split_product(context: Context, *, later=DeepLinearNetwork.B) -> Verdicts:
    """B_j A_j is the same product W_k ... W_1 = A_k for every j, in 3 networks"""
    for network in (ROTATIONS, RESIDUAL, USUAL):
        whole = np.linalg.multi_dot(list(network.weights[::-1]))
        yield from [equal(later(network, j) @ network.A(j), whole) for j in range(1, network.k + 1)]


@check("Equation 9", Route.EXACT)
def early_prediction(context: Context, *, earlier=DeepLinearNetwork.A) -> Verdicts:
    """y^_j = sig(theta' A_j x) at every exit of 3 networks, 500 samples each"""
    for network in (ROTATIONS, RESIDUAL, USUAL):
        x = context.rng.standard_normal((500, network.d))
        for j in range(1, network.k + 1):
            z = x @ earlier(network, j).T @ network.theta
            yield equal(network.predictions(x)[j - 1], 1 / (1 + np.exp(network.sign * z)), where=f"j = {j}")


@check("Equation 10", Route.EXACT)
def final_prediction(context: Context, *, split=lambda network, j: network.B(j) @ network.A(j)) -> Verdicts:
    """y^_k = sig(theta' B_j A_j x) for every j, with A_j and B_j of (8), in 3 networks at 500 samples each"""
    for network in (ROTATIONS, RESIDUAL, USUAL):
        x = context.rng.standard_normal((500, network.d))
        for j in range(1, network.k + 1):
            z = x @ split(network, j).T @ network.theta
            yield equal(network.predictions(x)[-1], special.expit(-network.sign * z), where=f"j = {j}")


@check("Equation 11", Route.EXACT)
def cross_entropy(context: Context, *, losses=DeepLinearNetwork.losses) -> Verdicts:
    """the losses as computed are -y log y^_j - (1-y) log(1-y^_j) as printed, at every exit of 3 networks,
    500 samples
    """
    for network in (ROTATIONS, RESIDUAL, USUAL):
        x = context.rng.standard_normal((500, network.d))
        y = context.rng.integers(2, size=500)
        p = 1 / (1 + np.exp(network.sign * np.array([x @ a for a in network.directions()])))
        yield equal(losses(network, x, y), -y * np.log(p) - (1 - y) * np.log(1 - p))


@check("Section 3", Route.EXACT)
def sign_of_sigmoid(context: Context, *, candidates=2) -> Verdict:
    """whether the argmax of two samples is kept does not depend on the sigmoid's sign,
    pair by pair (60,000 decisions)
    """
    x, y = SPACE.draw(context.rng, (20_000, candidates))
    printed = DeepLinearNetwork(RESIDUAL.weights, RESIDUAL.theta, PRINTED_SIGN).keeps_argmax(x, y)
    usual = DeepLinearNetwork(RESIDUAL.weights, RESIDUAL.theta, USUAL_SIGN).keeps_argmax(x, y)
    return at_most(np.count_nonzero(printed != usual), 0, where="decisions that differ")


@check("Equation 62", Route.EXACT)
def loss_order_printed_sign(context: Context, *, sign=PRINTED_SIGN) -> Verdict:
    """l^(1) >= l^(2) iff theta' A_j z >= 0, with Section 3's sig(z) = 1/(1+e^z): 4 exits, 20,000 pairs"""
    return _loss_order(context, sign, reverse=False)


@check("Equation 62", Route.EXACT)
def loss_order_usual_sign(context: Context, *, sign=USUAL_SIGN) -> Verdict:
    """with the usual sigmoid 1/(1+e^-z) both sides reverse: l^(1) >= l^(2) iff theta' A_j z <= 0: 4 exits,
    20,000 pairs
    """
    return _loss_order(context, sign, reverse=True)


def _loss_order(context: Context, sign: int, *, reverse: bool) -> Verdict:
    network = DeepLinearNetwork(RESIDUAL.weights, RESIDUAL.theta, sign)
    x, y = SPACE.draw(context.rng, (20_000, 2))
    losses = network.losses(x, y)
    along = network.directions() @ centred_difference(x, y).T
    wrong = (losses[..., 0] >= losses[..., 1]) != (along <= 0 if reverse else along >= 0)
    return at_most(np.count_nonzero(wrong), 0, where="comparisons that disagree")


@check("Equation 12", Route.EXACT)
def last_exit(context: Context, *, layer=-1) -> Verdict:
    """p_k = 1: the last layer keeps its own argmax in each of 20,000 pairs, in 3 networks"""
    verdicts = []
    for network, data in ((ROTATIONS, PLANE), (RESIDUAL, SPACE), (USUAL, SPACE)):
        verdicts.append(equal(count_kept(network, data, context.rng, n=20_000)[layer], 20_000))
    return worst(*verdicts, equal(network.beta(network.k), 1.0), equal(early_exit.agreement(1.0), 1.0))


@check("Assumption 6.1", Route.MONTE_CARLO)
def even_labels(context: Context, *, data=SPACE) -> Verdict:
    """u ~ N(m, I), y = 1[|u| > c], x = ybar u satisfies it, along 4 axes and 8 exits of 2 networks (DKW)"""
    directions = np.concatenate([np.eye(5)[:4], RESIDUAL.directions(), USUAL.directions()])
    return verify_gaussian_difference(
        data, context.rng, directions=directions, alpha=context.alpha, pairs=montecarlo.sample_size(0.02, context.alpha)
    )


@check("Assumption 6.1", Route.EXACT)
def labels_are_even(context: Context, *, data=SPACE) -> Verdict:
    """its consequence y(-x) = y(x) holds for y = 1[|x| > c], at 10,000 samples"""
    return verify_even_labels(data, context.rng)


@check("Assumption 6.1", Route.MONTE_CARLO, expected=Status.ASSUMPTION_VIOLATED)
def sign_labels(context: Context, *, data=None) -> Verdict:
    """x Gaussian with y = 1[theta' x > 0] satisfies it, along the exits of a network (DKW)"""
    data = SignLabels(RESIDUAL.theta) if data is None else data
    return verify_gaussian_difference(data, context.rng, directions=RESIDUAL.directions(), alpha=context.alpha)


@check("Assumption 6.1", Route.EXACT, expected=Status.ASSUMPTION_VIOLATED)
def sign_labels_are_even(context: Context, *, data=None) -> Verdict:
    """the consequence y(-x) = y(x) holds for y = 1[theta' x > 0]"""
    return verify_even_labels(SignLabels(RESIDUAL.theta) if data is None else data, context.rng)


@check("Assumption 6.1", Route.MONTE_CARLO)
def sign_labels_break_theorem(context: Context, *, data=None) -> Verdict:
    """Theorem 6.2 needs it: with x Gaussian, y = 1[theta' x > 0], p_1 falls short of the formula by over .05"""
    network = rotations([0.0, 1.0])
    data = SignLabels(network.theta) if data is None else data
    n = montecarlo.sample_size(0.01, context.alpha)
    kept = count_kept(network, data, context.rng, n=n)[0]
    return montecarlo.probability_at_most(kept, n, early_exit.agreement(network.beta(1)) - 0.05, context.alpha)
