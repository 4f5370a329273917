"""Lemma C.1 by ball arithmetic, over its whole range.

Put x = sqrt2 sigma in (0, 1/2] and t = v x. Then h(t; sigma) / (1 - e^{-x}) = v / (1 + v^2) phi(v x) / phi(x) with
phi(y) = (1 - e^{-y}) / y, which decreases from phi(0) = 1.

- v >= 1: phi(v x) <= phi(x), so the ratio is at most v / (1 + v^2) <= 1/2, because (1 - v)^2 >= 0.
- v <= 1: v / (1 + v^2) increases, so on [v1, v2] x [x1, x2] the ratio is at most
  v2 / (1 + v2^2) phi(v1 x1) / phi(x2). The square [0, 1] x [0, 1/2] is divided until this is below the constant.

For each v <= 1 the ratio increases in x: the derivative of log phi(v x) - log phi(x) is (w(v x) - w(x)) / x with
w(y) = y phi'(y) / phi(y) = y / (e^y - 1) - 1, and w decreases because (e^y - 1) / y increases. So the best constant for
a range of sigma is the maximum over t at its end, which Equation (41) determines.
"""

from __future__ import annotations

from fractions import Fraction

from flint import arb

from theory.formulas import noise
from theory.routes import rigorous
from theory.routes.rigorous import enclosures
from theory.verdict import Context, Route, Scope, Status, Verdict, check

HALF = Fraction(1, 2)
WHOLE = rigorous.box((0, 1), (0, HALF))
PRINTED = str(noise.LEMMA_C1)


def ratio_bound(box: rigorous.Box) -> arb:
    """At least the ratio on a box of (v, x), v <= 1; the ratio itself at a point."""
    (v1, v2), (x1, x2) = box
    v = rigorous.ball(v2)
    return v / (1 + v * v) * enclosures.phi(rigorous.ball(v1 * x1)) / enclosures.phi(rigorous.ball(x2))


def prove(constant: str, *, precision: int, max_boxes: int = rigorous.MAX_BOXES) -> Verdict:
    """Is max_t h(t; sigma) <= constant (1 - e^{-sqrt2 sigma}) for every sigma in (0, 1/(2 sqrt2)]?"""
    with rigorous.precision(precision):
        bound = rigorous.ball(constant)
        found = rigorous.subdivide(ratio_bound, bound, WHOLE, max_boxes=max_boxes)
        beyond = rigorous.ingredient(rigorous.ball(HALF), bound, where="t >= sqrt2 sigma")
        return rigorous.all_of([rigorous.verdict(found, bound, names=("t/(sqrt2 sigma)", "sqrt2 sigma")), beyond])


@check("Lemma C.1", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def printed_constant(context: Context, *, constant: str = PRINTED, precision: int = 100) -> Verdict:
    """max_t h(t; sigma) <= 0.72 (1 - e^{-sqrt2 sigma}) for every sigma in (0, 1/(2 sqrt2)]"""
    return prove(constant, precision=precision)


@check("Beyond C.1", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def sharp_constant(context: Context, *, constant: str = "0.5112", precision: int = 100) -> Verdict:
    """0.5112 can replace 0.72 for every sigma in (0, 1/(2 sqrt2)]"""
    return prove(constant, precision=precision)


@check("Beyond C.1", Route.RIGOROUS, expected=Status.REFUTED)
def too_sharp_constant(context: Context, *, constant: str = "0.511", precision: int = 100) -> Verdict:
    """0.511 can replace 0.72, too"""
    return prove(constant, precision=precision)


@check("Beyond C.1", Route.RIGOROUS)
def best_constant(context: Context, *, constant: str = "0.51114550441745910941", precision: int = 100) -> Verdict:
    """the best constant up to sigma = 1/(2 sqrt2) is 0.51114550441745910941 to 20 digits"""
    with rigorous.precision(precision):
        best = enclosures.lemma_c1_best(HALF)
        found = rigorous.equal(best, rigorous.ball(constant), Fraction(1, 2 * 10**20), where="sigma = 1/(2 sqrt2)")
        return rigorous.all_of([found], f"c* = {best.str(25, radius=False)}")


@check("Beyond C.1", Route.RIGOROUS)
def widest_range(
    context: Context, *, constant: str = PRINTED, last: str = "3.0201", first: str = "3.0202", precision: int = 100
) -> Verdict:
    """0.72 stays valid for every sigma in (0, 3.0201], and fails at 3.0202"""
    with rigorous.precision(precision):
        bound, root = rigorous.ball(constant), rigorous.ball(2).sqrt()
        inside, outside = (enclosures.lemma_c1_best(root * rigorous.ball(sigma)) for sigma in (last, first))
        return rigorous.all_of(
            [
                rigorous.at_most(inside, bound, where=f"sigma = {last}"),
                rigorous.at_most(bound, outside, where=f"sigma = {first}"),
            ]
        )
