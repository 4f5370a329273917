"""Beyond Section 8: GSGD without convexity, on exact trees of one-dimensional losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.formulas import noise, noise_laws, nonconvex
from theory.problems.known import KnownProblem
from theory.problems.nonconvex import SHAPES, WAVE, Envelope, random_nonconvex
from theory.routes import exact
from theory.verdict import Context, Route, Status, Verdict, at_least, at_most, check, worst

# What the minimisation on the grid leaves of the envelope and its gradient.
GRID = 1e-5


def _envelope(known: KnownProblem, law: exact.Law) -> Envelope:
    return Envelope(lambda w: law.expected_loss(known.atom_losses(w)))


def _least_gradient(known: KnownProblem, law: exact.Law, envelope: Envelope, eta: float, K: int) -> float:
    """min over k < K of E|grad env(w_k)|^2, by enumeration."""
    tree = exact.walk(known, law, eta=eta, K=K)
    levels = zip(tree.probabilities, tree.points, strict=True)
    return min(float(p @ envelope(w[:, 0])[1]) for p, w in levels)


@check(
    "Beyond 8",
    "min E|grad env(w_k)|^2 <= bound: 3 losses, 12 problems each, R = 1, 2, 3, K = 1 to 6, default and 3 other steps",
    Route.NUMERICAL,
)
def stationarity(context: Context, *, bound=nonconvex.stationarity_bound) -> Verdict:
    verdicts = []
    for shape in SHAPES:
        for index in range(12):
            known = random_nonconvex(context.rng, shape, 2 + index % 2)
            law = exact.greedy(known.problem.n, 1 + index % 3)
            envelope = _envelope(known, law)
            start = float(law.expected_loss(known.atom_losses(known.start[None]))[0])
            for K, eta in ((1, None), (6, None), (6, 0.1), (6, 0.5), (4, 1.0)):
                value = _least_gradient(known, law, envelope, eta or 1 / np.sqrt(3 * K), K)
                limit = bound(K, L=1.0, F_R0=start, eta=eta)
                verdicts.append(at_most(value, limit, where=f"{shape.name}, K = {K}, eta = {eta}", rounding=GRID))
    return worst(*verdicts)


def _step(context: Context, growth: float, descent: float, sigma: float = 0.0) -> Verdict:
    verdicts = []
    for shape in SHAPES:
        for index in range(10):
            known = random_nonconvex(context.rng, shape, 3)
            law = exact.greedy(3, 1 + index % 3)
            taken = exact.noisy(3, 2, sigma, noise_laws.rademacher) if sigma else law
            if sigma:
                law = exact.greedy(3, 2)
            envelope, p = _envelope(known, law), noise.p_R(sigma, 2)
            w = context.rng.uniform(-4, 4, 40)
            before, gradient = envelope(w)
            shares = taken.probabilities(known.atom_losses(w[:, None]))
            for h in (0.05, 0.3, 1.0, 1.9):
                moved = w[:, None] - h * known.atom_gradients(w[:, None])[..., 0]
                after = np.sum(shares * envelope(moved.ravel())[0].reshape(moved.shape), axis=1)
                M = 1 + growth * h**2 + 3 * h * (1 - p)
                limit = M * before - descent * h * gradient
                verdicts.append(at_most(after, limit, where={"loss": shape.name, "h": h, "w": w}, rounding=GRID))
    return worst(*verdicts)


@check(
    "Beyond 8",
    "one step: E env(w') <= (1 + 3 h^2) env(w) - (eta/2)|grad env(w)|^2, 3 losses, 10 problems, 40 w, h = .05 to 1.9",
    Route.NUMERICAL,
)
def one_step(context: Context, *, growth: float = 3.0, descent: float = 0.5) -> Verdict:
    return _step(context, growth, descent)


@check(
    "Beyond 8",
    "noisy losses (zeta = +-1, sigma = .5, R = 2): one step with 3 h (1 - p_2) more, the same problems",
    Route.NUMERICAL,
)
def one_noisy_step(context: Context, *, growth: float = 3.0, descent: float = 0.5) -> Verdict:
    return _step(context, growth, descent, sigma=0.5)


@check(
    "Beyond 8",
    "control: it speaks of F^_R only: where F^_8 of three waves is least, F is stationary (|F'| <= .01)",
    Route.NUMERICAL,
    expected=Status.REFUTED,
)
def objective_is_not_stationary(context: Context, *, R: int = 8) -> Verdict:
    known = random_nonconvex(np.random.default_rng(3), WAVE, 3)
    law = exact.greedy(3, R)
    u = np.linspace(-6, 6, 12_001)[:, None]
    F_hat = law.expected_loss(known.atom_losses(u))
    at = u[np.argmin(F_hat)]
    slope: Any = known.atom_gradients(at)[..., 0].mean(axis=-1)
    return at_most(abs(float(slope)), 0.01, where=f"the minimiser of F^_{R}")


QUASAR = 0.45
"""w f'(w) >= QUASAR f(w) for f = w^2 + 3 sin^2 w, which is not convex: checked at 20,001 points of [-20, 20]; beyond
those 2 w^2 - 3 |w| exceeds it."""


def _quasar_losses(scale: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses and slopes of a_i (w^2 + 3 sin^2 w), w (m,): two arrays (m, n). L = 8 max a."""
    w = w[:, None]
    return scale * (w**2 + 3 * np.sin(w) ** 2), scale * (2 * w + 3 * np.sin(2 * w))


@check(
    "Beyond 8",
    "quasar-convex: mean of E F(w_k) <= bound for a (w^2 + 3 sin^2 w), from w_0 = 3, R = 1, 2, K = 2 to 8, 3 rates",
    Route.EXACT,
)
def quasar(context: Context, *, bound=nonconvex.quasar_bound, gamma: float = QUASAR) -> Verdict:
    scale = np.array([1.0, 0.4, 0.1]) / 8
    grid = np.linspace(-20, 20, 20_001)
    losses, slopes = _quasar_losses(scale, grid)
    verdicts = [at_least(grid[:, None] * slopes, gamma * losses, where={"w": grid[:, None]})]
    for R in (1, 2):
        law = exact.greedy(3, R)
        for h in (0.05, 0.2, 0.4):
            w, probability, means, rho = np.array([3.0]), np.ones(1), [], np.inf
            for _ in range(8):
                losses, slopes = _quasar_losses(scale, w)
                means.append(float(probability @ losses.mean(axis=1)))
                rho = min(rho, float(np.min(law.expected_loss(losses) / losses.mean(axis=1))))
                probability = (probability[:, None] * law.probabilities(losses)).ravel()
                w = (w[:, None] - h * slopes).ravel()
            k = np.arange(2, 9)
            # Float64 may leave a rho of 1 an ulp short of it.
            limit = bound(k, eta=h, L=1.0, gamma=gamma, D0=3.0, rho=max(rho, 1.0), Delta=0.0)
            verdicts.append(at_most(np.cumsum(means)[1:] / k, limit, where={"K": k, "eta L": h}))
    return worst(*verdicts)
