"""Checks of Theorem 6.2 and Corollary 6.3.

The model and its assumption are checked in `early_exit_model`, the proof's steps in `early_exit_proof`, and what goes
beyond the paper in `early_exit_beyond`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from theory.formulas import early_exit
from theory.problems.linear_network import (
    PLANE,
    RESIDUAL,
    ROTATIONS,
    SPACE,
    USUAL,
    DeepLinearNetwork,
    LabelledData,
    count_kept,
    rotations,
    verify_even_labels,
    verify_gaussian_difference,
)
from theory.routes import montecarlo
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_least, at_most, check, equal, worst

BETAS = np.linspace(0, 1, 2001)
TAUS = np.concatenate([np.geomspace(1e-14, 1e-2, 400, endpoint=False), np.linspace(1e-2, 1, 600)])


@check("Theorem 6.2", Route.CLOSED_FORM)
def half_planes(context: Context, *, formula=early_exit.agreement) -> Verdict:
    """p_j = 1 - a/pi where beta_j = cos a: two half-planes at angle a, at 1,001 a of [0, pi]"""
    angle = np.linspace(0, np.pi, 1001)
    return equal(formula(np.cos(angle)), 1 - angle / np.pi, where={"a": angle})


@check("Theorem 6.2", Route.MONTE_CARLO)
def rotation_network(context: Context, *, formula=early_exit.agreement) -> Verdict:
    """measured p_j of a 3-layer network of rotations is the formula's at beta_1 = .697 and beta_2 = .955"""
    return _measured(context, ROTATIONS, PLANE, formula, detectable=0.005)


@check("Theorem 6.2", Route.MONTE_CARLO)
def residual_network(context: Context, *, formula=early_exit.agreement) -> Verdict:
    """measured p_j of a 4-layer network on R^5 is the formula's at its three early exits"""
    return _measured(context, RESIDUAL, SPACE, formula, detectable=0.007)


@check("Theorem 6.2", Route.MONTE_CARLO)
def usual_sigmoid_network(context: Context, *, formula=early_exit.agreement) -> Verdict:
    """measured p_j of a 4-layer network on R^5 with the usual sigmoid is the formula's at its three early exits"""
    return _measured(context, USUAL, SPACE, formula, detectable=0.007)


def _measured(
    context: Context,
    network: DeepLinearNetwork,
    data: LabelledData,
    formula: Callable[[float], float],
    *,
    detectable: float,
) -> Verdict:
    """Assumption 6.1 first, then every early exit's count against the formula; alpha is split evenly over the tests."""
    alpha = context.alpha / network.k
    verify_even_labels(data, context.rng)
    verify_gaussian_difference(data, context.rng, directions=network.directions(), alpha=alpha)
    n = montecarlo.sample_size(detectable, alpha)
    kept = count_kept(network, data, context.rng, n=n)
    exits = range(1, network.k)
    return worst(*(montecarlo.probability_equals(kept[j - 1], n, formula(network.beta(j)), alpha) for j in exits))


@check("Theorem 6.2", Route.EXACT)
def parallel(context: Context, *, stretch=((2.0, 0.0), (0.0, 2.0))) -> Verdicts:
    """p_j = 1 when beta_j = 1, though the proof needs beta_j < 1: 20,000 pairs with B_1 = 2 I, and the formulas"""
    network = DeepLinearNetwork(np.array([[[0.6, -0.8], [0.8, 0.6]], stretch]), np.array([1.0, -0.3]))
    yield equal(network.beta(1), 1.0)
    yield equal(count_kept(network, PLANE, context.rng, n=20_000)[0], 20_000)
    yield equal(early_exit.agreement(1.0), 1.0)
    yield equal(early_exit.agreement_integral(1.0), 1.0)
    yield equal(early_exit.agreement_bound(1.0), 1.0)


@check("Equation 14", Route.CLOSED_FORM, expected=Status.ASSUMPTION_VIOLATED)
def lower_bound_negative_beta(context: Context, *, angle=np.pi - 1.1, bound=early_exit.agreement_bound) -> Verdict:
    """the bound asked for in a network with beta_1 = -.45, outside beta_j >= 0"""
    beta = rotations([0.2, angle]).beta(1)
    return at_most(bound(beta), early_exit.agreement(beta), where=f"beta = {beta:.4g}")


@check("Equation 14", Route.CLOSED_FORM)
def loose_at_zero(context: Context, *, bound=early_exit.agreement_bound) -> Verdicts:
    """the bound is loose for small beta_j: 0 at beta_j = 0, where p_j = 1/2"""
    yield equal(bound(0.0), 0.0)
    yield equal(early_exit.agreement(0.0), 0.5)


@check("Equation 14", Route.CLOSED_FORM)
def tight_up_to_constants(context: Context, *, bound=early_exit.agreement_bound) -> Verdicts:
    """tight up to a constant: it overstates 1 - p_j by a factor that rises from 2 at 0
    to pi sqrt2 at 1 (2,000 points)
    """
    beta = BETAS[:-1]
    factor = (1 - bound(beta)) / (1 - early_exit.agreement(beta))
    near = 1 - 1e-6  # the limit is approached as 1 - beta
    yield at_least(np.diff(factor), 0, where={"beta": beta[1:]})
    yield equal(factor[0], 2.0, where="beta = 0")
    yield equal((1 - bound(near)) / early_exit.disagreement(1e-6), np.pi * np.sqrt(2), where="1 - 1e-6", tolerance=1e-5)


@check("Corollary 6.3", Route.CLOSED_FORM)
def corollary(context: Context, *, bound=early_exit.corollary_bound) -> Verdict:
    """p_j >= 1 - 2 sqrt(tau) at 1,000 tau of [1e-14, 1]: the O(.) with its constant"""
    return at_most(early_exit.disagreement(TAUS) / (1 - bound(TAUS)), 1.0, where={"tau": TAUS})


@check("Corollary 6.3", Route.CLOSED_FORM)
def corollary_chain(context: Context, *, bound=early_exit.agreement_bound) -> Verdicts:
    """the chain of E.1: (14) at 1 - tau is 1 - sqrt(2 tau (2-tau)/(1 + tau (2-tau))) >= 1 - 2 sqrt(tau), 1,000 tau"""
    middle = np.sqrt(2 * TAUS * (2 - TAUS) / (1 + TAUS * (2 - TAUS)))
    # 1 - tau is rounded to 1e-16, so (14) itself is known to 1e-16 / sqrt(tau) only.
    yield equal(bound(1 - TAUS), 1 - middle, where={"tau": TAUS}, tolerance=1e-8)
    yield at_most(middle / (2 * np.sqrt(TAUS)), 1.0, where={"tau": TAUS})


@check("Corollary 6.3", Route.CLOSED_FORM)
def corollary_order(context: Context, *, power=0.5) -> Verdict:
    """sqrt(tau) is the right order: (1 - p_j)/sqrt(tau) tends to sqrt2/pi = .450, within 1e-8 at tau = 1e-8"""
    tau = 1e-8
    return equal(early_exit.disagreement(tau) / tau**power, np.sqrt(2) / np.pi, where="tau = 1e-8", tolerance=1e-8)


@check("Corollary 6.3", Route.CLOSED_FORM)
def corollary_constant(context: Context, *, bound=early_exit.corollary_bound) -> Verdict:
    """the proof's constant is too large by pi sqrt2 = 4.44 in the limit: bound over truth at tau = 1e-8"""
    tau = 1e-8
    ratio = (1 - bound(tau)) / early_exit.disagreement(tau)
    return equal(ratio, np.pi * np.sqrt(2), where="tau = 1e-8", tolerance=1e-7)
