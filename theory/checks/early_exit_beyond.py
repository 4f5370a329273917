"""Checks of what goes beyond Section 6: sharper bounds, beta < 0, general R, top halves, and weaker assumptions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from theory.formulas import early_exit
from theory.formulas.overlap import overlap
from theory.problems.linear_network import (
    PLANE,
    RESIDUAL,
    ROTATIONS,
    SPACE,
    DeepLinearNetwork,
    EvenLabels,
    count_kept,
    rotations,
    verify_gaussian_difference,
)
from theory.routes import montecarlo
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_least, at_most, check, equal, worst

BETAS = np.linspace(0, 1, 2001)
SIGNED = np.linspace(-1, 1, 2001)
TAUS = np.concatenate([np.geomspace(1e-14, 1e-2, 400, endpoint=False), np.linspace(1e-2, 1, 600)])
TRIVIAL_BELOW = math.sqrt(6 / 7)
SLOPE = math.sqrt(2) / math.pi
OPPOSED = rotations([0.2, np.pi - 1.1])  # beta_1 = -cos 1.1 = -0.454


@check("Beyond 6.2", Route.CLOSED_FORM)
def sharp_bound_sharper(context: Context, *, bound=early_exit.agreement_bound_sharp) -> Verdict:
    """1 - sqrt(1 - beta^2)/2 is nowhere below Equation 14, at 2,001 points of [0, 1]"""
    return at_least(bound(BETAS), early_exit.agreement_bound(BETAS), where={"beta": BETAS})


@check("Beyond 6.2", Route.CLOSED_FORM, expected=Status.ASSUMPTION_VIOLATED)
def sharp_bound_negative_beta(context: Context, *, beta=-0.5, bound=early_exit.agreement_bound_sharp) -> Verdict:
    """1 - sqrt(1 - beta^2)/2 asked for at beta = -.5, outside [0, 1]"""
    return at_most(bound(beta), early_exit.agreement(beta), where=f"beta = {beta}")


@check("Beyond 6.2", Route.CLOSED_FORM)
def trivial_below(context: Context, *, threshold=TRIVIAL_BELOW) -> Verdicts:
    """Equation 14 says more than the trivial p_j >= 1/2 exactly where beta > sqrt(6/7) = .9258, at 2,001 points"""
    says_more = early_exit.agreement_bound(BETAS) > 0.5
    yield equal(early_exit.agreement_bound(threshold), 0.5, where="the threshold")
    yield at_most(np.count_nonzero(says_more != (threshold < BETAS)), 0, where="points on the wrong side")
    yield at_least(early_exit.agreement(BETAS), 0.5, where={"beta": BETAS})


@check("Beyond 6.2", Route.QUADRATURE)
def integral_continued(context: Context, *, formula=early_exit.agreement) -> Verdict:
    """Equation 13's integral is 1/2 + arcsin(beta)/pi for beta < 0 too, at 2,001 points"""
    integral = early_exit.agreement_integral(-BETAS, continued=True)
    return equal(integral, formula(-BETAS), where={"beta": -BETAS}, tolerance=1e-12)


@check("Beyond 6.2", Route.MONTE_CARLO)
def opposed_network(context: Context, *, formula=early_exit.agreement) -> Verdict:
    """measured p_j of a network with beta_1 = -.454 is 1/2 + arcsin(beta)/pi"""
    alpha = context.alpha / 2
    verify_gaussian_difference(PLANE, context.rng, directions=OPPOSED.directions(), alpha=alpha)
    n = montecarlo.sample_size(0.01, alpha)
    kept = count_kept(OPPOSED, PLANE, context.rng, n=n)[0]
    return montecarlo.probability_equals(kept, n, formula(OPPOSED.beta(1)), alpha)


@check("Beyond 6.3", Route.CLOSED_FORM)
def corollary_sharp(context: Context, *, bound=early_exit.corollary_bound_sharp) -> Verdicts:
    """p_j >= 1 - sqrt(tau)/2 for beta = 1 - tau >= 0, at 1,000 tau of [1e-14, 1]; exact at tau = 1"""
    yield at_most(early_exit.disagreement(TAUS) / (1 - bound(TAUS)), 1.0, where={"tau": TAUS})
    yield equal(bound(1.0), early_exit.agreement(0.0), where="tau = 1")


