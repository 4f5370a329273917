"""Checks of Facts A.2 to A.5 and of their proofs (Fact A.1 is checked on every problem, where the problems are)."""

from __future__ import annotations

import math

import numpy as np
from scipy import integrate, special, stats

from theory.formulas import facts
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_most, check, equal

SQRT2 = math.sqrt(2)


@check("Equation 2", Route.QUADRATURE)
def erf_definition(context: Context, *, erf=special.erf) -> Verdict:
    """erf by quadrature of its definition is the library's erf at 121 points of [-6, 6]"""
    t = np.linspace(-6, 6, 121)
    values = [2 / np.sqrt(np.pi) * integrate.quad(lambda z: np.exp(-z * z), 0, end, epsabs=1e-13)[0] for end in t]
    return equal(values, erf(t), where={"t": t})


@check("Equation 2", Route.CLOSED_FORM)
def erf_limit(context: Context, *, erfc=special.erfc) -> Verdicts:
    """erf(t) tends to 1: 1 - erf(t) <= e^{-t^2} at 100 t of [0, 26], and erf(inf) = 1"""
    t = np.linspace(0, 26, 100)
    yield at_most(erfc(t) / np.exp(-(t**2)), 1.0, where={"t": t})
    yield equal(erfc(np.inf), 0.0, where="t = inf")


@check("Fact A.2", Route.EXACT)
def cantelli_discrete(context: Context, *, bound=facts.cantelli_bound) -> Verdicts:
    """P(Y - E Y >= t) <= Var Y / (Var Y + t^2) for every t > 0, for 3,000 random laws on 2 to 6 atoms,
    by enumeration
    """
    for count in range(2, 7):
        atoms = context.rng.standard_t(3, size=(600, count))
        weights = context.rng.dirichlet(np.full(count, 0.7), size=600)
        deviation = atoms - np.sum(weights * atoms, axis=1, keepdims=True)
        variance = np.sum(weights * deviation**2, axis=1, keepdims=True)
        tail = np.sum(weights[:, None, :] * (deviation[:, None, :] >= deviation[:, :, None]), axis=2)
        # Between two atoms the tail is constant and the bound falls, so the worst t of a law is one of its deviations.
        above = deviation > 0
        t, variance = deviation[above], np.broadcast_to(variance, deviation.shape)[above]
        yield at_most(tail[above], bound(variance, t), where={"atoms": count, "Var Y": variance, "t": t})


@check("Fact A.2", Route.CLOSED_FORM)
def cantelli_continuous(context: Context, *, bound=facts.cantelli_bound) -> Verdicts:
    """Cantelli's bound holds for normal, uniform, Laplace, exponential, beta and Student laws at 400 t of (0, 20]"""
    t = np.linspace(0.05, 20, 400)
    laws = {
        "normal": stats.norm(),
        "uniform": stats.uniform(),
        "Laplace": stats.laplace(),
        "exponential, skewed to the right": stats.expon(),
        "beta(8, 1), skewed to the left": stats.beta(8, 1),
        "Student with 3 degrees": stats.t(3),
    }
    for name, law in laws.items():
        yield at_most(law.sf(law.mean() + t), bound(law.var(), t), where={"law": name, "t": t})


@check("Fact A.2", Route.EXACT)
def cantelli_extremal(context: Context, *, bound=facts.cantelli_bound) -> Verdict:
    """Cantelli's bound is attained by the law on {t, -s^2/t} with mean 0,
    on a 30 x 30 grid of (s, t) in [.01, 100]^2
    """
    s, t = np.meshgrid(np.geomspace(0.01, 100, 30), np.geomspace(0.01, 100, 30))
    low = -(s**2) / t
    tail = low / (low - t)  # the weight of t that makes the mean 0
    variance = tail * t**2 + (1 - tail) * low**2
    return equal(tail / bound(variance, t), 1.0, where={"s": s, "t": t})


@check("Fact A.2", Route.CLOSED_FORM, expected=Status.ASSUMPTION_VIOLATED)
def cantelli_negative_t(context: Context, *, t=-1.0, bound=facts.cantelli_bound) -> Verdict:
    """Cantelli's bound asked for at t = -1, outside t > 0"""
    return at_most(stats.norm.sf(t), bound(1.0, t), where=f"a standard normal, t = {t}")


