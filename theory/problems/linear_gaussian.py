"""The linear model with Gaussian features, in which the prediction error is exactly Gaussian (Assumption 5.17).

It serves Theorem 5.18, not 5.7: unbounded features have L = inf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gsgd.oracle import standard_normal


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """f(w, x) = (M(w, x) - M(w*, x))^2 (Equation 6) with M(w, x) = <w, x> and x ~ N(m, S).

    The prediction error M(w, x) - M(w*, x) = <w - w*, x> is N(eps(w), delta(w)^2). Candidates are feature vectors.

    Attributes:
        w_star: (d,), the minimiser, where every loss is 0.
        mean: (d,), m.
        covariance: (d, d), S, positive definite: delta(w) > 0 for every w != w*.
        noise: `noise(rng, size)` draws what `draw` scales and shifts, with mean 0 and variance 1. Any law but the
            normal one breaks Assumption 5.17.

    Raises:
        ValueError: if the shapes disagree or S is not symmetric positive definite.
    """

    w_star: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    noise: Callable[[np.random.Generator, Any], np.ndarray] = standard_normal

    def __post_init__(self) -> None:
        for name in ("w_star", "mean", "covariance"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), float))
        d = self.w_star.size
        shapes = (self.w_star.shape, self.mean.shape, self.covariance.shape)
        if shapes != ((d,), (d,), (d, d)):
            raise ValueError(f"w_star, mean and covariance have shapes {shapes}, but must be (d,), (d,) and (d, d)")
        if not np.allclose(self.covariance, self.covariance.T, rtol=1e-12, atol=0):
            raise ValueError("covariance must be symmetric")
        if not np.linalg.eigvalsh(self.covariance).min() > 0:
            raise ValueError("covariance must be positive definite, else delta(w) = 0 for some w != w*")

    @property
    def dim(self) -> int:
        return self.w_star.size

    def draw(self, rng: np.random.Generator, size: Any) -> np.ndarray:
        """Feature vectors of shape (*size, d)."""
        shape = (*np.atleast_1d(np.asarray(size, int)).tolist(), self.dim)
        return self.mean + self.noise(rng, shape) @ self._root.T

    def errors(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """M(w, x) - M(w*, x) for w (..., d) and candidates (..., m, d): (..., m)."""
        away = np.asarray(w, float) - self.w_star
        return np.squeeze(candidates @ away[..., None], axis=-1)

    def losses(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        return self.errors(w, candidates) ** 2

    def gradients(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        return 2 * self.errors(w, candidates)[..., None] * candidates

    def objective(self, w: np.ndarray) -> np.ndarray:
        """F(w) = eps(w)^2 + delta(w)^2 (Equation 47)."""
        return self.eps(w) ** 2 + self.delta(w) ** 2

    def eps(self, w: np.ndarray) -> np.ndarray:
        """Mean of the prediction error, <w - w*, m>: (...)."""
        return (np.asarray(w, float) - self.w_star) @ self.mean

    def delta(self, w: np.ndarray) -> np.ndarray:
        """Standard deviation of the prediction error, |S^{1/2} (w - w*)|: (...)."""
        return np.linalg.norm((np.asarray(w, float) - self.w_star) @ self._root, axis=-1)

    @cached_property
    def _root(self) -> np.ndarray:
        return np.linalg.cholesky(self.covariance)
