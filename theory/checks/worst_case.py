"""Theorems 5.7, 5.8 and 5.14 against the worst of all problems of their class, by semidefinite programs.

Loaded only where the extra `worst-case` is installed. Values are upper bounds that the dual multipliers prove
(`theory.routes.worstcase.program.Program.certified`), whatever the solver's accuracy; so "worst case <= bound" is
proved, of every problem of the class: its scope is everywhere, at the step sizes that the claim names. What rests on
the solver's tolerance, that a value is attained or equals a constant, is consistent, and the claim says so; what a
problem that the solver has found shows, or one that is enumerated, is of instances.

Classes are those of `theory.routes.worstcase.worst_case`, with L = D0 = 1 and Delta = .25 and 1 unless a claim says
otherwise; by scaling w and f each result holds for all L and D0 with the same eta L and Delta / (L D0^2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np

from theory.checks.convergence import of_sgd
from theory.formulas import convergence, improved
from theory.problems import convex
from theory.routes import exact
from theory.verdict import (
    Context,
    Route,
    Scope,
    Status,
    Verdict,
    Verdicts,
    at_least,
    at_most,
    check,
    equal,
    within_tolerance,
    worst,
)

RATES = (0.1, 0.5, 0.9)
DELTAS = (0.25, 1.0)
TOLERANCE = 1e-5
"""What the solver may leave of a value, with L D0^2 = 1."""


def _solver() -> ModuleType:
    # Imported by the checks only: it takes a second, which `gsgd verify --list` need not wait for.
    from theory.routes import worstcase

    return worstcase


def _at_most(
    method: Any, bound: Callable[..., Any], *, steps: Iterable[int], rates: Iterable[float] = RATES, rho: float = 1.0
) -> Verdicts:
    """worst case <= bound(K, eta, L, D0, rho, Delta) over steps, rates and `DELTAS`."""
    for K in steps:
        for rate in rates:
            for Delta in DELTAS:
                q = {"L": 1.0, "eta": rate, "D0": 1.0, "Delta": Delta, "rho": rho}
                found = _solver().worst_case(method, K, **q)
                yield at_most(found.value, bound(K, **q), where=f"K = {K}, eta L = {rate}, Delta = {Delta}")


@check("Theorem 5.7", Route.WORST_CASE, scope=Scope.EVERYWHERE)
def gsgd_two_atoms(context: Context, *, bound=convergence.gsgd_bound) -> Verdicts:
    """worst case of GSGD, n = 2, R = 2, rho = 1 <= bound: K = 1, 2, 3, eta L = .1, .5, .9, 2 Delta"""
    return _at_most(_solver().greedy(2, 2), bound, steps=(1, 2, 3))


@check("Theorem 5.7", Route.WORST_CASE, scope=Scope.EVERYWHERE)
def gsgd_gaining(context: Context, *, bound=convergence.gsgd_bound) -> Verdicts:
    """the same with rho = 1.2 at the iterates, R = 2 and 4: K = 1, 2, eta L = .1, .5, .9, 2 Delta"""
    for R in (2, 4):
        yield from _at_most(_solver().greedy(2, R), bound, steps=(1, 2), rho=1.2)


@check("Theorem 5.7", Route.WORST_CASE, scope=Scope.EVERYWHERE)
def gsgd_three_atoms(context: Context, *, bound=convergence.gsgd_bound) -> Verdicts:
    """the same for n = 3 atoms, R = 2: rho = 1 and 1.2, K = 1, 2, eta L = .5, 2 Delta"""
    for rho in (1.0, 1.2):
        yield from _at_most(_solver().greedy(3, 2), bound, steps=(1, 2), rates=(0.5,), rho=rho)


@check("Theorem 5.8", Route.WORST_CASE, scope=Scope.EVERYWHERE)
def sgd(context: Context, *, bound=convergence.sgd_bound) -> Verdicts:
    """worst case of SGD, n = 2 and 3 atoms <= bound: K = 1, 2, 3 (n = 2), 1, 2 (n = 3), 3 eta, 2 F*"""
    yield from _at_most(_solver().uniform(2), of_sgd(bound), steps=(1, 2, 3))
    yield from _at_most(_solver().uniform(3), of_sgd(bound), steps=(1, 2))


@check("Theorem 5.14", Route.WORST_CASE, scope=Scope.EVERYWHERE)
def noisy(context: Context, *, bound=convergence.gsgd_bound) -> Verdicts:
    """worst case <= bound, n = R = 2, zeta = +-1, sigma = .3, 1, rho_approx = 1, 1.1, K = 1, 2, 3 eta"""
    for sigma in (0.3, 1.0):
        for rho in (1.0, 1.1):
            yield from _at_most(_solver().noisy(sigma), bound, steps=(1, 2), rho=rho)


@check("Beyond 5.7", Route.WORST_CASE, scope=Scope.EVERYWHERE)
def top_k(context: Context, *, bound=convergence.gsgd_bound) -> Verdicts:
    """worst case of the k of B step <= bound, n = 2, (B, k) = (3, 2), (4, 2), K = 1, 2, 3 eta"""
    for B in (3, 4):
        yield from _at_most(_solver().top_k(2, B, 2), bound, steps=(1, 2))


@check("Beyond 5.7", Route.WORST_CASE, scope=Scope.EVERYWHERE)
def sharper_bound(context: Context, *, bound=improved.gsgd_bound_sharp) -> Verdicts:
    """worst case <= sharp bound, n = 2: GSGD R = 2 (K = 2, 3), SGD (K = 2, 3), 2 of 3 (K = 2), 3 eta, 2 Delta"""

    def limit(K: int, *, Delta: float, **q: float) -> Any:
        # F^(w*) <= Delta is all the class knows of F*.
        return bound(K, Delta=Delta, F_star=Delta, **q)

    solver = _solver()
    yield from _at_most(solver.greedy(2, 2), limit, steps=(2, 3))
    yield from _at_most(solver.uniform(2), limit, steps=(2, 3))
    yield from _at_most(solver.top_k(2, 3, 2), limit, steps=(2,))


@check("Beyond 5.7", Route.WORST_CASE, scope=Scope.EVERYWHERE)
def sharper_bound_small_minimum(context: Context, *, bound=improved.gsgd_bound_sharp) -> Verdicts:
    """worst case <= sharp bound where F* = .1 < Delta = .25: GSGD, n = R = 2, K = 2, 3 eta"""
    for rho in (1.0, 1.2):
        for rate in RATES:
            q = {"L": 1.0, "eta": rate, "D0": 1.0, "Delta": 0.25, "rho": rho, "F_star": 0.1}
            found = _solver().worst_case(_solver().greedy(2, 2), 2, **q)
            yield at_most(found.value, bound(2, **q), where=f"eta L = {rate}, rho = {rho}")


@check("Beyond 5.7", Route.WORST_CASE, expected=Status.CONSISTENT, scope=Scope.INSTANCES)
def sharp_at_the_start(context: Context, *, bound=improved.gsgd_bound_sharp) -> Verdict:
    """K = 1: worst case = sharp bound = Delta + L D0^2/2, by solver values to 1e-5 (GSGD, SGD, 2 of 3, n = 2)"""
    solver, verdicts = _solver(), []
    for method in (solver.greedy(2, 2), solver.uniform(2), solver.top_k(2, 3, 2)):
        for Delta in DELTAS:
            q = {"L": 1.0, "eta": 0.5, "D0": 1.0, "Delta": Delta}
            found = solver.worst_case(method, 1, **q)
            limit = bound(1, rho=1.0, F_star=Delta, **q)
            verdicts += [equal([found.value, found.attained], limit, tolerance=TOLERANCE), equal(limit, Delta + 0.5)]
    return within_tolerance(worst(*verdicts))


@check("Equation 21", Route.WORST_CASE, expected=Status.CONSISTENT, scope=Scope.EVERYWHERE)
def one_step(context: Context, *, share: float = 1.0) -> Verdict:
    """as an inequality: exceeded by < 1e-5 L D0^2 in the worst case, n = 2, 3, R = 2, and 2 of 3, 3 eta, Delta = 1"""
    solver = _solver()
    methods = (solver.greedy(2, 2), solver.greedy(3, 2), solver.top_k(2, 3, 2))
    found = [
        solver.one_step_excess(method, L=1.0, eta=rate, D0=1.0, Delta=1.0, alpha=share * (1 - rate)).value
        for method in methods
        for rate in RATES
    ]
    return within_tolerance(at_most(found, TOLERANCE))


@check("Equation 21", Route.WORST_CASE, expected=Status.CONSISTENT, scope=Scope.INSTANCES)
def one_step_is_tight(context: Context, *, factor: float = 1.001) -> Verdict:
    """is tight: with 1.001 (1 - eta L) for 1 - eta L it fails by > 1e-5 L D0^2 at the solver's worst problem, 3 eta"""
    solver = _solver()
    found = [
        solver.one_step_excess(
            solver.greedy(2, 2), L=1.0, eta=rate, D0=1.0, Delta=1.0, alpha=factor * (1 - rate)
        ).attained
        for rate in RATES
    ]
    return within_tolerance(at_least(found, TOLERANCE, where={"eta L": RATES}))


