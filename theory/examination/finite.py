"""A user's finite problem: its losses and gradients at one w, or a linear model by name, and what can be seen of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special

from gsgd.linear import ScalarLoss, squared
from theory.formulas.rho import selected_share

_LARGEST = 1e100

Function = Callable[[np.ndarray], Any]


def logistic_value(z: Any, c: Any) -> Any:
    """phi(z) = log(1 + e^{-z}) without overflow."""
    return np.logaddexp(0.0, -z)


def logistic_slope(z: Any, c: Any) -> Any:
    """phi'(z) = -1 / (1 + e^z)."""
    return -special.expit(-z)


logistic = ScalarLoss("logistic", logistic_value, logistic_slope, c=1.0, curvature=0.25, zero=None)
"""Its infimum 0 is not attained: Assumption 5.4 asks for a zero, of which the bounds need f >= 0 alone."""


class FiniteProblem:
    """n losses f(., x_i) with probabilities; what `gsgd.sgd.run` and the exact route need of a problem.

    Subclasses give `all_losses`, w (..., d) -> (..., n), and `gradients`, w (..., d) and atoms (..., m) -> (..., m, d).
    """

    def __init__(self, n: int, dim: int, weights: Any = None):
        self.n, self.dim = n, dim
        self.weights = _probabilities(weights, n)

    def all_losses(self, w: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def gradients(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def all_gradients(self, w: np.ndarray) -> np.ndarray:
        """(..., n, d) for w (..., d)."""
        return self.gradients(w, np.broadcast_to(np.arange(self.n), (*w.shape[:-1], self.n)))

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        """Indices of i.i.d. atoms, of shape `size`."""
        return rng.choice(self.n, size=size, p=self.weights)

    def losses(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """f(w, x_i) for w (..., d) and candidates (..., m): (..., m)."""
        every = self.all_losses(w)
        index = np.broadcast_to(candidates, (*every.shape[:-1], candidates.shape[-1]))
        return np.take_along_axis(every, index.astype(np.int64), axis=-1)

    def objective(self, w: Any) -> np.ndarray:
        """F(w) for w (..., d): (...)."""
        return self.all_losses(np.asarray(w, float)) @ self.weights

    def slope(self, w: np.ndarray) -> np.ndarray:
        """grad F(w) for w (d,): (d,)."""
        return self.weights @ self.all_gradients(w)


class Callables(FiniteProblem):
    """A problem given by two functions of one w: (d,) -> (n,) and (d,) -> (n, d).

    Raises:
        ValueError: if what they return has another shape, or is not finite; or for a loss below 0.
    """

    def __init__(self, losses: Function, gradients: Function, w0: np.ndarray, weights: Any = None):
        self._losses, self._gradients = losses, gradients
        first = np.asarray(losses(w0.copy()), float)
        if first.ndim != 1 or len(first) == 0:
            raise ValueError(f"losses(w0) has shape {first.shape}, but must be (n,): one loss for each sample")
        super().__init__(len(first), len(w0), weights)
        self.all_losses(w0)
        self.all_gradients(w0)

    def all_losses(self, w: np.ndarray) -> np.ndarray:
        return self._everywhere(self._losses, "losses", w, (self.n,))

    def all_gradients(self, w: np.ndarray) -> np.ndarray:
        return self._everywhere(self._gradients, "gradients", w, (self.n, self.dim))

    def gradients(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        every = self.all_gradients(w)
        return np.take_along_axis(every, candidates.astype(np.int64)[..., None], axis=-2)

    def _everywhere(self, function: Function, name: str, w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        w = np.asarray(w, float)
        values = np.empty((*w.shape[:-1], *shape))
        for place in np.ndindex(w.shape[:-1]):
            value = np.asarray(function(w[place].copy()), float)
            if value.shape != shape:
                raise ValueError(
                    f"{name}(w) has shape {value.shape}, but must be {shape} with n, d = {self.n, self.dim}"
                )
            values[place] = value
        if not np.isfinite(values).all():
            raise ValueError(f"{name}(w) holds {values[~np.isfinite(values)].flat[0]}: it must be finite at every w")
        return values


class LinearModel(FiniteProblem):
    """f(w, x_i) = phi(s_i <x_i, w> - o_i) + (mu / 2) |w|^2: "logistic" (y of two values) or "squared".

    logistic: log(1 + e^{-s <x, w>}) with s = +1 for the larger value of y and -1 for the other; squared: (<x, w> - y)^2
    / 2. There is no intercept: give X a column of ones.

    Raises:
        ValueError: for another name, shapes that do not match, values that are not finite, or a negative ridge.
    """

    def __init__(self, loss: str, X: Any, y: Any, ridge: float = 0.0, weights: Any = None):
        X, y = np.asarray(X, float), np.asarray(y)
        if X.ndim != 2 or 0 in X.shape:
            raise ValueError(f"X has shape {X.shape}, but must be (n, d) with n >= 1 and d >= 1")
        if y.shape != (len(X),):
            raise ValueError(f"y has shape {y.shape}, but must be (n,) = ({len(X)},)")
        if not np.isfinite(X).all():
            raise ValueError(f"X holds {X[~np.isfinite(X)].flat[0]}: it must be finite")
        if np.abs(X).max() > _LARGEST:
            raise ValueError(
                f"X holds {X.flat[np.argmax(np.abs(X))]:g}: |x| must be at most {_LARGEST:g}, L has its square"
            )
        if not (np.isfinite(ridge) and ridge >= 0):
            raise ValueError(f"ridge = {ridge} must be at least 0 and finite")
        super().__init__(len(X), X.shape[1], weights)
        self.name, self.ridge = loss, float(ridge)
        if loss == "logistic":
            classes = np.unique(y)
            if len(classes) != 2:
                some = ", ".join(str(value) for value in classes[:4])
                raise ValueError(f"loss = 'logistic' needs exactly 2 values of y, but there are {len(classes)}: {some}")
            self._phi, self._offsets = logistic, np.zeros(len(X))
            self._features = np.where(y == classes[1], 1.0, -1.0)[:, None] * X
        elif loss == "squared":
            try:
                self._phi, self._offsets = squared(), np.array([float(value) for value in y.tolist()])
            except (ValueError, TypeError) as error:
                raise ValueError(f"y must hold numbers where loss = 'squared': {error}") from error
            self._features = X
            if not np.isfinite(self._offsets).all():
                raise ValueError("y must be finite")
        else:
            raise ValueError(f"loss = {loss!r} must be 'logistic' or 'squared'")

    @property
    def smoothness(self) -> float:
        """L = sup phi'' max_i |x_i|^2 + mu, the smallest that serves every atom if the largest row can attain it."""
        return float(self._phi.curvature * np.sum(self._features**2, axis=1).max() + self.ridge)

    def all_losses(self, w: np.ndarray) -> np.ndarray:
        w = np.asarray(w, float)
        margins = w @ self._features.T - self._offsets
        return self._phi.value(margins, self._phi.c) + self.ridge / 2 * np.sum(w**2, axis=-1, keepdims=True)

    def gradients(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        rows = self._features[candidates]
        margins = np.einsum("...md,...d->...m", rows, w) - self._offsets[candidates]
        return self._phi.slope(margins, self._phi.c)[..., None] * rows + self.ridge * w[..., None, :]

    def separated(self) -> bool:
        """Whether some v has <s_i x_i, v> >= 0 for all i and > 0 for one: then the logistic F has no minimiser.

        By a linear program. Without ridge, the converse holds as well.
        """
        if self.name != "logistic" or self.ridge > 0:
            return False
        rows = self._features / np.maximum(np.linalg.norm(self._features, axis=1, keepdims=True), 1e-300)
        program = optimize.linprog(-rows.sum(axis=0), A_ub=-rows, b_ub=np.zeros(self.n), bounds=(-1, 1))
        if program.fun is None:
            raise ValueError(f"whether the data are separable could not be settled: {program.message}")
        return program.fun < -1e-7


@dataclass(frozen=True)
class Assumption:
    """One hypothesis, as it was looked at: `holds` is None where points cannot say."""

    name: str
    holds: bool | None
    how: str


def probes(problem: FiniteProblem, centres: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, d): points around the centres (c, d), at distances of all sizes up to twice the centres' spread."""
    spread = max(float(np.ptp(centres, axis=0).max()), 1.0)
    picks = centres[rng.integers(len(centres), size=count)]
    scales = spread * 2.0 ** -rng.integers(-1, 10, size=count)
    steps = rng.standard_normal((count, problem.dim)) / np.sqrt(problem.dim)
    return picks + scales[:, None] * steps


def verify_gradients(problem: FiniteProblem, points: np.ndarray, rng: np.random.Generator) -> None:
    """Gradients against central differences along random directions and coordinates.

    Raises:
        ValueError: where they disagree, naming the row.
    """
    for w in points:
        for _ in range(2):
            v = rng.standard_normal(problem.dim)
            v /= np.linalg.norm(v)
            step = 1e-5 * max(1.0, float(np.linalg.norm(w)))
            there = problem.all_losses(np.stack([w + step * v, w - step * v]))
            seen = (there[0] - there[1]) / (2 * step)
            gradients = problem.all_gradients(w)
            told = gradients @ v
            size = 1.0 + np.abs(there).max(axis=0) + np.linalg.norm(gradients, axis=1)
            gap = np.abs(seen - told) / size
            worst = int(np.argmax(gap))
            if gap[worst] > 1e-4:
                raise ValueError(
                    f"gradients: along a direction row {worst} has the slope {told[worst]:.6g}, but its loss changes "
                    f"by {seen[worst]:.6g} (central difference): losses and gradients do not match"
                )


def look_at_losses(problem: FiniteProblem, points: np.ndarray) -> Assumption:
    """f >= 0 at the points (of Assumption 5.4, what the proofs use)."""
    least = float(problem.all_losses(points).min())
    if least < 0:
        raise ValueError(f"a loss of {least:.6g} was seen: losses must be at least 0 (Assumption 5.4); add a constant")
    return Assumption("losses >= 0 (5.4)", True, f"least seen {least:.3g} at {len(points)} points")


def look_at_convexity(problem: FiniteProblem, u: np.ndarray, v: np.ndarray) -> Assumption:
    """f((u+v)/2) <= (f(u)+f(v))/2 for every row, at pairs of points (Assumption 5.2)."""
    fu, fv, middle = (problem.all_losses(w) for w in (u, v, (u + v) / 2))
    excess = (middle - (fu + fv) / 2) / (1.0 + fu + fv)
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    if excess[worst] > 1e-9:
        return Assumption("convex (5.2)", False, f"row {worst[1]} lies above a chord: no bound is promised")
    return Assumption("convex (5.2)", True, f"no row above a chord at {len(u)} pairs of points")


def largest_curvature(problem: FiniteProblem, points: np.ndarray, rng: np.random.Generator) -> float:
    """The largest rate at which a row's gradient was seen to change: L from below, by power iteration.

    At each point, the direction is turned into that of the gradient's change of the row that changes most. For losses
    whose second derivative is constant it converges to L; for others it is what these points show.
    """
    largest = 0.0
    for w in points:
        step = 1e-4 * max(1.0, float(np.linalg.norm(w)))
        v = rng.standard_normal(problem.dim)
        for _ in range(12):
            v /= np.linalg.norm(v)
            changes = (problem.all_gradients(w + step * v) - problem.all_gradients(w - step * v)) / (2 * step)
            sizes = np.linalg.norm(changes, axis=1)
            row = int(np.argmax(sizes))
            largest = max(largest, float(sizes[row]))
            if sizes[row] == 0:
                break
            v = changes[row]
    return largest


def find_minimiser(problem: FiniteProblem, w0: np.ndarray) -> np.ndarray | None:
    """argmin F by L-BFGS from w0; None where F still falls ten times further out: it has no minimiser there."""
    if isinstance(problem, LinearModel) and problem.separated():
        return None
    found = minimise(problem.objective, problem.slope, w0)
    further = w0 + 10 * (found - w0)
    value = float(problem.objective(found))
    return None if float(problem.objective(further)) < value * (1 - 1e-3) else found


def minimise(value: Function, slope: Function, start: np.ndarray) -> np.ndarray:
    """The end of L-BFGS from `start`, to about float64's resolution."""
    options: Any = {"maxiter": 5000, "maxfun": 20000, "gtol": 1e-12, "ftol": 1e-16}
    result = optimize.minimize(value, start, jac=slope, method="L-BFGS-B", options=options)
    return np.asarray(result.x)


def selected_mean(losses: np.ndarray, weights: np.ndarray, R: int, k: int = 1) -> np.ndarray:
    """F^_R, for k > 1 F^_{R,k}: the expected mean of the k largest of R draws, for losses (..., n) with weights (n,).

    By parts as in `theory.formulas.rho`, where atoms are equally likely: f_(1) + sum_i (f_(i+1) - f_(i)) S(v_i), with
    v_i the probability of the atoms above the i-th and S = `selected_share`.
    """
    n = len(weights)
    if np.ptp(weights) == 0:
        f = np.sort(losses, axis=-1)
        above = np.arange(n - 1, 0, -1) / n
    else:
        order = np.argsort(losses, axis=-1)
        f = np.take_along_axis(losses, order, axis=-1)
        # Rounding must leave v in [0, 1].
        above = np.clip(np.cumsum(weights[order][..., ::-1], axis=-1)[..., -2::-1], 0.0, 1.0)
    return f[..., 0] + np.sum(np.diff(f, axis=-1) * selected_share(above, R, k), axis=-1)


def _probabilities(weights: Any, n: int) -> np.ndarray:
    if weights is None:
        return np.full(n, 1.0 / n)
    weights = np.asarray(weights, float)
    if weights.shape != (n,):
        raise ValueError(f"weights has shape {weights.shape}, but must be (n,) = ({n},)")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError("weights must be finite and at least 0, and not all 0")
    return weights / weights.sum()
