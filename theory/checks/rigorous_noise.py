"""What the proofs of `noise.p_R` and `rho.linear_gaussian_infimum` need of one variable, by ball arithmetic.

(1 + y) e^{-y} <= 1 for y >= 0: e^{-y} <= 1 - y + y^2/2, so it is at most 1 - y^2 (1 - y) / 2 <= 1 for y <= 1; it
decreases (its derivative is -y e^{-y}), so the value at 1 bounds it beyond. By boxes between 1/2 and 4.

tanh y <= y for y >= 0: tanh y <= y - y^3/3 + 2 y^5/15, at most y for y^2 <= 5/2; tanh y < 1 <= y for y >= 1. By boxes
between 1/2 and 2.
"""

from __future__ import annotations

from fractions import Fraction

from flint import arb

from theory.formulas import noise
from theory.routes import rigorous
from theory.routes.rigorous import Box, ball, box, subdivide
from theory.verdict import Context, Route, Scope, Verdict, check

HALF = Fraction(1, 2)


@check("Beyond 5.15", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def decreases_in_the_share(context: Context, *, rate: Fraction = Fraction(1), precision: int = 100) -> Verdict:
    """(1 + y) e^{-y} <= 1 for every y >= 0, so the bound of p_R's proof decreases in P(D > 0)"""
    with rigorous.precision(precision):
        one, b = ball(1), ball(rate)

        def value(part: Box) -> arb:
            ((y1, y2),) = part
            return (1 + ball(y2)) * (-b * ball(y1)).exp()

        parts = [rigorous.verdict(subdivide(value, one, box((HALF, 4))), one, names=("y",))]
        # y <= 1/2, with e^{-by} <= 1 - by + (by)^2/2: 1 + y (1 - b) + y^2 (b^2/2 - b) + y^3 b^2/2 <= 1.
        parts.append(rigorous.ingredient(one, b, where="y <= 1/2, first order"))
        parts.append(rigorous.ingredient(ball(HALF) * b * b / 2, b - b * b / 2, where="y <= 1/2, second order"))
        parts.append(rigorous.at_most(5 * (-4 * b).exp(), one, where="y >= 4, where it decreases"))
        return rigorous.all_of(parts)


@check("Beyond 5.19", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def derivative_is_negative(context: Context, *, factor: Fraction = Fraction(1), precision: int = 100) -> Verdict:
    """tanh y <= y for every y >= 0, so E(Z^2 - a^2)^+ decreases in |eps|/delta for every a"""
    with rigorous.precision(precision):
        one, b = ball(1), ball(factor)

        def ratio(part: Box) -> arb:
            ((y1, y2),) = part
            return ball(y2).tanh() / (b * ball(y1))

        return rigorous.all_of(
            [
                rigorous.verdict(subdivide(ratio, one, box((HALF, 2))), one, names=("y",)),
                rigorous.ingredient(one, b, where="y <= 1/2, first order"),
                rigorous.ingredient(2 * ball(HALF) ** 2 / 15, ball(Fraction(1, 3)), where="y <= 1/2, third order"),
                rigorous.ingredient(one, 2 * b, where="y >= 2, where tanh y < 1"),
            ]
        )


@check("Beyond 5.15", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def at_least_the_printed(context: Context, *, constant: str = str(noise.LEMMA_C1), precision: int = 100) -> Verdict:
    """p_R(sigma) at R = 2 is at least the printed p(sigma), for every sigma >= 0: 1/2 <= 0.72 and 2/sqrt3 <= sqrt2

    (1 - e^{-2 sigma/sqrt3})/2 <= 0.72 (1 - e^{-sqrt2 sigma}), factor by factor.
    """
    with rigorous.precision(precision):
        return rigorous.all_of(
            [
                rigorous.at_most(ball(HALF), ball(constant), where="sigma = inf"),
                rigorous.ingredient(2 / ball(3).sqrt(), ball(2).sqrt(), where="the exponents"),
            ]
        )
