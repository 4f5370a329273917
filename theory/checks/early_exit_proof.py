"""Checks of the proof of Theorem 6.2 (Appendix E), step by step: every expression against the one before it.

`equation_69` to `equation_82` are the right-hand sides as printed, each integral by its own quadrature, as functions of
alpha_1 = |A_j' theta|, alpha_2 = |A_j' B_j' theta| and beta < 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy import special, stats

from theory.formulas import early_exit
from theory.problems.linear_network import RESIDUAL, ROTATIONS, SPACE, USUAL, centred_difference
from theory.routes import montecarlo
from theory.verdict import Context, Route, Verdict, Verdicts, at_least, check, equal

Step = Callable[[float, float, float], float]

CASES = [(1.0, 1.0, 0.0), (0.4, 2.0, 0.2), (3.0, 0.7, 0.5), (1.5, 1.5, 0.8), (0.2, 5.0, 0.95)]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(240)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2


def half_line(integrand: Callable[[np.ndarray], np.ndarray], scale: float) -> float:
    """The integral over (0, inf) of an integrand below exp(-(y / (2 scale))^2): past 14 scale it is below 1e-21."""
    return float(14 * scale * WEIGHTS @ integrand(14 * scale * NODES))


def quadrant(integrand: Callable[[np.ndarray, np.ndarray], np.ndarray], alpha_1: float, alpha_2: float) -> float:
    """The integral over u_1, u_2 > 0, as `half_line` in each."""
    u_1, u_2 = np.meshgrid(14 * alpha_1 * NODES, 14 * alpha_2 * NODES, indexing="ij")
    return float(14**2 * alpha_1 * alpha_2 * WEIGHTS @ integrand(u_1, u_2) @ WEIGHTS)


def covariance(alpha_1: float, alpha_2: float, beta: float) -> np.ndarray:
    """Sigma of Equation 66."""
    return 2 * np.array([[alpha_1**2, beta * alpha_1 * alpha_2], [beta * alpha_1 * alpha_2, alpha_2**2]])


def density_67(u_1: np.ndarray, u_2: np.ndarray, alpha_1: float, alpha_2: float, beta: float) -> np.ndarray:
    u, sigma = np.stack([u_1, u_2], axis=-1), covariance(alpha_1, alpha_2, beta)
    square = np.sum(u @ np.linalg.inv(sigma) * u, axis=-1)
    return np.exp(-square / 2) / (2 * np.pi * np.sqrt(np.linalg.det(sigma)))


def density_68(u_1: np.ndarray, u_2: np.ndarray, alpha_1: float, alpha_2: float, beta: float) -> np.ndarray:
    square = u_1**2 / alpha_1**2 - 2 * beta * u_1 * u_2 / (alpha_1 * alpha_2) + u_2**2 / alpha_2**2
    factor = 1 / (4 * np.pi * alpha_1 * alpha_2 * np.sqrt(1 - beta**2))
    return factor * np.exp(-square / (4 * (1 - beta**2)))


def equation_69(alpha_1: float, alpha_2: float, beta: float) -> float:
    return 2 * quadrant(lambda u_1, u_2: density_67(u_1, u_2, alpha_1, alpha_2, beta), alpha_1, alpha_2)


def equation_70(alpha_1: float, alpha_2: float, beta: float) -> float:
    def integrand(u_1, u_2):
        square = u_1**2 / alpha_1**2 - 2 * beta * u_1 * u_2 / (alpha_1 * alpha_2) + u_2**2 / alpha_2**2
        return np.exp(-square / (4 * (1 - beta**2)))

    return quadrant(integrand, alpha_1, alpha_2) / (2 * np.pi * alpha_1 * alpha_2 * np.sqrt(1 - beta**2))


def equation_71(alpha_1: float, alpha_2: float, beta: float) -> float:
    def integrand(u_1, u_2):
        inner = np.exp(-((u_2 - beta * alpha_2 / alpha_1 * u_1) ** 2) / (4 * alpha_2**2 * (1 - beta**2)))
        return np.exp(-(u_1**2) / (4 * alpha_1**2)) * inner

    return quadrant(integrand, alpha_1, alpha_2) / (2 * np.pi * alpha_1 * alpha_2 * np.sqrt(1 - beta**2))


def equation_72(alpha_1: float, alpha_2: float, beta: float) -> float:
    def inner(u):
        start = np.maximum(-beta * u / (2 * np.sqrt(1 - beta**2) * alpha_1), -7.0)[:, None]  # below -7 lies 1e-22
        return np.sum((7 - start) * WEIGHTS * np.exp(-((start + (7 - start) * NODES) ** 2)), axis=1)

    return half_line(lambda u: np.exp(-(u**2) / (4 * alpha_1**2)) * inner(u), alpha_1) / (np.pi * alpha_1)


def equation_73(alpha_1: float, alpha_2: float, beta: float) -> float:
    def inner(u):
        end = (beta * u / (2 * np.sqrt(1 - beta**2) * alpha_1))[:, None]
        first = np.sum(end * WEIGHTS * np.exp(-((end * NODES) ** 2)), axis=1)
        return 2 / np.sqrt(np.pi) * (first + half_line(lambda t: np.exp(-(t**2)), 0.5))

    return half_line(lambda u: np.exp(-(u**2) / (4 * alpha_1**2)) * inner(u), alpha_1) / (2 * np.sqrt(np.pi) * alpha_1)


def equation_74(alpha_1: float, alpha_2: float, beta: float) -> float:
    def inner(u):
        return special.erf(beta * u / (2 * np.sqrt(1 - beta**2) * alpha_1)) + 1

    return half_line(lambda u: np.exp(-(u**2) / (4 * alpha_1**2)) * inner(u), alpha_1) / (2 * np.sqrt(np.pi) * alpha_1)


def _first_of_75(alpha_1: float, beta: float) -> float:
    def integrand(u):
        return np.exp(-(u**2) / (4 * alpha_1**2)) * special.erf(beta * u / (2 * np.sqrt(1 - beta**2) * alpha_1))

    return half_line(integrand, alpha_1) / (2 * np.sqrt(np.pi) * alpha_1)


def equation_75(alpha_1: float, alpha_2: float, beta: float) -> float:
    second = half_line(lambda u: np.exp(-(u**2) / (4 * alpha_1**2)), alpha_1) / (2 * np.sqrt(np.pi) * alpha_1)
    return _first_of_75(alpha_1, beta) + second


def equation_76(alpha_1: float, alpha_2: float, beta: float) -> float:
    return _first_of_75(alpha_1, beta) + 0.5


def equation_77(alpha_1: float, alpha_2: float, beta: float) -> float:
    def integrand(y):
        return np.exp(-(y**2) / 4) * special.erf(beta * y / (2 * np.sqrt(1 - beta**2)))

    return half_line(integrand, 1.0) / (2 * np.sqrt(np.pi)) + 0.5


def _second_of_78(beta: float) -> float:
    def integrand(y):
        return np.exp(-(y**2) / 4) * special.erfc(beta * y / (2 * np.sqrt(1 - beta**2)))

    return half_line(integrand, 1.0) / (2 * np.sqrt(np.pi))


def equation_78(alpha_1: float, alpha_2: float, beta: float) -> float:
    return half_line(lambda y: np.exp(-(y**2) / 4), 1.0) / (2 * np.sqrt(np.pi)) - _second_of_78(beta) + 0.5


def equation_79(alpha_1: float, alpha_2: float, beta: float) -> float:
    return 1 - _second_of_78(beta)


def equation_80(alpha_1: float, alpha_2: float, beta: float) -> float:
    def integrand(y):
        return np.exp(-(y**2) / 4) * np.exp(-(beta**2) * y**2 / (8 * (1 - beta**2)))

    return 1 - half_line(integrand, 1.0) / np.sqrt(np.pi)


def equation_81(alpha_1: float, alpha_2: float, beta: float) -> float:
    return 1 - half_line(lambda y: np.exp(-(y**2) / 8 * (2 - beta**2) / (1 - beta**2)), 1.0) / np.sqrt(np.pi)


def equation_82(alpha_1: float, alpha_2: float, beta: float) -> float:
    return 1 - np.sqrt((2 - 2 * beta**2) / (2 - beta**2))


def _count(events: np.ndarray) -> int:
    return int(np.count_nonzero(events))


def _events(context: Context, n: int) -> np.ndarray:
    """Whether theta' A_j z >= 0 and theta' B_j A_j z >= 0 at exit 1 of a network, in n pairs; shape (2, n)."""
    x, y = SPACE.draw(context.rng, (n, 2))
    return (RESIDUAL.directions()[[0, -1]] @ centred_difference(x, y).T) >= 0


def _same(step: Step, before: Step) -> Verdict:
    """Is `step` equal to `before` at all of CASES?"""
    return equal(
        [step(*case) for case in CASES],
        [before(*case) for case in CASES],
        where={"(alpha_1, alpha_2, beta)": [str(case) for case in CASES]},
        tolerance=1e-12,
    )


@check("Equation 59", Route.EXACT)
def both_predictions(context: Context, *, last=lambda network, j: network.B(j) @ network.A(j)) -> Verdicts:
    """y^_j = sig(theta' A_j x) and y^_k = sig(theta' B_j A_j x) for both samples of 500 pairs,
    every exit of 3 networks
    """
    for network in (ROTATIONS, RESIDUAL, USUAL):
        x = context.rng.standard_normal((500, 2, network.d))
        found = network.predictions(x)
        for j in range(1, network.k + 1):
            for layer, matrix in ((j - 1, network.A(j)), (-1, last(network, j))):
                z = x @ matrix.T @ network.theta
                yield equal(found[layer], 1 / (1 + np.exp(network.sign * z)), where=f"j = {j}")


@check("Equation 60", Route.EXACT)
def both_losses(context: Context, *, swap: bool = False) -> Verdicts:
    """l_j = -y log y^_j - (1 - y) log(1 - y^_j) for both samples of 500 pairs, every exit of 3 networks"""
    for network in (ROTATIONS, RESIDUAL, USUAL):
        x, y = context.rng.standard_normal((500, 2, network.d)), context.rng.integers(2, size=(500, 2))
        p = network.predictions(x)
        expected = np.where((y == 1) != swap, -np.log(p), -np.log1p(-p))
        yield equal(network.losses(x, y), expected, tolerance=1e-8)


@check("Equation 61", Route.MONTE_CARLO)
def symmetry(context: Context, *, half=0.5) -> Verdicts:
    """by symmetry either sample wins half of the pairs on which exit and last layer agree, and half of the others"""
    n = montecarlo.sample_size(0.007, context.alpha)
    losses = RESIDUAL.losses(*SPACE.draw(context.rng, (n, 2)))[[0, -1]]
    early, final = losses[..., 0] >= losses[..., 1]
    agree = early == final
    yield montecarlo.probability_equals(_count(early & agree), _count(agree), half, context.alpha / 2)
    yield montecarlo.probability_equals(_count(early & ~agree), _count(~agree), half, context.alpha / 2)


@check("Equation 63", Route.MONTE_CARLO)
def conditional_event(context: Context, *, formula=early_exit.agreement) -> Verdict:
    """p_j is the share of pairs with theta' A_j z >= 0 among those with theta' B_j A_j z >= 0,
    at exit 1 of a network
    """
    early, final = _events(context, montecarlo.sample_size(0.007, context.alpha))
    return montecarlo.probability_equals(_count(early & final), _count(final), formula(RESIDUAL.beta(1)), context.alpha)


@check("Equation 64", Route.MONTE_CARLO)
def joint_event(context: Context, *, formula=early_exit.agreement) -> Verdicts:
    """P(theta' B_j A_j z >= 0) = 1/2, and twice the probability of both events is p_j, at exit 1 of a network"""
    n = montecarlo.sample_size(0.007, context.alpha)
    early, final = _events(context, n)
    p = formula(RESIDUAL.beta(1))
    yield montecarlo.probability_equals(_count(final), n, 0.5, context.alpha / 2)
    yield montecarlo.probability_equals(_count(early & final), n, p / 2, context.alpha / 2)


@check("Equation 65", Route.EXACT)
def covariance_entries(context: Context, *, factor: float = 2.0) -> Verdicts:
    """E[u u'] is 2 <row, row'> of A_j' theta and A_j' B_j' theta: rows by probing the linear map with unit vectors"""
    for network in (ROTATIONS, RESIDUAL, USUAL):
        for j in range(1, network.k):
            # u is linear in z ~ N(0, 2 I): its columns are the scores of unit vectors.
            columns = network.scores(np.eye(network.d))[[j - 1, -1]]
            early, final = network.A(j).T @ network.theta, network.A(j).T @ network.B(j).T @ network.theta
            printed = factor * np.array([[early @ early, early @ final], [early @ final, final @ final]])
            yield equal(2 * columns @ columns.T, printed, where=f"j = {j}")


@check("Equation 66", Route.EXACT)
def covariance_matrix(context: Context, *, formula=covariance) -> Verdicts:
    """E[u u'] of u = (theta' A_j z, theta' B_j A_j z) is 2 [[a1^2, b a1 a2], [b a1 a2, a2^2]], in 3 networks"""
    for network in (ROTATIONS, RESIDUAL, USUAL):
        for j in range(1, network.k):
            rows = np.array([network.A(j).T @ network.theta, network.A(j).T @ network.B(j).T @ network.theta])
            alpha_1, alpha_2 = np.linalg.norm(rows, axis=1)
            yield equal(formula(alpha_1, alpha_2, network.beta(j)), rows @ (2 * np.eye(network.d)) @ rows.T)


@check("Equation 67", Route.CLOSED_FORM)
def general_density(context: Context, *, formula=density_67) -> Verdicts:
    """the density of u is the library's bivariate normal density at 1,000 random points for 5 Sigma"""
    for case in CASES:
        u = context.rng.standard_normal((1000, 2)) * np.array(case[:2])
        expected = stats.multivariate_normal.pdf(u, np.zeros(2), covariance(*case))
        yield equal(formula(u[:, 0], u[:, 1], *case) / expected, 1.0, where={"u1": u[:, 0], "u2": u[:, 1]})


@check("Equation 68", Route.CLOSED_FORM)
def density(context: Context, *, formula=density_68) -> Verdicts:
    """the written-out density is (67), with Sigma inverted numerically, at 1,000 random points for 5 Sigma"""
    for alpha_1, alpha_2, beta in CASES:
        u_1, u_2 = context.rng.standard_normal((2, 1000)) * np.array([[alpha_1], [alpha_2]])
        expected = density_67(u_1, u_2, alpha_1, alpha_2, beta)
        yield equal(formula(u_1, u_2, alpha_1, alpha_2, beta) / expected, 1.0, where={"u1": u_1, "u2": u_2})


@check("Equation 69", Route.QUADRATURE)
def step_69(context: Context, *, step=equation_69) -> Verdict:
    """twice the density's integral over the quadrant is 1/2 + arcsin(beta)/pi: 5 (alpha_1, alpha_2, beta),
    beta <= .95
    """
    return _same(step, lambda alpha_1, alpha_2, beta: early_exit.agreement(beta))


def _equals_the_one_before(number: int, step: Step, before: Step) -> None:
    def equals(context: Context, *, step: Step = step) -> Verdict:
        return _same(step, before)

    equals.__name__ = f"step_{number}"
    by = ", by Fact A.5," if number == 82 else ""
    claim = f"equals ({number - 1}){by} at 5 choices of (alpha_1, alpha_2, beta), beta <= .95"
    check(f"Equation {number}", Route.QUADRATURE, claim=claim)(equals)


STEPS: list[Step] = [
    *(equation_69, equation_70, equation_71, equation_72, equation_73, equation_74, equation_75),
    *(equation_76, equation_77, equation_78, equation_79, equation_80, equation_81, equation_82),
]
for _number, (_before, _step) in enumerate(itertools.pairwise(STEPS), start=70):
    if _number != 80:
        _equals_the_one_before(_number, _step, _before)


@check("Equation 80", Route.QUADRATURE)
def step_80(context: Context, *, step=equation_80) -> Verdict:
    """is a lower bound on (79), by Fact A.4, at 100 points of [0, .99]"""
    beta = np.linspace(0, 0.99, 100)
    return at_least([equation_79(1.0, 1.0, b) for b in beta], [step(1.0, 1.0, b) for b in beta], where={"beta": beta})
