"""One-dimensional Huber losses of every shape: the family in which small problems that come near a bound are found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from theory.problems.known import KnownProblem, MinimiserSet, point, segment


@dataclass(frozen=True)
class Hubers:
    """f_i(w) = a_i H(w - c_i): H is z^2 / 2 on [-left_i, right_i] and linear beyond, with continuous slope.

    Convex, a_i-smooth, of minimum 0; left_i = 0 is flat to the left of c_i, and inf is a quadratic. Atom i has the
    probability `weights[i]`.

    Attributes:
        curvature, centre, left, right, weights: (n,); curvature > 0, left and right >= 0 (one of them > 0), weights > 0
            of sum 1.
    """

    curvature: np.ndarray
    centre: np.ndarray
    left: np.ndarray
    right: np.ndarray
    weights: np.ndarray

    @property
    def n(self) -> int:
        return len(self.centre)

    @property
    def dim(self) -> int:
        return 1

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        if np.ptp(self.weights) == 0:
            return rng.integers(self.n, size=size)  # a tenth of the time
        return rng.choice(self.n, size=size, p=self.weights)

    def losses(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        z = w[..., :1] - self.centre[candidates]
        inside = np.clip(z, -self.left[candidates], self.right[candidates])
        return self.curvature[candidates] * inside * (z - inside / 2)

    def gradients(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        z = w[..., :1] - self.centre[candidates]
        inside = np.clip(z, -self.left[candidates], self.right[candidates])
        return (self.curvature[candidates] * inside)[..., None]

    def objective(self, w: np.ndarray) -> np.ndarray:
        return self.losses(np.asarray(w, float), np.arange(self.n)) @ self.weights

    def minimisers(self) -> MinimiserSet:
        """Where F' = 0: F' is continuous, piecewise linear and non-decreasing, with breaks at the ends of the pieces.

        Raises:
            ValueError: if F has no minimiser, or an unbounded set of them.
        """
        ends = np.concatenate([self.centre - self.left, self.centre + self.right])
        w = np.unique(ends[np.isfinite(ends)])
        # One more place on either side, from where on F' is linear or constant.
        w = np.concatenate([[w[0] - 1], w, [w[-1] + 1]]) if len(w) else np.array([0.0, 1.0])
        slope = self.gradients(w[:, None], np.arange(self.n))[..., 0] @ self.weights
        zero = 1e-14 * np.max(self.curvature)
        low, high = _crossing(w, slope, zero), -_crossing(-w[::-1], -slope[::-1], zero)
        return point([low]) if high - low < 1e-12 else segment([low], [high])


def _crossing(w: np.ndarray, slope: np.ndarray, zero: float) -> float:
    """The first place where a piecewise linear, non-decreasing `slope` is 0 (within `zero`), prolonged at its ends."""
    reached = slope > -zero
    at = int(np.argmax(reached)) if reached.any() else len(w)
    if at == 0:
        rise = (slope[1] - slope[0]) / (w[1] - w[0])
        if not rise > 0:
            raise ValueError("F has no compact set of minimisers: its slope does not change sign")
        return float(w[0] - slope[0] / rise)
    if at == len(w):
        rise = (slope[-1] - slope[-2]) / (w[-1] - w[-2])
        if not rise > 0:
            raise ValueError("F has no compact set of minimisers: its slope does not change sign")
        return float(w[-1] - slope[-1] / rise)
    rise = slope[at] - slope[at - 1]
    return float(w[at - 1] - slope[at - 1] * (w[at] - w[at - 1]) / rise)


def huber_problem(
    curvature: list[float],
    centre: list[float],
    left: list[float],
    right: list[float],
    *,
    start: float,
    weights: list[float] | None = None,
    L: float | None = None,
) -> KnownProblem:
    """A problem of `Hubers`; `weights` are equal and L is the largest curvature unless given.

    Raises:
        ValueError: if the arguments are out of range, or F has no compact set of minimisers.
    """
    n = len(centre)
    share = np.full(n, 1 / n) if weights is None else np.asarray(weights, float)
    a, c, lo, hi = (np.asarray(item, float) for item in (curvature, centre, left, right))
    if not (a.shape == c.shape == lo.shape == hi.shape == share.shape == (n,)):
        raise ValueError(f"curvature, centre, left, right and weights must have {n} entries each")
    if not (np.all(a > 0) and np.all((lo >= 0) & (hi >= 0) & (lo + hi > 0)) and np.all(share > 0)):
        raise ValueError("curvatures and weights must be positive, left and right >= 0 and not both 0")
    if abs(share.sum() - 1) > 1e-12:
        raise ValueError(f"weights = {share} must have the sum 1")
    problem = Hubers(a, c, lo, hi, share)
    return KnownProblem(
        f"Huber losses, n = {n}",
        problem,
        float(np.max(a)) if L is None else L,
        problem.minimisers(),
        c[:, None],
        np.array([start]),
    )