@check("Beyond 5.7", Route.WORST_CASE, expected=Status.CONSISTENT, scope=Scope.EVERYWHERE)
def improved_step(context: Context, *, share: float = 1.0) -> Verdict:
    """the step (*) is exceeded by < 1e-5 L D0^2 in the worst case, n = 2, R = 2, and 2 of 3:
    6 (eta L, alpha) up to 1.9
    """
    solver, found = _solver(), []
    for method in (solver.greedy(2, 2), solver.top_k(2, 3, 2)):
        for rate, alpha in ((0.1, 1.0), (0.5, 0.75), (0.9, 0.55), (1.0, 0.5), (1.5, 0.25), (1.9, 0.05)):
            q = {"L": 1.0, "eta": rate, "D0": 1.0, "Delta": 1.0, "alpha": alpha, "beta": share / (2 - rate - alpha)}
            found.append(solver.one_step_excess(method, **q).value)
    return within_tolerance(at_most(found, TOLERANCE))


@check("Beyond 5.7", Route.WORST_CASE, scope=Scope.EVERYWHERE)
def improved_bound(context: Context, *, bound=improved.gsgd_bound_improved) -> Verdicts:
    """worst case <= improved bound for eta L = 1.2, 1.8: GSGD n = R = 2 (K = 1, 2), SGD n = 2 (K = 1, 2), 2 Delta"""
    for method in (_solver().greedy(2, 2), _solver().uniform(2)):
        yield from _at_most(method, bound, steps=(1, 2), rates=(1.2, 1.8))


