"""The preliminary facts of Appendix A as formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from theory.formulas._numbers import numbers, plain, require
from theory.verdict import AssumptionViolated


def gradient_bound(L: Any, gap: Any) -> Any:
    """Bound on the squared gradient norm of an L-smooth g at excess `gap` = g(y) - min g (Fact A.1).

        |grad g(y)|^2 <= 2 L (g(y) - min_z g(z))

    Raises:
        ValueError: unless 0 < L < inf and gap >= 0.
    """
    L, gap = numbers("L", L), numbers("gap", gap)
    require((L > 0) & np.isfinite(L), "L", L, "must be positive and finite")
    require(gap >= 0, "gap", gap, "must be at least 0")
    return plain(2 * L * gap)


def cantelli_bound(variance: Any, t: Any) -> Any:
    """Bound on the upper tail of any Y with this variance (Fact A.2).

        P(Y - E[Y] >= t)  <=  Var(Y) / (Var(Y) + t^2)

    Attained by Y - E[Y] = t with this very probability and -Var(Y) / t otherwise.

    Raises:
        AssumptionViolated: unless t > 0.
        ValueError: if the variance is negative.
    """
    variance, t = numbers("variance", variance), numbers("t", t)
    require(variance >= 0, "variance", variance, "must be at least 0")
    _suppose(t > 0, "Fact A.2, t > 0", "t", t)
    return plain(variance / (variance + t**2))


def erf_bound(t: Any) -> Any:
    """Upper bound on erf(t) for every real t (Fact A.3): sqrt(1 - exp(-4 t^2 / pi)).

    For t >= 0, erf(t)^2 is the mass of exp(-|z|^2) / pi on the square [-t, t]^2, and the right-hand side squared is its
    mass on the disc of the same area, which lies nearer to the origin. For t < 0 it says only that erf(t) is negative.
    """
    t = numbers("t", t)
    # -expm1 keeps the digits of 1 - exp(-a) for small a.
    return plain(np.sqrt(-np.expm1(-4 * t**2 / np.pi)))


def erfc_bound(t: Any) -> Any:
    """Upper bound on erfc(t) for t >= 0 (Fact A.4): 2 exp(-t^2 / 2).

    # Paper: prints no range; here: t >= 0 is stated, because the bound is false for t < -0.6373 (erfc(-1) = 1.843
    # against 1.213). It is evaluated for every t, so that the sentence as printed can be tested.
    """
    t = numbers("t", t)
    return plain(2 * np.exp(-(t**2) / 2))


def erfc_bound_sharp(t: Any) -> Any:
    """Sharper upper bound on erfc(t) for t >= 0 (Fact A.4 with its proof's identity corrected): exp(-t^2).

    erfc(t) = 2 P(Z >= sqrt2 t) <= exp(-t^2) from P(Z >= s) <= exp(-s^2 / 2) / 2. Exact at t = 0, false for every t < 0.

    Raises:
        AssumptionViolated: if t < 0.
    """
    t = numbers("t", t)
    _suppose(t >= 0, "Fact A.4, t >= 0", "t", t)
    return plain(np.exp(-(t**2)))


def erf_as_printed(t: Any) -> Any:
    """2 P(0 < Z < t) for a standard normal Z, which the proof of Fact A.4 takes for erf(t)."""
    return plain(2 * (special.ndtr(numbers("t", t)) - 0.5))


def erf_as_probability(t: Any) -> Any:
    """2 P(0 < Z < sqrt2 t) for a standard normal Z, which erf(t) is (proof of Fact A.4, corrected).

    # Paper: "erf(t) = 2 P(Z in (0, t))"; here: sqrt2 t, because erf integrates exp(-z^2), the density of variance 1/2.
    """
    return plain(2 * (special.ndtr(np.sqrt(2) * numbers("t", t)) - 0.5))


def half_gaussian_integral(t: Any) -> Any:
    """The integral of exp(-y^2 / (2 t^2)) over y in (0, inf) (Fact A.5): sqrt(pi / 2) t.

    Raises:
        AssumptionViolated: unless t > 0.
    """
    t = numbers("t", t)
    _suppose(t > 0, "Fact A.5, t > 0", "t", t)
    return plain(np.sqrt(np.pi / 2) * t)


def _suppose(holds: np.ndarray, hypothesis: str, name: str, values: np.ndarray) -> None:
    if not holds.all():
        raise AssumptionViolated(hypothesis, f"{name} = {values[~holds].flat[0]}")
