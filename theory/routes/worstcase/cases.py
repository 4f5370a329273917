"""The worst case over all problems of a class: the largest over the cells in which the iterates may lie."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PEPit import null_point

from theory.routes.worstcase.methods import Cell, Method
from theory.routes.worstcase.program import GAP, Program, dot

Node = tuple[int, ...]
"""The outcomes that led to an iterate."""


@dataclass(frozen=True)
class WorstCase:
    """What is known of a worst case.

    Attributes:
        value: a proved upper bound on it.
        attained: the value at the solver's worst problem, which satisfies the conditions to the solver's tolerance.
        programs: how many semidefinite programs it took.
    """

    value: float
    attained: float
    programs: int


@cache
def worst_case(
    method: Method,
    K: int,
    *,
    L: float,
    eta: float,
    D0: float,
    Delta: float,
    rho: float = 1.0,
    F_star: float | None = None,
    last: bool = False,
) -> WorstCase:
    """The largest E F(average of w_0, ..., w_{K-1}) over all problems of the class (Theorems 5.7, 5.8, 5.14).

    The class: n convex L-smooth losses with minimum 0, in any dimension; a minimiser w* of F with |w_0 - w*| <= D0,
    F^(w*) <= Delta and F(w*) <= F_star; and F^(w_k) >= rho F(w_k) at every iterate.

    Args:
        method: `greedy`, `uniform`, `top_k` or `noisy`.
        K: iterations, 1 to 3 in reasonable time.
        L, eta, D0, Delta, rho: as in `theory.formulas.convergence.gsgd_bound`, with eta < 2 / L and D0 > 0.
        F_star: bounds F(w*); None where only Delta does.
        last: take w_K, the iterate after K steps, instead of the average.

    Raises:
        SolverFailed: if a program has no solution that proves anything.
        ValueError: for arguments out of range.
    """
    if int(K) != K or K < 1:
        raise ValueError(f"K = {K} must be an integer >= 1")
    if not (L > 0 and D0 > 0 and 0 < eta * L < 2):
        raise ValueError(f"L = {L}, D0 = {D0} and eta L = {eta * L} must be positive, and eta L below 2")
    if not (0 <= Delta < np.inf and rho >= 1 and (F_star is None or F_star >= 0)):
        raise ValueError(f"Delta = {Delta} and F_star = {F_star} must be >= 0, rho = {rho} at least 1")
    unit = L * D0**2
    floor = np.inf if F_star is None else F_star / unit
    output = [0.0] * K + [1.0] if last else [1 / K] * K
    search = _Search(method, output, eta * L, Delta / unit, min(floor, Delta / unit), rho)
    value, attained = search.run()
    return WorstCase(unit * value, unit * attained, search.programs)


@cache
def one_step_excess(
    method: Method, *, L: float, eta: float, D0: float, Delta: float, alpha: float, beta: float = 1.0
) -> WorstCase:
    """How far the right side of the step (*) of `theory.formulas.improved` may fall short of its left side.

        max  E|w' - w*|^2 - |w - w*|^2 + 2 eta alpha F^(w) - 2 eta beta F^(w*)

    over all problems of the class of `worst_case`, with |w - w*| <= D0 and F^(w*) <= Delta. It is at least 0, which
    w = w* and losses of 0 attain; Equation 21 is alpha = 1 - eta L, beta = 1.

    Raises:
        SolverFailed: if a program has no solution that proves anything.
    """
    unit = L * D0**2
    found = []
    for cell in method.first:
        for limit in method.limits:
            program = Program(method, eta=eta * L, Delta=Delta / unit, F_star=Delta / unit)
            w = program.start
            program.add(w**2 <= 1)
            program.require_cell(w, cell, 1.0)
            F_hat = dot(method.shares(cell), [atom(w) for atom in program.atoms])
            at_star = dot(limit, program.at_star)
            # F^(w*) is the largest of all limits: taking the one at hand and requiring it to be so covers each case.
            for other in method.limits:
                if other != limit:
                    program.add(dot(other, program.at_star) <= at_star)
            after = sum((p * moved**2 for _, p, moved in program.step(w, cell)), 0 * w**2)
            excess = after - w**2 + 2 * eta * L * (alpha * F_hat - beta * at_star)
            found.append(program.solve(excess, steps=1))
    value, attained = max(found)
    return WorstCase(D0**2 * value, D0**2 * attained, len(found))


@dataclass
class _Search:
    """Largest value over the cells of all iterates, with L = D0 = 1.

    Which outcomes a step has depends on the cells of the iterates before the last; all their combinations are solved.
    The cell of a last iterate matters only for F^ >= rho F there. Leaving that out bounds from above, so it is asked
    only where the worst problem found without it breaks it.
    """

    method: Method
    output: list[float]
    eta: float
    Delta: float
    F_star: float
    rho: float
    programs: int = 0

    def run(self) -> tuple[float, float]:
        count = itertools.count()
        queue: list[tuple[float, int, float, dict[Node, Cell], Node | None]] = []

        def push(cells: dict[Node, Cell]) -> None:
            value, attained, broken = self.solve(cells)
            heapq.heappush(queue, (-value, next(count), attained, cells, broken))

        for cells in self.inner_cells():
            push(cells)
        while True:
            negative, _, attained, cells, broken = heapq.heappop(queue)
            if broken is None:
                return -negative, attained
            for cell in self.method.cells:
                push({**cells, broken: cell})

    def inner_cells(self) -> Iterator[dict[Node, Cell]]:
        """All ways to give cells to the iterates w_0, ..., w_{K-2}."""
        outcomes = range(len(self.method.weights))
        nodes = [node for k in range(1, len(self.output) - 1) for node in itertools.product(outcomes, repeat=k)]
        if len(self.output) == 1:
            yield {}
            return
        for first in self.method.first:
            for rest in itertools.product(self.method.cells, repeat=len(nodes)):
                yield {(): first, **dict(zip(nodes, rest, strict=True))}

    def solve(self, cells: dict[Node, Cell]) -> tuple[float, float, Node | None]:
        """(proved bound, attained value, the last iterate at which F^ >= rho F fails most, if any)."""
        self.programs += 1
        program = Program(self.method, eta=self.eta, Delta=self.Delta, F_star=self.F_star)
        program.add(program.start**2 <= 1)
        layer: dict[Node, tuple[Any, float, Any]] = {(): (program.start, 1.0, null_point)}
        for weight in self.output[:-1]:
            following: dict[Node, tuple[Any, float, Any]] = {}
            for node, (w, probability, total) in layer.items():
                program.require_cell(w, cells[node], self.rho)
                for outcome, p, moved in program.step(w, cells[node]):
                    following[*node, outcome] = (moved, probability * p, total + weight * w)
            layer = following
        open_nodes: dict[Node, list[Any]] = {}
        metric: Any = 0
        for node, (w, probability, total) in layer.items():
            metric = metric + probability * program.mean(total + self.output[-1] * w)
            if self.rho > 1 and node in cells:
                program.require_cell(w, cells[node], self.rho)
            elif self.rho > 1:
                open_nodes[node] = [atom(w) for atom in program.atoms]
        value, attained = program.solve(metric, steps=len(self.output) - 1)
        return value, attained, self.most_broken(program, open_nodes)

    def most_broken(self, program: Program, nodes: dict[Node, list[Any]]) -> Node | None:
        shares = np.array([self.method.shares(cell) for cell in self.method.cells])
        lacking = {}
        for node, expressions in nodes.items():
            values = program.found(expressions)
            lacking[node] = self.rho * values.mean() - np.max(shares @ values)
        if not lacking or max(lacking.values()) <= GAP:
            return None
        return max(lacking, key=lambda node: lacking[node])
