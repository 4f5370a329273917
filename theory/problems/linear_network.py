"""Deep linear networks of Section 6.1, and data that satisfy Assumption 6.1 or break it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import special

from theory.formulas import early_exit
from theory.routes import montecarlo
from theory.verdict import AssumptionViolated, Status, Verdict, at_most, worst

# Section 3 prints sig(z) = 1 / (1 + e^z). The usual sigmoid has e^{-z}.
PRINTED_SIGN, USUAL_SIGN = 1, -1


@dataclass(frozen=True, eq=False)
class DeepLinearNetwork:
    """The k-layer linear network of Section 6.1 with the losses of all its early exits (Equations 7 to 11).

    `weights` holds W_1, ..., W_k in this order, shape (k, d, d); `theta` is the linear head, shape (d,).
    `sign` is that of z in sig(z) = 1 / (1 + exp(sign z)): Section 3's by default.

    # Paper: {W_i} for i = 1, ..., d; here: i = 1, ..., k, because (7) multiplies W_k ... W_1.
    """

    weights: np.ndarray
    theta: np.ndarray
    sign: int = PRINTED_SIGN

    def __post_init__(self) -> None:
        weights, theta = np.asarray(self.weights, float), np.asarray(self.theta, float)
        d = theta.size
        if theta.shape != (d,) or weights.ndim != 3 or weights.shape[1:] != (d, d) or 0 in weights.shape:
            raise ValueError(f"weights and theta have shapes {weights.shape}, {theta.shape}, but need (k, d, d), (d,)")
        if self.sign not in (PRINTED_SIGN, USUAL_SIGN):
            raise ValueError(f"sign = {self.sign} must be 1 (as printed) or -1 (the usual sigmoid)")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "theta", theta)

    @property
    def k(self) -> int:
        return len(self.weights)

    @property
    def d(self) -> int:
        return self.theta.size

    def directions(self) -> np.ndarray:
        """A_j' theta for j = 1, ..., k, shape (k, d): all that the losses see of z."""
        return np.array([self.A(j).T @ self.theta for j in range(1, self.k + 1)])

    def A(self, j: int) -> np.ndarray:
        """A_j = W_j ... W_1 (Equation 8), shape (d, d)."""
        return self._product(self.weights[: self._exit(j)])

    def B(self, j: int) -> np.ndarray:
        """B_j = W_k ... W_{j+1} (Equation 8), shape (d, d); the identity at j = k."""
        return self._product(self.weights[self._exit(j) :])

    def beta(self, j: int) -> float:
        """beta_j of Theorem 6.2."""
        return early_exit.beta(self.theta, self.A(j), self.B(j))

    def scores(self, x: np.ndarray) -> np.ndarray:
        """theta' A_j x for j = 1, ..., k, layer by layer as a network computes it; x (..., d) gives (k, ...)."""
        scores = np.empty((self.k, *x.shape[:-1]))
        for layer, W in enumerate(self.weights):
            x = x @ W.T
            scores[layer] = x @ self.theta
        return scores

    def predictions(self, x: np.ndarray) -> np.ndarray:
        """The early predictions y^_j = sig(theta' A_j x) (Equation 9), shape (k, ...); the last is y^ itself (7)."""
        return np.exp(-np.logaddexp(0.0, self.sign * self.scores(x)))

    def losses(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Cross-entropies of the early predictions (Equation 11), shape (k, ...).

            l_j = -y log(y^_j) - (1 - y) log(1 - y^_j),    y in {0, 1}

        As y picks one of the terms, and 1 - sig(z) = sig(-z), this is log(1 + exp(+-z)), which keeps its digits
        where y^_j rounds to 0 or 1.
        """
        z = self.sign * self.scores(x)
        return np.logaddexp(0.0, np.where(y == 1, z, -z))

    def keeps_argmax(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Whether exit j and the last layer give the largest loss to the same candidate (the event in Equation 12).

        Args:
            x: candidates, shape (n, R, d).
            y: their labels, shape (n, R).

        Returns:
            A boolean array of shape (k, n).
        """
        choice = np.argmax(self.losses(x, y), axis=-1)
        return choice == choice[-1]

    def _exit(self, j: int) -> int:
        if not float(j).is_integer() or not 1 <= j <= self.k:
            raise ValueError(f"j = {j} must be a layer, an integer in [1, {self.k}]")
        return int(j)

    def _product(self, weights: np.ndarray) -> np.ndarray:
        product = np.eye(self.d)
        for W in weights:
            product = W @ product
        return product


def rotations(angles: Any, *, sign: int = PRINTED_SIGN) -> DeepLinearNetwork:
    """A network on R^2 whose i-th layer rotates by `angles[i]`: beta_j = cos(angles[j] + ... + angles[k-1])."""
    cosine, sine = np.cos(np.asarray(angles, float)), np.sin(np.asarray(angles, float))
    weights = np.moveaxis(np.array([[cosine, -sine], [sine, cosine]]), -1, 0)
    return DeepLinearNetwork(weights, np.array([1.0, 0.5]), sign)


def near_identity(
    rng: np.random.Generator, *, k: int, d: int, noise: float, sign: int = PRINTED_SIGN
) -> DeepLinearNetwork:
    """A network with W_i = I + noise G_i and Gaussian G_i / sqrt(d) and head: what residual layers do at first."""
    weights = np.eye(d) + noise * rng.standard_normal((k, d, d)) / np.sqrt(d)
    return DeepLinearNetwork(weights, rng.standard_normal(d), sign)


class LabelledData(Protocol):
    """Samples with labels in {0, 1} that are a function of the sample."""

    def label(self, x: np.ndarray) -> np.ndarray:
        """The label of samples x (..., d)."""
        ...

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Independent samples of shape (*size, d), and their labels."""
        ...


def gaussian(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal noise, as Assumption 6.1 has it."""
    return rng.standard_normal(shape)


@dataclass(frozen=True, eq=False)
class EvenLabels:
    """Data that satisfy Assumption 6.1: u ~ N(mean, I), y = 1[|u| > radius], x = ybar u.

    Then ybar x = u, and the difference of two such is N(0, 2 I) for any mean. As |x| = |u|, the label is a function of
    x, and an even one: y(-x) = y(x). Other `noise` than `gaussian` breaks the assumption, not the evenness.
    """

    mean: np.ndarray
    radius: float
    noise: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] = gaussian

    def label(self, x: np.ndarray) -> np.ndarray:
        return (np.sum(x**2, axis=-1) > self.radius**2).astype(int)

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        u = np.asarray(self.mean, float) + self.noise(rng, (*size, len(self.mean)))
        y = self.label(u)
        return (2 * y - 1)[..., None] * u, y


