"""One-dimensional losses that are smooth and not negative, but not convex, with a fine grid for their envelope."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.problems.known import KnownProblem, point

REACH, STEPS = 12.0, 4801
"""The grid on which envelopes are minimised: [-REACH, REACH], with a spacing of 0.005."""


@dataclass(frozen=True)
class Shape:
    """phi >= 0 of minimum phi(0) = 0, with |phi''| <= 1: `value` and `slope` of it."""

    name: str
    value: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]


GEMAN_MCCLURE = Shape("z^2/(1 + z^2)/2", lambda z: z**2 / (1 + z**2) / 2, lambda z: z / (1 + z**2) ** 2)
WAVE = Shape("1 - cos z", lambda z: 1 - np.cos(z), np.sin)
WELSCH = Shape("1 - exp(-z^2/2)", lambda z: -np.expm1(-(z**2) / 2), lambda z: z * np.exp(-(z**2) / 2))
SHAPES = (GEMAN_MCCLURE, WAVE, WELSCH)


@dataclass(frozen=True)
class Shifted:
    """f_i(w) = a_i phi(w - c_i) with 0 < a_i <= 1, D uniform: 1-smooth, and in general not convex."""

    shape: Shape
    scale: np.ndarray
    centre: np.ndarray

    @property
    def n(self) -> int:
        return len(self.centre)

    @property
    def dim(self) -> int:
        return 1

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        return rng.integers(self.n, size=size)

    def losses(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        return self.scale[candidates] * self.shape.value(w[..., :1] - self.centre[candidates])

    def gradients(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        return (self.scale[candidates] * self.shape.slope(w[..., :1] - self.centre[candidates]))[..., None]

    def objective(self, w: np.ndarray) -> np.ndarray:
        return self.losses(np.asarray(w, float), np.arange(self.n)).mean(axis=-1)


def random_nonconvex(rng: np.random.Generator, shape: Shape, n: int) -> KnownProblem:
    """n atoms at random places and scales, L = 1; what it states of minimisers is a placeholder that nothing uses."""
    scale = np.exp(-rng.exponential(0.3, n))
    problem = Shifted(shape, scale / scale.max(), rng.normal(0, 1.5, n))
    return KnownProblem(shape.name, problem, 1.0, point([0.0]), problem.centre[:, None], rng.normal(0, 2, 1))


@dataclass(frozen=True)
class Envelope:
    """env(w) = min over u of F^(u) + L |u - w|^2 with L = 1, on the grid, then refined."""

    F_hat: Callable[[np.ndarray], np.ndarray]

    def nearest(self, w: np.ndarray) -> np.ndarray:
        """The minimising u for w (m,): (m,). The function is strongly convex: the best of the grid is next to it."""
        u = np.linspace(-REACH, REACH, STEPS)
        on_grid = self.F_hat(u[:, None])
        best = u[np.argmin(on_grid + (u - w[:, None]) ** 2, axis=1)]
        for width in (5e-3, 2e-4, 8e-6):
            tried = best[:, None] + width * np.linspace(-1, 1, 51)
            value = self.F_hat(tried.reshape(-1, 1)).reshape(tried.shape) + (tried - w[:, None]) ** 2
            best = tried[np.arange(len(w)), np.argmin(value, axis=1)]
        return best

    def __call__(self, w: Any) -> tuple[np.ndarray, np.ndarray]:
        """(env, |grad env|^2) at w (m,): the gradient is 2 (w - nearest)."""
        w = np.asarray(w, float)
        p = self.nearest(w)
        return self.F_hat(p[:, None]) + (p - w) ** 2, 4 * (w - p) ** 2
