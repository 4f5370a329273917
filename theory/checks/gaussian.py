"""Checks of Assumption 5.17, of exact rho_R under it, and of Theorem 5.18.

The steps of its proof are in `gaussian_proof`, Corollary 5.19 in `gaussian_growth`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy import integrate, special

from theory.formulas import rho
from theory.problems.linear_gaussian import LinearGaussian
from theory.routes.montecarlo import distribution_equals, mean_at_least, mean_equals, sample_size
from theory.verdict import (
    AssumptionViolated,
    Context,
    Route,
    Status,
    Verdict,
    Verdicts,
    at_least,
    at_most,
    check,
    equal,
)

# eps / delta in rows, R in columns.
RATIOS = np.concatenate([-np.geomspace(300, 1e-3, 40), [0.0], np.geomspace(1e-3, 300, 40)])[:, None]
DRAWS = np.unique(np.round(np.concatenate([np.arange(9, 41), np.geomspace(41, 1e6, 50)])).astype(int))
GRID = {"eps / delta": RATIOS, "R": DRAWS}


@cache
def exact_grid() -> np.ndarray:
    """Exact rho_R on RATIOS x DRAWS."""
    return rho.gaussian_rho(RATIOS, 1.0, DRAWS)


def linear_model(ratio: float) -> tuple[LinearGaussian, np.ndarray]:
    """A linear-Gaussian model in three dimensions and a w with eps(w) / delta(w) = `ratio`."""
    away = np.array([0.6, -1.0, 0.3])
    covariance = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.5]])
    mean = ratio * np.sqrt(away @ covariance @ away) / (away @ away) * away + np.array([1.0, 0.6, 0.0])
    w_star = np.array([1.0, -2.0, 0.5])
    return LinearGaussian(w_star, mean, covariance), w_star + away


def largest_losses(problem: LinearGaussian, w: np.ndarray, R: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """The largest of R drawn losses, `size` times over, in pieces that fit into memory."""
    pieces = []
    for start in range(0, size, 50_000):
        candidates = problem.draw(rng, (min(50_000, size - start), R))
        pieces.append(problem.losses(w, candidates).max(axis=-1))
    return np.concatenate(pieces)


def loss_cap(problem: LinearGaussian, w: np.ndarray, R: int) -> tuple[float, float]:
    """A cap on the squared errors, 8 deviations out, and a bound on what it takes off E max.

    E(max f - cap)^+ <= R E(f - cap)^+ = R int over z > sqrt(cap) of 2z P(|Z| > z).
    """
    eps, delta = abs(float(problem.eps(w))), float(problem.delta(w))
    edge = eps + 8 * delta

    def tail(z: float) -> float:
        return 2 * z * float(special.ndtr((eps - z) / delta) + special.ndtr((-z - eps) / delta))

    return edge**2, R * integrate.quad(tail, edge, edge + 12 * delta)[0]


# --- Assumption 5.17 ------------------------------------------------------------------------------------------------


def verify_gaussian_error(problem: LinearGaussian, w: np.ndarray, context: Context) -> Verdict:
    """Raise `AssumptionViolated` if prediction errors at w are not drawn from N(eps(w), delta(w)^2)."""
    eps, delta = float(problem.eps(w)), float(problem.delta(w))
    candidates = problem.draw(context.rng, (sample_size(0.01, context.alpha),))
    verdict = distribution_equals(
        problem.errors(w, candidates), lambda z: special.ndtr((z - eps) / delta), context.alpha
    )
    if verdict.status is Status.REFUTED:
        raise AssumptionViolated("Assumption 5.17", f"the prediction error is not Gaussian: {verdict.witness}")
    return verdict


@check("Assumption 5.17", Route.MONTE_CARLO)
def linear_model_is_gaussian(context: Context, *, stretch: float = 1.0) -> Verdict:
    """prediction errors of the linear model with x ~ N(m, S) are N(<w - w*, m>, (w - w*)^T S (w - w*)), sampled"""
    problem, w = linear_model(0.7)
    source = LinearGaussian(problem.w_star, problem.mean, stretch * problem.covariance)
    candidates = source.draw(context.rng, (sample_size(0.01, context.alpha),))
    eps, delta = float(problem.eps(w)), float(problem.delta(w))
    return distribution_equals(problem.errors(w, candidates), lambda z: special.ndtr((z - eps) / delta), context.alpha)


@check("Assumption 5.17", Route.MONTE_CARLO, expected=Status.ASSUMPTION_VIOLATED)
def skewed_features(
    context: Context, *, noise: Callable[..., np.ndarray] = lambda rng, size: rng.standard_exponential(size) - 1
) -> Verdict:
    """the linear model with skewed features of the same mean and covariance has no Gaussian prediction error"""
    problem, w = linear_model(0.7)
    return verify_gaussian_error(LinearGaussian(problem.w_star, problem.mean, problem.covariance, noise), w, context)


@check("Assumption 5.17", Route.EXACT, expected=Status.ASSUMPTION_VIOLATED)
def no_error_at_the_minimum(context: Context, *, away: float = 0.0) -> Verdict:
    """at w = w* the prediction error is 0 and rho_R has no value"""
    problem, w = linear_model(0.7)
    w = problem.w_star + away * (w - problem.w_star)
    return at_least(rho.gaussian_rho(problem.eps(w), problem.delta(w), 16), 1.0)


@check("Equation 6", Route.EXACT)
def squared_loss(context: Context, *, losses: Callable[..., Any] = LinearGaussian.losses) -> Verdict:
    """the model's losses are (M(w, x) - M(w*, x))^2 with M(w, x) = <w, x>, at 500 samples and 20 w"""
    problem, _ = linear_model(0.7)
    x, w = problem.draw(context.rng, (500,)), 3 * context.rng.standard_normal((20, 1, 3))
    predictions = np.sum(x * w, axis=-1) - x @ problem.w_star
    found = [losses(problem, row[0], x) for row in w]
    return equal(found, predictions**2, tolerance=1e-11)


