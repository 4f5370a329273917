"""Checks of the proof of Theorem 5.18, Equations 50 to 57, one per step."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import special

from theory.checks.gaussian import DRAWS, GRID, RATIOS, exact_grid, linear_model
from theory.formulas import rho
from theory.routes.montecarlo import distribution_equals, sample_size
from theory.verdict import Context, Route, Status, Verdict, at_least, check


@check("Equation 50", Route.MONTE_CARLO)
def distribution_of_the_largest(context: Context, *, power: float = 5) -> Verdict:
    """P(max over 5 draws of Z_i - eps <= t) = Phi(t / delta)^5 for all t, in the linear model, sampled"""
    problem, w = linear_model(0.7)
    eps, delta = float(problem.eps(w)), float(problem.delta(w))
    errors = problem.errors(w, problem.draw(context.rng, (sample_size(0.01, context.alpha), 5)))
    return distribution_equals(errors.max(axis=-1) - eps, lambda t: special.ndtr(t / delta) ** power, context.alpha)


@check("Equation 56", Route.QUADRATURE)
def second_moment_bound(context: Context, *, nu=rho.nu) -> Verdict:
    """E max Z_i^2 >= (eps + nu delta)^2 (1 - 1/R), R = 9..10^6, eps/delta = -300..300, also where eps + nu delta < 0"""
    # Per unit of F, which reaches 9e4, so that rounding has one size all over the grid.
    F = RATIOS**2 + 1
    return at_least(exact_grid(), (RATIOS + nu(DRAWS)) ** 2 * (1 - 1 / DRAWS) / F, where=GRID)


@check("Equation 56", Route.QUADRATURE, expected=Status.REFUTED)
def step_for_negative_level(context: Context, *, eps: float = -10.0) -> Verdict:
    """its unprinted middle step E (max Z_i)^2 >= a^2 (1 - 1/R) holds for a = eps + nu delta < 0, too"""
    R = 1024
    first, second = (moment.item() for moment in largest_normal(np.array([R])))
    level = eps + rho.nu(R)
    where = f"eps = {eps:g}, delta = 1, R = {R}, where a = {level:.4g}"
    return at_least(eps**2 + 2 * eps * first + second, level**2 * (1 - 1 / R), where=where)


@check("Equation 56", Route.QUADRATURE)
def step_for_positive_level(context: Context, *, nu=rho.nu) -> Verdict:
    """E (max Z_i)^2 >= (eps + nu delta)^2 (1 - 1/R) wherever eps + nu delta >= 0, R = 9..10^6, eps/delta = -300..300"""
    first, second = largest_normal(DRAWS)
    level = RATIOS + nu(DRAWS)
    value = (RATIOS**2 + 2 * RATIOS * first + second) / (RATIOS**2 + 1)
    bound = level**2 * (1 - 1 / DRAWS) / (RATIOS**2 + 1)
    # Where the level is negative nothing is claimed.
    return at_least(value, np.where(level >= 0, bound, -np.inf), where=GRID)


@check("Equation 57", Route.QUADRATURE)
def unnormalised(context: Context, *, factor: float = 1.0) -> Verdict:
    """F^_R >= (eps^2 + nu^2 delta^2 + 2 nu eps delta) (1 - 1/R) at 21 eps/delta, R = 9..10^6, delta = 10^-3, 1, 10^3"""
    delta = np.array([1e-3, 1.0, 1e3])[:, None, None]
    ratios = RATIOS[::4]
    eps = ratios * delta
    level = np.log(DRAWS / (4 * np.log(DRAWS)))
    bound = (eps**2 + np.pi / 2 * level * delta**2 + np.sqrt(2 * np.pi * level) * eps * delta) * (1 - 1 / DRAWS)
    F = eps**2 + delta**2
    # Compared as multiples of F, so that the three scales weigh the same.
    value = rho.gaussian_rho(eps, delta, DRAWS) * F
    return at_least(value / F, factor * bound / F, where={"delta": delta, "eps / delta": ratios, "R": DRAWS})


@cache
def _normal_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [-10, 16], 52 panels of 20."""
    x, w = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(-10, 16, 53)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + x)).ravel(), (half * w).ravel()


def largest_normal(R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and second moment of the largest of R standard normals, by quadrature of its density R phi Phi^(R-1)."""
    y, weight = _normal_nodes()
    phi = np.exp(-(y**2) / 2) / np.sqrt(2 * np.pi)
    density = R[:, None] * phi * np.exp((R[:, None] - 1) * special.log_ndtr(y))
    return density @ (weight * y), density @ (weight * y**2)
