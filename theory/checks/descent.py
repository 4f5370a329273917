"""The steps of Theorem 5.7's proof, Eqs. (17) to (26), on every point that enumeration reaches.

w* runs over the vertices of Phi_F; expectations over the choice are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from theory.checks.convergence import RATES
from theory.formulas import convergence
from theory.formulas.rho import expected_max, rho
from theory.problems import convex
from theory.problems.known import KnownProblem
from theory.routes import exact
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_least, at_most, check, equal

R = 2


@dataclass(frozen=True)
class _Step:
    """One step of GSGD from m reached points: shapes (m,), (m, n), (m, n, d); `star` is one minimiser (d,)."""

    known: KnownProblem
    eta: float
    star: np.ndarray
    w: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray
    gradients: np.ndarray

    @property
    def F_hat(self) -> np.ndarray:
        return np.sum(self.probabilities * self.losses, axis=-1)

    @property
    def mean_gradient(self) -> np.ndarray:
        return np.einsum("mn,mnd->md", self.probabilities, self.gradients)

    @property
    def square_gradient(self) -> np.ndarray:
        return np.sum(self.probabilities * np.sum(self.gradients**2, axis=-1), axis=-1)

    @property
    def before(self) -> np.ndarray:
        return np.sum((self.w - self.star) ** 2, axis=-1)

    @property
    def after(self) -> np.ndarray:
        moved = self.w[:, None, :] - self.eta * self.gradients
        return np.sum(self.probabilities * np.sum((moved - self.star) ** 2, axis=-1), axis=-1)

    @property
    def where(self) -> dict[str, object]:
        return {
            "problem": self.known.name,
            "w": np.fromiter(self.w, object, count=len(self.w)),
            "eta L": self.eta * self.known.L,
        }


def _steps(problems: list[KnownProblem] | None = None) -> Iterator[_Step]:
    for known in problems or convex.compact_problems():
        law = exact.greedy(known.problem.n, R)
        for rate in RATES:
            eta = rate / known.L
            tree = exact.walk(known, law, eta=eta, K=exact.affordable_steps(known, law, leaves=300, most=6))
            w = np.unique(np.round(np.concatenate(tree.points), 12), axis=0)
            losses = known.atom_losses(w)
            for star in known.minimisers.vertices:
                yield _Step(known, eta, star, w, law.probabilities(losses), losses, known.atom_gradients(w))


@check("Equation 17", Route.EXACT)
def expansion(context: Context, *, cross: float = 2.0) -> Verdicts:
    """the expansion of E|w' - w*|^2 holds at every reached point of 9 instances"""
    for s in _steps():
        yield equal(
            s.after,
            s.before - cross * s.eta * np.sum(s.mean_gradient * (s.w - s.star), axis=-1) + s.eta**2 * s.square_gradient,
            where=s.where,
            tolerance=1e-10,
        )


@check("Equation 18", Route.NUMERICAL)
def mean_gradient_is_the_gradient(context: Context, *, scale: float = 1.0) -> Verdicts:
    """off ties, E grad f(w, x^) is the gradient of F^_2 (central differences, 3 problems)"""
    # Problems without repeated atoms and without flat parts, where ties are the exception.
    for known in (convex.compact_problems()[index] for index in (0, 2, 3)):
        w = known.start + context.rng.standard_normal((50, known.problem.dim))
        losses = np.sort(known.atom_losses(w), axis=-1)
        w = w[np.min(np.diff(losses, axis=-1), axis=-1) > 1e-3]
        h = 1e-5
        probabilities = exact.greedy_probabilities(known.atom_losses(w), R)
        mean = np.einsum("mn,mnd->md", probabilities, known.atom_gradients(w))
        for axis, unit in enumerate(np.eye(known.problem.dim)):
            up, down = (expected_max(known.atom_losses(w + side * h * unit), R) for side in (1, -1))
            yield equal(scale * mean[:, axis], (up - down) / (2 * h), where=known.name, tolerance=1e-4)


@check("Equation 18", Route.NUMERICAL, expected=Status.REFUTED)
def differentiable_at_ties(context: Context, *, at: float = 1.0) -> Verdict:
    """as printed: F^_R is differentiable everywhere (at w = 1 of w^2/2 and (w-2)^2/2 its slopes are -1/2 and 1/2)"""
    known, h = convex.witness_quadratics(), 1e-6
    left, middle, right = (float(expected_max(known.atom_losses(np.array([at + side * h])), R)) for side in (-1, 0, 1))
    return equal((middle - left) / h, (right - middle) / h, where=f"w = {at}", tolerance=1e-4)


