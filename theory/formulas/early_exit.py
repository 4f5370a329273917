"""How often an early exit picks the sample with the largest loss (Theorem 6.2, Corollary 6.3), and what lies beyond.

Throughout, a sample's margins at layer j and at the last layer are jointly Gaussian with correlation beta. Assumption
6.1 says so of the difference of two samples; as they are i.i.d., each is Gaussian itself (Cramer's theorem), with any
mean: ybar x ~ N(m, I). A label that is a function of x must then satisfy y(-x) = y(x) almost everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from theory.formulas._numbers import correlation, integer, numbers, plain
from theory.verdict import AssumptionViolated

# Gauss-Legendre nodes on [0, 1] for one-dimensional integrals of a Gaussian times an error function.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(100)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2


def beta(theta: Any, A: Any, B: Any) -> float:
    """Correlation of the early and the final margin (Theorem 6.2).

        beta_j = <A_j' theta, A_j' B_j' theta> / (|A_j' theta| |A_j' B_j' theta|)

    Args:
        theta: the linear head, shape (d,).
        A: the layers up to the exit, W_j ... W_1, shape (d, d).
        B: the layers after it, W_k ... W_{j+1}, shape (d, d).

    Returns:
        A number in [-1, 1].

    Raises:
        ValueError: if shapes do not match, an entry is not finite, or A' theta or A' B' theta is the zero vector,
            where every loss at that exit is the same and beta is not defined.
    """
    theta, A, B = np.asarray(theta, float), np.asarray(A, float), np.asarray(B, float)
    d = theta.size
    if theta.shape != (d,) or A.shape != (d, d) or B.shape != (d, d) or d == 0:
        raise ValueError(f"theta, A, B have shapes {theta.shape}, {A.shape}, {B.shape}, but need (d,), (d, d), (d, d)")
    if not (np.isfinite(theta).all() and np.isfinite(A).all() and np.isfinite(B).all()):
        raise ValueError("theta, A and B must be finite")
    # The scale of each cancels in beta, so it is taken out before products over- or underflow.
    theta, A, B = _scaled(theta), _scaled(A), _scaled(B)
    early = _direction(A.T @ theta, "A' theta")
    final = _direction(A.T @ (B.T @ theta), "A' B' theta")
    return float(np.clip(early @ final, -1.0, 1.0))


def agreement(beta: Any) -> Any:
    """p_j, the probability that an early exit keeps the argmax of two samples (Theorem 6.2), in closed form.

        p_j = 1/2 + arcsin(beta) / pi = 1 - arccos(beta) / pi,    -1 <= beta <= 1

    # Paper: the integral (13), for beta >= 0; here: Sheppard's formula, which equals it and holds for either sign.

    Returns:
        A probability: 0 at beta = -1, 1/2 at 0, 1 at 1.
    """
    return plain(0.5 + np.arcsin(correlation(beta)) / np.pi)


def beta_from_agreement(p: Any) -> Any:
    """The correlation that a measured agreement, or a measured overlap of top halves, tells: sin(pi (p - 1/2)).

    The inverse of `agreement` (Theorem 6.2), for p in [0, 1].
    """
    p = numbers("p", p)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p = {p} must lie in [0, 1]")
    return plain(np.sin(np.pi * (p - 0.5)))


def agreement_integral(beta: Any, *, continued: bool = False) -> Any:
    """p_j as the paper prints it (Equation 13), by quadrature.

        p_j = 1 - 1/(2 sqrt(pi)) int_0^inf exp(-y^2 / 4) erfc(beta y / (2 sqrt(1 - beta^2))) dy

    At beta = 1 the argument of erfc is read as infinity (as -infinity at -1). Within 1e-14 for every beta.

    Args:
        beta: in [0, 1] as printed.
        continued: evaluate the same expression for beta in [-1, 0), too.

    Raises:
        AssumptionViolated: if beta < 0 and not `continued`.
    """
    beta = correlation(beta)
    if not continued:
        _suppose_non_negative(beta)
    beta = beta[..., None]
    # Never 0, so that beta = 1 needs no case of its own: erfc of a huge number is 0.
    root = np.maximum(np.sqrt((1 - beta) * (1 + beta)), 1e-300)
    # exp(-y^2/4) is below 1e-21 from 14 on. The error function changes within 12 root / |beta| of 0 and not after.
    split = np.minimum(14.0, 12 * root / np.maximum(np.abs(beta), 1e-300))
    total = np.zeros(beta.shape[:-1])
    for start, width in ((0.0, split), (split, 14.0 - split)):
        y = start + width * _NODES
        total = total + np.sum(width * _WEIGHTS * np.exp(-(y**2) / 4) * special.erfc(beta * y / (2 * root)), axis=-1)
    return plain(1 - total / (2 * np.sqrt(np.pi)))


def agreement_bound(beta: Any) -> Any:
    """Lower bound on p_j (Equation 14), 0 <= beta <= 1.

        p_j >= 1 - sqrt((2 - 2 beta^2) / (2 - beta^2))

    0 at beta = 0, where p_j is 1/2; above the trivial 1/2 only for beta > sqrt(6/7) = 0.926.

    Raises:
        AssumptionViolated: if beta < 0; at beta = -1 the bound would say 1, and p_j is 0.
    """
    beta = correlation(beta)
    _suppose_non_negative(beta)
    return plain(1 - np.sqrt((2 - 2 * beta**2) / (2 - beta**2)))


def agreement_bound_sharp(beta: Any) -> Any:
    """Sharper lower bound on p_j, with erfc(t) <= exp(-t^2) in Equation (80) (beyond Theorem 6.2), 0 <= beta <= 1.

        p_j >= 1 - sqrt(1 - beta^2) / 2

    Exact at beta = 0 and 1. With beta = cos(a) it is Jordan's inequality sin(a) >= 2 a / pi on [0, pi/2], hence proved
    there; for beta < 0 it is false throughout, and sqrt(1 - beta^2) / 2 bounds p_j from above.

    Raises:
        AssumptionViolated: if beta < 0.
    """
    beta = correlation(beta)
    _suppose_non_negative(beta)
    return plain(1 - np.sqrt((1 - beta) * (1 + beta)) / 2)


def agreement_bound_signed(beta: Any) -> Any:
    """Lower bound on p_j for every beta in [-1, 1] (beyond Theorem 6.2): 1 - sqrt((1 - beta) / 2).

    Exact at beta = -1 and 1. With beta = cos(a) it is Jordan's inequality for a / 2 on [0, pi].
    """
    return plain(1 - np.sqrt((1 - correlation(beta)) / 2))


def disagreement(tau: Any) -> Any:
    """1 - p_j at beta = 1 - tau (Corollary 6.3), to full relative accuracy for small tau.

        1 - p_j = arccos(1 - tau) / pi = 2 arcsin(sqrt(tau / 2)) / pi  ~  sqrt(2 tau) / pi

    Args:
        tau: 1 - beta, in [0, 2].
    """
    tau = _distance(tau)
    return plain(2 * np.arcsin(np.sqrt(tau / 2)) / np.pi)


def corollary_bound(tau: Any) -> Any:
    """Lower bound on p_j at beta = 1 - tau (Corollary 6.3 with the constant that its proof yields), 0 <= tau <= 1.

        p_j >= 1 - 2 sqrt(tau)

    # Paper: 1 - O(sqrt(tau)) as tau -> 0; here: the constant 2, which the proof's expression gives on all of [0, 1].
    """
    return plain(1 - 2 * np.sqrt(_small(tau)))


def corollary_bound_sharp(tau: Any) -> Any:
    """Sharper lower bound on p_j at beta = 1 - tau (beyond Corollary 6.3), 0 <= tau <= 1: 1 - sqrt(tau) / 2.

    Exact at tau = 0 and 1, since arcsin(x) / x increases; (1 - p_j) / sqrt(tau) tends to sqrt(2) / pi = 0.450 at 0.
    It is better than `agreement_bound_sharp` strictly in between, as 1 - beta <= 1 - beta^2.
    """
    return plain(1 - np.sqrt(_small(tau)) / 2)


def agreement_R(beta: float, R: int, *, nodes: int = 240) -> float:
    """Probability that an early exit keeps the argmax of R samples (beyond Theorem 6.2, which has R = 2).

        R int int phi_2(u, v; beta) Phi_2(u, v; beta)^{R-1} du dv

    By quadrature, within 1e-11 for R <= 10^6.

    Args:
        beta: in [-1, 1].
        R: number of candidates, an integer >= 2.
        nodes: quadrature nodes on each axis.
    """
    R = integer("R", R, 2)
    weight, _, _, below = _quadrants(beta, nodes)
    return float(R * np.sum(weight * below ** (R - 1)))


def top_half_overlap(beta: Any) -> Any:
    """Share of the exact top half of a batch that an early exit's top half contains, as B -> inf (beyond Theorem 6.2).

        1/2 + arcsin(beta) / pi

    Both medians split their margin's distribution in halves, so this is 2 P(both margins exceed their means), which is
    Sheppard's formula once more. Exact at B = 2, too, where it is Theorem 6.2; the B in between have
    `theory.formulas.overlap.overlap`.
    """
    return agreement(beta)


def _quadrants(beta: float, nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weights of sample 1's margins (u, v) on a grid, and P(U <= u), P(V <= v), P(U <= u, V <= v) of another sample.

    The midpoint rule converges geometrically here, the integrands being smooth and vanishing at both ends.
    """
    rho = float(correlation(beta))
    root = np.sqrt((1 - rho) * (1 + rho))
    nodes = integer("nodes", nodes, 2)
    reach = 8.5
    grid = reach * (2 * np.arange(nodes) + 1 - nodes) / nodes
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi) * (2 * reach / nodes)
    # v = rho u + root w with w independent of u, so that beta = +-1 is no special case.
    u, w = np.meshgrid(grid, grid, indexing="ij")
    v = rho * u + root * w
    u, v = np.where(u == 0, 1e-300, u), np.where(v == 0, 1e-300, v)
    # Owen (1956): P(U <= u, V <= v) by his function T; (v - rho u) / (u root) = w / u, and the other one likewise.
    both = (
        (special.ndtr(u) + special.ndtr(v)) / 2
        - special.owens_t(u, w / u)
        - special.owens_t(v, (root * u - rho * w) / v)
        - 0.5 * (u * v < 0)
    )
    return np.outer(density, density), special.ndtr(u), special.ndtr(v), np.clip(both, 0.0, 1.0)


def _scaled(values: np.ndarray) -> np.ndarray:
    largest = np.abs(values).max()
    return values / largest if largest > 0 else values


def _direction(vector: np.ndarray, name: str) -> np.ndarray:
    vector = _scaled(vector)
    if not vector.any():
        raise ValueError(f"{name} is 0, so beta is not defined (theta, A or B has no component left)")
    return vector / np.linalg.norm(vector)


def _suppose_non_negative(beta: np.ndarray) -> None:
    if not (beta >= 0).all():
        raise AssumptionViolated("Theorem 6.2, beta_j >= 0", f"beta = {beta.min():.6g}")


def _distance(tau: Any) -> np.ndarray:
    tau = numbers("tau", tau)
    bad = ~((tau >= 0) & (tau <= 2))
    if bad.any():
        raise ValueError(f"tau = {tau[bad].flat[0]} must lie in [0, 2], as beta = 1 - tau does in [-1, 1]")
    return tau


def _small(tau: Any) -> np.ndarray:
    tau = _distance(tau)
    _suppose_non_negative(1 - tau)
    return tau