@check("Fact A.3", Route.CLOSED_FORM)
def erf_bound_at_zero(context: Context, *, bound=facts.erf_bound) -> Verdicts:
    """the bound on erf is exact at t = 0, and to first order there: ratio 1 within 1e-9"""
    t = np.geomspace(1e-8, 1e-5, 13)
    yield equal(bound(0.0), special.erf(0.0), where="t = 0")
    yield equal(bound(t) / special.erf(t), 1.0, where={"t": t})


@check("Fact A.4", Route.CLOSED_FORM, expected=Status.REFUTED)
def erfc_bound_any_t(context: Context, *, t=-1.0, bound=facts.erfc_bound) -> Verdict:
    """as printed: erfc(t) <= 2 exp(-t^2 / 2), with no range for t, so at t = -1 too"""
    return at_most(special.erfc(t), bound(t), where=f"t = {t}")


@check("Fact A.4", Route.CLOSED_FORM, expected=Status.REFUTED)
def erf_identity_as_printed(context: Context, *, probability=facts.erf_as_printed) -> Verdict:
    """as printed in the proof: erf(t) = 2 P(0 < Z < t) for a standard normal Z, at t = 1"""
    return equal(probability(1.0), special.erf(1.0), where="t = 1")


@check("Fact A.4", Route.CLOSED_FORM)
def erf_identity(context: Context, *, probability=facts.erf_as_probability) -> Verdict:
    """corrected: erf(t) = 2 P(0 < Z < sqrt2 t), at 2,401 points of [-6, 6]"""
    t = np.linspace(-6, 6, 2401)
    return equal(probability(t), special.erf(t), where={"t": t})


@check("Equation 15", Route.CLOSED_FORM, expected=Status.REFUTED)
def erfc_tail_as_printed(context: Context, *, stretch=1.0) -> Verdict:
    """as printed: erfc(t) = 2 P(Z >= t) for a standard normal Z, at t = 1"""
    return equal(2 * special.ndtr(-stretch), special.erfc(1.0), where="t = 1")


@check("Equation 15", Route.CLOSED_FORM)
def erfc_tail(context: Context, *, stretch=SQRT2) -> Verdict:
    """corrected: erfc(t) = 2 P(Z >= sqrt2 t), at 3,601 points of [-6, 12], as ratios"""
    t = np.linspace(-6, 12, 3601)
    return equal(2 * special.ndtr(-stretch * t) / special.erfc(t), 1.0, where={"t": t})


@check("Beyond A.4", Route.CLOSED_FORM, expected=Status.ASSUMPTION_VIOLATED)
def erfc_bound_sharp_negative_t(context: Context, *, t=-1.0, bound=facts.erfc_bound_sharp) -> Verdict:
    """exp(-t^2) asked for as a bound on erfc(t) at t = -1, outside t >= 0"""
    return at_most(special.erfc(t), bound(t), where=f"t = {t}")


@check("Fact A.5", Route.QUADRATURE)
def half_gaussian(context: Context, *, formula=facts.half_gaussian_integral) -> Verdict:
    """the integral of exp(-y^2 / (2 t^2)) over (0, inf) is sqrt(pi/2) t at 61 t of [.001, 1000]"""
    t = np.geomspace(1e-3, 1e3, 61)
    # 40 t stands for infinity: beyond it lies less than exp(-800).
    values = [integrate.quad(lambda y, scale=scale: np.exp(-(y**2) / (2 * scale**2)), 0, 40 * scale)[0] for scale in t]
    return equal(values / formula(t), 1.0, where={"t": t})


@check("Equation 16", Route.CLOSED_FORM)
def half_gaussian_as_probability(context: Context, *, formula=facts.half_gaussian_integral) -> Verdict:
    """the integral is sqrt(2 pi t^2) P(Z > 0) with P(Z > 0) = 1/2 for Z ~ N(0, t^2), at 61 t of [.001, 1000]"""
    t = np.geomspace(1e-3, 1e3, 61)
    return equal(np.sqrt(2 * np.pi * t**2) * stats.norm.sf(0, scale=t) / formula(t), 1.0, where={"t": t})


@check("Fact A.5", Route.CLOSED_FORM, expected=Status.ASSUMPTION_VIOLATED)
def half_gaussian_negative_t(context: Context, *, t=-1.0, formula=facts.half_gaussian_integral) -> Verdict:
    """sqrt(pi/2) t asked for at t = -1, outside t > 0, where the integral is positive"""
    value = integrate.quad(lambda y: np.exp(-(y**2) / (2 * t**2)), 0, np.inf)[0]
    return equal(value, formula(t), where=f"t = {t}")
