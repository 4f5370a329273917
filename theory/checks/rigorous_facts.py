"""Facts A.3 and A.4 by ball arithmetic, for every t >= 0.

With e = 4/pi, both sides squared, Fact A.3 says e^{-e t^2} <= 1 - erf(t)^2 = erfc(t) (2 - erfc(t)).

- Near 0, where both sides are 1: e^{-z^2} <= 1 - z^2 + z^4/2 gives erf(t)^2 <= (4/pi) s (1 - s/3 + s^2/10)^2 with
  s = t^2, and 1 - e^{-y} >= y - y^2/2 gives 1 - e^{-e s} >= e s - e^2 s^2 / 2. At e = 4/pi, after division by (4/pi) s,
  (1 - s/3 + s^2/10)^2 <= 1 - 2 s/pi is enough, which is s (14/45 - s/15 + s^2/100) <= 2/3 - 2/pi, and
  follows from s (14/45 + s^2/100) <= 2/3 - 2/pi at the last s, since the left side increases.
- The tail: -(e^{-t^2} t / (2 t^2 + 1))' = e^{-t^2} (4 t^4 + 4 t^2 - 1) / (4 t^4 + 4 t^2 + 1) <= e^{-t^2}, so
  erfc(t) >= (2/sqrt(pi)) e^{-t^2} t / (2 t^2 + 1), and 2 - erfc(t) >= 1. It is enough that
  m(t) = (2/sqrt(pi)) t / (2 t^2 + 1) >= e^{-(e-1) t^2} = n(t). If so at T with 2 (e-1) T^2 >= 1, then for all t >= T:
  (log m)' = (1 - 2 t^2) / (t (2 t^2 + 1)) >= -1/t >= -2 (e-1) t = (log n)'.
- Between, both sides decrease, so on [t1, t2] their ratio is at most e^{-e t1^2} / (erfc(t2) (2 - erfc(t2))).

Fact A.4, erfc(t) <= a e^{-b t^2} with a = 2, b = 1/2, or a = b = 1:

- The tail: int_t^inf e^{-z^2} dz <= int_t^inf (z/t) e^{-z^2} dz, so erfc(t) <= e^{-t^2} / (t sqrt(pi)). For t >= 1,
  sqrt(pi) a >= 1 and b <= 1 are enough.
- Near 0, needed for a = b = 1, where both sides are 1 at t = 0: e^{-z^2} >= 1 - z^2 gives
  erfc(t) <= 1 - (2/sqrt(pi)) (t - t^3/3), and e^{-b t^2} >= 1 - b t^2, so b t <= (2/sqrt(pi)) (1 - t^2/3) is enough.
  The left side increases, the right one decreases: at the last t it implies all before.
- Between: erfc(t1) e^{b t2^2} bounds the ratio on [t1, t2].
"""

from __future__ import annotations

from fractions import Fraction

from flint import arb

from theory.routes import rigorous
from theory.routes.rigorous import Box, ball, box, subdivide
from theory.verdict import Context, Route, Scope, Verdict, check

NEAR, FAR = Fraction(1, 4), 3
"""Fact A.3: subdivision from NEAR to FAR."""


def prove_erf_bound(rate: Fraction, *, precision: int) -> Verdict:
    """Is erf(t) <= sqrt(1 - exp(-rate t^2 / pi)) for every t >= 0? The argument near 0 needs rate >= 4."""
    with rigorous.precision(precision):
        pi, one = arb.pi(), ball(1)
        exponent = ball(rate) / pi

        def ratio(part: Box) -> arb:
            ((t1, t2),) = part
            above = ball(t2).erfc()
            return (-exponent * ball(t1) ** 2).exp() / (above * (2 - above))

        found = rigorous.verdict(subdivide(ratio, one, box((NEAR, FAR))), one, names=("t",))
        s, T, excess = ball(NEAR) ** 2, ball(FAR), exponent - 1
        near = ball("14/45") * s + s**3 / 100
        mills = 2 / pi.sqrt() * T / (2 * T * T + 1)
        return rigorous.all_of(
            [
                found,
                rigorous.ingredient(ball(4), ball(rate), where=f"t <= {NEAR}: the exponent"),
                rigorous.ingredient(near, ball("2/3") - 2 / pi, where=f"t <= {NEAR}"),
                rigorous.ingredient((-excess * T * T).exp(), mills, where=f"t >= {FAR}"),
                rigorous.ingredient(one, 2 * excess * T * T, where=f"t >= {FAR}: the slopes"),
            ]
        )


def prove_erfc_bound(factor: Fraction, rate: Fraction, start: Fraction, *, precision: int) -> Verdict:
    """Is erfc(t) <= factor exp(-rate t^2) for every t >= 0? Subdivision from `start` to 1."""
    with rigorous.precision(precision):
        one, a, b = ball(1), ball(factor), ball(rate)
        root = arb.pi().sqrt()

        def ratio(part: Box) -> arb:
            ((t1, t2),) = part
            return ball(t1).erfc() * (b * ball(t2) ** 2).exp() / a

        parts = [
            rigorous.verdict(subdivide(ratio, one, box((start, 1))), one, names=("t",)),
            rigorous.at_most(ball(0).erfc(), a, where="t = 0"),
            rigorous.ingredient(one, a * root, where="t >= 1"),
            rigorous.ingredient(b, one, where="t >= 1: the exponents"),
        ]
        if start > 0:
            t = ball(start)
            parts.append(rigorous.ingredient(b * t, 2 / root * (1 - t * t / 3), where=f"t <= {start}"))
        return rigorous.all_of(parts)


@check("Fact A.3", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def erf_bound(context: Context, *, rate: Fraction = Fraction(4), precision: int = 100) -> Verdict:
    """erf(t) <= sqrt(1 - exp(-4 t^2 / pi)) for every t >= 0"""
    return prove_erf_bound(rate, precision=precision)


@check("Fact A.4", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def erfc_bound(
    context: Context, *, factor: Fraction = Fraction(2), rate: Fraction = Fraction(1, 2), precision: int = 100
) -> Verdict:
    """erfc(t) <= 2 exp(-t^2 / 2) for every t >= 0"""
    return prove_erfc_bound(factor, rate, Fraction(0), precision=precision)


@check("Beyond A.4", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def erfc_bound_sharp(
    context: Context, *, factor: Fraction = Fraction(1), rate: Fraction = Fraction(1), precision: int = 100
) -> Verdict:
    """erfc(t) <= exp(-t^2) for every t >= 0; so P(Z >= s) <= exp(-s^2/2)/2"""
    return prove_erfc_bound(factor, rate, Fraction(1, 2), precision=precision)