@check("Equation 47", Route.CLOSED_FORM)
def second_moment(context: Context, *, objective: Callable[..., Any] = LinearGaussian.objective) -> Verdict:
    """F(w) = eps^2 + delta^2 is (w - w*)^T E[x x^T] (w - w*) in the linear model, at 100 random w"""
    problem, _ = linear_model(0.7)
    moment = problem.covariance + np.outer(problem.mean, problem.mean)
    away = 3 * context.rng.standard_normal((100, 3))
    return equal(objective(problem, problem.w_star + away), np.einsum("mi,ij,mj->m", away, moment, away))


# --- exact rho_R, by a second and a third route -----------------------------------------------------------------------


@check("Equation 49", Route.CLOSED_FORM)
def two_draws(context: Context, *, gaussian_rho=rho.gaussian_rho) -> Verdict:
    """rho_2 by quadrature equals its closed form (folded normals), 81 eps/delta in [-300, 300]"""
    # max(a^2, b^2) = (a^2 + b^2) / 2 + |a - b| |a + b| / 2, and a - b, a + b are independent normals.
    c = RATIOS[:, 0]
    folded = 2 * np.exp(-(c**2)) / np.sqrt(np.pi) + 2 * c * special.erf(c)
    expected = 1 + folded / np.sqrt(np.pi) / (c**2 + 1)
    return equal(gaussian_rho(c, 1.0, 2), expected, where={"eps / delta": c}, tolerance=1e-12)


@check("Equation 49", Route.MONTE_CARLO)
def by_sampling(context: Context, *, gaussian_rho=rho.gaussian_rho) -> Verdicts:
    """E max f over 1, 4 and 16 drawn losses of the linear model is rho_R F, eps/delta = 0, 1, -3, sampled"""
    for R, ratio in ((1, 1.0), (4, 0.0), (16, 0.0), (16, -3.0)):
        problem, w = linear_model(ratio)
        cap, lost = loss_cap(problem, w, R)
        F = float(problem.objective(w))
        losses = largest_losses(problem, w, R, sample_size(0.01, context.alpha / 4), context.rng)
        exact = gaussian_rho(problem.eps(w), problem.delta(w), R) * F
        # E min(max f, cap) lies between exact - lost and exact, which are 1e-11 apart at most.
        yield mean_equals(np.minimum(losses, cap), exact - lost, context.alpha / 4, cap=cap)


# --- Theorem 5.18 -----------------------------------------------------------------------------------------------------


@check("Theorem 5.18", Route.MONTE_CARLO)
def bound_holds_in_the_model(context: Context, *, bound=rho.gaussian_rho_bound) -> Verdicts:
    """E max f over 16, 64 and 256 drawn losses of the linear model is at least the bound times F, sampled"""
    for R, ratio in ((16, 3.0), (64, 0.0), (64, -1.0), (256, 10.0)):
        problem, w = linear_model(ratio)
        cap, lost = loss_cap(problem, w, R)
        losses = largest_losses(problem, w, R, 20_000, context.rng)
        least = bound(float(problem.eps(w)), float(problem.delta(w)), R) * float(problem.objective(w))
        yield mean_at_least(np.minimum(losses, cap), least - lost, context.alpha / 4, cap=cap)


