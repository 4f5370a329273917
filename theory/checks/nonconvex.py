"""Beyond Section 8: GSGD without convexity, on exact trees of one-dimensional losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from theory.formulas import noise_laws, nonconvex
from theory.problems.known import KnownProblem
from theory.problems.nonconvex import BUMP, QUASAR, SHAPES, WAVE, random_nonconvex
from theory.problems.nonconvex import nonconvex as problem
from theory.routes import exact
from theory.routes.envelope import Envelope
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_least, at_most, check, equal


def _least_gradient(known: KnownProblem, law: exact.Law, eta: float, K: int) -> tuple[float, float]:
    """(min over k < K of E|grad env(w_k)|^2, F^(w_0)), by enumeration."""
    tree, envelope = exact.walk(known, law, eta=eta, K=K), Envelope(known, law)
    levels = zip(tree.probabilities, tree.points, strict=True)
    return min(float(p @ envelope(w[:, 0])[1]) for p, w in levels), float(envelope.F_hat(known.start)[0])


@check("Beyond 8", Route.NUMERICAL)
def attained_at_the_start(context: Context, *, bound=nonconvex.stationarity_bound) -> Verdict:
    """K = 1: |grad env(w_0)|^2 = (8/7) L F(w_0) on the bump, of curvature 1 up to 1 and -1 up to 2, at w_0 = 3/2"""
    value, start = _least_gradient(problem(BUMP, [1.0], [0.0], start=1.5), exact.uniform(1), 0.1, 1)
    return equal(value, bound(1, L=1.0, F_R0=start))


@check("Beyond 8", Route.NUMERICAL)
def stationarity_of_the_bump(context: Context, *, bound=nonconvex.stationarity_bound) -> Verdicts:
    """min E|grad env(w_k)|^2 <= bound on the bump, w_0 = 1.5 to 1.7, default step, K = 2, 3, 6"""
    for K in (2, 3, 6):
        for start in np.linspace(1.5, 1.7, 21):
            eta = 1 / np.sqrt(2 * K + 50)
            value, F = _least_gradient(problem(BUMP, [1.0], [0.0], start=float(start)), exact.uniform(1), eta, K)
            yield at_most(value, bound(K, L=1.0, F_R0=F), where=f"K = {K}, w_0 = {start:.2f}")


@check("Beyond 8", Route.NUMERICAL)
def stationarity(context: Context, *, bound=nonconvex.stationarity_bound) -> Verdicts:
    """min E|grad env(w_k)|^2 <= bound: 4 losses, 6 problems each, R = 1, 2, 3, K = 2 to 6, default and 2 other steps"""
    for shape in SHAPES:
        for index in range(6):
            known = random_nonconvex(context.rng, shape, 2 + index % 2)
            law = exact.greedy(known.problem.n, 1 + index % 3)
            for K, eta in ((2, None), (6, None), (6, 0.02), (4, 0.2)):
                value, F = _least_gradient(known, law, eta or 1 / np.sqrt(2 * K + 50), K)
                where = f"{shape.name}, K = {K}, eta = {eta}"
                yield at_most(value, bound(K, L=1.0, F_R0=F, eta=eta), where=where)


def _places(context: Context) -> Iterator[tuple[KnownProblem, int, np.ndarray]]:
    """(problem, R, w): where each coefficient of the step is attained, then 4 losses, 10 problems, 40 w each."""
    yield problem(BUMP, [1.0, 1.0], [-0.5, 0.5], start=0.0), 2, np.zeros(1)
    yield problem(BUMP, [1.0], [0.0], start=1.5), 1, np.array([1.5])
    for shape in SHAPES:
        for index in range(10):
            yield random_nonconvex(context.rng, shape, 3), 1 + index % 3, context.rng.uniform(-4, 4, 40)


def _step(context: Context, growth: float, descent: float, sigma: float = 0.0) -> Verdicts:
    """What the envelope gains is at most `growth` h u env, and what it loses less that at least `descent` h (2 - u)."""
    for known, R, w in _places(context):
        law = exact.greedy(known.problem.n, R)
        taken = exact.noisy(known.problem.n, R, sigma, noise_laws.rademacher) if sigma else law
        envelope = Envelope(known, law)
        before, gradient = envelope(w)
        losses, slopes = known.atom_losses(w[:, None]), known.atom_gradients(w[:, None])[..., 0]
        shares = taken.probabilities(losses)
        p = np.minimum(taken.expected_loss(losses) / law.expected_loss(losses), 1.0)
        for h in (0.001, 0.05, 0.3, 1.0):
            moved = w[:, None] - h * slopes
            gained = np.sum(shares * envelope(moved.ravel())[0].reshape(moved.shape), axis=1) - before
            u = 1 - p * (1 - h)
            loss, most = descent * h * (2 - u) * gradient, growth * h * u * before
            where = {"loss": known.name, "h": h, "w": w}
            yield at_most(gained + loss, most, where=where)
            # Where the gradient is 0, so is what is lost.
            far = gradient > 1e-3
            if far.any():
                yield at_least((most - gained)[far], loss[far], where={"loss": known.name, "h": h})


@check("Beyond 8", Route.NUMERICAL)
def one_step(context: Context, *, growth: float = 2.0, descent: float = 0.25) -> Verdicts:
    """one step: E env(w') <= (1 + 2 h^2) env(w) - (h (2 - h)/4)|grad env(w)|^2: 4 losses, 42 problems, h = .001 to 1"""
    return _step(context, growth, descent)


@check("Beyond 8", Route.NUMERICAL)
def one_noisy_step(context: Context, *, growth: float = 2.0, descent: float = 0.25) -> Verdicts:
    """noisy losses (zeta = +-1, sigma = .5): one step with 1 - p (1 - h) for h, p = F^_approx/F^_R,
    the same problems
    """
    return _step(context, growth, descent, sigma=0.5)


@check("Beyond 8", Route.NUMERICAL, expected=Status.REFUTED)
def objective_is_not_stationary(context: Context, *, R: int = 8) -> Verdict:
    """control: it speaks of F^_R only: where F^_8 of three waves is least, F is stationary (|F'| <= .01)"""
    known = random_nonconvex(np.random.default_rng(3), WAVE, 3)
    law = exact.greedy(3, R)
    u = np.linspace(-6, 6, 12_001)[:, None]
    F_hat = law.expected_loss(known.atom_losses(u))
    at = u[np.argmin(F_hat)]
    slope: Any = known.atom_gradients(at)[..., 0].mean(axis=-1)
    return at_most(abs(float(slope)), 0.01, where=f"the minimiser of F^_{R}")


@check("Beyond 8", Route.NUMERICAL, expected=Status.REFUTED)
def growth_of_the_mean_is_not_enough(context: Context, *, frequency: float = 10.0) -> Verdict:
    """control: F = w^2/2 grows quadratically (PL), the mean of (w^2/2)(1 +- cos(10 log w)): where F^_2' = 0, F' = 0"""
    # The two losses are smooth and not negative, and F* = 0.
    w = np.geomspace(0.1, 10, 20_001)
    turn = frequency * np.log(w)
    signs = np.array([[1.0], [-1.0]])
    losses = (w**2 / 2 * (1 + signs * np.cos(turn))).T
    slopes = (w * (1 + signs * np.cos(turn)) - signs * frequency * w / 2 * np.sin(turn)).T
    slope = np.sum(exact.greedy_probabilities(losses, 2) * slopes, axis=1)
    valleys = w[1:][(slope[:-1] < 0) & (slope[1:] > 0)]
    return at_most(np.append(valleys, 0.0), 0.01, where="a stationary point of F^_2")


GAMMA = 0.45
"""z phi'(z) >= GAMMA phi(z) for phi = z^2 + 3 sin^2 z: checked at 20,001 points of [-20, 20]; beyond those it is
exceeded by 2 z^2 - 3 |z|."""


@check("Beyond 8", Route.EXACT)
def quasar(context: Context, *, bound=nonconvex.quasar_bound, gamma: float = GAMMA) -> Verdicts:
    """quasar-convex: mean of E F(w_k) <= bound for phi = z^2 + 3 sin^2 z, from w_0 = 3, R = 1, 2,
    K = 2 to 8, 3 rates
    """
    z = np.linspace(-20, 20, 20_001)
    yield at_least(z * QUASAR.slope(z, 1.0), gamma * QUASAR.value(z, 1.0), where={"z": z})
    known = problem(QUASAR, np.array([1.0, 0.4, 0.1]) / 8, [0.0] * 3, start=3.0)
    k = np.arange(2, 9)
    for R in (1, 2):
        law = exact.greedy(3, R)
        for h in (0.05, 0.2, 0.4):
            tree = exact.walk(known, law, eta=h, K=8)
            rho = exact.rho_over(known, law, tree.points, 0.0)
            limit = bound(k, eta=h, L=1.0, gamma=gamma, D0=3.0, rho=rho, Delta=0.0)
            yield at_most(np.cumsum(tree.objectives)[1:] / k, limit, where={"K": k, "eta L": h})