@check("Equation 18", Route.EXACT)
def mean_gradient_is_a_subgradient(context: Context, *, strength: float = 0.0) -> Verdicts:
    """mended: E grad f(w, x^) is a subgradient of F^_2, ties included"""
    for s in _steps():
        v = s.w + context.rng.standard_normal(s.w.shape)
        linear = s.F_hat + np.sum(s.mean_gradient * (v - s.w), axis=-1)
        # `strength` > 0 would claim strong convexity, which a general convex loss does not have.
        linear = linear + strength * np.sum((v - s.w) ** 2, axis=-1)
        yield at_least(expected_max(s.known.atom_losses(v), R), linear, where=s.where)


@check("Equation 19", Route.EXACT)
def convexity_step(context: Context, *, share: float = 1.0) -> Verdicts:
    """<E grad f(w, x^), w - w*> >= F^_R(w) - Delta_R at every reached point"""
    for s in _steps():
        yield at_least(
            np.sum(s.mean_gradient * (s.w - s.star), axis=-1),
            s.F_hat - share * s.known.Delta(R),
            where=s.where,
        )


@check("Equation 20", Route.EXACT)
def smoothness_step(context: Context, *, factor: float = 2.0) -> Verdicts:
    """E|grad f(w, x^)|^2 <= 2 L F^_R(w) at every reached point"""
    for s in _steps():
        yield at_most(s.square_gradient, factor * s.known.L * s.F_hat, where=s.where)


def _one_step(s: _Step, coefficient: float) -> np.ndarray:
    contraction = coefficient * s.eta * (1 - s.eta * s.known.L) * s.F_hat
    return s.before - contraction + 2 * s.eta * s.known.Delta(R)


@check("Equation 21", Route.EXACT, expected=Status.REFUTED)
def one_step_equality(context: Context, *, right_side=_one_step) -> Verdicts:
    """as printed: an equality, on what GSGD reaches from w = 3 with w^2/2 and (w-2)^2/2"""
    for s in _steps([convex.witness_quadratics()]):
        yield equal(s.after, right_side(s, 2.0), where=s.where)


@check("Equation 21", Route.EXACT)
def one_step_inequality(context: Context, *, coefficient: float = 2.0) -> Verdicts:
    """as an inequality: E|w' - w*|^2 <= |w - w*|^2 - 2 eta (1 - eta L) F^_R + 2 eta Delta_R"""
    for s in _steps():
        yield at_most(s.after, _one_step(s, coefficient), where=s.where)


RHO_STAR = 4 / 3
"""rho*_2 of the smoothed ReLU pair: the infimum off Phi_F = [-1, 1] is approached at |w| = 1."""


@check("Equation 22", Route.NUMERICAL)
def relu_pair_rho(context: Context, *, expected: float = RHO_STAR) -> Verdicts:
    """rho*_2 of the smoothed ReLU pair is 4/3 = Delta_2/F*"""
    known = convex.smoothed_relu_pair(start=3.0)
    w = 1 + np.geomspace(1e-9, 1e6, 4001)[:, None]
    seen = float(np.min(rho(known.atom_losses(w), R)))
    yield equal(seen, expected, tolerance=1e-8)
    yield equal(known.Delta(R) / known.F_star, expected)


@check("Equation 22", Route.CLOSED_FORM, expected=Status.REFUTED)
def rho_inside_the_minimisers(context: Context, *, w: float = 0.0) -> Verdict:
    """as printed: F^_R(w_k) >= rho* F(w_k) at iterates inside Phi_F (smoothed ReLU pair, w = 0: 3/2 < 2)"""
    losses = convex.smoothed_relu_pair(start=3.0).atom_losses(np.array([w]))
    return at_least(expected_max(losses, R), RHO_STAR * losses.mean(), where=f"w = {w}")


def _distances_after(known: KnownProblem, w: np.ndarray) -> Iterator[tuple[float, float, np.ndarray]]:
    """(eta L, eta, E dist(w', Phi_F)^2 after one step from every w), at each rate."""
    probabilities = exact.greedy_probabilities(known.atom_losses(w), R)
    for rate in RATES:
        moved = w[:, None, :] - rate / known.L * known.atom_gradients(w)
        yield rate, rate / known.L, np.sum(probabilities * known.minimisers.distance(moved) ** 2, axis=-1)


@check("Equation 22", Route.EXACT)
def distance_potential(context: Context, *, coefficient: float = 2.0) -> Verdicts:
    """mended: with the potential dist^2(w, Phi_F) the step holds on [-4, 4], smoothed ReLU pair"""
    known = convex.smoothed_relu_pair(start=3.0)
    w = np.concatenate([np.linspace(-4, 4, 801), [-1.0, 1.0]])[:, None]
    for rate, eta, after in _distances_after(known, w):
        drop = coefficient * RHO_STAR * eta * (1 - eta * known.L) * known.problem.objective(w)
        limit = known.minimisers.distance(w) ** 2 - drop + 2 * eta * known.Delta(R)
        yield at_most(after, limit, where={"w": w[:, 0], "eta L": rate})


