"""Beyond 5.6 and 5.19: the most that selection can gain, from one batch of losses, and exactly in one model."""

from __future__ import annotations

import numpy as np
from scipy import special

from theory.checks.gaussian import linear_model
from theory.checks.rho import loss_vectors
from theory.formulas import rho
from theory.verdict import Context, Route, Verdict, Verdicts, at_least, at_most, check, equal

DRAWS = np.array([1, 2, 3, 5, 10, 100, 10_000])


def variation(losses: np.ndarray) -> np.ndarray:
    """Standard deviation over mean along the last axis."""
    return np.std(losses, axis=-1) / np.mean(losses, axis=-1)


@check("Beyond 5.6", Route.EXACT)
def draws_ceiling(context: Context, *, ceiling=rho.rho_ceiling) -> Verdicts:
    """rho_R <= 1 + CV (R - 1)/sqrt(2R - 1), R = 1..10,000, on 130 random loss vectors, n <= 200"""
    for losses in loss_vectors(context.rng):
        for R in DRAWS:
            yield at_most(
                rho.rho(losses, int(R)), ceiling(variation(losses), R), where=f"n = {losses.shape[1]}, R = {R}"
            )


@check("Beyond 5.6", Route.EXACT)
def draws_ceiling_attained(context: Context, *, ceiling=rho.rho_ceiling) -> Verdict:
    """it is attained: losses with quantiles 1 + c u^(R-1), n = 100,000, within 0.1%, R = 2..30"""
    values, R = [], np.array([2, 3, 5, 10, 30])
    for r in R:
        losses = 1 + 3 * ((np.arange(100_000) + 0.5) / 100_000) ** (r - 1)
        values.append((rho.rho(losses, int(r)) - 1) / (ceiling(variation(losses), r) - 1))
    return equal(values, 1.0, where={"R": R}, tolerance=1e-3)


@check("Beyond 5.6", Route.EXACT)
def top_k_ceiling(context: Context, *, ceiling=rho.rho_top_k_ceiling) -> Verdicts:
    """rho_{B,k} <= 1 + CV sqrt((B - k)/k): 130 random loss vectors, B = 2..1000, k = 1, B/4, B/2, B - 1"""
    # Of losses 1 and 2 the better half of a large batch is nearly all 2, which the ceiling allows.
    for losses in [*loss_vectors(context.rng), np.array([[1.0, 2.0]])]:
        for B in (2, 3, 8, 64, 1000):
            for k in sorted({1, max(1, B // 4), B // 2, B - 1}):
                limit = ceiling(variation(losses), B, k)
                where = f"n = {losses.shape[1]}, B = {B}, k = {k}"
                yield at_most(rho.rho_top_k(losses, B, k), limit, where=where)


@check("Beyond 5.6", Route.EXACT)
def batch_ceiling(context: Context, *, ceiling=rho.rho_top_k_ceiling) -> Verdicts:
    """of one batch: the k largest of B losses are at most 1 + CV sqrt((B - k)/k) times the mean,
    attained by two values
    """
    for losses in loss_vectors(context.rng):
        B = losses.shape[-1]
        for k in sorted({1, max(1, B // 2)}):
            largest = np.sort(losses, axis=-1)[:, -k:].mean(axis=-1) / losses.mean(axis=-1)
            yield at_most(largest, ceiling(variation(losses), B, k), where=f"B = {B}, k = {k}")
            two = np.where(np.arange(B) < k, 2.0, 1.0)
            yield equal(2.0 / two.mean(), ceiling(variation(two), B, k), where=f"two values, B = {B}")


@check("Beyond 5.19", Route.QUADRATURE)
def decreasing_in_the_bias(context: Context, *, gaussian_rho=rho.gaussian_rho) -> Verdicts:
    """rho_R, rho_{B,k} and CVaR over the mean decrease in |eps|/delta: 60 steps from 0 to 30, R = 2..1000,
    n = 20,000
    """
    c = np.concatenate([[0.0], np.geomspace(0.01, 30, 60)])
    normal = special.ndtri((np.arange(20_000) + 0.5) / 20_000)
    squares = (c[:, None] + normal) ** 2
    top, tail = rho.rho_top_k(squares, 16, 4), rho.cvar(squares, 0.25) / squares.mean(axis=1)
    curves = [gaussian_rho(c, 1.0, R) for R in (2, 8, 64, 1000)]
    # What 20,000 quantiles in place of the normal law leave, where the curves are flat.
    curves += [top, tail]
    for curve in curves:
        yield at_most(np.diff(curve), 0.0, where={"c": c[1:]}, rounding=1e-7)


@check("Beyond 5.19", Route.NUMERICAL)
def linear_model_infimum(context: Context, *, infimum=rho.linear_gaussian_infimum) -> Verdicts:
    """rho*_R of the linear model: gaussian_rho at |S^{-1/2} m| is the least over 2,000 directions, R = 2, 16, 256"""
    problem, _ = linear_model(0.7)
    best = np.linalg.solve(problem.covariance, problem.mean)
    c = float(np.sqrt(problem.mean @ best))
    away = np.concatenate([context.rng.standard_normal((2000, 3)), [best]])
    ratio = np.abs(problem.eps(problem.w_star + away)) / problem.delta(problem.w_star + away)
    for R in (2, 16, 256):
        value = infimum(c, R)
        seen = rho.gaussian_rho(ratio, 1.0, R)
        yield equal(seen.min() / value, 1.0, where=f"R = {R}")
        yield at_least(value, 1.1, where=f"R = {R}")


@check("Beyond 5.19", Route.NUMERICAL)
def derivative(context: Context, *, factor: float = 2.0) -> Verdict:
    """d/dphi E(Z^2 - a^2)^+ = 2 cos^3 phi (f(a) + f(-a))(tanh y - y), by differences of exact integrals; 20 phi, 8 a"""
    phi, a = np.meshgrid(np.linspace(0.05, 1.3, 20), np.linspace(0.1, 3, 8))

    def excess(phi: np.ndarray) -> np.ndarray:
        m, s = np.sin(phi), np.cos(phi)
        total = np.zeros_like(phi)
        for sign in (1, -1):
            # E[Z^2 - a^2; sign Z > a] for Z ~ N(m, s^2).
            b = (a - sign * m) / s
            density = np.exp(-(b**2) / 2) / np.sqrt(2 * np.pi)
            total += (m**2 + s**2 - a**2) * special.ndtr(-b) + (2 * sign * m * s + b * s**2) * density
        return total

    h = 1e-5
    y = a * np.sin(phi) / np.cos(phi) ** 2
    both = sum(np.exp(-(((z * a - np.sin(phi)) / np.cos(phi)) ** 2) / 2) for z in (1, -1)) / np.sqrt(2 * np.pi)
    expected = factor * np.cos(phi) ** 2 * both * (np.tanh(y) - y)
    return equal((excess(phi + h) - excess(phi - h)) / (2 * h), expected, where={"phi": phi, "a": a}, tolerance=1e-7)
