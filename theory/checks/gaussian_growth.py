"""Checks of Corollary 5.19: how rho_R grows with R under Assumption 5.17."""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.formulas import rho
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_least, at_most, check

DECADES = np.unique(np.round(np.geomspace(10, 1e6, 51)).astype(int))


def stated_order(constant: Any, R: Any) -> np.ndarray:
    """The corollary's lower bound with `constant` for Omega: (1 + constant (log(R/log R) + sqrt(...))) (1 - 1/R)."""
    return (1 + constant * rho.growth(R)) * (1 - 1 / np.asarray(R, float))


@check("Corollary 5.19", Route.QUADRATURE)
def order_of_growth(context: Context, *, constant: float = 1.2) -> Verdict:
    """rho_R >= (1 + c growth(R)) (1 - 1/R) with c = 1.2 / (1 + C^2) if |eps| = C delta: C = 0..30, R = 10..10^6"""
    C = np.linspace(0, 30, 121)[:, None]
    value = rho.gaussian_rho(C, 1.0, DECADES)
    return at_least(value, stated_order(constant / (1 + C**2), DECADES), where={"C": C, "R": DECADES})


@check("Corollary 5.19", Route.QUADRATURE)
def order_is_exact(context: Context, *, constant: float = 1.7) -> Verdict:
    """the order is exact: rho_R <= (1 + 1.7 growth(R)) (1 - 1/R) for |eps| <= delta, R = 10..10^6"""
    c = np.linspace(-1, 1, 21)[:, None]
    return at_most(
        rho.gaussian_rho(c, 1.0, DECADES), stated_order(constant, DECADES), where={"eps / delta": c, "R": DECADES}
    )


@check("Corollary 5.19", Route.QUADRATURE)
def logarithmic_growth(context: Context, *, window: tuple[float, float] = (1.2, 1.9)) -> Verdicts:
    """rho_R lies between 1.2 log R and 1.9 log R for |eps| <= delta, R = 10..10^6"""
    c = np.linspace(-1, 1, 21)[:, None]
    value = rho.gaussian_rho(c, 1.0, DECADES) / np.log(DECADES)
    where = {"eps / delta": c, "R": DECADES}
    yield at_least(value, window[0], where=where)
    yield at_most(value, window[1], where=where)


@check("Corollary 5.19", Route.QUADRATURE)
def extreme_value_law(context: Context, *, slope: float = 2.0) -> Verdict:
    """at eps = 0, rho_R = 2 log R - log log R - log pi + 2 Euler's gamma within 0.03 (extreme values), R = 10..10^6"""
    log = np.log(DECADES)
    law = slope * log - np.log(log) - np.log(np.pi) + 2 * np.euler_gamma
    return at_most(np.abs(rho.gaussian_rho(0.0, 1.0, DECADES) - law), 0.03, where={"R": DECADES})


@check("Corollary 5.19", Route.CLOSED_FORM)
def follows_from_the_bound(context: Context, *, constant: float = 0.3) -> Verdict:
    """Theorem 5.18 with |eps| yields it: bound >= (1 + 0.3 growth / (1 + C^2)) (1 - 1/R), C = 0..30, R = 100..10^15"""
    C = np.linspace(0, 30, 121)[:, None]
    R = np.round(np.geomspace(100, 1e15, 53))
    value = rho.gaussian_rho_bound_sharp(C, 1.0, R)
    return at_least(value, stated_order(constant / (1 + C**2), R), where={"C": C, "R": R})


@check("Corollary 5.19", Route.QUADRATURE, expected=Status.REFUTED)
def one_sided_hypothesis(context: Context, *, eps: float = -300.0) -> Verdict:
    """as printed: eps <= O(delta) suffices, with a constant 0.01 in Omega (eps = -300 delta, R = 1024)"""
    R = 1024
    return at_least(rho.gaussian_rho(eps, 1.0, R), stated_order(0.01, R), where=f"eps = {eps:g}, delta = 1, R = {R}")


@check("Corollary 5.19", Route.QUADRATURE, expected=Status.REFUTED)
def one_sided_hypothesis_any_constant(context: Context, *, eps: float = -1e9) -> Verdict:
    """as printed: eps <= O(delta) suffices, with any constant down to 10^-6 in Omega (eps = -10^9 delta, R = 10^9)"""
    R = 10**9
    return at_least(rho.gaussian_rho(eps, 1.0, R), stated_order(1e-6, R), where=f"eps = {eps:g}, delta = 1, R = {R}")


@check("Corollary 5.19", Route.QUADRATURE, expected=Status.REFUTED)
def from_a_region(context: Context, *, w: float = 300.0) -> Verdict:
    """as printed: |eps| <= delta on a region bounds the infimum over all w (eps = w^2, delta = w, |w| <= 1; w = 300)"""
    R = 1024
    return at_least(rho.gaussian_rho(w**2, w, R), stated_order(0.01, R), where=f"w = {w:g}, R = {R}")