@check("Theorem 5.18", Route.CLOSED_FORM, expected=Status.ASSUMPTION_VIOLATED)
def too_few_draws(context: Context, *, R: int = 8) -> Verdict:
    """the bound at R = 8, where nu(R) is not real"""
    return at_least(rho.gaussian_rho(0.0, 1.0, R), rho.gaussian_rho_bound(0.0, 1.0, R))


@check("Theorem 5.18", Route.CLOSED_FORM)
def first_useful_R(context: Context, *, first: int = 25) -> Verdicts:
    """at eps = 0 the bound is below the trivial 1 for R = 9..24 and above it for R = 25..10^6"""
    R = np.arange(9, 1_000_001)
    bound = rho.gaussian_rho_bound(0.0, 1.0, R)
    below = np.less(R, first)
    yield at_most(bound[below], 1.0, where={"R": R[below]})
    yield at_least(bound[~below], 1.0, where={"R": R[~below]})


@check("Beyond 5.18", Route.CLOSED_FORM)
def sharp_bound_is_sharper(context: Context, *, bound=rho.gaussian_rho_bound_sharp) -> Verdict:
    """the bound with |eps| is at least the printed one on the grid of Theorem 5.18, and above it wherever eps < 0"""
    gain = bound(RATIOS, 1.0, DRAWS) - rho.gaussian_rho_bound(RATIOS, 1.0, DRAWS)
    # Analytically the gain is 4 nu |eps| delta (1 - 1/R) / F; half of it leaves room for rounding.
    least = np.where(RATIOS < 0, -2 * rho.nu(DRAWS) * RATIOS * (1 - 1 / DRAWS) / (RATIOS**2 + 1), 0.0)
    return at_least(gain, least, where=GRID)


@check("Equation 48", Route.QUADRATURE)
def by_quantiles(context: Context, *, gaussian_rho=rho.gaussian_rho) -> Verdict:
    """F^_R as the mean of the largest: the integral of its quantile function, R = 2, 9, 64, 1024,
    at eps/delta = 0, 1
    """
    values, expected = [], []
    for R, c in itertools.product((2, 9, 64, 1024), (0.0, 1.0)):

        def survival(z: float, R: int = R, c: float = c) -> float:
            # E max Z^2 = int P(max |Z| > z) 2z dz, the largest by R distribution functions.
            return 2 * z * -np.expm1(R * np.log(special.ndtr(z - c) - special.ndtr(-z - c)))

        total = sum(integrate.quad(survival, low, low + 3, epsabs=1e-13)[0] for low in (1e-12, 3.0, 6.0, 9.0))
        values.append(gaussian_rho(c, 1.0, R) * (1 + c * c))
        expected.append(total)
    return equal(values, expected, tolerance=1e-9)


@check("Equation 58", Route.CLOSED_FORM)
def divided_by_the_mean(context: Context, *, bound=rho.gaussian_rho_bound) -> Verdicts:
    """its right side is (57) over F, and the bound of Theorem 5.18: at 3 delta, 81 eps/delta, R = 9..10^6"""
    level = np.log(DRAWS / (4 * np.log(DRAWS)))
    for delta in (1e-3, 1.0, 1e3):
        eps = RATIOS * delta
        numerator = eps**2 + np.pi / 2 * level * delta**2 + np.sqrt(2 * np.pi * level) * eps * delta
        printed = numerator * (1 - 1 / DRAWS) / (eps**2 + delta**2)
        yield equal(bound(eps, delta, DRAWS), printed, where=GRID, tolerance=1e-11)


@check("Theorem D.1", Route.CLOSED_FORM)
def restated(context: Context, *, bound=rho.gaussian_rho_bound) -> Verdict:
    """its expression is that of Theorem 5.18 on the grid of Theorem 5.18"""
    level = np.log(DRAWS / (4 * np.log(DRAWS)))
    numerator = RATIOS**2 + np.pi / 2 * level + np.sqrt(2 * np.pi * level) * RATIOS
    expected = numerator * (1 - 1 / DRAWS) / (RATIOS**2 + 1)
    return equal(bound(RATIOS, 1.0, DRAWS), expected, where=GRID, tolerance=1e-12)
