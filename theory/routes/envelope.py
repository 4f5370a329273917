"""The Moreau envelope of F^ on a line, by bisection: what stationarity is measured by where F^ has kinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.problems.known import KnownProblem
from theory.routes.exact import Law


@dataclass(frozen=True)
class Envelope:
    """env(w) = min over u of F^(u) + |u - w|^2, with L = 1 and one parameter."""

    known: KnownProblem
    law: Law

    def F_hat(self, w: np.ndarray) -> np.ndarray:
        """F^ at w (m,): (m,)."""
        return self.law.expected_loss(self.known.atom_losses(w[:, None]))

    def nearest(self, w: np.ndarray) -> np.ndarray:
        """The minimising u for w (m,): (m,).

        F^ + |u - w|^2 is strongly convex: its slope increases, with a jump up where losses cross, and is bisected
        down to float64's resolution. |u - w|^2 <= F^(w) holds at the minimiser.
        """
        reach = np.sqrt(self.F_hat(w)) + 1e-300
        low, high = w - reach, w + reach
        for _ in range(52):
            middle = (low + high) / 2
            at = middle[:, None]
            shares = self.law.probabilities(self.known.atom_losses(at))
            slope = np.sum(shares * (self.known.atom_gradients(at)[..., 0] @ self.law.weights.T), axis=1)
            right = slope + 2 * (middle - w) > 0
            low, high = np.where(right, low, middle), np.where(right, middle, high)
        return (low + high) / 2

    def __call__(self, w: Any) -> tuple[np.ndarray, np.ndarray]:
        """(env, |grad env|^2) at w (m,): the gradient is 2 (w - nearest)."""
        w = np.asarray(w, float)
        u = self.nearest(w)
        return self.F_hat(u) + (u - w) ** 2, 4 * (w - u) ** 2
