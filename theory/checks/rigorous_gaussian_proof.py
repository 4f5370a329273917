"""The steps (50) to (56) of Theorem 5.18's proof by ball arithmetic.

Put x = t / delta >= 0 and a = exp(-2 x^2 / pi), in (0, 1]. Each of (51) to (54) is the R-th power of a probability, and
t -> t^R increases on [0, 1], so R is left out. For x < 0 step (52) holds as erf is negative there.
"""

from __future__ import annotations

from fractions import Fraction

from flint import arb, fmpq_poly

from theory.checks.rigorous_facts import prove_erf_bound
from theory.routes import rigorous
from theory.routes.rigorous import Box, ball, box, enclosures, subdivide
from theory.verdict import Context, Route, Scope, Status, Verdict, check

LAST = 4096
PLACES = [Fraction(step, 4) for step in range(-12, 17)]


@check("Equation 50", Route.RIGOROUS)
def independent_draws(context: Context, *, extra: int = 0, precision: int = 100) -> Verdict:
    """P(max of R <= t) = Phi(t)^R: the integral of the largest's density, R = 2, 5, 9, 64, at 29 t of [-3, 4],
    to 1e-20
    """
    with rigorous.precision(precision):
        verdicts = [
            rigorous.equal(
                enclosures.largest_cdf_integral(ball(t), R),
                enclosures.normal_cdf(ball(t)) ** (R + extra),
                "1e-20",
                where=f"R = {R}, t = {float(t):g}",
            )
            for R in (2, 5, 9, 64)
            for t in PLACES
        ]
        return rigorous.all_of(verdicts, f"{len(verdicts)} enclosures")


@check("Equation 51", Route.RIGOROUS)
def normal_by_erf(context: Context, *, square: Fraction = Fraction(2), precision: int = 100) -> Verdict:
    """Phi(x) = 1/2 + erf(x / sqrt2) / 2 for every x: equal at 0, same derivative; enclosures at 29 x agree to 1e-20"""
    # erf' = 2 e^{-z^2} / sqrt(pi), so (erf(x / c) / 2)' = e^{-x^2/c^2} / (c sqrt(pi)), the density for c^2 = 2.
    with rigorous.precision(precision):
        scale = ball(square).sqrt()
        verdicts = [
            rigorous.equal(
                enclosures.normal_cdf_integral(ball(x)),
                (1 + (ball(x) / scale).erf()) / 2,
                "1e-20",
                where=f"x = {float(x):g}",
            )
            for x in PLACES
        ]
        return rigorous.all_of(verdicts, f"{len(verdicts)} enclosures")


@check("Equation 52", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def erf_replaced(context: Context, *, rate: Fraction = Fraction(2), precision: int = 100) -> Verdict:
    """1/2 + erf(x / sqrt2) / 2 <= 1/2 + sqrt(1 - exp(-2 x^2 / pi)) / 2 for every x >= 0: Fact A.3 at x / sqrt2"""
    # x^2 = 2 (x / sqrt2)^2, so the rate doubles.
    return prove_erf_bound(2 * rate, precision=precision)


@check("Equation 53", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def root_replaced(context: Context, *, half: Fraction = Fraction(1, 2), precision: int = 100) -> Verdict:
    """sqrt(1 - a) <= 1 - a/2 for every a in [0, 1]

    1 - sqrt(1 - a) = a / (1 + sqrt(1 - a)), so half a <= 1 - sqrt(1 - a) is half (1 + sqrt(1 - a)) <= 1.
    """
    with rigorous.precision(precision):
        one, factor = ball(1), ball(half)

        def left(part: Box) -> arb:
            ((a1, _),) = part
            return factor * (1 + (1 - ball(a1)).sqrt())

        return rigorous.all_of([rigorous.verdict(subdivide(left, one, box((0, 1))), one, names=("a",))])


@check("Equation 54", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def collected(context: Context, *, quarter: Fraction = Fraction(1, 4)) -> Verdict:
    """1/2 + (1 - a/2) / 2 = 1 - a/4 as polynomials with rational coefficients"""
    a = fmpq_poly([0, 1])
    difference = (1 + (1 - a / 2)) / 2 - (1 - a * quarter.numerator / quarter.denominator)
    if difference == 0:
        return Verdict(status=Status.PROVED, witness="exact")
    return Verdict(status=Status.REFUTED, witness=f"the difference is {difference}, in a")


@check("Equation 55", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def exponential_replaced(context: Context, *, factor: Fraction = Fraction(1), precision: int = 100) -> Verdict:
    """1 - y <= exp(-y) for every y = a/4 in [0, 1/4]

    1 - e^{-y} <= y, where the quotient (1 - e^{-y}) / y decreases from 1.
    """
    with rigorous.precision(precision):
        one = ball(1)

        def ratio(part: Box) -> arb:
            ((y1, _),) = part
            return enclosures.phi(ball(y1)) / ball(factor)

        found = subdivide(ratio, one, box((0, Fraction(1, 4))))
        return rigorous.all_of([rigorous.verdict(found, one, names=("y",))])


@check("Equation 55", Route.RIGOROUS)
def choice_of_t(context: Context, *, four: Fraction = Fraction(4), precision: int = 100) -> Verdict:
    """at t = nu(R) delta its right side is 1/R for every R >= 9, by algebra; enclosures to 1e-20 at R = 9..4096"""
    # (2/pi) nu^2 = log(R / (4 log R)), so the exponent is -(R/4) (4 log R / R) = -log R.
    with rigorous.precision(precision):
        verdicts = []
        for R in range(9, LAST + 1):
            exponent = ball(R) / ball(four) * (-2 * enclosures.nu(R) ** 2 / arb.pi()).exp()
            verdicts.append(rigorous.equal(R * (-exponent).exp(), ball(1), "1e-20", where=f"R = {R}"))
        return rigorous.all_of(verdicts, f"{len(verdicts)} enclosures")


@check("Theorem 5.18", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def nu_is_real(context: Context, *, first: int = 9, precision: int = 100) -> Verdict:
    """nu(R) is real for every R >= 9 (R - 4 log R increases from R = 4 on), and not for R = 2..8"""
    with rigorous.precision(precision):
        verdicts = [rigorous.at_most(ball(R), 4 * ball(R).log(), where=f"R = {R}") for R in range(2, first)]
        verdicts.append(rigorous.at_most(4 * ball(first).log(), ball(first), where=f"R = {first}"))
        return rigorous.all_of([*verdicts, rigorous.ingredient(ball(4), ball(first), where="R - 4 log R to increase")])


@check("Equation 56", Route.RIGOROUS)
def event(context: Context, *, factor: Fraction = Fraction(1), precision: int = 100) -> Verdict:
    """max Z_i >= eps + nu(R) delta with probability 1 - Phi(nu)^R >= 1 - 1/R, at every R = 9..4096"""
    with rigorous.precision(precision):
        verdicts = []
        for R in range(9, LAST + 1):
            below = enclosures.normal_cdf(ball(factor) * enclosures.nu(R)) ** R
            verdicts.append(rigorous.at_most(R * below, ball(1), where=f"R Phi(nu)^R, R = {R}"))
        return rigorous.all_of(verdicts, f"{len(verdicts)} enclosures")
