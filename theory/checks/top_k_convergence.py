"""Beyond the paper: Theorem 5.7 for the mean of the k largest of B, the step that SIFT takes."""

from __future__ import annotations

import itertools

import numpy as np

from theory.checks.convergence import enumerate_bounds, selected_mean_by_simulation
from theory.formulas import convergence
from theory.formulas.rho import expected_top_k
from theory.problems import convex
from theory.routes import exact
from theory.verdict import Context, Route, Verdicts, at_least, at_most, check

SHAPES = ((3, 2), (4, 2), (4, 3))
"""(B, k) of the instances."""


@check("Beyond 5.7", Route.EXACT)
def by_enumeration(context: Context, *, bound=convergence.gsgd_bound) -> Verdicts:
    """k of B: E F(average) <= bound, K = 2 up to 3..6: 10 instances, (B, k) = (3, 2), (4, 2), (4, 3), 3 eta"""
    pairs = itertools.product(convex.compact_problems(), SHAPES)
    laws = [(known, exact.top_k(known.problem.n, B, k)) for known, (B, k) in pairs]
    return enumerate_bounds(context, laws, bound, leaves=500)


@check("Beyond 5.7", Route.MONTE_CARLO)
def by_simulation(context: Context, *, bound=convergence.gsgd_bound) -> Verdicts:
    """mean over steps of E F^_{8,4}(w_s) <= rho bound: symmetric quadratics, n = 40, from the minimiser, K = 10, 100"""
    return selected_mean_by_simulation(context, bound, R=8, k=4, marks=(10, 100))


@check("Beyond 5.7", Route.EXACT)
def mean_gradient_bound(context: Context, *, factor: float = 2.0) -> Verdicts:
    """E|mean of k gradients|^2 <= 2 L F^_{B,k} at 200 points of 9 instances, (B, k) = (3, 2), (4, 2)"""
    for known, (B, k) in itertools.product(convex.compact_problems(), SHAPES[:2]):
        w = known.start + 2 * context.rng.standard_normal((200, known.problem.dim))
        law = exact.top_k(known.problem.n, B, k)
        losses = known.atom_losses(w)
        steps = law.weights @ known.atom_gradients(w)
        squares = np.sum(law.probabilities(losses) * np.sum(steps**2, axis=-1), axis=-1)
        limit = factor * known.L * expected_top_k(losses, B, k)
        yield at_most(squares, limit, where=known.name)


@check("Beyond 5.7", Route.EXACT)
def convexity_step(context: Context, *, share: float = 1.0) -> Verdicts:
    """<mean gradient, w - w*> >= F^_{B,k}(w) - Delta_{B,k}, 200 points of 9 instances, (3, 2), (4, 2)"""
    for known, (B, k) in itertools.product(convex.compact_problems(), SHAPES[:2]):
        around = known.start + 2 * context.rng.standard_normal((200, known.problem.dim))
        w = np.concatenate([around, known.minimisers.vertices])
        law = exact.top_k(known.problem.n, B, k)
        losses = known.atom_losses(w)
        mean = np.einsum("mc,mcd->md", law.probabilities(losses), law.weights @ known.atom_gradients(w))
        gap = expected_top_k(losses, B, k) - share * exact.Delta(known, law)
        for star in known.minimisers.vertices:
            yield at_least(np.sum(mean * (w - star), axis=-1), gap, where=known.name)
