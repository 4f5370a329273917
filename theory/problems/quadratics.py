"""One-dimensional quadratics, of which rho* is known exactly."""

from __future__ import annotations

import numpy as np

from theory.formulas import improved
from theory.formulas.rho import rho
from theory.problems.convex import least_squares
from theory.problems.known import KnownProblem

CROSSING = np.array([0.0, 0.0, 0.0, 1.0]), np.array([1.0, 0.5, 0.2, 0.1])
"""Places and curvatures of `crossing_problem`."""


def quadratics(w: np.ndarray, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """f_i(w) = c_i (w - x_i)^2 / 2 for w (m,): (m, n)."""
    return c * (w[:, None] - x) ** 2 / 2


def minimum(x: np.ndarray, c: np.ndarray) -> float:
    """The minimiser of their mean."""
    return float(c @ x / c.sum())


def infimum(x: np.ndarray, c: np.ndarray, R: int) -> float:
    """rho*_R, the infimum over w != w* for 1-D quadratics, from a finite list of candidates.

    Between two neighbouring places where a pair of losses crosses the order of the losses is fixed, so F^_R and F
    are quadratics and the ratio is stationary where N' D - N D' = 0, itself a quadratic. The infimum is at such a
    place, at a crossing, at infinity (where the curvatures take the losses' part) or in the limit w -> w*.
    """
    n, s = len(x), np.sqrt(c)
    i, j = np.triu_indices(n, 1)
    crossings = (s[i] * x[i] + s[j] * x[j]) / (s[i] + s[j])
    apart = s[i] != s[j]
    i, j = i[apart], j[apart]
    crossings = np.unique(np.concatenate([crossings, (s[i] * x[i] - s[j] * x[j]) / (s[i] - s[j])]))
    inside = np.concatenate([[crossings[0] - 1], (crossings[1:] + crossings[:-1]) / 2, [crossings[-1] + 1]])
    rank = np.arange(1, n + 1) / n
    weights = np.diff(rank**R, prepend=0.0)
    coefficients = np.stack([c / 2, -c * x, c * x**2 / 2], axis=1)
    candidates = [crossings]
    A, B, C = coefficients.mean(axis=0)
    for order in np.argsort(quadratics(inside, x, c), axis=1):
        a, b, e = weights @ coefficients[order]
        roots = np.roots([a * B - b * A, 2 * (a * C - e * A), b * C - e * B])
        candidates.append(roots.real)  # a real part that is no root is still a place, and the infimum is below it
    w, w_star = np.concatenate(candidates), minimum(x, c)
    near = 1e-9 * (1 + abs(w_star))
    w = np.concatenate([w[np.abs(w - w_star) > near], [w_star - near, w_star + near]])
    return float(min(np.min(rho(quadratics(w, x, c), R)), rho(c, R)))


def crossing_problem() -> KnownProblem:
    """Quadratics of curvatures 1, 1/2, 1/5, 1/10 at 0, 0, 0, 1, from 2 away: rho*_2 = 1.27, rho*_4 = 1.43.

    No w makes all losses equal, so rho_2 > 1 everywhere, and GSGD is promised a better start and a worse end.
    """
    x, c = CROSSING
    return least_squares(np.sqrt(c)[:, None], np.sqrt(c) * x, start=[minimum(x, c) + 2.0])


def average_at_best_step(K: int, R: int, *, runs: int, rng: np.random.Generator) -> np.ndarray:
    """(runs,): F of the average of K iterates on `crossing_problem`, of GSGD at its best step; R = 1 is SGD."""
    known, (x, c) = crossing_problem(), CROSSING
    eta = improved.best_step(K, L=known.L, D0=known.D0, Delta=known.Delta(R))
    w = np.full(runs, known.start[0])
    total = np.zeros(runs)
    for _ in range(K):
        total += w
        drawn = rng.integers(len(x), size=(R, runs))
        largest = np.argmax(c[drawn] * (w - x[drawn]) ** 2, axis=0)
        kept = drawn[largest, np.arange(runs)]
        w -= eta * c[kept] * (w - x[kept])
    return quadratics(total / K, x, c).mean(axis=1)
