"""Theorem 6.2 by ball arithmetic, for every beta.

Equation (13) is the closed form. With k = beta / (2 sqrt(1 - beta^2)) the derivative of (13) in k is
(1/pi) int_0^inf y e^{-y^2 (1/4 + k^2)} dy = 2 / (pi (1 + 4 k^2)), and 4 k^2 = b / (1 - b) with b = beta^2. As
dk/dbeta = 1 / (2 (1 - b)^{3/2}), the derivative in beta is 1 / (pi sqrt(1 - b)), that of arcsin(beta) / pi; at beta = 0
both sides are 1/2. At beta = 1 both are 1, by continuity.

The bounds. Put beta = cos(pi s / 2), s in [0, 1]: 1 - p_j = s/2. The bounds on it are

- (14): sqrt2 sin(pi s/2) / sqrt(1 + sin^2(pi s/2)). The ratio (s / sin(pi s/2)) sqrt(1 + sin^2(pi s/2)) / (2 sqrt2)
  increases in s (s / sin(pi s/2) does, as tan x >= x), from its limit 1 / (pi sqrt2) at s = 0.
- sin(pi s/2) / 2, sharper: the ratio s / sin(pi s/2) increases, and is 1 at s = 1. Near that end
  sin(pi s/2) = cos(pi d/2) >= 1 - pi^2 d^2 / 8 with d = 1 - s, which is at least 1 - d = s as long as pi^2 d / 8 <= 1.

At s = 0, where both sides of either are 0, nothing else is needed: the ratios are below 1.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from flint import arb, fmpq, fmpq_poly

from theory.routes import rigorous
from theory.routes.rigorous import Box, ball, box, enclosures, subdivide
from theory.verdict import Context, Route, Scope, Status, Verdict, check

# 45 even steps, and 5 close to 1.
BETAS = [Fraction(step, 45) for step in range(45)] + [1 - Fraction(1, 10**digits) for digits in (2, 3, 4, 5, 6)]
NEAR = Fraction(1, 8)
ANGLE = "2 arccos(beta)/pi"


def sine_ratio(s: fmpq) -> arb:
    """s / sin(pi s / 2), 2/pi at 0; increasing on [0, 1]."""
    return 2 / arb.pi() if s == 0 else ball(s) / (ball(s) / 2).sin_pi()


def slope_identity(power: int = 3) -> Verdict:
    """The squares of the two derivatives, (2 (1 - b))^2 / (4 (1 - b)^3) and 1 / (1 - b): equal as polynomials?"""
    rest = fmpq_poly([1, -1])
    if (2 * rest) ** 2 * rest == 4 * rest**power:
        return Verdict(status=Status.PROVED)
    return Verdict(status=Status.INCONCLUSIVE, witness=f"(2 (1 - b))^2 (1 - b) is not 4 (1 - b)^{power}")


@check("Equation 13", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def integral_is_closed_form(
    context: Context, *, formula: Callable[[arb], arb] = enclosures.agreement, power: int = 3, precision: int = 100
) -> Verdict:
    """the printed integral is 1/2 + arcsin(beta)/pi for every beta of [0, 1]: same derivative;
    50 enclosures to 1e-20
    """
    with rigorous.precision(precision):
        verdicts = [
            rigorous.equal(
                enclosures.agreement_integral(beta), formula(ball(beta)), "1e-20", where=f"beta = {float(beta):g}"
            )
            for beta in BETAS
        ]
        return rigorous.all_of([*verdicts, slope_identity(power)], f"{len(BETAS)} enclosures")


@check("Equation 14", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def lower_bound(context: Context, *, factor: Fraction = Fraction(1), precision: int = 100) -> Verdict:
    """the bound is at most p_j for every beta of [0, 1]

    1 - p_j <= factor sqrt((2 - 2 beta^2) / (2 - beta^2)).
    """
    with rigorous.precision(precision):

        def ratio(part: Box) -> arb:
            ((_, s),) = part
            return sine_ratio(s) * (1 + (ball(s) / 2).sin_pi() ** 2).sqrt() / (2 * ball(2).sqrt())

        bound = ball(factor)
        return rigorous.all_of([rigorous.verdict(subdivide(ratio, bound, box((0, 1))), bound, names=(ANGLE,))])


@check("Beyond 6.2", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def sharp_bound(context: Context, *, half: Fraction = Fraction(1, 2), precision: int = 100) -> Verdict:
    """p_j >= 1 - sqrt(1 - beta^2)/2 for every beta of [0, 1]; it turns round at -beta"""
    return jordan(half, ANGLE, precision=precision)


@check("Beyond 6.2", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def signed_bound(context: Context, *, factor: Fraction = Fraction(1), precision: int = 100) -> Verdict:
    """p_j >= 1 - sqrt((1 - beta)/2) for every beta of [-1, 1]"""
    # beta = cos(pi s): 1 - p_j = s, and sqrt((1 - beta) / 2) = sin(pi s / 2).
    return jordan(factor / 2, "arccos(beta)/pi", precision=precision)


def jordan(half: Fraction, name: str, *, precision: int) -> Verdict:
    """Is s/2 <= half sin(pi s/2) for every s in [0, 1]? At `half` = 1/2, Jordan's inequality."""
    with rigorous.precision(precision):
        bound = 2 * ball(half)
        found = subdivide(lambda part: sine_ratio(part[0][1]), bound, box((0, 1 - NEAR)))
        return rigorous.all_of(
            [
                rigorous.verdict(found, bound, names=(name,)),
                rigorous.at_most(ball(1), bound, where=f"{name} = 1"),
                rigorous.ingredient(arb.pi() ** 2 * ball(NEAR) / 8, ball(1), where=f"{name} >= {1 - NEAR}"),
            ]
        )
