"""Finite-support problems f(w, x_i) = phi(<x_i, w> - y_i): the form that simulation spends its time on.

Least squares, hinge, Huber and their like are one feature matrix, one vector of offsets and one scalar loss phi.
The arithmetic is written in a fixed order (features in LANES interleaved sums), so that the compiled kernel and NumPy
produce the same bits, and with them the same choice of a largest loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LANES = 4
"""<x, w> = (s_0 + s_1) + (s_2 + s_3), where s_l sums the features t with t % LANES = l in ascending order."""

# value(z, c) and slope(z, c) use only operations that IEEE 754 rounds correctly (+, -, *, /, sqrt, min, max), so
# NumPy on arrays and the compiled kernel on scalars agree to the bit. Their formulas stand with the losses below.


def squared_value(z: Any, c: Any) -> Any:
    return c * z * z / 2


def squared_slope(z: Any, c: Any) -> Any:
    return c * z


def squared_hinge_value(z: Any, c: Any) -> Any:
    positive = np.maximum(z, 0.0)
    return c * positive * positive / 2


def squared_hinge_slope(z: Any, c: Any) -> Any:
    return c * np.maximum(z, 0.0)


def huber_value(z: Any, c: Any) -> Any:
    size = np.abs(z)
    core = np.minimum(size, c)
    return core * (size - core / 2)


def huber_slope(z: Any, c: Any) -> Any:
    return np.minimum(np.maximum(z, -c), c)


def pseudo_huber_value(z: Any, c: Any) -> Any:
    # c^2 (sqrt(1 + (z/c)^2) - 1), written without the cancellation near z = 0.
    r = z / c
    return z * z / (1.0 + np.sqrt(1.0 + r * r))


def pseudo_huber_slope(z: Any, c: Any) -> Any:
    r = z / c
    return z / np.sqrt(1.0 + r * r)


def smoothed_relu_value(z: Any, c: Any) -> Any:
    core = np.minimum(np.maximum(z, 0.0), c)
    return core * core / (2 * c) + np.maximum(z - c, 0.0)


def smoothed_relu_slope(z: Any, c: Any) -> Any:
    return np.minimum(np.maximum(z, 0.0), c) / c


@dataclass(frozen=True)
class ScalarLoss:
    """A scalar loss phi with a parameter c: its value and its slope at z, both elementwise.

    `curvature` is the smallest Lipschitz constant of the slope. `zero` is a z with phi(z) = 0, or None where phi
    has no zero (such a loss breaks Assumption 5.4).
    """

    name: str
    value: Callable[[Any, Any], Any]
    slope: Callable[[Any, Any], Any]
    c: float
    curvature: float
    zero: float | None = 0.0


def _positive(c: float) -> float:
    if not (np.isfinite(c) and c > 0):
        raise ValueError(f"c = {c} must be positive and finite")
    return float(c)


def squared(c: float = 1.0) -> ScalarLoss:
    """phi(z) = c z^2 / 2; c = 2 is the squared error of Eq. (6)."""
    return ScalarLoss("squared", squared_value, squared_slope, _positive(c), curvature=c)


def squared_hinge(c: float = 1.0) -> ScalarLoss:
    """phi(z) = c max(z, 0)^2 / 2. A classification margin y <x, w> >= 1 has features -y x and offset -1."""
    return ScalarLoss("squared hinge", squared_hinge_value, squared_hinge_slope, _positive(c), curvature=c)


def huber(c: float = 1.0) -> ScalarLoss:
    """phi(z) = z^2 / 2 for |z| <= c, c |z| - c^2 / 2 beyond."""
    return ScalarLoss("Huber", huber_value, huber_slope, _positive(c), curvature=1.0)


def pseudo_huber(c: float = 1.0) -> ScalarLoss:
    """phi(z) = c^2 (sqrt(1 + (z / c)^2) - 1)."""
    return ScalarLoss("pseudo-Huber", pseudo_huber_value, pseudo_huber_slope, _positive(c), curvature=1.0)


def smoothed_relu(c: float = 1.0) -> ScalarLoss:
    """phi(z) = 0 for z <= 0, z^2 / (2 c) on [0, c], z - c / 2 beyond."""
    return ScalarLoss("smoothed ReLU", smoothed_relu_value, smoothed_relu_slope, _positive(c), curvature=1.0 / c)


@dataclass(frozen=True)
class LinearProblem:
    """f(w, x_i) = phi(<x_i, w> - y_i) with D uniform on n atoms.

    Args:
        features: (n, d), the x_i.
        offsets: (n,), the y_i.
        loss: the scalar loss phi.

    Raises:
        ValueError: for an empty problem, shapes that do not match, or entries that are not finite.
    """

    features: np.ndarray
    offsets: np.ndarray
    loss: ScalarLoss
    _columns: np.ndarray = field(init=False, repr=False)
    _padded: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        features = np.ascontiguousarray(self.features, dtype=float)
        offsets = np.ascontiguousarray(self.offsets, dtype=float)
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"features has shape {features.shape}, but must be (n, d) with n >= 1 and d >= 1")
        if offsets.shape != (len(features),):
            raise ValueError(f"offsets has shape {offsets.shape}, but must be (n,) = ({len(features)},)")
        if not (np.isfinite(features).all() and np.isfinite(offsets).all()):
            raise ValueError("features and offsets must be finite")
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "_columns", np.ascontiguousarray(features.T))
        object.__setattr__(self, "_padded", np.pad(features, ((0, 0), (0, -features.shape[1] % LANES))))

    @property
    def n(self) -> int:
        return len(self.features)

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    @property
    def padded_features(self) -> np.ndarray:
        """`features` with columns of zeros up to a multiple of LANES, as the kernel reads them."""
        return self._padded

    @property
    def smoothness(self) -> float:
        """L = sup phi'' max_i |x_i|^2, the smallest constant that serves every atom (Assumption 5.3)."""
        return float(self.loss.curvature * np.sum(self.features**2, axis=1).max())

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        """Indices of i.i.d. atoms, of shape `size`; unsigned, so that the kernel need not test their sign."""
        return rng.integers(self.n, size=size, dtype=np.uint32)

    def margins(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """<x_i, w> - y_i for w (..., d) and candidates (..., m): (..., m)."""
        lanes: list[Any] = [0.0] * LANES
        for t in range(self.dim):
            lanes[t % LANES] = lanes[t % LANES] + self._columns[t].take(candidates) * w[..., t, None]
        return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]) - self.offsets.take(candidates)

    def losses(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """f(w, x_i) for w (..., d) and candidates (..., m): (..., m)."""
        return self.loss.value(self.margins(w, candidates), self.loss.c)

    def gradients(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """grad f(w, x_i) for w (..., d) and candidates (..., m): (..., m, d)."""
        slopes = self.loss.slope(self.margins(w, candidates), self.loss.c)
        return slopes[..., None] * self.features[candidates]

    def objective(self, w: np.ndarray) -> np.ndarray:
        """F(w) = mean_i f(w, x_i) for w (..., d): (...)."""
        # Not w @ features.T: what BLAS adds up first depends on how many w come at once, and on the processor.
        return self.losses(w, np.arange(self.n)).mean(axis=-1)
