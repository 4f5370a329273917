"""One semidefinite program, and what its dual multipliers prove."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy
import numpy as np
from PEPit import PEP, null_point
from PEPit.expression import Expression
from PEPit.functions import SmoothConvexFunction
from PEPit.point import Point
from PEPit.tools.expressions_to_matrices import expression_to_matrices

from theory.routes.worstcase.methods import Cell, Method
from theory.verdict import Inconclusive

GAP = 1e-4
"""Largest distance between the proved upper bound and the solver's worst problem, with L D0^2 = 1, that is let pass."""


class SolverFailed(Inconclusive):
    """The solver gave no answer, or one that proves too little. The message holds its own word."""


class Program:
    """One semidefinite program, with L = 1 and D0 = 1, and w* at the origin.

    Paper: min f = 0 (Assumption 5.4); here: f >= |grad f|^2 / 2L at every visited point, which is all of f >= 0 that
    data at finitely many points can show. Where the dimension is free the supremum is the same, and every point of
    the program is bounded, which a minimiser far away is not.
    """

    def __init__(self, method: Method, *, eta: float, Delta: float, F_star: float):
        self.pep = PEP()
        self.method, self.eta = method, eta
        self.atoms = [self.pep.declare_function(SmoothConvexFunction, L=1.0) for _ in range(method.n)]
        self.constraints: list[Any] = []
        # sum of the gradients at w* = 0
        gradients = [Point() for _ in self.atoms[1:]]
        gradients.append(sum((-g for g in gradients), null_point))
        self.at_star = [Expression() for _ in self.atoms]
        for atom, gradient, value in zip(self.atoms, gradients, self.at_star, strict=True):
            atom.add_point((null_point, gradient, value))
        self.start = self.pep.set_initial_point()
        for share in method.limits:
            self.add(dot(share, self.at_star) <= Delta)
        self.add(dot(np.full(method.n, 1 / method.n), self.at_star) <= F_star)
        # F <= F^ at w*, and every value is at most n F.
        self.most_at_star = method.n * min(Delta, F_star)

    def add(self, constraint: Any) -> None:
        """Require `constraint`, an inequality."""
        self.constraints.append(constraint)

    def step(self, w: Any, cell: Cell) -> list[tuple[int, float, Any]]:
        """(outcome, probability, next iterate) of a step from `w` with values in `cell`."""
        gradients = [atom.oracle(w)[0] for atom in self.atoms]
        return [
            (outcome, p, w - self.eta * dot(weights, gradients))
            for outcome, (p, weights) in enumerate(zip(cell.probabilities, self.method.weights, strict=True))
            if p > 0
        ]

    def require_cell(self, w: Any, cell: Cell, rho: float) -> None:
        """The values at `w` lie in `cell`, and F^(w) >= rho F(w)."""
        values = [atom(w) for atom in self.atoms]
        for a, b, ratio in cell.edges:
            self.add(values[a] >= ratio * values[b])
        if rho > 1:
            self.add(dot(self.method.shares(cell) - rho / self.method.n, values) >= 0)

    def mean(self, w: Any) -> Any:
        """F(w)."""
        return dot(np.full(self.method.n, 1 / self.method.n), [atom(w) for atom in self.atoms])

    def solve(self, metric: Any, *, steps: int) -> tuple[float, float]:
        """(proved upper bound, attained value) of the largest `metric`, whose points are `steps` steps from w_0.

        Raises:
            SolverFailed: if there is no solution, or if the two differ by more than `GAP`.
        """
        for atom in self.atoms:
            for _, gradient, value in atom.list_of_points:
                self.add(value >= gradient**2 / 2)
            atom.set_class_constraints()
        expressions = [constraint.expression for constraint in self.constraints]
        expressions += [constraint.expression for atom in self.atoms for constraint in atom.list_of_class_constraints]
        # All constraints as one: PEPit's own way, one at a time, takes ten times as long as the solver.
        rules, goal = _Affine.of(expressions), _Affine.of([metric])
        gram, values = cvxpy.Variable((Point.counter, Point.counter), PSD=True), cvxpy.Variable(Expression.counter)
        below = rules.at(gram, values) <= 0
        problem = cvxpy.Problem(cvxpy.Maximize(goal.at(gram, values)[0]), [below])
        try:
            # It tells of a solution that is not accurate. The gap below measures that, and the upper bound holds
            # however bad the solution is.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Solution may be inaccurate", category=UserWarning)
                problem.solve(solver="CLARABEL")
        except cvxpy.error.SolverError as failure:
            raise SolverFailed(f"CLARABEL: {failure}") from failure
        if gram.value is None:
            raise SolverFailed(f"CLARABEL: {problem.status}")
        self.solution = gram.value, values.value
        attained, value = float(problem.value), self.certified(goal, rules, below.dual_value, steps)
        if not abs(value - attained) <= GAP:
            raise SolverFailed(
                f"CLARABEL: {problem.status}, attained {attained:.6g}, but its multipliers prove {value:.6g}"
            )
        return value, attained

    def certified(self, goal: _Affine, rules: _Affine, multipliers: np.ndarray, steps: int) -> float:
        """An upper bound on `goal` that holds whatever the solver did, save for float64's rounding of this sum.

        With multipliers m >= 0 of the constraints c <= 0 (negative ones set to 0),

            goal <= goal - sum m c = constant + <r, values> + <M, Gram matrix>
                 <= constant + |r|_1 max value + max(0, largest eigenvalue of M) trace,

        and values and trace have a bound beforehand: |w'|^2 <= |w|^2 + 2 eta beta f(w*), beta = max(1, 1/(2 - eta)), by
        the step (*) of `theory.formulas.improved` with alpha = max(1 - eta, 0); f(w) <= (sqrt f(w*) + |w| / sqrt 2)^2,
        and |grad f|^2 <= 2 f.
        """
        multipliers = np.maximum(multipliers, 0.0)
        constant = goal.constants[0] - multipliers @ rules.constants
        of_values = goal.values[0] - multipliers @ rules.values
        of_gram = (goal.grams[0] - multipliers @ rules.grams).reshape(Point.counter, Point.counter)
        radius = np.sqrt(1 + 2 * steps * self.eta * max(1.0, 1 / (2 - self.eta)) * self.most_at_star)
        largest = (np.sqrt(self.most_at_star) + radius / np.sqrt(2)) ** 2
        trace = 1 + (Point.counter - 1) * 2 * largest
        return float(constant + np.abs(of_values).sum() * largest + max(0.0, np.linalg.eigvalsh(of_gram)[-1]) * trace)

    def found(self, expressions: Sequence[Any]) -> np.ndarray:
        """The values of `expressions` at the solver's worst problem."""
        return _Affine.of(expressions).at(*self.solution)


@dataclass(frozen=True)
class _Affine:
    """Expressions of the Gram matrix of all points and of the values: a row each of (m, p p), (m, v) and (m,)."""

    grams: np.ndarray
    values: np.ndarray
    constants: np.ndarray

    @classmethod
    def of(cls, expressions: Sequence[Any]) -> _Affine:
        grams, values, constants = zip(*(expression_to_matrices(item) for item in expressions), strict=True)
        return cls(np.reshape(grams, (len(grams), -1)), np.array(values), np.array(constants, float))

    def at(self, gram: Any, values: Any) -> Any:
        return self.grams @ gram.flatten(order="C") + self.values @ values + self.constants


def dot(weights: Any, items: Sequence[Any]) -> Any:
    terms = [float(weight) * item for weight, item in zip(weights, items, strict=True) if weight]
    return sum(terms[1:], terms[0])
