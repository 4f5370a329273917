"""The convergence bounds of Theorems 5.7, 5.8 and 5.14 as printed, and where they cross (Corollary 5.10).

Sharper ones are in `theory.formulas.improved`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.formulas._numbers import at_least, finite_arrays, plain, positive
from theory.verdict import AssumptionViolated


def verify_step_size(eta: Any, L: float, *, limit: int = 1) -> None:
    """0 < eta < limit / L: 1 in Theorems 5.7, 5.8 and 5.14, 2 where a bound allows it."""
    eta = np.asarray(eta, float)
    bad = ~((eta > 0) & (eta * L < limit))
    if bad.any():
        text = f"eta = {eta[bad].flat[0]:.6g} must lie in (0, {limit}/L) = (0, {limit / L:.6g})"
        raise AssumptionViolated(f"eta < {limit}/L", text)


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
    K, eta, D0, rho, Delta = finite_arrays(K=K, eta=eta, D0=D0, rho=rho, Delta=Delta)
    verify_ranges(K, eta, L, D0, rho, Delta)
    return plain(D0**2 / (2 * rho * eta * (1 - eta * L) * K) + Delta / (rho * (1 - eta * L)))


def sgd_bound(K: Any, *, eta: Any, L: float, D0: Any, F_star: Any) -> Any:
    """Upper bound on E[F(average iterate)] of SGD (Theorem 5.8).

        D0^2 / (2 eta (1 - eta L) K)  +  eta L F* / (1 - eta L)  +  F*

    Args and Raises: as `gsgd_bound`; `F_star` = min F >= 0.
    """
    K, eta, D0, F_star = finite_arrays(K=K, eta=eta, D0=D0, F_star=F_star)
    verify_ranges(K, eta, L, D0)
    at_least("F_star", F_star, 0.0)
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
    eta, D0, rho, Delta, F_star = finite_arrays(eta=eta, D0=D0, rho=rho, Delta=Delta, F_star=F_star)
    positive("eta", eta)
    at_least("D0", D0, 0.0)
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
    eta, rho, Delta, F_star = finite_arrays(eta=eta, rho=rho, Delta=Delta, F_star=F_star)
    positive("L", np.asarray(L, float))
    verify_step_size(eta, L)
    _crossing_exists(rho, Delta, F_star)
    if (rho == 1).any():
        raise ValueError("rho = 1: the bounds cross at K = 0 only, where both are infinite")
    return plain((Delta - F_star) / ((1 - eta * L) * (rho - 1)))


def crossover_tuned(*, L: float, D0: Any, rho: Any, Delta: Any, F_star: Any) -> Any:
    """Iterations up to which GSGD's bound is below SGD's, each at its own best step (beyond Corollary 5.10).

        K = (L D0^2 / 2) ((sqrt rho - 1) / (sqrt Delta - sqrt(rho F*)))^2

    Proof. At its best step (`improved.best_step`) the bound of GSGD is (sqrt A + sqrt Delta)^2 / rho with
    A = L D0^2 / (2 K), and SGD's is the same with rho = 1 and Delta = F*. They are equal where
    sqrt A (sqrt rho - 1) = sqrt Delta - sqrt(rho F*); for a larger A, which is a smaller K, GSGD's is lower.

    Returns:
        K >= 0, a real number; infinity where Delta = rho F* and rho > 1, and 0 where rho = 1 and Delta > F*.

    Raises:
        ValueError: as `crossover`.
    """
    D0, rho, Delta, F_star = finite_arrays(D0=D0, rho=rho, Delta=Delta, F_star=F_star)
    positive("L", np.asarray(L, float))
    at_least("D0", D0, 0.0)
    _crossing_exists(rho, Delta, F_star)
    gain, price = D0 * (np.sqrt(rho) - 1), np.sqrt(Delta) - np.sqrt(rho * F_star)
    if ((price <= 0) & (D0 == 0)).any():
        raise ValueError("D0 = 0 and Delta = rho F*: the two bounds coincide for every K, so they do not cross")
    return plain(np.where(price > 0, L / 2 * (gain / np.where(price > 0, price, 1.0)) ** 2, np.inf))


def _crossing_exists(rho: np.ndarray, Delta: np.ndarray, F_star: np.ndarray) -> None:
    at_least("rho", rho, 1.0)
    at_least("Delta", Delta, 0.0)
    verify_equation_5(rho, Delta, F_star)
    if ((rho == 1) & (Delta == F_star)).any():
        raise ValueError("rho = 1 and Delta = F*: the two bounds coincide for every K, so they do not cross")


def verify_equation_5(rho: np.ndarray, Delta: np.ndarray, F_star: np.ndarray) -> None:
    """0 <= F* and rho F* <= Delta, which Equation 5 implies."""
    at_least("F_star", F_star, 0.0)
    # A caller may pass rho = Delta / F*, whose product with F* float64 may put an ulp above Delta.
    short = Delta < rho * F_star * (1 - 1e-15)
    if short.any():
        broken = [float(np.broadcast_to(item, short.shape)[short].flat[0]) for item in (Delta, rho, F_star)]
        raise AssumptionViolated(
            "Equation 5", f"Delta = {broken[0]:.6g} is below rho F* = {broken[1]:.6g} * {broken[2]:.6g}: impossible"
        )


def verify_ranges(
    K: Any, eta: Any, L: float, D0: np.ndarray, rho: Any = 1.0, Delta: Any = 0.0, *, limit: int = 1
) -> None:
    """K >= 1, 0 < eta < limit / L, L > 0, D0 >= 0, rho >= 1, Delta >= 0; else a ValueError that names the value."""
    positive("L", np.asarray(L, float))
    verify_step_size(eta, L, limit=limit)
    at_least("K", np.asarray(K), 1.0)
    at_least("D0", D0, 0.0)
    at_least("rho", np.asarray(rho), 1.0)
    at_least("Delta", np.asarray(Delta), 0.0)