@check("Equation 22", Route.EXACT)
def leaving_the_minimisers(context: Context, *, factor: float = 2.0) -> Verdicts:
    """mended: inside Phi_F, E dist^2 of the next iterate <= 2 eta^2 L F^_R, smoothed ReLU pair"""
    known = convex.smoothed_relu_pair(start=0.5)
    w = np.linspace(-1, 1, 401)[:, None]
    for rate, eta, after in _distances_after(known, w):
        middle = factor * eta**2 * known.L * expected_max(known.atom_losses(w), R)
        yield at_most(after, middle, where={"w": w[:, 0], "eta L": rate})


@check("Equation 22", Route.EXACT)
def largest_inside_the_minimisers(context: Context, *, share: float = 1.0) -> Verdict:
    """mended: inside Phi_F, F^_R <= Delta_R, smoothed ReLU pair"""
    known = convex.smoothed_relu_pair(start=0.5)
    w = np.linspace(-1, 1, 401)[:, None]
    return at_most(expected_max(known.atom_losses(w), R), share * known.Delta(R), where={"w": w[:, 0]})


@check("Equation 23", Route.EXACT)
def rearranged(context: Context, *, share: float = 1.0) -> Verdicts:
    """F(w) <= (|w - w*|^2 - E|w' - w*|^2)/(2 rho eta (1 - eta L)) + Delta/(rho (1 - eta L)) off Phi_F, rho at each w"""
    for s in _steps():
        off = s.known.minimisers.distance(s.w) > 1e-12
        if not off.any():
            continue
        rate = 1 - s.eta * s.known.L
        F = s.losses.mean(axis=-1)
        limit = (s.before - s.after) / (2 * s.eta * rate) + s.known.Delta(R) / rate
        # Both sides times rho(w), which is F^_R / F: the largest rho for which the step may claim it.
        where = {name: np.broadcast_to(np.asarray(item, object), off.shape)[off] for name, item in s.where.items()}
        yield at_most(s.F_hat[off] / F[off], share * limit[off] / F[off], where=where)


@check("Equation 24", Route.CLOSED_FORM, expected=Status.REFUTED)
def dividing_by_one_over_K(context: Context, *, divisor: float = 1 / 5) -> Verdict:
    """as printed: dividing the sum over k by 1/K gives the mean (K = 5)"""
    terms = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    return equal(terms.sum() / divisor, terms.mean())


@check("Equation 24", Route.EXACT)
def mean_of_objectives(context: Context, *, bound=convergence.gsgd_bound) -> Verdicts:
    """mean over k of E F(w_k) <= bound, K = 1 up to 6..12, 9 instances"""
    for known in convex.compact_problems():
        law = exact.greedy(known.problem.n, R)
        K = exact.affordable_steps(known, law)
        k = np.arange(1, K + 1)
        for rate in RATES:
            tree = exact.walk(known, law, eta=rate / known.L, K=K)
            Delta = known.Delta(R)
            rho_seen = exact.rho_over(known, law, tree.points, Delta)
            limit = bound(k, eta=rate / known.L, L=known.L, D0=known.D0, rho=rho_seen, Delta=Delta)
            yield at_most(np.cumsum(tree.objectives) / k, limit, where={"problem": known.name, "K": k})


@check("Equation 26", Route.CLOSED_FORM)
def nearest_minimiser(context: Context, *, share: float = 1.0) -> Verdict:
    """of all w* of (25) the nearest gives the least: D0 in place of |w_0 - w*|, 101 w* of Phi_F = [-1, 1], w_0 = 3"""
    known = convex.smoothed_relu_pair(start=3.0)
    distances = np.abs(known.start - np.linspace(-1, 1, 101))
    q = {"eta": 0.5, "L": 1.0, "rho": RHO_STAR, "Delta": known.Delta(R)}
    each = convergence.gsgd_bound(10, D0=distances, **q)
    return equal(each.min(), share * convergence.gsgd_bound(10, D0=known.D0, **q))


@check("Equation 25", Route.EXACT)
def jensen(context: Context, *, share: float = 1.0) -> Verdicts:
    """Jensen: E F(average) <= mean of E F(w_k), K = 1 up to 6..12, 9 instances"""
    for known in convex.compact_problems():
        law = exact.greedy(known.problem.n, R)
        K = exact.affordable_steps(known, law)
        tree = exact.walk(known, law, eta=0.5 / known.L, K=K)
        means = np.cumsum(tree.objectives) / np.arange(1, K + 1)
        yield at_most(tree.averages, share * means, where={"problem": known.name, "K": np.arange(1, K + 1)})
