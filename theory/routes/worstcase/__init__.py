"""Worst cases by semidefinite program: the largest E F(output) over all L-smooth convex problems with n atoms.

The values and gradients that n convex functions may take at the points a method visits are those that satisfy the
interpolation conditions, linear in values and inner products, so the worst case is a semidefinite program once it is
known which outcome a step has with which probability. That depends on the values only through the *cell* they lie in:
an ordering, or for noisy losses an ordering and how far apart they are. The worst case is the largest over cells.

PEPit states the programs, CLARABEL solves them. What is reported is not the solver's optimum but what its dual
multipliers prove: see `program.Program.certified`.

Reference: Taylor, Hendrickx & Glineur, "Smooth strongly convex interpolation and exact worst-case performance of
first-order methods" (Mathematical Programming, 2017); Goujaud et al., "PEPit" (2022).
"""

from theory.routes.worstcase.cases import WorstCase, one_step_excess, worst_case
from theory.routes.worstcase.methods import Cell, Method, greedy, noisy, top_k, uniform
from theory.routes.worstcase.program import SolverFailed

__all__ = [
    "Cell",
    "Method",
    "SolverFailed",
    "WorstCase",
    "greedy",
    "noisy",
    "one_step_excess",
    "top_k",
    "uniform",
    "worst_case",
]