@dataclass(frozen=True, eq=False)
class SignLabels:
    """Data that break Assumption 6.1: x ~ N(0, I), y = 1[<direction, x> > 0].

    This is what one would write first. But y(-x) = 1 - y(x), and ybar x always lies on one side of a plane.
    """

    direction: np.ndarray

    def label(self, x: np.ndarray) -> np.ndarray:
        return (x @ np.asarray(self.direction, float) > 0).astype(int)

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((*size, len(self.direction)))
        return x, self.label(x)


def centred_difference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z = ybar_1 x_1 - ybar_2 x_2 of pairs x (n, 2, d) with labels y (n, 2), which Assumption 6.1 says is N(0, 2 I)."""
    u = (2 * y - 1)[..., None] * x
    return u[:, 0] - u[:, 1]


def count_kept(
    network: DeepLinearNetwork, data: LabelledData, rng: np.random.Generator, *, n: int, R: int = 2
) -> np.ndarray:
    """In how many of n draws of R candidates each exit keeps the argmax, shape (k,); all exits see the same draws."""
    counts = np.zeros(network.k, dtype=int)
    chunk = max(1, 400_000 // R)
    for start in range(0, n, chunk):
        x, y = data.draw(rng, (min(chunk, n - start), R))
        counts += np.count_nonzero(network.keeps_argmax(x, y), axis=1)
    return counts


def verify_even_labels(data: LabelledData, rng: np.random.Generator, *, samples: int = 10_000) -> Verdict:
    """y(-x) = y(x), which Assumption 6.1 implies almost everywhere for a label that is a function of x.

    If y(x) = 1 and y(-x) = 0, then ybar x is x at both and never -x; but a Gaussian has a density everywhere.
    """
    x, _ = data.draw(rng, (samples,))
    verdict = at_most(np.mean(data.label(x) != data.label(-x)), 0.0, where="share with y(-x) other than y(x)")
    if verdict.status is not Status.PROVED:
        raise AssumptionViolated("Assumption 6.1", f"the label is not even: {verdict.witness}")
    return verdict


def verify_gaussian_difference(
    data: LabelledData, rng: np.random.Generator, *, directions: np.ndarray, alpha: float, pairs: int = 60_000
) -> Verdict:
    """Assumption 6.1 along each of `directions` (m, d): <a, ybar_1 x_1 - ybar_2 x_2> / |a| is N(0, 2).

    By Dvoretzky-Kiefer-Wolfowitz; a true assumption is called violated with probability at most `alpha`.
    """
    x, y = data.draw(rng, (pairs, 2))
    a = np.asarray(directions, float)
    projected = centred_difference(x, y) @ (a / np.linalg.norm(a, axis=1, keepdims=True)).T / np.sqrt(2)
    verdict = worst(*(montecarlo.distribution_equals(column, special.ndtr, alpha / len(a)) for column in projected.T))
    if verdict.status is not Status.CONSISTENT:
        raise AssumptionViolated("Assumption 6.1", f"ybar_1 x_1 - ybar_2 x_2 is not N(0, 2 I): {verdict.witness}")
    return verdict


# The instances of the checks. In ROTATIONS beta_1 = cos 0.8 = 0.697 and beta_2 = cos 0.3 = 0.955, known in advance;
# the seeds of the others are such that every beta_j is positive, as Theorem 6.2 asks: between 0.33 and 0.92.
ROTATIONS = rotations([0.4, 0.5, 0.3])
RESIDUAL = near_identity(np.random.default_rng(5), k=4, d=5, noise=0.6)
USUAL = near_identity(np.random.default_rng(2), k=4, d=5, noise=0.6, sign=USUAL_SIGN)
PLANE = EvenLabels(np.array([0.5, -1.0]), 1.5)
SPACE = EvenLabels(np.array([0.5, -1.0, 0.0, 0.0, 0.3]), 2.3)
