"""One-dimensional losses phi(sqrt(a) (w - c)) that are smooth and not negative, but not convex."""

from __future__ import annotations

from typing import Any

import numpy as np

from gsgd.linear import LinearProblem, ScalarLoss
from theory.problems.known import KnownProblem, point


def _bump(z: Any, c: Any) -> Any:
    far = np.abs(z)
    return np.where(far <= 1, z**2 / 2, 1 - np.maximum(2 - far, 0.0) ** 2 / 2)


def _bump_slope(z: Any, c: Any) -> Any:
    far = np.abs(z)
    return np.sign(z) * np.where(far <= 1, far, np.maximum(2 - far, 0.0))


BUMP = ScalarLoss("bump", _bump, _bump_slope, c=1.0, curvature=1.0)
"""z^2 / 2 up to 1, then of curvature -1 up to 2, then flat: it turns as fast as smoothness allows."""
GEMAN_MCCLURE = ScalarLoss(
    "Geman-McClure", lambda z, c: z**2 / (1 + z**2) / 2, lambda z, c: z / (1 + z**2) ** 2, c=1.0, curvature=1.0
)
WAVE = ScalarLoss("1 - cos z", lambda z, c: 1 - np.cos(z), lambda z, c: np.sin(z), c=1.0, curvature=1.0)
WELSCH = ScalarLoss(
    "1 - exp(-z^2/2)", lambda z, c: -np.expm1(-(z**2) / 2), lambda z, c: z * np.exp(-(z**2) / 2), 1.0, 1.0
)
SHAPES = (BUMP, GEMAN_MCCLURE, WAVE, WELSCH)
QUASAR = ScalarLoss(
    "z^2 + 3 sin^2 z", lambda z, c: z**2 + 3 * np.sin(z) ** 2, lambda z, c: 2 * z + 3 * np.sin(2 * z), 1.0, 8.0
)
"""Quasar-convex about 0, and not convex."""


def nonconvex(loss: ScalarLoss, scale: Any, centre: Any, *, start: float) -> KnownProblem:
    """f_i(w) = phi(sqrt(a_i) (w - c_i)), of smoothness a_i sup|phi''|, D uniform; it says of minimisers only {0}.

    Args:
        scale, centre: (n,), the a_i > 0 and the c_i.
    """
    root, centre = np.sqrt(np.asarray(scale, float)), np.asarray(centre, float)
    problem = LinearProblem(root[:, None], root * centre, loss)
    return KnownProblem(loss.name, problem, problem.smoothness, point([0.0]), centre[:, None], np.array([start]))


def random_nonconvex(rng: np.random.Generator, loss: ScalarLoss, n: int) -> KnownProblem:
    """n atoms at random places and scales, L = sup|phi''|."""
    scale = np.exp(-rng.exponential(0.3, n))
    return nonconvex(loss, scale / scale.max(), rng.normal(0, 1.5, n), start=float(rng.normal(0, 2)))