@check("Theorem 5.8", Route.WORST_CASE, expected=Status.CONSISTENT, scope=Scope.INSTANCES)
def gradient_descent(context: Context, *, known=lambda K: 1 / (4 * K + 2)) -> Verdict:
    """n = 1, eta = 1/L is gradient descent: worst last iterate L D0^2/(4K+2), K = 1, 2, 3, solver values to 1e-5"""
    K = np.array([1, 2, 3])
    found = [
        _solver().worst_case(_solver().uniform(1), int(k), L=1.0, eta=1.0, D0=1.0, Delta=0.0, last=True) for k in K
    ]
    values = [equal([item.value for item in found], known(K), where={"K": K}, tolerance=TOLERANCE)]
    values.append(equal([item.attained for item in found], known(K), where={"K": K}, tolerance=TOLERANCE))
    return within_tolerance(worst(*values))


@check("Theorem 5.7", Route.WORST_CASE, scope=Scope.INSTANCES)
def gsgd_contains_problems(context: Context, *, worst_case=None) -> Verdicts:
    """no enumerated problem with n = 2 exceeds its class's worst case: GSGD, K = 1, 2, eta L = .5"""
    return _contains(exact.greedy(2, 2), _solver().greedy(2, 2), worst_case, mean=False)


@check("Theorem 5.8", Route.WORST_CASE, scope=Scope.INSTANCES)
def sgd_contains_problems(context: Context, *, worst_case=None) -> Verdicts:
    """no enumerated problem with n = 2 exceeds its class's worst case: SGD, K = 1, 2, eta L = .5"""
    return _contains(exact.uniform(2), _solver().uniform(2), worst_case, mean=True)


def _contains(law: exact.Law, method: Any, worst_case: Callable[..., Any] | None, *, mean: bool) -> Verdicts:
    compute = worst_case or _solver().worst_case
    for known in convex.compact_problems() + convex.interpolating_problems():
        if known.problem.n != 2 or known.D0 < 1e-9:
            continue
        eta, Delta = 0.5 / known.L, known.F_star if mean else known.Delta(2)
        tree = exact.walk(known, law, eta=eta, K=2)
        for K in (1, 2):
            rho = exact.rho_over(known, law, tree.points[:K], Delta)
            found = compute(method, K, L=known.L, eta=eta, D0=known.D0, Delta=Delta, rho=rho, F_star=known.F_star)
            yield at_most(tree.averages[K - 1], found.value, where=f"{known.name}, K = {K}")
