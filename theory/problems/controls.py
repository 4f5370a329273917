"""Negative controls: problems that break one assumption, so that a check is seen to fail where it should.

A convex function is continuous on R^d, so nothing can break continuity (Assumption 5.1) alone: the jump below breaks
convexity and smoothness with it, and no more. Every other control breaks exactly the assumption it is named for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gsgd.linear import LinearProblem, ScalarLoss, squared
from theory.problems.known import KnownProblem, point

_FEATURES = np.array([[1.0], [1.0]])
_OFFSETS = np.array([-1.0, 1.0])


def _pair(name: str, loss: ScalarLoss, L: float) -> KnownProblem:
    """phi(w + 1) and phi(w - 1), for phi even: both are zero where their argument is phi's zero, Phi_F claims {0}."""
    problem = LinearProblem(_FEATURES, _OFFSETS, loss)
    atoms = None if loss.zero is None else (_OFFSETS + loss.zero)[:, None]
    return KnownProblem(name, problem, L, point([0.0]), atoms, np.array([2.0]))


def jump() -> KnownProblem:
    """Breaks 5.1: phi(z) = z^2 / 2 + [z > 1/2]."""
    loss = ScalarLoss("jump", lambda z, c: z * z / 2 + (np.asarray(z) > 0.5), lambda z, c: z, 1.0, 1.0)
    # Offset 0, as below: at the offsets of `_pair` the stated minimiser would be wrong, too.
    problem = LinearProblem(_FEATURES, np.zeros(2), loss)
    return KnownProblem("quadratic with a jump", problem, 1.0, point([0.0]), np.zeros((2, 1)), np.array([2.0]))


def non_convex() -> KnownProblem:
    """Breaks 5.2: phi(z) = z^2 / (1 + z^2), smooth with L = 2 and minimum 0."""
    loss = ScalarLoss("Geman-McClure", lambda z, c: z**2 / (1 + z**2), lambda z, c: 2 * z / (1 + z**2) ** 2, 1.0, 2.0)
    # Both atoms are kept at offset 0, where the stated minimiser is right: only convexity is broken.
    problem = LinearProblem(_FEATURES, np.zeros(2), loss)
    return KnownProblem("non-convex loss", problem, 2.0, point([0.0]), np.zeros((2, 1)), np.array([2.0]))


def not_smooth() -> KnownProblem:
    """Breaks 5.3: phi(z) = |z| has no Lipschitz gradient; L = 1 is claimed."""
    loss = ScalarLoss("absolute", lambda z, c: np.abs(z), lambda z, c: np.sign(z), 1.0, 1.0)
    problem = LinearProblem(_FEATURES, np.zeros(2), loss)
    return KnownProblem("absolute loss", problem, 1.0, point([0.0]), np.zeros((2, 1)), np.array([2.0]))


def understated_smoothness() -> KnownProblem:
    """Breaks 5.3: a quadratic whose curvature is 1, with L = 0.9 claimed."""
    return _pair("quadratic with L understated", squared(), 0.9)


def logistic() -> KnownProblem:
    """Breaks 5.4: phi(z) = log(1 + e^z) has infimum 0, which no w attains."""
    loss = ScalarLoss(
        "logistic", lambda z, c: np.logaddexp(0.0, z), lambda z, c: 0.5 * (1 + np.tanh(z / 2)), 1.0, 0.25, zero=None
    )
    problem = LinearProblem(np.array([[1.0], [-1.0]]), np.zeros(2), loss)
    return KnownProblem("logistic loss", problem, 0.25, point([0.0]), None, np.array([2.0]))


def positive_minimum() -> KnownProblem:
    """Breaks 5.4: phi(z) = z^2 / 2 + 1 has minimum 1."""
    loss = ScalarLoss("shifted quadratic", lambda z, c: z * z / 2 + 1, lambda z, c: z, 1.0, 1.0)
    return _pair("quadratic with minimum 1", loss, 1.0)


def wrong_minimiser() -> KnownProblem:
    """States a Phi_F that does not minimise F."""
    return replace(_pair("quadratic with a wrong minimiser", squared(), 1.0), minimisers=point([0.25]))
