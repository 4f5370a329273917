"""GSGD without convex losses: smooth ones, and quasar-convex ones (what the paper's conclusion asks for)."""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.formulas._numbers import at_least, finite_arrays, plain, positive
from theory.verdict import AssumptionViolated


def stationarity_bound(K: Any, *, L: float, F_R0: Any, eta: Any = None, p: Any = 1.0) -> Any:
    """Upper bound on min over k < K of E|grad env(w_k)|^2 for L-smooth losses f >= 0, convex or not (beyond Section 5).

        L F^_R(w_0) / max(7/8, (1 - q) / (4 u) + 7 q / 8),    u = 1 - p (1 - h),  q = (1 + 2 h u)^{-(K-1)},  h = eta L.

    env(w) = min over u of F^_R(u) + L |u - w|^2 is the Moreau envelope. The default eta = 1 / (L sqrt(2 K + 50)) is
    within 1% of the best; there, for p = 1, the bound is below 4.48 L F^_R(w_0) / sqrt K. It speaks of F^_R, which GSGD
    descends, not of F; no gradient need be bounded (Davis & Drusvyatskiy 2019 and Kawaguchi & Lu 2019 ask for it). The
    k largest of B are the same, with F^_{B,k}. That F alone satisfies a Polyak-Lojasiewicz inequality does not help.

    Proof. Let v minimise F^_R(u) + L |u - w|^2 and d = |w - v|: env(w) = F^_R(v) + L d^2 and grad env(w) = 2 L (w - v).

    1. F^_R plus (L/2) |.|^2 is convex, so the minimised function is L-strongly convex: F^_R(w) >= env(w) + (L/2) d^2 =
       F^_R(v) + (3/2) L d^2.
    2. grad env(w) is a subgradient of F^_R at v, a mean of gradients of samples that may be chosen there. By Jensen's
       inequality and Fact A.1, |grad env(w)|^2 <= 2 L F^_R(v): so F^_R(v) >= 2 L d^2, and env(w) >= 3 L d^2.
    3. The chosen sample has <g, v - w> <= f(v) - f(w) + (L/2) d^2, E f(v, x^) <= F^_R(v), and E|g|^2 <= 2 L A with A =
       E f(w, x^) >= p F^_R(w). Hence

           E env(w+) <= F^_R(v) + L E|w+ - v|^2 = env(w) + 2 h E<g, v - w> + L eta^2 E|g|^2
                     <= env(w) + 2 h (F^_R(v) + (L/2) d^2 - (1 - h) A)
                     <= (1 + 2 h u) env(w) - (h (2 - u) / (4 L)) |grad env(w)|^2

       for h <= 1, by p F^_R(w) >= p (F^_R(v) + (3/2) L d^2).
    4. Let m be the minimum. Multiply 3 by M^{-(k+1)}, M = 1 + 2 h u, and add up over k < K - 1; env is at least
       (3/4) m / L at the last iterate by 2, and at most F^_R(w_0) - m / (8 L) at the first by 1:

           (m / L) (1/8 + (3/4) q + (h (2 - u) / 4) sum_{k < K-1} M^{-(k+1)}) <= F^_R(w_0).

       The sum is (1 - q) / (2 h u), and the bracket (1 - q) / (4 u) + 7 q / 8. With K = 1 it is 7/8, which holds for
       every K; for h > 1 the other is less, as u > 1.

    Both coefficients of 3 are attained: 2 h u with p = 1 where two parabolas cross, h (2 - u) as h -> 0 by a loss of
    curvature -L from v to w. So is the bound at K = 1, by a loss of curvature L up to v and -L beyond.

    Args:
        K: iterations, >= 1.
        L: smoothness constant of every loss, > 0.
        F_R0: F^_R(w_0) >= 0 (F^_{B,k}(w_0) for the k largest of B).
        eta: constant step size, > 0; None: 1 / (L sqrt(2 K + 50)).
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
    (eta,) = finite_arrays(eta=1 / (L * np.sqrt(2 * K + 50)) if eta is None else eta)
    positive("eta", eta)
    h = eta * L
    u = 1 - p + p * h
    rest = -np.expm1(-(K - 1) * np.log1p(2 * h * u))  # 1 - q without cancellation
    return plain(L * F_R0 / np.maximum(7 / 8, rest / (4 * u) + 7 / 8 * (1 - rest)))


def quasar_bound(K: Any, *, eta: Any, L: float, gamma: float, D0: Any, rho: Any, Delta: Any) -> Any:
    """Upper bound on the mean over k < K of E F(w_k), which is E F at a random iterate, for quasar-convex losses.

        D0^2 / (2 rho eta (gamma - h) K)  +  gamma Delta / (rho (gamma - h)),    h = eta L < gamma <= 1

    Every f(., x) >= 0 is L-smooth and gamma-quasar-convex about one minimiser w* of F: f(w*) >= f(w) + <grad f(w), w* -
    w> / gamma. gamma = 1 includes convex losses, and the bound is Theorem 5.7's. There is no Jensen's inequality.

    Distances are to w*, so iterates among other minimisers count for rho, too, unlike in Theorem 5.7.

    Proof. E|w' - w*|^2 <= |w - w*|^2 - 2 eta gamma (F^(w) - F^(w*)) + 2 eta^2 L F^(w), by quasar-convexity of the
    chosen sample and Fact A.1; F^(w) >= rho F(w), of which w = w* needs rho F* <= Delta alone. Sum, and divide by
    2 eta (gamma - h) rho K.

    Args:
        K, L: as `convergence.gsgd_bound`.
        rho: >= 1, at most F^_R / F at every iterate but w*, and at most Delta / F*.
        Delta: F^_R(w*) >= 0.
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
