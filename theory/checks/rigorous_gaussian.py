"""Exact rho_R under Assumption 5.17 as balls, and Theorem 5.18 without its proof's steps.

Put delta = 1, c = |eps|, and Z_i = c + Y_i; the sign of eps changes neither F^_R nor rho_R, and (eps + nu)^2 is at most
(c + nu)^2. F^_R = E max Z_i^2 does not decrease in R, nor in c, as |c + Y| grows stochastically with c >= 0. nu(R)
increases, as R / log R does from R = e on.

By boxes: on R1 <= R <= R2 and c1 <= c <= c2 the quotient of bound and F^_R is at most
(c2 + nu(R2))^2 (1 - 1/R2) / F^_{R1}(c1).

By the mean: m_R = E max of R standard normals. If m_R >= nu(R), then

    F^_R >= E (max Z_i)^2 >= (E max Z_i)^2 = (c + m_R)^2 >= (c + nu)^2,

for every c: Theorem 5.18 without the factor 1 - 1/R. m_R increases in R, so m_{R1} >= nu(R2) covers R1 <= R <= R2.
From R = 4096 on, let l = log R, L = 1 + log l, and choose t with (R/4) e^{-2 t^2/pi} = L, so t^2 = (pi/2) (l - log 4L).
By (50) to (55), P(max <= t) <= e^{-L} = 1/(e l). The negative part has mean int_0^inf Phi(-s)^R ds <= 2^{-R} (it is
at most 2^{1-R} int_0^inf Phi(-s) ds, and that integral is 1/sqrt(2 pi) <= 1/2), so m_R >= g - 2^{-R} with
g = t (1 - e^{-L}). Now g^2 >= t^2 (1 - 2/(e l)) >= (pi/2) (l - log 4L - 2/e), so g^2 - nu^2 >= (pi/2) D(l) with
D(l) = log(l / L) - 2/e, which increases for l >= 1. Both g and nu are at most sqrt(pi l / 2), so
g - nu >= (pi/2) D / (2 sqrt(pi l / 2)) = sqrt(pi/8) D / sqrt(l), and m_R >= nu follows from
sqrt(pi/8) D(l) >= 2^{-R} sqrt(l); the left side increases, the right one decreases: R = 4096 implies all beyond.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from functools import cache

from flint import arb

from theory.formulas import rho
from theory.routes import rigorous
from theory.routes.rigorous import Box, ball, box, enclosures, subdivide
from theory.verdict import Context, Route, Scope, Verdict, check

LAST = 4096
BLOCKS = ((9, 24), (25, 64), (65, 256), (257, 1024), (1025, LAST))
FARTHEST = 10
"""Boxes in eps / delta reach from 0 to this."""


def covers(blocks: tuple[tuple[int, int], ...]) -> bool:
    """Do the blocks follow one another without a gap from 9 to LAST?"""
    joined = all(first[1] + 1 == second[0] for first, second in itertools.pairwise(blocks))
    return joined and blocks[0][0] == 9 and blocks[-1][1] == LAST


@check("Equation 49", Route.RIGOROUS)
def quadrature_is_enclosed(
    context: Context, *, gaussian_rho: Callable[..., float] = rho.gaussian_rho, precision: int = 100
) -> Verdict:
    """rho_R by quadrature is within 1e-12 of its enclosure: R = 2, 3, 8, 9, 16, 64, 1024, 4096, eps/delta = -3..30"""
    with rigorous.precision(precision):
        verdicts = [
            # A float is a rational number, exactly.
            rigorous.equal(
                ball(Fraction(gaussian_rho(float(c), 1.0, R))) / enclosures.gaussian_rho(c, R),
                ball(1),
                "1e-12",
                where=f"R = {R}, eps/delta = {c}",
            )
            for R in (2, 3, 8, 9, 16, 64, 1024, LAST)
            for c in (-3, 0, Fraction(1, 2), 1, 30)
        ]
        return rigorous.all_of(verdicts, f"{len(verdicts)} enclosures")


@check("Theorem 5.18", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def bound_holds(context: Context, *, factor: Fraction = Fraction(1), precision: int = 100) -> Verdict:
    """the bound is at most exact rho_R for every R = 9..4096 and every |eps|/delta <= 10"""
    if not covers(BLOCKS):
        raise ValueError(f"{BLOCKS} do not cover 9..{LAST}")
    with rigorous.precision(precision):
        one, verdicts, count = ball(1), [], 0
        exact = cache(enclosures.gaussian_rho)  # halves begin where their box did, or at its middle
        for first, last in BLOCKS:

            def quotient(part: Box, first: int = first, last: int = last) -> arb:
                ((c1, c2),) = part
                # At a point, what is refuted is the claim for R = first, so the bound is taken there.
                R = first if c1 == c2 else last
                least = (ball(c2) + enclosures.nu(R)) ** 2 * (1 - 1 / ball(R))
                return ball(factor) * least / (exact(c1, first) * (1 + ball(c1) ** 2))

            found = subdivide(quotient, one, box((0, FARTHEST)), max_boxes=500)
            verdicts.append(rigorous.verdict(found, one, names=(f"R = {first}, eps/delta",)))
            count += len(found.proved)
            if found.refuted:
                break
        return rigorous.all_of(verdicts, f"{count} boxes")


@check("Beyond 5.18", Route.RIGOROUS, scope=Scope.EVERYWHERE)
def without_the_factor(context: Context, *, factor: Fraction = Fraction(1), precision: int = 100) -> Verdict:
    """1 - 1/R can go, for every eps and R >= 9: E max of R normals is >= nu(R), so rho_R F >= (|eps| + nu delta)^2"""
    if not covers(BLOCKS):
        raise ValueError(f"{BLOCKS} do not cover 9..{LAST}")
    with rigorous.precision(precision):
        share = ball(factor)
        means = {R: enclosures.largest_mean(R) for R in [*range(9, 65), *itertools.chain(*BLOCKS)]}
        verdicts = [rigorous.at_most(share * enclosures.nu(R), mean, where=f"R = {R}") for R, mean in means.items()]
        for first, last in BLOCKS:
            verdicts.append(
                rigorous.ingredient(share * enclosures.nu(last), means[first], where=f"R = {first}..{last}")
            )
        length = ball(LAST).log()
        D = (length / (1 + length.log())).log() - 2 / arb(1).exp()
        small = ball(2) ** -LAST * length.sqrt()
        verdicts += [
            rigorous.ingredient(small, (arb.pi() / 8).sqrt() * D, where=f"R > {LAST}"),
            rigorous.ingredient(share, ball(1), where=f"R > {LAST}: nu itself"),
        ]
        return rigorous.all_of(verdicts, f"{len(BLOCKS)} blocks of R up to {LAST}, beyond it one number")
