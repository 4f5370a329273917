"""Convex problems that serve Theorems 5.7, 5.8 and 5.14: smooth, non-negative, with minimisers known in closed form.

Gaussian features have L = inf and serve Theorem 5.18 instead (`linear_gaussian`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import null_space

from gsgd.linear import LinearProblem, ScalarLoss, huber, pseudo_huber, smoothed_relu, squared, squared_hinge
from theory.problems.known import KnownProblem, affine, half_line, point, segment


@dataclass(frozen=True)
class MeanEstimation:
    """f(w, x_i) = c |w - x_i|^2 / 2 with D uniform on the rows x_i of `atoms` (n, d)."""

    atoms: np.ndarray
    c: float

    @property
    def n(self) -> int:
        return len(self.atoms)

    @property
    def dim(self) -> int:
        return self.atoms.shape[1]

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        return rng.integers(self.n, size=size)

    def losses(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        return self.c * np.sum((w[..., None, :] - self.atoms[candidates]) ** 2, axis=-1) / 2

    def gradients(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        return self.c * (w[..., None, :] - self.atoms[candidates])

    def objective(self, w: np.ndarray) -> np.ndarray:
        return self.losses(np.asarray(w, float), np.arange(self.n)).mean(axis=-1)


def mean_estimation(atoms: Any, *, start: Any, c: float = 2.0) -> KnownProblem:
    """f(w, x_i) = c |w - x_i|^2 / 2: L = c, Phi_F = {mean}, F* = c / 2 times the total variance."""
    atoms = np.asarray(atoms, float)
    if atoms.ndim != 2:
        raise ValueError(f"atoms has shape {atoms.shape}, but must be (n, d)")
    problem = MeanEstimation(atoms, c)
    return KnownProblem(
        f"mean estimation, n = {problem.n}, d = {problem.dim}",
        problem,
        c,
        point(atoms.mean(axis=0)),
        atoms,
        np.asarray(start, float),
    )


def _linear(name: str, features: Any, offsets: Any, loss: ScalarLoss, minimisers: Any, start: Any) -> KnownProblem:
    problem = LinearProblem(np.asarray(features, float), np.asarray(offsets, float), loss)
    assert loss.zero is not None
    squares = np.sum(problem.features**2, axis=1)
    if not squares.all():
        raise ValueError(f"features of atom {int(np.argmin(squares))} are all 0: its loss is constant")
    # The point of {<x_i, w> - y_i = zero} nearest to the origin.
    scale = (problem.offsets + loss.zero) / squares
    return KnownProblem(
        f"{name}, n = {problem.n}, d = {problem.dim}",
        problem,
        problem.smoothness,
        minimisers,
        scale[:, None] * problem.features,
        np.asarray(start, float),
    )


def least_squares(features: Any, offsets: Any, *, start: Any) -> KnownProblem:
    """f = (<x_i, w> - y_i)^2 / 2; Phi_F is a point if the features have full column rank, else an affine subspace."""
    features, offsets = np.asarray(features, float), np.asarray(offsets, float)
    solution = np.linalg.lstsq(features, offsets, rcond=None)[0]
    kernel = null_space(features)
    minimisers = affine(solution, kernel) if kernel.shape[1] else point(solution)
    name = "least squares" if kernel.shape[1] == 0 else "interpolating least squares"
    return _linear(name, features, offsets, squared(), minimisers, start)


def two_sided_hinge(features: Any, *, start: Any) -> KnownProblem:
    """f = max(0, 1 - y <x, w>)^2 / 2 with every x under both labels: F is even and convex, so Phi_F = {0}, F* = 1/2.

    The features must span R^d, else Phi_F is no point.
    """
    features = np.asarray(features, float)
    if np.linalg.matrix_rank(features) < features.shape[1]:
        raise ValueError("features must span R^d: along a direction orthogonal to all of them F is constant")
    both = np.concatenate([features, -features])
    return _linear(
        "two-sided squared hinge", both, -np.ones(len(both)), squared_hinge(), point(np.zeros(both.shape[1])), start
    )


def separable_hinge(*, start: float) -> KnownProblem:
    """f = max(0, 1 - x w)^2 / 2 with x in {1, 2}: Phi_F = [1, inf) is not compact, F* = 0."""
    return _linear("separable squared hinge", [[-1.0], [-2.0]], [-1.0, -1.0], squared_hinge(), half_line(1.0), [start])


def symmetric_regression(loss: ScalarLoss, features: Any, centre: Any, residuals: Any, *, start: Any) -> KnownProblem:
    """phi(<x_i, w> - <x_i, centre> +- r_i), both signs: F is even about `centre` for even phi, so Phi_F = {centre}.

    A point only where phi is strictly convex at the residuals: |r_i| < c for Huber.
    """
    features, centre, residuals = np.asarray(features, float), np.asarray(centre, float), np.asarray(residuals, float)
    offsets = features @ centre
    return _linear(
        f"{loss.name} regression",
        np.concatenate([features, features]),
        np.concatenate([offsets + residuals, offsets - residuals]),
        loss,
        point(centre),
        start,
    )


def smoothed_relu_pair(*, start: float) -> KnownProblem:
    """f_1 = phi(w + 2), f_2 = phi(2 - w) with the smoothed ReLU: Phi_F = [-1, 1], F* = 3/2, L = 1.

    In the interior of Phi_F the inequality F^_R(w) >= rho* F(w) that the print's proof of Theorem 5.7 uses is false.
    """
    return _linear(
        "smoothed ReLU pair", [[1.0], [-1.0]], [-2.0, -2.0], smoothed_relu(), segment([-1.0], [1.0]), [start]
    )


def witness_quadratics(*, start: float = 3.0) -> KnownProblem:
    """f_1 = w^2 / 2, f_2 = (w - 2)^2 / 2: equal at w* = 1, so Delta_R = F* and rho* <= 1 (Eq. 5 fails as printed)."""
    return least_squares([[1.0], [1.0]], [0.0, 2.0], start=[start])


def witness_three_atoms(*, start: float = 2.0) -> KnownProblem:
    """f_i = (w - x_i)^2 with atoms {0, 0, 1}: rho_2(w) -> 1 as |w| -> inf, although Delta_2 > F*."""
    return mean_estimation([[0.0], [0.0], [1.0]], start=[start])


def symmetric_quadratics(rng: np.random.Generator, *, n: int, d: int) -> KnownProblem:
    """Mean estimation with atoms x and -x for n/2 random x, started at 0: by symmetry F^_R is least there, for every R.

    So F^_R(w_k) >= Delta_R along every run, and the second term of a bound is all that it has: seen within 1 - eta L.
    """
    x = rng.standard_normal((n // 2, d)) / np.sqrt(d)
    return mean_estimation(np.concatenate([x, -x]), start=np.zeros(d))


def compact_problems() -> list[KnownProblem]:
    """The problems on which the convergence theorems are checked exactly: small n, compact Phi_F, F* > 0."""
    return [
        witness_quadratics(),
        witness_three_atoms(),
        mean_estimation([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]], start=[2.0, -1.0]),
        least_squares([[1.0, 0.2], [-0.3, 0.9], [0.5, -1.1], [0.8, 0.8]], [0.5, -1.0, 0.3, 1.2], start=[2.0, -2.0]),
        two_sided_hinge([[1.0, 0.0], [0.3, 0.8]], start=[1.5, -2.0]),
        symmetric_regression(huber(1.0), [[1.0, 0.5], [0.2, 1.0]], [1.0, -1.0], [0.4, 0.8], start=[4.0, 2.0]),
        symmetric_regression(pseudo_huber(0.7), [[1.0], [0.6]], [0.5], [0.3, 1.5], start=[-3.0]),
        smoothed_relu_pair(start=3.0),
        smoothed_relu_pair(start=0.5),
        # Started at the minimiser, where the second term is all that a bound has.
        witness_quadratics(start=1.0),
    ]


def interpolating_problems() -> list[KnownProblem]:
    """F* = 0. Phi_F is compact in the first only; the proofs use compactness for Delta_R < inf and the projection."""
    return [
        least_squares([[1.0, 0.2], [-0.3, 0.9], [0.5, -1.1]], [1.2, 0.6, -0.6], start=[2.0, -2.0]),
        least_squares([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]], [1.0, 2.0], start=[-1.0, 0.0, 3.0]),
        separable_hinge(start=-2.0),
    ]
