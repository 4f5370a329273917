"""Assumptions 5.1 to 5.5 and a compact Phi_F on every problem, with a negative control for each; Fact A.1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from theory import assumptions
from theory.formulas import convergence
from theory.problems import controls, convex
from theory.problems.known import KnownProblem
from theory.verdict import (
    AssumptionViolated,
    Context,
    Route,
    Scope,
    Status,
    Verdict,
    Verdicts,
    at_most,
    check,
    equal,
)


def _hold(context: Context, verify: Callable[..., None], problems: list[KnownProblem]) -> Verdict:
    for known in problems:
        verify(known, context.rng)
    return Verdict(status=Status.PROVED, value=float(len(problems)))


def _breaks(context: Context, verify: Callable[..., None], known: KnownProblem, label: str) -> Verdict:
    """Violated, if the predicate names `label`; a predicate that passes the control, or blames another, is refuted."""
    try:
        verify(known, context.rng)
    except AssumptionViolated as broken:
        if broken.assumption == label:
            raise
        return Verdict(status=Status.REFUTED, witness=f"{known.name} was blamed for: {broken}")
    return Verdict(status=Status.REFUTED, witness=f"{known.name} passed")


def _all() -> list[KnownProblem]:
    return convex.compact_problems() + convex.interpolating_problems()


@check("Assumption 5.1", Route.NUMERICAL, scope=Scope.SAMPLES)
def continuity(context: Context, *, problems=_all) -> Verdict:
    """no jump of f(., x) is found by bisecting 64 segments, on each of 12 instances"""
    return _hold(context, assumptions.verify_continuity, problems())


@check("Assumption 5.2", Route.NUMERICAL, scope=Scope.SAMPLES)
def convexity(context: Context, *, problems=_all) -> Verdict:
    """every f(., x) is convex at 2,000 pairs, on each of 12 instances"""
    return _hold(context, assumptions.verify_convexity, problems())


@check("Assumption 5.3", Route.NUMERICAL, scope=Scope.SAMPLES)
def smoothness(context: Context, *, problems=_all) -> Verdict:
    """L is no less than the exact Hessian bound, and holds at 2,000 pairs, on each of 12 instances"""
    return _hold(context, assumptions.verify_smoothness, problems())


@check("Assumption 5.4", Route.NUMERICAL, scope=Scope.SAMPLES)
def zero_minimum(context: Context, *, problems=_all) -> Verdict:
    """every atom attains min f = 0 at its stated minimiser, on each of 12 instances"""
    return _hold(context, assumptions.verify_zero_minimum, problems())


@check("Section 5", Route.NUMERICAL, scope=Scope.SAMPLES)
def minimisers(context: Context, *, problems=_all) -> Verdict:
    """Phi_F as stated: F is least on it and larger at 4,000 points off it, on each of 12 instances"""
    return _hold(context, assumptions.verify_minimisers, problems())


@check("Section 5", Route.NUMERICAL, scope=Scope.SAMPLES)
def compact(context: Context, *, problems=convex.compact_problems) -> Verdict:
    """Phi_F is compact: no flat direction among 2,000, on each of 9 instances"""
    return _hold(context, assumptions.verify_compact, problems())


def _control(label: str, claim: str, build: Callable[[], KnownProblem], name: str = "") -> None:
    """Register that a problem breaks the hypothesis `label`, a numbered one or what Section 5 says of Phi_F."""

    def control(context: Context, *, known: Callable[[], KnownProblem] = build) -> Verdict:
        return _breaks(context, assumptions.verify_section_5, known(), label)

    control.__name__ = f"control_{name or build.__name__}"
    statement = label if label.startswith("Assumption") else "Section 5"
    check(statement, Route.NUMERICAL, claim=f"control: {claim}", expected=Status.ASSUMPTION_VIOLATED)(control)


_control("Assumption 5.1", "a quadratic with a jump is continuous", controls.jump)
_control("Assumption 5.2", "z^2 / (1 + z^2) is convex", controls.non_convex)
_control("Assumption 5.3", "|z| is smooth", controls.not_smooth)
_control("Assumption 5.3", "a quadratic of curvature 1 is 0.9-smooth", controls.understated_smoothness)
_control("Assumption 5.4", "the logistic loss attains its infimum 0", controls.logistic)
_control("Assumption 5.4", "z^2 / 2 + 1 has min 0", controls.positive_minimum)
_control("Phi_F as stated", "Phi_F = {1/4} for two quadratics at -1, 1", controls.wrong_minimiser)
_control(
    "Phi_F compact",
    "interpolating least squares with n < d has a compact Phi_F",
    lambda: convex.interpolating_problems()[1],
    "interpolation",
)
_control(
    "Phi_F compact",
    "the separable squared hinge has a compact Phi_F",
    lambda: convex.separable_hinge(start=-2.0),
    "separable",
)


@check("Assumption 5.5", Route.EXACT)
def monotone_losses(context: Context, *, transforms=(np.log, np.sqrt, lambda f: f**3)) -> Verdict:
    """log, sqrt and cube of 1 + loss preserve the argmax of 1,000 loss vectors, ties included"""
    losses = context.rng.integers(0, 6, size=(1000, 8)).astype(float)
    for transform in transforms:
        _require_same_argmax(losses, transform(1 + losses))
    return Verdict(status=Status.PROVED, value=float(len(losses)))


@check("Assumption 5.5", Route.EXACT, expected=Status.ASSUMPTION_VIOLATED)
def control_noisy_losses(context: Context, *, sigma: float = 0.5) -> Verdict:
    """control: noisy losses (sigma = 0.5) preserve the argmax"""
    losses = 1.0 + context.rng.random((1000, 8))
    _require_same_argmax(losses, losses * np.exp(sigma * context.rng.standard_normal(losses.shape)))
    return Verdict(status=Status.PROVED, value=float(len(losses)))


def _require_same_argmax(exact: np.ndarray, approximate: np.ndarray) -> None:
    differ = np.argmax(exact, axis=-1) != np.argmax(approximate, axis=-1)
    if differ.any():
        row = int(np.argmax(differ))
        raise AssumptionViolated(
            "Assumption 5.5",
            f"candidate {np.argmax(approximate[row])} has the largest approximate loss, "
            f"candidate {np.argmax(exact[row])} the largest loss",
        )


@check("Theorem 5.7", Route.CLOSED_FORM, expected=Status.ASSUMPTION_VIOLATED)
def control_step_size(context: Context, *, eta_L: float = 1.0) -> Verdict:
    """control: eta = 1/L is allowed"""
    convergence.verify_step_size(eta_L / 2.0, 2.0)
    return Verdict(status=Status.PROVED, value=eta_L)


@check("Fact A.1", Route.EXACT)
def gradient_bound(context: Context, *, factor: float = 2.0) -> Verdicts:
    """|grad f|^2 <= 2 L (f - min f) at 4,000 points on each of 12 instances"""
    for known in _all():
        w = known.start + np.exp(context.rng.uniform(-6, 4, size=(4000, 1))) * context.rng.standard_normal(
            (4000, known.problem.dim)
        )
        squares = np.sum(known.atom_gradients(w) ** 2, axis=-1)
        bounds = factor * known.L * known.atom_losses(w)
        yield at_most(squares, bounds, where=known.name)


@check("Fact A.1", Route.CLOSED_FORM)
def gradient_bound_is_tight(context: Context, *, factor: float = 2.0) -> Verdict:
    """equality for the quadratic f = L w^2 / 2, at 101 points"""
    w, L = np.linspace(-3, 3, 101), 1.7
    return equal((L * w) ** 2, factor * L * (L * w**2 / 2), where={"w": w})