@check("Beyond 6.3", Route.CLOSED_FORM)
def corollary_sharper(context: Context, *, bound=early_exit.corollary_bound_sharp) -> Verdict:
    """1 - sqrt(1 - beta)/2 is nowhere below 1 - sqrt(1 - beta^2)/2, at 2,001 points of [0, 1]"""
    return at_least(bound(1 - BETAS), early_exit.agreement_bound_sharp(BETAS), where={"beta": BETAS})


@check("Beyond 6.3", Route.CLOSED_FORM)
def corollary_constants(context: Context, *, low=SLOPE, high=0.5) -> Verdicts:
    """(1 - p_j)/sqrt(tau) rises from sqrt2/pi to 1/2: 1,000 tau of [1e-14, 1], both ends"""
    ratio = early_exit.disagreement(TAUS) / np.sqrt(TAUS)
    yield at_least(np.diff(ratio), 0, where={"tau": TAUS[1:]})
    yield equal(ratio[0], low, where="tau = 1e-14")
    yield equal(ratio[-1], high, where="tau = 1")


@check("Beyond 6.2", Route.QUADRATURE)
def general_R_monotone(context: Context, *, formula=early_exit.agreement_R) -> Verdicts:
    """for beta >= 0 the argmax of R is kept less often as R grows, and more often as beta does (R <= 64, 11 beta)"""
    R, beta = np.array([2, 3, 4, 8, 16, 64]), np.linspace(0, 1, 11)
    p = np.array([[formula(b, r, nodes=120) for b in beta] for r in R])
    yield at_most(np.diff(p, axis=0), 0, where={"R": R[1:, None], "beta": beta})
    yield at_least(np.diff(p, axis=1), 0, where={"R": R[:, None], "beta": beta[1:]})


@check("Beyond 6.2", Route.MONTE_CARLO)
def general_R_of_4(context: Context, *, formula=early_exit.agreement_R) -> Verdict:
    """measured share of kept argmaxes among R = 4 is the quadrature's at 3 exits of a network"""
    return _measured_R(context, formula, R=4, detectable=0.01)


@check("Beyond 6.2", Route.MONTE_CARLO)
def general_R_of_16(context: Context, *, formula=early_exit.agreement_R) -> Verdict:
    """measured share of kept argmaxes among R = 16 is the quadrature's at 3 exits of a network"""
    return _measured_R(context, formula, R=16, detectable=0.02)


def _measured_R(context: Context, formula: Callable[[float, int], float], *, R: int, detectable: float) -> Verdict:
    alpha = context.alpha / RESIDUAL.k
    verify_gaussian_difference(SPACE, context.rng, directions=RESIDUAL.directions(), alpha=alpha)
    n = montecarlo.sample_size(detectable, alpha)
    kept = count_kept(RESIDUAL, SPACE, context.rng, n=n, R=R)
    exits = range(1, RESIDUAL.k)
    return worst(*(montecarlo.probability_equals(kept[j - 1], n, formula(RESIDUAL.beta(j), R), alpha) for j in exits))


@check("Beyond 6.2", Route.QUADRATURE)
def top_half_of_2(context: Context, *, law=early_exit.top_half_overlap) -> Verdict:
    """the top-half law 1/2 + arcsin(beta)/pi is exact at B = 2, by quadrature at 41 beta of [-1, 1]"""
    beta = np.linspace(-1, 1, 41)
    return equal([overlap(b, 2, 1) for b in beta], law(beta), where={"beta": beta})


