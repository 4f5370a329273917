"""A finite-support problem together with what is known of it: L, the minimisers of F and of every atom.

The statements of a problem about itself are claims: `theory.assumptions` verifies them before a bound is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gsgd.oracle import Problem
from theory.formulas.rho import expected_max


class EnumerableProblem(Problem, Protocol):
    """A problem whose D is uniform on n atoms; candidates are indices of atoms."""

    @property
    def n(self) -> int: ...


@dataclass(frozen=True)
class MinimiserSet:
    """Phi_F as the convex hull of `vertices`, or, if it is unbounded, that hull and more.

    Attributes:
        vertices: (v, d). A convex function attains its supremum over a compact Phi_F at one of them.
        project: w (..., d) -> (..., d), the nearest minimiser.
        compact: whether Phi_F is bounded (Section 5 asks for it).
    """

    vertices: np.ndarray
    project: Callable[[np.ndarray], np.ndarray]
    compact: bool

    def distance(self, w: Any) -> np.ndarray:
        """dist(w, Phi_F) for w (..., d): (...)."""
        w = np.asarray(w, float)
        return np.linalg.norm(w - self.project(w), axis=-1)


def point(p: Any) -> MinimiserSet:
    """Phi_F = {p}."""
    p = np.atleast_1d(np.asarray(p, float))
    return MinimiserSet(p[None], lambda w: np.broadcast_to(p, np.shape(w)), compact=True)


def segment(a: Any, b: Any) -> MinimiserSet:
    """Phi_F = the segment from a to b, which must differ."""
    a, b = np.atleast_1d(np.asarray(a, float)), np.atleast_1d(np.asarray(b, float))
    along = b - a
    if not along.any():
        raise ValueError("the ends of the segment coincide: that is a point")

    def project(w: np.ndarray) -> np.ndarray:
        share = np.clip((w - a) @ along / (along @ along), 0.0, 1.0)
        return a + share[..., None] * along

    return MinimiserSet(np.stack([a, b]), project, compact=True)


def affine(p: Any, basis: np.ndarray) -> MinimiserSet:
    """Phi_F = p + the span of the orthonormal columns of `basis` (d, r); unbounded."""
    p = np.atleast_1d(np.asarray(p, float))
    return MinimiserSet(p[None], lambda w: p + (w - p) @ basis @ basis.T, compact=False)


def half_line(a: float) -> MinimiserSet:
    """Phi_F = [a, inf) in one dimension; unbounded."""
    return MinimiserSet(np.array([[a]]), lambda w: np.maximum(w, a), compact=False)


@dataclass(frozen=True)
class KnownProblem:
    """A finite-support problem and its constants.

    Attributes:
        name: what tables print.
        problem: draws, losses, gradients, F.
        L: smoothness constant of every atom (Assumption 5.3).
        minimisers: Phi_F.
        atom_minimisers: (n, d), a point where each atom's loss is 0 (Assumption 5.4), or None where there is none.
        start: (d,), w_0.
    """

    name: str
    problem: EnumerableProblem
    L: float
    minimisers: MinimiserSet
    atom_minimisers: np.ndarray | None
    start: np.ndarray

    @property
    def F_star(self) -> float:
        """F* = min F, by evaluating F at the stated minimiser."""
        return float(self.problem.objective(self.minimisers.vertices[0]))

    @property
    def D0(self) -> float:
        """dist(w_0, Phi_F)."""
        return float(self.minimisers.distance(self.start))

    def atom_losses(self, w: Any) -> np.ndarray:
        """f(w, x_i) for all atoms, w (..., d): (..., n)."""
        w = np.asarray(w, float)
        return self.problem.losses(w, self._atoms(w))

    def atom_gradients(self, w: Any) -> np.ndarray:
        """grad f(w, x_i) for all atoms, w (..., d): (..., n, d)."""
        w = np.asarray(w, float)
        return self.problem.gradients(w, self._atoms(w))

    def Delta(self, R: int) -> float:
        """Delta_R = sup of F^_R over Phi_F (Definition 5.6); F^_R is convex, so the vertices suffice."""
        return float(np.max(expected_max(self.atom_losses(self.minimisers.vertices), R)))

    def _atoms(self, w: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.arange(self.problem.n), (*w.shape[:-1], self.problem.n))
