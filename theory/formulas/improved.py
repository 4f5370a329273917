"""Theorem 5.7 sharper in both terms, for every eta < 2 / L and any comparator (beyond 5.7), and what follows from it.

Put h = eta L. For 1 - h <= alpha <= 1 with 0 < alpha < 2 - h, and beta = 1 / (2 - h - alpha) >= 1: if f >= 0 is convex
and L-smooth, then for all w and u

    |w - eta grad f(w) - u|^2  <=  |w - u|^2 - 2 eta alpha f(w) + 2 eta beta f(u).                                  (*)

Proof. Write g = grad f(w), g* = grad f(u). Co-coercivity is f(u) >= f(w) + <g, u - w> + |g - g*|^2 / (2 L), so the left
side is at most |w - u|^2 - 2 eta (f(w) - f(u)) - (eta/L) |g - g*|^2 + eta^2 |g|^2. By Fact A.1, as 1 - alpha >= 0 and
beta - 1 >= 0, -2 (1 - alpha) f(w) <= -(1 - alpha) |g|^2 / L and -2 (beta - 1) f(u) <= -(beta - 1) |g*|^2 / L. What the
left side of (*) exceeds the right side by is then at most eta/L times

    (h + alpha - 2) |g|^2 + 2 <g, g*> - beta |g*|^2  =  -|g / sqrt beta - sqrt beta g*|^2  <=  0.

Quadratics f = L (w - c)^2 / 2 attain (*) for every alpha. The paper's Equation 21 is alpha = 1 - h, beta = 1.

Selection enters in expectation only: E f(w, x^) = F^(w) at the iterate, and E f(u, x^) <= F^(u), as x^ was not chosen
for u. So everything here holds for GSGD (F^_R), for the k largest of B (F^_{B,k}, whose mean loss is convex, smooth and
>= 0), for SGD (rho = 1, Delta = F*), and for noisy losses (rho_approx; E f(u, x^) <= F^_R(u) <= Delta).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from theory.formulas._numbers import at_least, finite_arrays, plain, positive
from theory.formulas.convergence import verify_equation_5, verify_ranges
from theory.verdict import AssumptionViolated

# Shares of the range of y = 1 / beta that are tried where no formula gives the best; any of them is a valid bound.
_SHARES = np.linspace(0.0, 1.0, 65)


def gsgd_bound_improved(
    K: Any, *, eta: Any, L: float, D0: Any, rho: Any, Delta: Any, alpha: Any = None, floor: Any = 0.0
) -> Any:
    """Upper bound on E[F(average iterate)] of GSGD, below Theorem 5.7's in both terms (beyond 5.7).

        D0^2 / (2 rho eta alpha K)  +  (beta Delta - (beta - alpha) m) / (rho alpha),    beta = 1 / (2 - h - alpha)

    alpha = 1 is Theorem 5.7 without 1 / (1 - h) in its first term; alpha = 1 - h/2 has both terms below Theorem 5.7's,
    as (1 - h/2)^2 > 1 - h, and is allowed for every h < 2.

    Proof. Let d(w) be the distance to Phi_F, and u the minimiser nearest to w_k. Off Phi_F, (*) in expectation gives
    E d(w_{k+1})^2 <= d(w_k)^2 - 2 eta alpha rho F(w_k) + 2 eta beta Delta. In Phi_F, where F^ >= rho F may fail, it
    holds, too: there E d(w_{k+1})^2 <= eta^2 E|g|^2 <= 2 eta h Delta, and beta Delta - alpha rho F* >= (beta - alpha)
    Delta >= h Delta by rho F* <= Delta and (alpha + h) (2 - alpha - h) = 1 - (1 - alpha - h)^2 <= 1. Sum over k,
    divide by 2 eta alpha rho K, apply Jensen's inequality.

    With a floor m: f_S, the mean loss of the k kept rows, has a minimum min f_S > 0 unless one w suits all of them. Put
    f_S - min f_S in (*): the step has 2 eta (beta - alpha) E[min f_S] less. In Phi_F: E|g|^2 <= 2 L (Delta - m). This
    is where k shows up: as k grows, m tends to F* where selection is at random, and SGD's noise floor goes.

    Args:
        K, L, D0, rho, Delta: as `convergence.gsgd_bound`.
        eta: constant step size, 0 < eta < 2 / L.
        alpha: in [1 - eta L, 1] and in (0, 2 - eta L); None takes the best, which has a closed form.
        floor: m >= 0, at most E[min over w of the kept rows' mean loss] at every iterate.

    Raises:
        ValueError: if `eta` is not in (0, 2 / L), or another argument is out of its range.
    """
    K, eta, D0, rho, Delta, floor = finite_arrays(K=K, eta=eta, D0=D0, rho=rho, Delta=Delta, floor=floor)
    verify_ranges(K, eta, L, D0, rho, Delta, limit=2)
    at_least("floor", floor, 0.0)
    if (floor > Delta).any():
        raise ValueError(f"floor = {np.max(floor):.6g} must be at most Delta, the mean of the kept losses at w*")
    h = eta * L
    first, second = D0**2 / (2 * eta * K), Delta - floor
    y = best_y(first, second, h) if alpha is None else y_of(alpha, h)
    return plain((first + _per(second, y)) / (2 - h - y) / rho + floor / rho)


def best_step(K: Any, *, L: float, D0: Any, Delta: Any) -> Any:
    """The step size at which `gsgd_bound_improved` is least, for K iterations (beyond 5.7).

        eta = sqrt A / (L (sqrt A + sqrt Delta)),    A = L D0^2 / (2 K),

    where the bound is (sqrt A + sqrt Delta)^2 / rho (`best_step_bound`); it needs no rho.

    Proof. With y = 2 - h - alpha the bound is (A/h + Delta/y) / (rho (2 - h - y)), and (A/h + Delta/y) (h + y) >=
    (sqrt A + sqrt Delta)^2 by Cauchy-Schwarz, with equality where h : y = sqrt A : sqrt Delta. (h + y) (2 - h - y) <= 1
    with equality at h + y = 1, where alpha = 1.

    Raises:
        ValueError: for K < 1, or L or D0 not positive, or Delta < 0.
    """
    K, D0, Delta = finite_arrays(K=K, D0=D0, Delta=Delta)
    positive("D0", D0)
    positive("L", np.asarray(L, float))
    at_least("K", K, 1.0)
    at_least("Delta", Delta, 0.0)
    root = np.sqrt(L / (2 * K)) * D0
    return plain(root / (L * (root + np.sqrt(Delta))))


def best_step_bound(K: Any, *, L: float, D0: Any, rho: Any, Delta: Any) -> Any:
    """The value of `gsgd_bound_improved` at `best_step`: (sqrt(L D0^2 / (2 K)) + sqrt Delta)^2 / rho."""
    K, D0, rho, Delta = finite_arrays(K=K, D0=D0, rho=rho, Delta=Delta)
    verify_ranges(K, 0.5 / L, L, D0, rho, Delta, limit=2)
    return plain((np.sqrt(L / (2 * K)) * D0 + np.sqrt(Delta)) ** 2 / rho)


def comparator_bound(K: Any, *, eta: Any, L: float, distance: Any, F_hat: Any, alpha: Any = None) -> Any:
    """Upper bound on E[F^(average iterate)], for any u with |w_0 - u| = `distance` and F^(u) = `F_hat` (beyond 5.7).

        distance^2 / (2 eta alpha K)  +  (beta / alpha) F^(u)

    GSGD is SGD on the convex F^: take the best u. As eta -> 0 and eta K -> inf it goes to min F^, which is at most
    Delta: the limit of Remark 5.9, made exact. No minimiser of F is needed. It bounds F^, and F <= F^ / rho only with
    rho as the infimum over all w, Phi_F included, which need not be rho*.

    Proof. Sum (*) over k, divide by 2 eta alpha K; F^ is convex. (For noisy losses, where F^_approx is not, it bounds
    the mean over k of E F^_approx(w_k).)

    Args and Raises: as `gsgd_bound_improved`; `distance` >= 0, `F_hat` >= 0.
    """
    return gsgd_bound_improved(K, eta=eta, L=L, D0=distance, rho=1.0, Delta=F_hat, alpha=alpha)


def last_iterate_bound(
    K: Any, *, eta: Any, L: float, D0: Any, rho: Any, Delta: Any, F_star: Any, mu: float, alpha: Any = None
) -> Any:
    """Upper bound on E dist(w_K, Phi_F)^2 if F(w) >= F* + (mu/2) dist(w, Phi_F)^2 at the iterates (beyond 5.7).

        q^K D0^2 + (1 - q^K) 2 (beta Delta - alpha rho F*) / (alpha rho mu),    q = 1 - eta alpha rho mu

    At F* = Delta = 0 and eta = 1/L it is (1 - rho mu / L)^K D0^2: rho* is the speed-up of the linear rate (for squared
    losses the sampling Kaczmarz-Motzkin method; least squares with orthonormal rows attain it).

    Proof. The recursion of `gsgd_bound_improved` with the growth of F put in: a_{k+1} <= q a_k + 2 eta (beta Delta -
    alpha rho F*). Unroll. Should q be negative, 0 may take its place, as a_k >= 0.

    Args and Raises: as `gsgd_bound_improved`; `F_star` with rho F* <= Delta (Equation 5), 0 < `mu` <= L.
    """
    K, eta, D0, rho, Delta, F_star = finite_arrays(K=K, eta=eta, D0=D0, rho=rho, Delta=Delta, F_star=F_star)
    verify_ranges(K, eta, L, D0, rho, Delta, limit=2)
    verify_equation_5(rho, Delta, F_star)
    if not 0 < mu <= L:
        raise ValueError(f"mu = {mu} must lie in (0, L] = (0, {L}]: F is L-smooth")

    def value(y: np.ndarray) -> np.ndarray:
        alpha = 2 - eta * L - y
        rate = eta * alpha * rho * mu
        noise = 2 * eta * (_per(Delta, y) - alpha * rho * F_star)
        # log q keeps the digits of a q = 1 - rate near 1, for which (1 - q^K) / (1 - q) is K at the last.
        log_q = np.log1p(-np.where(rate < 1, rate, 0.5))
        sum_of_powers = np.where(rate > 0, -np.expm1(K * log_q) / np.where(rate > 0, rate, 1.0), K)
        return np.where(rate < 1, np.exp(K * log_q) * D0**2 + sum_of_powers * noise, noise)

    return plain(_least(value, eta * L, Delta, alpha))


def gsgd_bound_sharp(
    K: Any, *, eta: Any, L: float, D0: Any, rho: Any, Delta: Any, F_star: Any, alpha: Any = None
) -> Any:
    """The sharpest upper bound on E[F(average iterate)] of GSGD here (beyond 5.7; of SGD with rho = 1, Delta = F*).

        min over alpha of   s (F* + L D0^2 / 2)  +  (1 - s) beta Delta / (rho alpha),
        s = (1 - (1 - x)^K) / (x K),    x = rho eta L alpha <= 1,

    and `gsgd_bound_improved` where x > 1. At K = 1, where s = 1, it is attained by F = F* + L |w - w*|^2 / 2.

    Proof. The last iterate enters the average, but the step from it does not. Let a_k = E dist(w_k, Phi_F)^2 and
    c = 2 rho eta alpha, so x = c L / 2. For every k

        (i)  c E F(w_k) <= a_k - a_{k+1} + 2 eta beta Delta   (`gsgd_bound_improved`),
        (ii) E F(w_k) <= F* + L a_k / 2                       (F is L-smooth and has gradient 0 on Phi_F).

    For k < K let u_k = (1 - x)^(K-1-k), which lies in [0, 1] if x <= 1, and add (1 - u_k) / c times (i) to u_k times
    (ii). In the sum over k, a_k has the coefficient (u_{k-1} - (1 - x) u_k) / c = 0 for 0 < k < K, a_K has
    -(1 - u_{K-1}) / c = 0, and a_0 = D0^2 has (1 - (1 - x)^K) / c = s K L / 2. The u_k add up to s K, so

        sum_k E F(w_k) <= s K (F* + L D0^2 / 2) + (K - s K) beta Delta / (rho alpha).

    Divide by K and apply Jensen's inequality. As s <= 1 / (x K) and F* <= Delta / rho, it is at most
    `gsgd_bound_improved` with the same alpha. At K = 1, (ii) alone is a bound for every x.

    Args and Raises: as `gsgd_bound_improved`; `F_star` = min F, at most Delta / rho (Equation 5). As in 5.7, rho may be
    the infimum over a set that holds the iterates, with rho F* <= Delta.
    """
    K, eta, D0, rho, Delta, F_star = finite_arrays(K=K, eta=eta, D0=D0, rho=rho, Delta=Delta, F_star=F_star)
    verify_ranges(K, eta, L, D0, rho, Delta, limit=2)
    verify_equation_5(rho, Delta, F_star)

    def value(y: np.ndarray) -> np.ndarray:
        alpha = 2 - eta * L - y
        x = rho * eta * L * alpha
        limit = _per(Delta, y) / (rho * alpha)
        late = _late_share(np.minimum(x, 1.0), K)
        sharp = (1 - late) * (F_star + L * D0**2 / 2) + late * limit
        return np.where(x <= 1, sharp, D0**2 / (2 * rho * eta * alpha * K) + limit)

    # `value` is at most the improved bound at the same alpha, but the grid may leave out the best of that.
    found = np.minimum(
        _least(value, eta * L, Delta, alpha),
        gsgd_bound_improved(K, eta=eta, L=L, D0=D0, rho=rho, Delta=Delta, alpha=alpha),
    )
    return plain(np.where(K == 1, np.minimum(found, F_star + L * D0**2 / 2), found))


def decreasing_steps_bound(etas: Any, *, L: float, D0: float, rho: float, Delta: float) -> float:
    """Upper bound on E F(sum eta_k w_k / sum eta_k) of GSGD with steps eta_0, ..., eta_{K-1} (beyond 5.7).

        (D0^2 + 2 Delta sum_k eta_k / (1 - eta_k L)) / (2 rho sum_k eta_k)

    It tends to Delta / rho where sum eta_k = inf and eta_k -> 0.

    Proof. alpha = 1 in (*) at every step, beta_k = 1 / (1 - eta_k L); sum and divide as in `gsgd_bound_improved`, where
    the average is weighted by eta_k.

    Raises:
        ValueError: unless every eta_k lies in (0, 1 / L); for other arguments as `convergence.gsgd_bound`.
    """
    (steps,) = finite_arrays(etas=etas)
    if steps.ndim != 1 or steps.size == 0:
        raise ValueError(f"etas of shape {steps.shape} must be one step size an iteration")
    verify_ranges(1, steps, L, *finite_arrays(D0=D0, rho=rho, Delta=Delta))
    return float((D0**2 + 2 * Delta * np.sum(steps / (1 - steps * L))) / (2 * rho * steps.sum()))


def y_of(alpha: Any, h: Any) -> np.ndarray:
    """y = 2 - h - alpha = 1 / beta of an alpha that was asked for.

    Raises:
        AssumptionViolated: unless 1 - h <= alpha <= 1 and 0 < alpha < 2 - h.
    """
    alpha, h = np.broadcast_arrays(np.asarray(alpha, float), h)
    # 1 - h comes rounded from a caller.
    bad = ~((alpha >= 1 - h - 1e-15) & (alpha <= 1) & (alpha > 0) & (alpha < 2 - h))
    if bad.any():
        rule = f"must lie in [1 - h, 1] and in (0, 2 - h), h = eta L = {h[bad].flat[0]:.6g}"
        raise AssumptionViolated("1 - h <= alpha <= 1", f"alpha = {alpha[bad].flat[0]:.6g} {rule}")
    return 2 - h - alpha


def best_y(first: np.ndarray, Delta: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The y = 1 / beta that minimises first / alpha + Delta / (alpha y), alpha = 2 - h - y.

    With c = 2 - h: the derivative vanishes where first y^2 + 2 Delta y = Delta c, at y = Delta c / (Delta +
    sqrt(Delta^2 + first Delta c)) <= c / 2 <= 1; alpha <= 1 asks for y >= 1 - h.
    """
    c = 2 - h
    root = np.sqrt(Delta)  # the square of a tiny number would be 0
    y = np.where(root > 0, c * root / np.where(root > 0, root + np.sqrt(Delta + first * c), 1.0), 0.0)
    return np.maximum(np.minimum(y, c / 2), np.maximum(1 - h, 0.0))


def _per(Delta: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Delta / y, 0 where Delta is 0: then beta does not matter, and y = 0 is a limit of what is allowed."""
    return np.where(Delta == 0, 0.0, Delta / np.where(Delta == 0, 1.0, y))


def _late_share(x: np.ndarray, K: np.ndarray) -> np.ndarray:
    """1 - s = 1 - (1 - (1 - x)^K) / (x K), 0 <= x <= 1, to its last digits: 1 / alpha may multiply it."""
    small = x * K < 0.01
    # The binomial series, (K-1) x / 2 - (K-1) (K-2) x^2 / 6 + ...; what follows is below rounding.
    t = np.where(small, x, 0.0)
    series = np.ones(np.broadcast_shapes(x.shape, K.shape))
    for j in range(7, 2, -1):
        series = 1 - (K - j + 1) * t / j * series
    series = (K - 1) * t / 2 * series
    # At x = 1 the power is 0 and the logarithm is not needed.
    power = np.where(x < 1, np.exp(K * np.log1p(-np.where(x < 1, x, 0.0))), 0.0)
    late = np.where(small, series, 1 - (1 - power) / np.where(small, 1.0, x * K))
    return np.where(K == 1, 0.0, late)


def _least(value: Callable[[np.ndarray], np.ndarray], h: np.ndarray, Delta: np.ndarray, alpha: Any) -> np.ndarray:
    """The value at `alpha`, or the least over a grid of its range that is refined twice; each is a valid bound."""
    if alpha is not None:
        return value(y_of(alpha, h))
    # y = 0 (unless Delta = 0) and y = 2 - h (alpha = 0) are limits, kept at a distance.
    c = 2 - h
    low, high = np.maximum(1 - h, np.where(Delta > 0, 1e-9 * np.minimum(c, 1.0), 0.0)), np.minimum(1.0, c * (1 - 1e-9))
    best = value(low)
    low, high = np.broadcast_to(low, best.shape), np.broadcast_to(high, best.shape)
    for _ in range(3):
        values = value(low + _SHARES.reshape(-1, *(1,) * low.ndim) * (high - low))
        best = np.minimum(best, np.min(values, axis=0))
        width = (high - low) / (len(_SHARES) - 1)
        centre = low + np.argmin(values, axis=0) * width
        low, high = np.maximum(low, centre - width), np.minimum(high, centre + width)
    return best
