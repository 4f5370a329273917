"""The oracle of Definition 4.1: R candidates with approximate losses, then one gradient.

A query at w shows R i.i.d. samples and their approximate function values; the user picks, and the oracle returns the
gradient of what was picked, once. Many runs query at once along leading axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gsgd.ranges import whole


class Problem(Protocol):
    """What the oracle needs of a problem: draw from D, and evaluate f and its gradient at the drawn samples.

    Candidates are whatever `draw` returns with leading shape `size`: indices of atoms for a finite support, feature
    vectors for a continuous one.
    """

    @property
    def dim(self) -> int: ...

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray: ...

    def losses(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray: ...

    def gradients(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray: ...

    def objective(self, w: np.ndarray) -> np.ndarray: ...


def standard_normal(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """zeta ~ N(0, 1), of shape `size`."""
    return rng.standard_normal(size)


@dataclass(frozen=True)
class Noise:
    """f~(w, x) = f(w, x) exp(mu(w) + sigma zeta(w, x)) (Assumption 5.12).

    zeta is drawn once per CANDIDATE, not per atom: the same atom drawn twice in one query gets two independent
    values. (With one value per atom, GSGD can do worse than a random choice.)

    Args:
        sigma: noise level, >= 0 and finite.
        zeta: `(rng, size) -> array`, i.i.d. with mean 0 and variance 1.
        mu: `w (..., d) -> (...)`, the scaling common to all samples; it cannot change a choice in exact arithmetic.

    Raises:
        ValueError: if `sigma` is negative or not finite.
    """

    sigma: float
    zeta: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] = standard_normal
    mu: Callable[[np.ndarray], np.ndarray] | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sigma) and self.sigma >= 0):
            raise ValueError(f"sigma = {self.sigma} must be >= 0 and finite (Assumption 5.12)")

    def factors(self, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        """exp(sigma zeta), of shape `size`."""
        return np.exp(self.sigma * self.zeta(rng, size))


@dataclass(frozen=True)
class Draws:
    """What the oracle draws before it knows w: candidates, and the factors exp(sigma zeta) of their losses.

    Leading axes of both are (runs, steps, R); `factors` is None without noise.
    """

    candidates: np.ndarray
    factors: np.ndarray | None


def taken(candidates: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The candidates (..., R) or (..., R, d) at positions `chosen` (..., k)."""
    index = chosen.reshape(chosen.shape + (1,) * (candidates.ndim - chosen.ndim))
    return np.take_along_axis(candidates, index, axis=chosen.ndim - 1)


class Query:
    """One query at w: the user sees `candidates` and `scores`, and may ask for one gradient."""

    def __init__(self, problem: Problem, w: np.ndarray, candidates: np.ndarray, scores: np.ndarray):
        self.candidates = candidates
        self.scores = scores
        self._problem = problem
        self._w = w
        self._spent = False

    def gradients(self, chosen: np.ndarray) -> np.ndarray:
        """grad f(w, x^) of the chosen candidates.

        Args:
            chosen: (..., k), positions in 0..R-1.

        Returns:
            (..., k, d). Definition 4.1 has k = 1; the mini-batch form keeps k of B.

        Raises:
            ValueError: at the second call: a query pays for one gradient evaluation (Definition 4.1).
        """
        if self._spent:
            raise ValueError("this query has already returned its gradient: Definition 4.1 allows one per query")
        self._spent = True
        return self._problem.gradients(self._w, taken(self.candidates, chosen))


@dataclass(frozen=True)
class Oracle:
    """The oracle of Definition 4.1 over `problem`, with R candidates a query.

    Args:
        problem: draws samples and evaluates f.
        R: candidates per query (the gross batch B in the mini-batch form), >= 1. Definition 4.1 asks for R > 1;
            R = 1 is plain SGD.
        noise: None for exact losses (Assumption 5.5), else Assumption 5.12's noisy ones.

    Raises:
        ValueError: if `R` is not a whole number >= 1.
    """

    problem: Problem
    R: int
    noise: Noise | None = None

    def __post_init__(self) -> None:
        whole("R", self.R, least=1)

    def draw(self, rng: np.random.Generator, size: tuple[int, ...] = ()) -> Draws:
        """Candidates and noise for `size` queries, in one go: all candidates first, then all noise."""
        shape = (*size, self.R)
        candidates = self.problem.draw(rng, shape)
        return Draws(candidates, None if self.noise is None else self.noise.factors(rng, shape))

    def query(self, w: Any, draws: Draws) -> Query:
        """Show the R candidates of `draws` and their approximate losses at `w`.

        Args:
            w: (..., d).
            draws: candidates (..., R) or (..., R, d), drawn beforehand by `draw` (a sample does not depend on w).

        Raises:
            ValueError: if a loss is negative (Assumption 5.4) or not a number, naming it.
        """
        w = np.asarray(w, dtype=float)
        losses = self.problem.losses(w, draws.candidates)
        if not (losses >= 0).all():
            worst = losses[~(losses >= 0)].flat[0]
            raise ValueError(f"f(w, x) = {worst}: losses must be non-negative numbers (Assumption 5.4)")
        scores = losses
        if self.noise is not None:
            assert draws.factors is not None
            scores = losses * draws.factors
            if self.noise.mu is not None:
                scores = scores * np.exp(np.asarray(self.noise.mu(w)))[..., None]
        return Query(self.problem, w, draws.candidates, scores)
