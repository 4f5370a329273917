"""What noise in the approximate losses costs: Theorem 5.15, Lemma C.1, Corollary 5.16, and sharper forms for every R.

Under Assumption 5.12 the approximate loss is f(w, x) exp(mu(w) + sigma zeta) with zeta of mean 0 and variance 1. All
results bound F^_{R,approx} from below by a factor that depends on sigma and R alone, whatever the law of zeta.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from theory.formulas._numbers import integers, numbers, plain, require
from theory.verdict import AssumptionViolated

SIGMA_LIMIT = float(np.sqrt(2) / 4)
"""Theorem 5.15 and Lemma C.1 are stated for sigma <= 1 / (2 sqrt 2) = 0.35355; spelt so, it is the nearest float."""

LEMMA_C1 = 0.72
"""The constant of Lemma C.1 as printed."""

NU_LIMIT = float(4 * np.exp(0.5) - 5)
"""nu(1/2) = 4 sqrt(e) - 5 = 1.59489, the bound of Equation (44)."""


def p(sigma: ArrayLike) -> Any:
    """Factor by which noise reduces F^_2 at most (Theorem 5.15).

        F^_{2,approx}(w) >= p(sigma) F^_2(w),    p(sigma) = 1 - 0.72 (1 - e^{-sqrt2 sigma})

    Args:
        sigma: noise level, 0 <= sigma <= 1 / (2 sqrt 2).

    Returns:
        A factor in [0.7167, 1].

    Raises:
        AssumptionViolated: if sigma is outside that range; `p_R` holds for every sigma >= 0.
    """
    sigma = _at_least_zero(sigma)
    if np.any(sigma > SIGMA_LIMIT):
        message = f"sigma = {np.max(sigma)} must be at most 1 / (2 sqrt 2) = {SIGMA_LIMIT:.6g}"
        raise AssumptionViolated("Theorem 5.15", message)
    return plain(1 + LEMMA_C1 * np.expm1(-np.sqrt(2) * sigma))


def p_R(sigma: ArrayLike, R: ArrayLike) -> Any:
    """Factor by which noise reduces F^_R at most, for every R, noise level and law (beyond Theorem 5.15).

        F^_{R,approx}(w) >= p_R(sigma) F^_R(w),    p_R(sigma) = 1/R + (1 - 1/R) exp(-sigma R / sqrt(2 R - 1))

    At R = 2 it is (1 + e^{-2 sigma / sqrt3}) / 2, at least the printed p(sigma) wherever that is stated.

    Proof. `p_law` with E max of R i.i.d. zeta of mean 0 and variance 1 <= (R - 1) / sqrt(2 R - 1) (Hartley & David
    1954; Gumbel 1954).

    Args:
        sigma: noise level, at least 0.
        R: draws per step, an integer >= 1; for the k largest of B it is B.

    Returns:
        A factor in [1/R, 1].
    """
    R = integers("R", R)
    return p_law(sigma, R, (R - 1) / np.sqrt(2.0 * R - 1))


def p_law(sigma: ArrayLike, R: ArrayLike, mean_of_max: ArrayLike) -> Any:
    """`p_R` where the noise's law is known: `mean_of_max` is E max of R i.i.d. zeta (beyond Theorem 5.15).

        1/R + (1 - 1/R) exp(-sigma m R / (R - 1)),    m = E max of zeta_1, ..., zeta_R

    Proof. Given the losses, let f_1 be the largest and D = max_j zeta_j - zeta_1 >= 0. The choice j* has
    f_j* e^{sigma zeta_j*} >= f_1 e^{sigma zeta_1}, so f_j* >= f_1 e^{-sigma D}. The zeta are exchangeable: q = P(D > 0)
    <= 1 - 1/R, and E D = m, as E zeta_1 = 0. By Jensen's inequality E e^{-sigma D} >= 1 - q + q e^{-sigma m / q}, which
    decreases in q because (1 + y) e^{-y} <= 1: put q = 1 - 1/R.

    The k largest of B: pair every kept row that is not among the k largest with one of these that was dropped; its
    score is no less, so f_i >= f_j e^{-sigma D_j} with D_j = max zeta - zeta_j, and rows in both sets have it, too. The
    sum over j is at least the sum of f_j e^{-sigma D_j} over the k largest: the same factor with R = B. It holds with
    one zeta for each atom, too, where candidates differ; repeats of an atom only lower D.

    Raises:
        ValueError: if sigma or `mean_of_max` is negative or NaN, `mean_of_max` infinite, or R no integer >= 1.
    """
    sigma, R, m = _at_least_zero(sigma), integers("R", R), numbers("mean_of_max", mean_of_max)
    require((m >= 0) & (m < np.inf), "mean_of_max", m, "must be finite, and at least 0, the mean of zeta")
    share = 1.0 / R
    # At R = 1 there is no choice: the weight of the exponential is 0.
    rate = m / np.where(R > 1, 1 - share, 1.0)
    return plain(share + (1 - share) * np.exp(-np.where(rate > 0, sigma, 0.0) * rate))


def h(t: ArrayLike, sigma: ArrayLike) -> Any:
    """Cantelli's bound on the share of the larger loss that noise takes away (Lemma C.1).

        h(t; sigma) = 2 (1 - e^{-t}) / (2 + t^2 / sigma^2)

    Args:
        t: log(f^(1) / f^(2)), at least 0; inf (f^(2) = 0) gives 0.
        sigma: noise level, at least 0; at 0 the value is the limit 0.
    """
    t, sigma = np.broadcast_arrays(_at_least_zero(t, "t", "Lemma C.1"), _at_least_zero(sigma))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # t/0 = inf gives 0; 0/0 is set below
        values = -2 * np.expm1(-t) / (2 + (t / sigma) ** 2)
    return plain(np.where(t == 0, 0.0, values))


def t_star(sigma: ArrayLike) -> Any:
    """The t that maximises h(t; sigma), by Newton's method on Equation (41).

        e^t = 1 + sigma^2 / t + t / 2

    In u = t / sigma this reads u (2 (e^{u sigma} - 1) / sigma - u) = 2, whose left side is increasing and convex, so
    the root is unique for every sigma > 0, and Newton's method descends to it from any point above.

    Args:
        sigma: noise level, at least 0 (no upper limit).

    Returns:
        t* in [0, sqrt2 sigma].
    """
    sigma = _at_least_zero(sigma)
    return plain(sigma * _u_star(sigma))


def lemma_c1_ratio(sigma: ArrayLike) -> Any:
    """The smallest constant for which Lemma C.1 holds at one sigma.

        max_t h(t; sigma) / (1 - e^{-sqrt2 sigma})

    It increases with sigma from the limit 1/2 at sigma = 0 towards 1, so its value at the end of a range of sigma is
    the best constant for that range: 0.5111455044 up to 1 / (2 sqrt 2). It passes 0.72 at sigma = 3.0201.

    Args:
        sigma: noise level, at least 0 (no upper limit).

    Returns:
        A ratio in [1/2, 1).
    """
    sigma = _at_least_zero(sigma)
    u = _u_star(sigma)
    with np.errstate(invalid="ignore"):  # 0/0 at sigma = 0, set below
        share = np.expm1(-u * sigma) / np.expm1(-np.sqrt(2) * sigma)
    # share -> u / sqrt2 = 1 as sigma -> 0.
    return plain(2 / (2 + u**2) * np.where(sigma > 0, share, 1.0))


def nu_of_t(t: ArrayLike) -> Any:
    """nu(t) = 1 + 2 sum_{j>=1} t^j / (j+1)! = 2 (e^t - 1) / t - 1, with t*^2 nu(t*) = 2 sigma^2 (Equation 42)."""
    t = _at_least_zero(t, "t", "Lemma C.1")
    with np.errstate(invalid="ignore"):  # 0/0 at t = 0, set below
        return plain(np.where(t > 0, 2 * np.expm1(t) / t - 1, 1.0))


def t_star_share(nu_limit: float = NU_LIMIT) -> float:
    """c with t* >= c sqrt2 sigma for sigma <= 1 / (2 sqrt 2) (Equation 45).

        t* >= sqrt2 sigma / sqrt(4 sqrt(e) - 5) = 0.7918 sqrt2 sigma

    # Paper: 0.62, which is 1 / (4 sqrt(e) - 5) rounded down; here: with the square root, because (42) bounds t*^2.
    """
    return float(1 / np.sqrt(nu_limit))


def sigma_max(rho: ArrayLike) -> Any:
    """Noise level below which GSGD with R = 2 can still beat SGD (Corollary 5.16).

        sigma_max = (1 / sqrt2) log(18 rho / (25 - 7 rho)),    where p(sigma_max) rho = 1

    # Paper: from Theorem 5.15, which stops at sigma = 1 / (2 sqrt 2), passed for rho > 1.3953; here: for every
    # rho, because p_R at R = 2 is at least the printed p for every sigma >= 0.

    Args:
        rho: rho*_2, 1 < rho <= 2.

    Returns:
        A level in (0, 0.8384].

    Raises:
        AssumptionViolated: if rho is outside (1, 2] (Definition 5.6; rho_R is at most R).
    """
    rho = numbers("rho", rho)
    if np.any((rho <= 1) | (rho > 2)):
        raise AssumptionViolated("Definition 5.6", f"rho = {_first(rho, (rho <= 1) | (rho > 2))} must lie in (1, 2]")
    return plain(np.log(18 * rho / (25 - 7 * rho)) / np.sqrt(2))


def sigma_max_R(rho: ArrayLike, R: ArrayLike) -> Any:
    """Noise level below which selection keeps an advantage, for every R and noise law (beyond Corollary 5.16).

        (sqrt(2 R - 1) / R) log((R - 1) rho / (R - rho)),    where p_R(sigma) rho = 1;    inf at rho = R

    Args:
        rho: rho*_R, 1 <= rho <= R (at 1 no level is admissible, and the value is 0).
        R: draws per step, an integer >= 2.

    Raises:
        AssumptionViolated: if rho is outside [1, R].
    """
    rho, R = np.broadcast_arrays(numbers("rho", rho), integers("R", R, least=2))
    bad = (rho < 1) | (rho > R)
    if np.any(bad):
        rule = f"must lie in [1, R] = [1, {_first(R, bad):g}]"
        raise AssumptionViolated("Definition 5.6", f"rho = {_first(rho, bad)} {rule}")
    with np.errstate(divide="ignore"):  # rho = R: inf is meant
        # (R - 1) rho / (R - rho) = 1 + R (rho - 1) / (R - rho), whose logarithm keeps its digits for rho near 1.
        return plain(np.sqrt(2.0 * R - 1) / R * np.log1p(R * (rho - 1) / (R - rho)))


def _u_star(sigma: np.ndarray) -> np.ndarray:
    """t* / sigma in (0, sqrt2], sqrt2 at sigma = 0."""
    # t* = sqrt2 sigma (1 - O(sigma)): below 1e-100 nothing but sqrt2 is left, and 1 / sigma would overflow.
    large = sigma > 1e-100
    safe = np.where(large, sigma, 1.0)
    # For t >= 1 Equation (41) gives e^t / 2 <= 1 + sigma^2, which keeps e^t in range for large sigma.
    u = np.minimum(np.sqrt(2), np.maximum(1.0, np.log(2.0) + 2 * np.log(np.hypot(1.0, safe))) / safe)
    for _ in range(60):  # quadratic convergence: ten steps are enough from this start
        growth = np.expm1(u * safe) / safe
        step = (u * (2 * growth - u) - 2) / (2 * (1 + u * safe) * growth)
        u = u - step
        if np.all(np.abs(step) <= 1e-15 * u):
            break
    return np.where(large, np.minimum(u, np.sqrt(2)), np.sqrt(2))


def _at_least_zero(value: ArrayLike, name: str = "sigma", statement: str = "Assumption 5.12") -> np.ndarray:
    array = numbers(name, value)
    if np.any(array < 0):
        raise AssumptionViolated(statement, f"{name} = {_first(array, array < 0)} must be at least 0")
    return array


def _first(array: np.ndarray, broken: np.ndarray) -> float:
    return float(array[broken].flat[0]) if array.ndim else float(array)