@check("Beyond 6.2", Route.QUADRATURE)
def top_half_limit(context: Context, *, law=early_exit.top_half_overlap) -> Verdicts:
    """the top-half law is approached from above, within 1/(4B): B = 4, 8, 16, 32 at beta = 0, .3, .7, .95"""
    B, beta = np.meshgrid([4, 8, 16, 32], [0.0, 0.3, 0.7, 0.95])
    value = [overlap(b, n, n // 2) for b, n in zip(beta.flat, B.flat, strict=True)]
    excess = (law(beta.ravel()) - value) * B.ravel()
    where = {"B": B.ravel(), "beta": beta.ravel()}
    yield at_least(excess, 0.0, where=where)
    yield at_most(excess, 0.25, where=where)


@check("Beyond 6.2", Route.MONTE_CARLO)
def top_half_of_8(context: Context, *, formula=overlap) -> Verdict:
    """measured overlap of top halves at B = 8, by a network's losses at beta_1 = .697, is the quadrature's"""
    share = _overlap(context, ROTATIONS, PLANE, B=8, batches=60_000)
    return montecarlo.mean_equals(share, formula(ROTATIONS.beta(1), 8, 4), context.alpha, cap=1.0)


@check("Beyond 6.2", Route.MONTE_CARLO)
def top_half_of_64(context: Context, *, law=early_exit.top_half_overlap) -> Verdicts:
    """measured overlap of top halves at B = 64, by losses,
    is within 1/(4B) below 1/2 + arcsin(beta)/pi (beta_1 = .697)
    """
    share = _overlap(context, ROTATIONS, PLANE, B=64, batches=12_000)
    limit = law(ROTATIONS.beta(1))
    yield montecarlo.mean_at_most(share, limit, context.alpha / 2, cap=1.0)
    yield montecarlo.mean_at_least(share, limit - 1 / (4 * 64), context.alpha / 2, cap=1.0)


def _overlap(context: Context, network: DeepLinearNetwork, data: EvenLabels, *, B: int, batches: int) -> np.ndarray:
    """Per batch, the share of its exact top half (by the last layer's loss) that exit 1's top half contains."""
    losses = network.losses(*data.draw(context.rng, (batches, B)))[[0, -1]]
    # Above the median of B is the top half; with continuous data there are no ties.
    early, final = losses > np.median(losses, axis=-1, keepdims=True)
    return np.mean(early & final, axis=-1) * 2


def _student(degrees: float) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """Spherical noise: a Gaussian vector divided by one common chi, so that every direction is Student's t."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape) / np.sqrt(rng.chisquare(degrees, size=(*shape[:-1], 1)) / degrees)

    return draw


@check("Beyond 6.2", Route.MONTE_CARLO)
def spherical(context: Context, *, formula=early_exit.agreement) -> Verdicts:
    """Gaussianity is not needed: with u spherical about its mean (Student, 3 degrees) p_j is the same formula"""
    data = EvenLabels(PLANE.mean, PLANE.radius, _student(3.0))
    alpha = context.alpha / 2
    n = montecarlo.sample_size(0.01, alpha)
    kept = count_kept(ROTATIONS, data, context.rng, n=n)
    for j in (1, 2):
        yield montecarlo.probability_equals(kept[j - 1], n, formula(ROTATIONS.beta(j)), alpha)


@check("Beyond 6.2", Route.MONTE_CARLO, expected=Status.ASSUMPTION_VIOLATED)
def spherical_is_not_gaussian(context: Context, *, degrees=3.0) -> Verdict:
    """Student data (3 degrees) satisfy Assumption 6.1, along the exits of a network (DKW)"""
    data = EvenLabels(PLANE.mean, PLANE.radius, _student(degrees))
    return verify_gaussian_difference(data, context.rng, directions=ROTATIONS.directions(), alpha=context.alpha)


@check("Beyond 6.2", Route.MONTE_CARLO)
def correlated(context: Context, *, root=((3.0, 0.0), (0.0, 0.5))) -> Verdicts:
    """with u ~ N(m, Sigma), p_j is the formula with A_j Sigma^(1/2) for A_j in beta_j
    (Sigma = diag(9, .25), 2 exits)
    """
    scale = np.array([3.0, 0.5])
    data = EvenLabels(PLANE.mean, PLANE.radius, lambda rng, shape: scale * rng.standard_normal(shape))
    alpha = context.alpha / 2
    n = montecarlo.sample_size(0.01, alpha)
    kept = count_kept(ROTATIONS, data, context.rng, n=n)
    # z = Sigma^(1/2) z' with z' ~ N(0, 2 I): A_j Sigma^(1/2) takes the place of A_j, and B_j stays.
    betas = [early_exit.beta(ROTATIONS.theta, ROTATIONS.A(j) @ root, ROTATIONS.B(j)) for j in (1, 2)]
    for count, beta in zip(kept[:2], betas, strict=True):
        yield montecarlo.probability_equals(count, n, early_exit.agreement(beta), alpha)
