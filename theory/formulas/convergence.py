"""The convergence bounds of Theorems 5.7, 5.8 and 5.14 and where they cross (Corollary 5.10)."""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.formulas._numbers import plain
from theory.verdict import AssumptionViolated


def verify_step_size(eta: Any, L: float) -> None:
    """0 < eta < 1 / L (Theorems 5.7, 5.8 and 5.14)."""
    eta = np.asarray(eta, float)
    bad = ~((eta > 0) & (eta * L < 1))
    if bad.any():
        raise AssumptionViolated("eta < 1/L", f"eta = {eta[bad].flat[0]:.6g} must lie in (0, 1/L) = (0, {1 / L:.6g})")


def gsgd_bound(K: Any, *, eta: Any, L: float, D0: Any, rho: Any, Delta: Any) -> Any:
    """Upper bound on E[F(average iterate)] of GSGD (Theorem 5.7; 5.14 with `rho = rho_approx`).

        D0^2 / (2 rho eta (1 - eta L) K)  +  Delta / (rho (1 - eta L))

    With `rho = rho_{B,k}` and `Delta = Delta_{B,k}` it bounds the mini-batch form, which keeps the k largest of B.

    Args:
        K: iterations, >= 1; the average is over w_0, ..., w_{K-1}.
        eta: constant step size, 0 < eta < 1 / L.
        L: smoothness constant of every sample, > 0.
        D0: dist(w_0, Phi_F), >= 0.
        rho: rho*, >= 1: the infimum of F^_R / F over any set off Phi_F that contains the iterates.
        Delta: sup of F^_R over Phi_F, >= 0.

    Returns:
        A float, or an array where an argument is one.

    Raises:
        ValueError: if `eta` breaks the hypothesis `0 < eta < 1 / L`, or another argument its range.
    """
    K, eta, D0, rho, Delta = _arrays(K=K, eta=eta, D0=D0, rho=rho, Delta=Delta)
    _check(K, eta, L, D0)
    _at_least("rho", rho, 1.0)
    _at_least("Delta", Delta, 0.0)
    return plain(D0**2 / (2 * rho * eta * (1 - eta * L) * K) + Delta / (rho * (1 - eta * L)))


def gsgd_bound_sharp(K: Any, *, eta: Any, L: float, D0: Any, rho: Any, Delta: Any, F_star: Any) -> Any:
    """Sharper upper bound on E[F(average iterate)] of GSGD (beyond 5.7; of SGD with rho = 1 and Delta = F*).

        s (F* + L D0^2 / 2)  +  (1 - s) Delta / (rho (1 - eta L)),
        s = (1 - (1 - x)^K) / (x K),    x = rho eta L (1 - eta L)

    A mean of what smoothness allows at w_0 and of Theorem 5.7's limit. At K = 1, where s = 1, it is attained by
    F = F* + L |w - w*|^2 / 2. It covers what 5.7 covers: noisy losses with rho_approx, the k largest of B with
    rho_{B,k} and Delta_{B,k}. For x > 1, which takes rho > 4, it is Theorem 5.7's bound.

    Proof. The last iterate enters the average, but the step from it does not. Let a_k = E dist(w_k, Phi_F)^2 and
    c = 2 rho eta (1 - eta L), so x = c L / 2. For every k

        (i)  c E F(w_k) <= a_k - a_{k+1} + 2 eta Delta   (Equation 22, as mended for iterates in Phi_F),
        (ii) E F(w_k) <= F* + L a_k / 2                   (F is L-smooth and has gradient 0 on Phi_F).

    For k < K let u_k = (1 - x)^(K-1-k), which lies in [0, 1] if x <= 1, and add (1 - u_k) / c times (i) to u_k times
    (ii). In the sum over k, a_k has the coefficient (u_{k-1} - (1 - x) u_k) / c = 0 for 0 < k < K, a_K has
    -(1 - u_{K-1}) / c = 0, and a_0 = D0^2 has (1 - (1 - x)^K) / c = s K L / 2. The u_k add up to s K, so

        sum_k E F(w_k) <= s K (F* + L D0^2 / 2) + (K - s K) Delta / (rho (1 - eta L)).

    Divide by K and apply Jensen's inequality. As s <= 1 / (x K), this is at most Theorem 5.7's bound if
    F* <= Delta / (rho (1 - eta L)), which Equation 5 implies.

    Args and Raises: as `gsgd_bound`; `F_star` >= min F, which Equation 5 allows to be Delta / rho*. As in 5.7, rho may
    be the infimum over a set that holds the iterates, with rho F* <= Delta if one of them lies in Phi_F.
    """
    K, eta, D0, rho, Delta, F_star = _arrays(K=K, eta=eta, D0=D0, rho=rho, Delta=Delta, F_star=F_star)
    printed = gsgd_bound(K, eta=eta, L=L, D0=D0, rho=rho, Delta=Delta)
    _at_least("F_star", F_star, 0.0)
    x = rho * eta * L * (1 - eta * L)
    # 1 - (1 - x)^K keeps its digits for small x this way; at x = 1 it is 1 and the logarithm is not needed.
    inner = np.where(x < 1, x, 0.5)
    s = np.where(x < 1, -np.expm1(K * np.log1p(-inner)), 1.0) / (x * K)
    sharp = s * (F_star + L * D0**2 / 2) + (1 - s) * Delta / (rho * (1 - eta * L))
    return plain(np.where(x <= 1, sharp, printed))


