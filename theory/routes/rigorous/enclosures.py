"""The paper's quantities as balls that contain them.

Integrals come from `acb.integral`, which encloses its result; what lies beyond the end of integration is bounded by
hand, as each docstring says, and added as a ball. The precision is that of `flint.ctx`.
"""

from __future__ import annotations

import math

from flint import acb, arb, ctx

from theory.routes.rigorous.balls import Number, ball


def phi(x: arb) -> arb:
    """(1 - e^{-x}) / x, decreasing, 1 at 0 (Lemma C.1, Equation 55), for x >= 0 known to be 0 or known not to be."""
    return arb(1) if x == 0 else -(-x).expm1() / x


def lemma_c1_ratio(v: arb, x: arb) -> arb:
    """h(t; sigma) / (1 - e^{-sqrt2 sigma}) at t = v x, sqrt2 sigma = x (Lemma C.1): v / (1 + v^2) phi(v x) / phi(x)."""
    return v / (1 + v * v) * phi(v * x) / phi(x)


def t_star(x: Number) -> arb:
    """The t that maximises h(t; sigma) at sqrt2 sigma = x > 0: the root of Equation (41), by bisection.

    E(t) = e^t - 1 - x^2 / (2 t) - t / 2 increases from -inf, and E(x) = e^x - 1 - x > 0, so the root is unique and in
    (0, x). Each step keeps a bracket of which both signs are certain, and ends where a sign is not.

    Raises:
        ValueError: unless x > 0 for certain.
    """
    x = ball(x)
    if not x > 0:
        raise ValueError(f"x = {x} must be positive")

    def excess(t: arb) -> arb:
        return t.exp() - 1 - x * x / (2 * t) - t / 2

    high = x.upper()
    low = next(t for t in (high / 4**j for j in range(1, ctx.prec)) if excess(t) < 0)
    for _ in range(4 * ctx.prec):
        middle = ((low + high) / 2).mid()
        sign = excess(middle)
        if sign < 0:
            low = middle
        elif sign > 0:
            high = middle
        else:
            break
    return low.union(high)


def lemma_c1_best(x: Number) -> arb:
    """The smallest constant for which Lemma C.1 holds at sqrt2 sigma = x: the ratio at t*."""
    x = ball(x)
    return lemma_c1_ratio(t_star(x) / x, x)


def normal_cdf(s: arb) -> arb:
    """Phi(s) = erfc(-s / sqrt2) / 2."""
    return (-s / arb(2).sqrt()).erfc() / 2


def normal_cdf_integral(s: arb) -> arb:
    """Phi(s) as 1/2 plus the integral of the density from 0 to s (Equation 51, left side)."""
    scale = (2 * arb.pi()).sqrt()
    return arb(1) / 2 + acb.integral(lambda y, _: (-y * y / 2).exp(), 0, acb(s)).real / scale


def largest_cdf_integral(s: arb, R: int) -> arb:
    """P(max of R standard normals <= s) as the integral of its density R phi Phi^(R-1) (Equation 50).

    Below -T lies Phi(-T)^R <= e^{-T^2/2}, as P(Y > s) <= e^{-s^2/2} / 2 for s >= 0.
    """
    T, root = _far(), acb(2).sqrt()
    scale = acb((2 * arb.pi()).sqrt())

    def density(y: acb, _: object) -> acb:
        return R * (-y * y / 2).exp() / scale * ((-y / root).erfc() / 2) ** (R - 1)

    return acb.integral(density, -T, acb(s)).real + _up_to((-(arb(T) ** 2) / 2).exp())


def largest_mean(R: int) -> arb:
    """E max of R standard normals: the integral of 1 - Phi(s)^R - Phi(-s)^R over s > 0.

    Beyond T: 1 - Phi^R <= R P(Y > s) <= (R/2) e^{-s^2/2}, and the other term is not larger; int_T^inf e^{-s^2/2} ds is
    at most e^{-T^2/2} / T. So the remainder is within R e^{-T^2/2} / (2T) of 0.
    """
    T, root = _far(R), acb(2).sqrt()

    def integrand(s: acb, _: object) -> acb:
        above = (s / root).erfc() / 2
        return 1 - (1 - above) ** R - above**R

    rest = R * (-(arb(T) ** 2) / 2).exp() / (2 * T)
    return acb.integral(integrand, 0, T).real + (-rest).union(rest)


def gaussian_rho(c: Number, R: int) -> arb:
    """rho_R at eps / delta = c under Assumption 5.17: int 2z (1 - P(|Z| <= z)^R) dz / (1 + c^2), Z ~ N(|c|, 1).

    Beyond T + |c|: 1 - P^R <= R P(|Z| > z) <= 2 R P(Y > z - |c|) <= R e^{-(z - |c|)^2/2}, and
    int_T^inf 2 (s + |c|) e^{-s^2/2} ds <= 2 (1 + |c| / T) e^{-T^2/2}.

    Raises:
        ValueError: unless R is an integer >= 1.
    """
    if not isinstance(R, int) or R < 1:
        raise ValueError(f"R = {R} must be an integer >= 1")
    c = abs(ball(c))
    T, root, shift = _far(R), acb(2).sqrt(), acb(c)

    def integrand(z: acb, _: object) -> acb:
        above = (((z - shift) / root).erfc() + ((z + shift) / root).erfc()) / 2
        return 2 * z * (1 - (1 - above) ** R)

    body = acb.integral(integrand, 0, acb(T + c)).real
    rest = 2 * R * (1 + c / T) * (-(arb(T) ** 2) / 2).exp()
    return (body + _up_to(rest)) / (1 + c * c)


def nu(R: Number) -> arb:
    """nu(R) = sqrt((pi/2) log(R / (4 log R))) of Theorem 5.18; not a number where that is not real."""
    R = ball(R)
    return (arb.pi() / 2 * (R / (4 * R.log())).log()).sqrt()


def agreement(beta: Number) -> arb:
    """p_j = 1 - arccos(beta) / pi (Theorem 6.2 in closed form)."""
    return 1 - ball(beta).acos() / arb.pi()


def agreement_integral(beta: Number) -> arb:
    """p_j as the paper prints it (Equation 13), for 0 <= beta < 1.

    1 - 1/(2 sqrt(pi)) int_0^inf e^{-y^2/4} erfc(k y) dy with k = beta / (2 sqrt(1 - beta^2)). Beyond T the integrand
    is at most e^{-y^2/4}, and int_T^inf of that at most (2/T) e^{-T^2/4}.

    Raises:
        ValueError: unless 0 <= beta < 1 for certain.
    """
    beta = ball(beta)
    if not (beta >= 0 and beta < 1):
        raise ValueError(f"beta = {beta} must lie in [0, 1)")
    k = acb(beta / (2 * (1 - beta * beta).sqrt()))
    T = 2 * _far()
    body = acb.integral(lambda y, _: (-y * y / 4).exp() * (k * y).erfc(), 0, T).real
    rest = 2 * (-(arb(T) ** 2) / 4).exp() / T
    return 1 - (body + _up_to(rest)) / (2 * arb.pi().sqrt())


def _far(R: int = 1) -> int:
    """T with R e^{-T^2/2} below the current precision."""
    return math.isqrt(2 * (ctx.prec + R.bit_length())) + 1


def _up_to(limit: arb) -> arb:
    """A ball that contains [0, limit]."""
    return arb(0).union(limit)
