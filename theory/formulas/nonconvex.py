"""GSGD without convex losses: smooth ones, and quasar-convex ones (what the paper's conclusion asks for)."""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.formulas._numbers import at_least, finite_arrays, plain, positive
from theory.verdict import AssumptionViolated


def stationarity_bound(K: Any, *, L: float, F_R0: Any, eta: Any = None, p: Any = 1.0) -> Any:
    """Upper bound on min over k < K of E|grad env(w_k)|^2 for L-smooth losses f >= 0, convex or not (beyond Section 5).

        (2 / eta) (M - 1) / (1 - M^{-K}) F^_R(w_0),    M = 1 + 3 h^2 + 3 h (1 - p),    h = eta L.

    env(w) = min over u of F^_R(u) + L |u - w|^2 is the Moreau envelope. With the default eta = 1 / (L sqrt(3 K)) and
    p = 1 it is at most 4 sqrt3 L F^_R(w_0) / sqrt K. It speaks of F^_R, which GSGD descends, not of F; no gradient need
    be bounded (Davis & Drusvyatskiy 2019 and Kawaguchi & Lu 2019 ask for it). The k largest of B are the same, with
    F^_{B,k}. That F alone satisfies a Polyak-Lojasiewicz inequality does not help.

    Proof. Put r = 2 L, p_w = argmin of F^_R(u) + (r/2) |u - w|^2 and d = |w - p_w|, so grad env(w) = r (w - p_w); F^_R
    plus (L/2) |.|^2 is convex, so the minimised function is (r - L)-strongly convex. Then

    1. env(w+) <= F^_R(p_w) + (r/2) |w+ - p_w|^2 = env(w) + r eta <g, p_w - w> + (r/2) eta^2 |g|^2.
    2. <g, p_w - w> <= f(p_w) - f(w) + (L/2) d^2 for the chosen sample. In expectation this is at most
       F^_R(p_w) - F^_R(w) + (L/2) d^2, and by strong convexity F^_R(p_w) - F^_R(w) <= -(r/2) d^2 - ((r - L)/2) d^2: at
       most -(r - L) d^2.
    3. E|g|^2 <= 2 L F^_R(w) (Fact A.1), and F^_R(w) <= (1 + L/r) env(w): sqrt f is sqrt(L/2)-Lipschitz, so f(w) <=
       (sqrt f(p_w) + sqrt(L/2) d)^2 <= (1 + L/r) f(p_w) + (1 + r/L) (L/2) d^2; take the sample chosen at w.

    Together E env(w+) <= (1 + eta^2 L (r + L)) env(w) - eta (1 - L/r) |grad env(w)|^2 = M env(w) - (eta/2) |grad
    env|^2. Multiply by M^{-(k+1)} and add up over k: (eta/2) sum_k M^{-(k+1)} E|grad env(w_k)|^2 <= env(w_0) <=
    F^_R(w_0), and the weights add up to (1 - M^{-K}) / (M - 1).

    Noisy losses with F^_approx >= p F^_R add r eta (1 - p) F^_R(w) <= 3 h (1 - p) env(w) in step 2.

    Args:
        K: iterations, >= 1.
        L: smoothness constant of every loss, > 0.
        F_R0: F^_R(w_0) >= 0 (F^_{B,k}(w_0) for the k largest of B).
        eta: constant step size, > 0; None: 1 / (L sqrt(3 K)).
        p: in (0, 1], `noise.p_R` for noisy losses.

    Raises:
        ValueError: if an argument is out of its range.
    """
    K, F_R0, p = finite_arrays(K=K, F_R0=F_R0, p=p)
    positive("L", np.asarray(L, float))
    at_least("K", K, 1.0)
    at_least("F_R0", F_R0, 0.0)
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError(f"p = {p} must lie in (0, 1]")
    (eta,) = finite_arrays(eta=1 / (L * np.sqrt(3 * K)) if eta is None else eta)
    positive("eta", eta)
    growth = 3 * (eta * L) ** 2 + 3 * eta * L * (1 - p)
    # 1 - M^{-K} without cancellation.
    return plain(2 / eta * growth / -np.expm1(-K * np.log1p(growth)) * F_R0)


def quasar_bound(K: Any, *, eta: Any, L: float, gamma: float, D0: Any, rho: Any, Delta: Any) -> Any:
    """Upper bound on the mean over k < K of E F(w_k), which is E F at a random iterate, for quasar-convex losses.

        D0^2 / (2 rho eta (gamma - h) K)  +  gamma Delta / (rho (gamma - h)),    h = eta L < gamma <= 1

    Every f(., x) >= 0 is L-smooth and gamma-quasar-convex about one minimiser w* of F: f(w*) >= f(w) + <grad f(w), w* -
    w> / gamma. gamma = 1 includes convex losses, and the bound is Theorem 5.7's. There is no Jensen's inequality.

    Proof. E|w' - w*|^2 <= |w - w*|^2 - 2 eta gamma (F^(w) - F^(w*)) + 2 eta^2 L F^(w), by quasar-convexity of the
    chosen sample and Fact A.1; F^(w) >= rho F(w). Sum, and divide by 2 eta (gamma - h) rho K.

    Args:
        K, L, rho, Delta: as `convergence.gsgd_bound`, with Delta = F^_R(w*).
        eta: constant step size, 0 < eta < gamma / L.
        gamma: in (0, 1].
        D0: |w_0 - w*|.

    Raises:
        ValueError: if an argument is out of its range.
    """
    K, eta, D0, rho, Delta = finite_arrays(K=K, eta=eta, D0=D0, rho=rho, Delta=Delta)
    positive("L", np.asarray(L, float))
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma = {gamma} must lie in (0, 1]")
    rest = gamma - eta * L
    if not ((eta > 0) & (rest > 0)).all():
        bad = eta[~((eta > 0) & (rest > 0))].flat[0]
        raise AssumptionViolated("eta < gamma/L", f"eta = {bad:.6g} must lie in (0, gamma/L) = (0, {gamma / L:.6g})")
    at_least("K", K, 1.0)
    at_least("D0", D0, 0.0)
    at_least("rho", rho, 1.0)
    at_least("Delta", Delta, 0.0)
    return plain((D0**2 / (2 * eta * K) + gamma * Delta) / (rho * rest))
