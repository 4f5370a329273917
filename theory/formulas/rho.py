"""How much larger the selected loss is than the mean loss: F^_R, its k-of-B form, and rho_R, in general and Gaussian.

Every expectation over a uniform finite support is one sum: with f_(1) <= ... <= f_(n) sorted and S(v) the expected
share of selected losses that come from the largest v n atoms,

    F^ = f_(1) + sum_{i=1}^{n-1} (f_(i+1) - f_(i)) S((n - i) / n),

the sum of the statement, added by parts. No two large numbers are subtracted, for any n, R and B.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from theory.formulas._numbers import integer, integers, numbers, plain, require
from theory.verdict import AssumptionViolated


def expected_max(losses: Any, R: int) -> Any:
    """Expected largest of R losses drawn with replacement, F^_R(w), on a uniform finite support (Definition 5.6).

        F^_R = sum_i f_(i) [ (i/n)^R - ((i-1)/n)^R ]

    Args:
        losses: shape (..., n), the loss of every atom; non-negative (Assumption 5.4).
        R: draws per step, an integer >= 1. The paper needs R > 1; R = 1 gives the mean, F(w).

    Returns:
        Shape (...): between the mean and the largest loss. A float for one axis.

    Raises:
        ValueError: if there are no losses, or one is negative, infinite or NaN, or R is no integer >= 1.
    """
    R = integer("R", R)
    return _selected_mean(losses, lambda v: -np.expm1(R * np.log1p(-v)))


def expected_top_k(losses: Any, B: int, k: int) -> Any:
    """Expected mean of the k largest of B losses drawn with replacement (beyond 5.7: what SIFT averages over).

        F^_{B,k} = (1/k) sum_{r=B-k+1}^{B} E X_(r:B),    P(X_(r:B) <= f_(i)) = I_{i/n}(r, B - r + 1)

    The k terms add up to E min(k, M) with M ~ Bin(B, v) the number of draws among the largest v n atoms, which
    takes two incomplete beta functions. `expected_top_k(f, R, 1) = expected_max(f, R)`, and k = B gives the mean.

    Args:
        losses: shape (..., n), non-negative.
        B: draws per step, an integer >= 1.
        k: how many of them are kept, an integer in 1..B.

    Returns:
        Shape (...): between the mean and the largest loss. A float for one axis.

    Raises:
        ValueError: for losses as in `expected_max`, or unless B and k are integers with 1 <= k <= B.
    """
    B, k = integer("B", B), integer("k", k)
    if k > B:
        raise ValueError(f"k = {k} must lie in 1..B = 1..{B}: k of the B draws are kept")
    return _selected_mean(losses, lambda v: selected_share(v, B, k))


def selected_share(v: np.ndarray, B: int, k: int) -> np.ndarray:
    """The expected share of the k largest of B draws that come from the atoms of the largest losses, of probability v.

    E min(k, M) / k with M ~ Bin(B, v), elementwise for v in [0, 1]; 1 <= k <= B.
    """
    if k == B:
        return v
    # E min(k, M) = B v P(Bin(B-1, v) <= k-1) + k P(M >= k+1): two positive terms.
    return B * v * special.betainc(B - k, k, 1 - v) / k + special.betainc(k + 1, B - k, v)


def cvar(losses: Any, kappa: float) -> Any:
    """Mean of the worst `kappa` share of the losses, CVaR_{1-kappa} (beyond 5.7: the limit of k = kappa B, B -> inf).

        (1/kappa) int_{1-kappa}^1 q(u) du,    q the quantile function of the losses

    Args:
        losses: shape (..., n), non-negative.
        kappa: kept share, in (0, 1].

    Returns:
        Shape (...): between the mean (kappa = 1) and the largest loss (kappa <= 1/n). A float for one axis.

    Raises:
        ValueError: for losses as in `expected_max`, or if kappa is outside (0, 1].

    Reference: Fan, Lyu, Ying & Hu, "Learning with average top-k loss" (NeurIPS 2017).
    """
    if not 0 < kappa <= 1:
        raise ValueError(f"kappa = {kappa} must lie in (0, 1]")
    return _selected_mean(losses, lambda v: np.minimum(1.0, v / kappa))


def rho(losses: Any, R: int) -> Any:
    """rho_R(w) = F^_R(w) / F(w) on a uniform finite support (Definition 5.6).

    Returns:
        Shape (...): in [1, min(R, n)]. A float for one axis.

    Raises:
        ValueError: as `expected_max`, or if all losses of a row are 0, where the ratio is 0/0.
    """
    return _over_mean(expected_max(losses, R), losses)


def rho_top_k(losses: Any, B: int, k: int) -> Any:
    """rho_{B,k}(w) = F^_{B,k}(w) / F(w) on a uniform finite support (beyond 5.7).

    Returns:
        Shape (...): in [1, min(B / k, n)]. A float for one axis.

    Raises:
        ValueError: as `expected_top_k`, or if all losses of a row are 0, where the ratio is 0/0.
    """
    return _over_mean(expected_top_k(losses, B, k), losses)


def rho_ceiling(cv: Any, R: Any) -> Any:
    """The most that R draws can gain, from one batch of losses: rho_R <= 1 + CV (R - 1) / sqrt(2 R - 1).

    Proof. E max of R i.i.d. numbers of mean F and deviation s is at most F + s (R - 1) / sqrt(2 R - 1) (Hartley & David
    1954; Gumbel 1954): E max = int q(u) R u^{R-1} du with q the quantile function, so E max - F is the covariance of q
    and R u^{R-1}, whose deviation is (R - 1) / sqrt(2 R - 1), and Cauchy-Schwarz.

    Args:
        cv: standard deviation over mean of the losses, >= 0.
        R: draws per step, an integer >= 1.
    """
    cv, R = numbers("cv", cv), integers("R", R)
    require(cv >= 0, "cv", cv, "must be at least 0")
    return plain(1 + cv * (R - 1) / np.sqrt(2.0 * R - 1))


def rho_top_k_ceiling(cv: Any, B: Any, k: Any) -> Any:
    """The most that keeping the k largest of B can gain: rho_{B,k} <= 1 + CV sqrt((B - k) / k); 1 + CV for one half.

    Proof. Let v be the losses of the batch less their mean, and a the vector of 1/k on the k largest and 0 elsewhere.
    The mean of the k largest exceeds the mean by <a - 1/B, v> <= |a - 1/B| |v| = sqrt(1/k - 1/B) sqrt(B) std(v). It
    holds for the batch itself, and on average over batches, as the mean of the batches' deviations is at most that of
    D.

    Args:
        cv: standard deviation over mean of the losses, >= 0.
        B, k: integers with 1 <= k <= B.
    """
    cv, B, k = np.broadcast_arrays(numbers("cv", cv), integers("B", B), integers("k", k))
    require(cv >= 0, "cv", cv, "must be at least 0")
    require(k <= B, "k", k, "must be at most B")
    return plain(1 + cv * np.sqrt((B - k) / k))


def rho_star_bound(Delta: Any, F_star: Any) -> Any:
    """Upper bound on rho*_R, Delta_R / F* (Equation 5).

        1 < rho*_R <= Delta_R / F*

    Paper: the left inequality is strict; here: 1 <= rho*_R, because the infimum need not be attained (it is 1 where
    Delta_R = F*, and may be 1 at infinity).

    Args:
        Delta: Delta_R, at least F*.
        F_star: F* = min F, > 0.

    Returns:
        >= 1. A float for scalars.

    Raises:
        AssumptionViolated: if F* = 0, where the right side is 0/0 (or infinite).
        ValueError: if F* is negative, Delta < F*, or either is NaN or infinite.
    """
    Delta, F_star = np.asarray(Delta, float), np.asarray(F_star, float)
    if not np.all((F_star >= 0) & (F_star <= Delta * (1 + 1e-12)) & (Delta < np.inf)):
        raise ValueError(f"Delta = {Delta} and F* = {F_star} must be finite with 0 <= F* <= Delta")
    if np.any(F_star == 0):
        raise AssumptionViolated("F* > 0", f"F* = {F_star.min()}: the right side of Equation 5 is Delta_R / 0")
    return plain(Delta / F_star)


def gaussian_rho(eps: Any, delta: Any, R: Any) -> Any:
    """Exact rho_R(w) for squared errors of N(eps, delta^2) residuals (Assumption 5.17), by quadrature.

        rho_R = int_0^inf 2z (1 - P(Z^2 <= z^2)^R) dz / (eps^2 + delta^2),
        P(Z^2 <= z^2) = Phi((z - eps) / delta) - Phi((-z - eps) / delta)

    Args:
        eps: mean of the prediction error, any sign.
        delta: its standard deviation, > 0.
        R: draws per step, integer >= 1. All three broadcast.

    Returns:
        In [1, R], to about 1e-13 relative for R up to 1e9. A float for scalars.

    Raises:
        AssumptionViolated: if delta <= 0 (Assumption 5.17).
        ValueError: for NaN or infinite eps or delta, or R no integer >= 1.
    """
    eps, delta, R = np.broadcast_arrays(*_gaussian(eps, delta), integers("R", R))
    # Z and -Z have the same square, so only |eps| / delta matters; from 1e100 on, whose square is in range, rho is 1.
    c = np.minimum(np.abs(eps / delta), 1e100)[..., None]
    R = R.astype(float)[..., None]
    # Below c - 10 no draw falls and above c + 10 + sqrt(2 log R) none of R does, both to 1e-22: the integral is the
    # square of the lower end plus a smooth integrand on an interval of length <= 27, in panels of length < 1.
    low = np.maximum(c - 10.0, 0.0)
    length = c + 10.0 + np.sqrt(2 * np.log(R)) - low
    z = low + length * _NODES
    # P = 1 - q without cancellation for large z; where q rounds to 1, P^R is below 1e-16.
    q = np.minimum(special.ndtr(c - z) + special.ndtr(-z - c), 1 - 2.0**-53)
    integrand = 2 * z * -np.expm1(R * np.log1p(-q))
    numerator = low[..., 0] ** 2 + length[..., 0] * (integrand @ _WEIGHTS)
    return plain(numerator / (1 + c[..., 0] ** 2))


def linear_gaussian_infimum(c: Any, R: Any) -> Any:
    """rho*_R of the linear model with Gaussian features, exactly: `gaussian_rho` at c = |S^{-1/2} m| (beyond 5.18).

    There prediction errors are N(eps, delta^2) with eps = <w - w*, m>, delta^2 = (w - w*)' S (w - w*), and |eps|/delta
    is at most |S^{-1/2} m|, at w - w* = S^{-1} m. The infimum is attained and above 1: Equation 5 is strict here, and
    Corollary 5.19 holds for the infimum over all w.

    Proof that rho_R decreases in |eps| / delta = tan phi: Z = sin phi + cos phi Y with Y standard normal has E Z^2 = 1,
    and with f the density of Z and y = a sin phi / cos^2 phi

        (d/dphi) E(Z^2 - a^2)^+ = 2 cos^3 phi (f(a) + f(-a)) (tanh y - y) <= 0    for every a >= 0:

    d/dphi of Z is (1 - Z sin phi) / cos phi, so the derivative is (2 / cos phi) E[Z (1 - Z sin phi); |Z| > a], and
    integrating z f = f sin phi - f' cos^2 phi by parts leaves 2 cos phi (cos^2 phi (f(a) - f(-a)) - a sin phi (f(a) +
    f(-a))), where f(a) / f(-a) = e^{2y}. So Z^2 decreases in convex order, in which E max of R, the mean of the k
    largest of B and CVaR increase: their ratios to E Z^2 decrease in phi, all three.

    Args:
        c: |S^{-1/2} m|, >= 0.
        R: draws per step, an integer >= 1.
    """
    c = numbers("c", c)
    require(c >= 0, "c", c, "must be at least 0")
    return gaussian_rho(c, 1.0, R)


def nu(R: Any) -> Any:
    """nu(R) = sqrt((pi/2) log(R / (4 log R))) of Theorem 5.18; R draws, an integer >= 9.

    Returns:
        > 0, growing like sqrt((pi/2) log R). A float for a scalar.

    Raises:
        AssumptionViolated: for 1 <= R <= 8, where R < 4 log R (or log R = 0) and the root is not real.
    """
    R = integers("R", R)
    # Paper: no condition on R; here: R >= 9, because R / (4 log R) < 1 for 2 <= R <= 8 and log 1 = 0.
    if np.any(R < 9):
        raise AssumptionViolated("Theorem 5.18", f"R = {R.min()} must be at least 9, else nu(R) is not real")
    R = R.astype(float)
    return plain(np.sqrt(np.pi / 2 * np.log(R / (4 * np.log(R)))))


def gaussian_rho_bound(eps: Any, delta: Any, R: Any) -> Any:
    """Lower bound on rho_R(w) under Assumption 5.17, as printed (Theorem 5.18; Theorem D.1).

        (eps^2 + nu(R)^2 delta^2 + 2 nu(R) eps delta) (1 - 1/R) / (eps^2 + delta^2)

    Holds for eps of either sign: the printed proof covers eps + nu delta >= 0; rho_R depends on |eps| alone, and
    (eps + nu delta)^2 <= (|eps| + nu delta)^2. `gaussian_rho_bound_sharp` uses |eps|.

    Args:
        eps: mean of the prediction error, any sign.
        delta: its standard deviation, > 0.
        R: draws per step, integer >= 9. All three broadcast.

    Returns:
        >= 0; above the trivial bound 1 only from R = 25 at eps = 0. A float for scalars.

    Raises:
        AssumptionViolated: if delta <= 0 (Assumption 5.17) or R <= 8 (Theorem 5.18).
    """
    eps, delta = _gaussian(eps, delta)
    v, R = nu(R), np.asarray(R, float)
    c = eps / delta
    return plain((c + v) ** 2 * (1 - 1 / R) / (c**2 + 1))


def gaussian_rho_bound_sharp(eps: Any, delta: Any, R: Any) -> Any:
    """Theorem 5.18 with |eps| for eps: at least the printed bound, and larger for eps < 0 (beyond 5.18)."""
    return gaussian_rho_bound(np.abs(eps), delta, R)


def growth(R: Any) -> Any:
    """log(R / log R) + sqrt(log(R / log R)), what Omega(.) encloses in Corollary 5.19; R draws, an integer >= 2.

    Raises:
        ValueError: if R is no integer >= 2 (log R = 0 at R = 1).
    """
    R = integers("R", R, least=2).astype(float)
    order = np.log(R / np.log(R))
    return plain(order + np.sqrt(order))


# 64 panels of 12 Gauss-Legendre nodes on [0, 1].
_PANELS = 64
_x, _w = np.polynomial.legendre.leggauss(12)
_NODES = ((np.arange(_PANELS)[:, None] + (_x + 1) / 2) / _PANELS).ravel()
_WEIGHTS = np.tile(_w / 2 / _PANELS, _PANELS)


def _selected_mean(losses: Any, share: Any) -> Any:
    """f_(1) + sum_i (f_(i+1) - f_(i)) share((n - i) / n) along the last axis."""
    losses = _losses(losses)
    n = losses.shape[-1]
    f = np.sort(losses, axis=-1)
    return plain(f[..., 0] + np.diff(f, axis=-1) @ share(np.arange(n - 1, 0, -1) / n))


def _over_mean(selected: Any, losses: Any) -> Any:
    mean = np.mean(np.asarray(losses, float), axis=-1)
    if np.any(mean == 0):
        raise ValueError("F(w) = 0: all losses are 0 and rho is 0/0")
    return plain(selected / mean)


def _losses(losses: Any) -> np.ndarray:
    losses = np.asarray(losses, float)
    if losses.ndim == 0 or losses.shape[-1] == 0:
        raise ValueError(f"losses of shape {losses.shape} must have a last axis with at least one atom")
    if losses.size and not (np.min(losses) >= 0 and np.max(losses) < np.inf):
        raise ValueError(
            f"losses in [{np.min(losses)}, {np.max(losses)}] must be finite and non-negative (Assumption 5.4)"
        )
    return losses


def _gaussian(eps: Any, delta: Any) -> tuple[np.ndarray, np.ndarray]:
    eps, delta = np.asarray(eps, float), np.asarray(delta, float)
    if not (np.all(np.isfinite(eps)) and np.all(np.isfinite(delta))):
        raise ValueError(f"eps = {eps} and delta = {delta} must be finite")
    if np.any(delta <= 0):
        raise AssumptionViolated("Assumption 5.17", f"delta = {delta.min()} must be > 0: a standard deviation")
    return eps, delta