def sgd_bound(K: Any, *, eta: Any, L: float, D0: Any, F_star: Any) -> Any:
    """Upper bound on E[F(average iterate)] of SGD (Theorem 5.8).

        D0^2 / (2 eta (1 - eta L) K)  +  eta L F* / (1 - eta L)  +  F*

    Args and Raises: as `gsgd_bound`; `F_star` = min F >= 0.
    """
    K, eta, D0, F_star = _arrays(K=K, eta=eta, D0=D0, F_star=F_star)
    _check(K, eta, L, D0)
    _at_least("F_star", F_star, 0.0)
    return plain(D0**2 / (2 * eta * (1 - eta * L) * K) + eta * L * F_star / (1 - eta * L) + F_star)


def crossover(*, eta: Any, D0: Any, rho: Any, Delta: Any, F_star: Any) -> Any:
    """Iterations up to which GSGD's bound is below SGD's (Corollary 5.10).

        K = D0^2 (rho - 1) / (2 eta (Delta - rho F*))

    Returns:
        K >= 0, a real number; infinity where Delta = rho F* and rho > 1, and 0 where rho = 1 and Delta > F*.

    Raises:
        ValueError: if Delta < rho F* (impossible by Eq. 5), or if Delta = rho F* and rho = 1 or D0 = 0, where the two
            bounds coincide for every K.
    """
    eta, D0, rho, Delta, F_star = _arrays(eta=eta, D0=D0, rho=rho, Delta=Delta, F_star=F_star)
    _positive("eta", eta)
    _at_least("D0", D0, 0.0)
    _crossing_exists(rho, Delta, F_star)
    gain, price = D0**2 * (rho - 1), 2 * eta * (Delta - rho * F_star)
    if ((price <= 0) & (D0 == 0)).any():
        raise ValueError("D0 = 0 and Delta = rho F*: the two bounds coincide for every K, so they do not cross")
    return plain(np.where(price > 0, gain / np.where(price > 0, price, 1.0), np.inf))


def crossover_value(*, eta: Any, L: float, rho: Any, Delta: Any, F_star: Any) -> Any:
    """The value of both bounds where they cross (Corollary 5.10): (Delta - F*) / ((1 - eta L) (rho - 1)).

    Raises:
        ValueError: as `crossover`, if `eta` breaks `0 < eta < 1 / L`, or if rho = 1, where they cross at K = 0.
    """
    eta, rho, Delta, F_star = _arrays(eta=eta, rho=rho, Delta=Delta, F_star=F_star)
    _positive("L", np.asarray(L, float))
    verify_step_size(eta, L)
    _crossing_exists(rho, Delta, F_star)
    if (rho == 1).any():
        raise ValueError("rho = 1: the bounds cross at K = 0 only, where both are infinite")
    return plain((Delta - F_star) / ((1 - eta * L) * (rho - 1)))


def _crossing_exists(rho: np.ndarray, Delta: np.ndarray, F_star: np.ndarray) -> None:
    _at_least("rho", rho, 1.0)
    _at_least("Delta", Delta, 0.0)
    _at_least("F_star", F_star, 0.0)
    # A caller may pass rho = Delta / F*, whose product with F* float64 may put an ulp above Delta.
    short = Delta < rho * F_star * (1 - 1e-15)
    if short.any():
        broken = [float(np.broadcast_to(item, short.shape)[short].flat[0]) for item in (Delta, rho, F_star)]
        raise AssumptionViolated(
            "Equation 5", f"Delta = {broken[0]:.6g} is below rho F* = {broken[1]:.6g} * {broken[2]:.6g}: impossible"
        )
    if ((rho == 1) & (Delta == F_star)).any():
        raise ValueError("rho = 1 and Delta = F*: the two bounds coincide for every K, so they do not cross")


def _check(K: np.ndarray, eta: np.ndarray, L: float, D0: np.ndarray) -> None:
    _positive("L", np.asarray(L, float))
    verify_step_size(eta, L)
    _at_least("K", K, 1.0)
    _at_least("D0", D0, 0.0)


def _arrays(**values: Any) -> list[np.ndarray]:
    arrays = []
    for name, value in values.items():
        array = np.asarray(value, float)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} = {array[~np.isfinite(array)].flat[0]} must be finite")
        arrays.append(array)
    return arrays


def _at_least(name: str, value: np.ndarray, low: float) -> None:
    if (value < low).any():
        raise ValueError(f"{name} = {value[value < low].flat[0]:.6g} must be at least {low:g}")


def _positive(name: str, value: np.ndarray) -> None:
    if not (value > 0).all():
        raise ValueError(f"{name} = {value[~(value > 0)].flat[0]:.6g} must be positive")
