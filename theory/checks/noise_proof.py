"""Checks of the proof of Theorem 5.15, step by step: Equations 27 to 40 (41 to 46 are `lemma_c1`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from theory.checks.noise_laws import loss_vectors
from theory.formulas import facts, noise, noise_laws, rho
from theory.formulas.noise_laws import LAWS, Continuous, Law
from theory.routes import montecarlo
from theory.verdict import Context, Route, Verdict, Verdicts, at_least, at_most, check, equal

# f^(1) = 1 and f^(2) = e^{-t}: only the ratio matters. t = inf is f^(2) = 0.
T = np.concatenate([[0.0], np.geomspace(1e-4, 20, 200), [np.inf]])
SIGMAS = (0.01, 0.1, 0.2, 0.3, noise.SIGMA_LIMIT)
ANY_SIGMA = (0.01, 0.1, noise.SIGMA_LIMIT, 1.0, 5.0, 20.0)
PRINTED_FACTORS = {sigma: 1 - 0.72 * (1 - np.exp(-np.sqrt(2) * sigma)) for sigma in SIGMAS}


def mean_by_enumeration(law: Law, f1: np.ndarray, f2: np.ndarray, sigma: float) -> np.ndarray:
    """E f^(j*) for two candidates: every pair of noise values (nodes, for a density), by the sign of the difference."""
    if isinstance(law, Continuous):
        # The inner integral over zeta_2 is its distribution function.
        shift = np.log(f1 / f2) / sigma
        first = np.empty(shift.shape)
        for place, s in np.ndenumerate(shift):
            z, weight = law.nodes(*(kink - s for kink in law.kinks))
            first[place] = np.sum(weight * law.pdf(z) * law.cdf(z + s))
    else:
        first = np.zeros(np.shape(f1))
        for zeta1, weight1 in zip(law.atoms, law.weights, strict=True):
            for zeta2, weight2 in zip(law.atoms, law.weights, strict=True):
                first += weight1 * weight2 * (f2 * np.exp(sigma * zeta2) <= f1 * np.exp(sigma * zeta1))
    return first * f1 + (1 - first) * f2


def first_wins(f1: np.ndarray, f2: np.ndarray, difference: np.ndarray, sigma: float) -> np.ndarray:
    """sigma (zeta_2 - zeta_1) <= log(f^(1) / f^(2)) (Equation 27)."""
    with np.errstate(divide="ignore"):  # f^(2) = 0: log inf, which the print leaves out
        return sigma * difference <= np.log(f1) - np.log(f2)


def over_laws(sigmas: tuple[float, ...]) -> Iterator[tuple[Law, float, np.ndarray]]:
    """Every law, sigma, and P(Z > t / sigma) at the grid T."""
    for law in LAWS:
        for sigma in sigmas:
            yield law, sigma, law.difference_sf(T / sigma)


@check("Equation 27", Route.EXACT)
def event(context: Context, *, wins=first_wins) -> Verdicts:
    """f2 exp(mu + sigma z2) <= f1 exp(mu + sigma z1) is sigma (z2 - z1) <= log(f1/f2):
    50,000 draws of each of 5 laws
    """
    for law in LAWS:
        f1, f2 = np.sort(context.rng.exponential(size=(2, 50_000)), axis=0)[::-1]
        f2[:100] = 0.0
        sigma, mu = context.rng.uniform(0, 2), context.rng.normal()
        z1, z2 = law.draw(context.rng, (2, 50_000))
        printed = f2 * np.exp(mu + sigma * z2) <= f1 * np.exp(mu + sigma * z1)
        differ = np.sum(wins(f1, f2, z2 - z1, sigma) != printed)
        yield equal(differ, 0.0, where=f"{law.name}, {sigma = :.4g}")


@check("Equation 28", Route.QUADRATURE)
def difference_moments(context: Context, *, variance=2.0) -> Verdicts:
    """Z = zeta_2 - zeta_1 has mean 0 and variance 2: symmetric, and 4 int s P(Z > s) ds over s > 0 is 2, for 5 laws"""
    for law in LAWS:
        # P(Z > s) of a discrete law jumps at the differences of its atoms: panels end there.
        jumps = () if isinstance(law, Continuous) else tuple(np.subtract.outer(law.atoms, law.atoms).ravel())
        s, weight = noise_laws.panels((0.0, 60.0), np.array(jumps))
        tail = law.difference_sf(s)
        yield equal(law.difference_sf(-s), 1 - tail - law.difference_atom(s), where=law.name)
        yield equal(4 * np.sum(weight * s * tail), variance, where=law.name)


@check("Equation 28", Route.QUADRATURE)
def probability_of_first(context: Context, *, tail=lambda law, s: law.difference_sf(s)) -> Verdicts:
    """P(j* = 1) = 1 - P(Z > log(f1/f2)/sigma): the law of Z against both noises; 5 laws, 6 sigma, 50 ratios"""
    # Up to 9: at 10 = 2 * 5 the two values of Rademacher noise tie for sigma = 5, and rounding decides.
    f1, f2 = np.array(1.0), np.exp(-np.geomspace(1e-3, 9, 50))
    for law in LAWS:
        for sigma in ANY_SIGMA:
            first = (mean_by_enumeration(law, np.broadcast_to(f1, f2.shape), f2, sigma) - f2) / (f1 - f2)
            expected = 1 - tail(law, np.log(f1 / f2) / sigma)
            # The probability is read off a mean, which is divided by f1 - f2 >= 0.001.
            yield equal(first, expected, where=f"{law.name}, {sigma = :.4g}", tolerance=1e-8)


@check("Equation 29", Route.EXACT)
def probability_of_second(context: Context, *, tail=lambda law, s: law.difference_sf(s)) -> Verdicts:
    """P(j* = 2) = P(Z > log(f1/f2)/sigma) by exchanging the candidates' roles (a tie is the first's): 5 laws,
    5 sigma
    """
    for law in LAWS:
        for sigma in SIGMAS:
            s = T / sigma
            # Z < -s, with Z and -Z alike.
            second = 1 - law.difference_sf(-s) - law.difference_atom(-s)
            yield equal(second, tail(law, s), where={"law": law.name, "sigma": sigma, "t": T})


@check("Equation 30", Route.MONTE_CARLO)
def mean_by_simulation(context: Context, *, tail=lambda law, s: law.difference_sf(s)) -> Verdicts:
    """E f^(j*) = f1 P(j* = 1) + f2 P(j* = 2): the mean of simulated choices, 5 laws, losses 1 and 0.7, sigma = 0.5"""
    f, sigma, alpha = np.array([1.0, 0.7]), 0.5, context.alpha / len(LAWS)
    n = montecarlo.sample_size(0.01, alpha)
    for law in LAWS:
        chosen = f[np.argmax(f * np.exp(sigma * law.draw(context.rng, (n, 2))), axis=1)]
        second = float(tail(law, np.log(f[0] / f[1]) / sigma))
        yield montecarlo.mean_equals(chosen, f[0] * (1 - second) + f[1] * second, alpha, cap=1.0)


@check("Equation 31", Route.QUADRATURE)
def mean_by_tail(context: Context, *, mean=lambda f1, f2, tail: f1 * (1 - tail) + f2 * tail) -> Verdicts:
    """E f^(j*), over both noises, is f1 (1 - P(Z > s)) + f2 P(Z > s), s = log(f1/f2)/sigma; 5 laws, 6 sigma,
    50 pairs
    """
    for law in LAWS:
        for sigma in ANY_SIGMA:
            f1, f2 = np.sort(context.rng.exponential(size=(2, 50)), axis=0)[::-1]
            tail = law.difference_sf(np.log(f1 / f2) / sigma)
            where = {"law": law.name, "sigma": sigma, "f1": f1, "f2": f2}
            yield equal(mean_by_enumeration(law, f1, f2, sigma), mean(f1, f2, tail), where=where)


@check("Equation 32", Route.CLOSED_FORM)
def mean_rearranged(context: Context, *, mean=lambda f1, f2, tail: f1 - (f1 - f2) * tail) -> Verdict:
    """f1 (1 - P) + f2 P = f1 - (f1 - f2) P at 10,000 random f1 >= f2 >= 0 and P in [0, 1]"""
    f1, f2 = np.sort(context.rng.exponential(size=(2, 10_000)), axis=0)[::-1]
    tail = context.rng.uniform(size=10_000)
    return equal(mean(f1, f2, tail), f1 * (1 - tail) + f2 * tail, where={"f1": f1, "f2": f2, "P": tail})


@check("Equation 33", Route.CLOSED_FORM)
def cantelli(context: Context, *, bound=lambda s: 2 / (2 + s**2)) -> Verdicts:
    """Cantelli: P(Z > log(f1/f2)/sigma) <= 2 / (2 + log^2(f1/f2)/sigma^2) for 5 laws, 6 sigma,
    202 ratios in [1, inf]
    """
    for law, sigma, tail in over_laws(ANY_SIGMA):
        yield at_most(tail, bound(T / sigma), where={"law": law.name, "sigma": sigma, "t": T})


@check("Equation 33", Route.CLOSED_FORM)
def cantelli_is_fact(context: Context, *, bound=lambda s: 2 / (2 + s**2)) -> Verdict:
    """its right-hand side is Fact A.2 with Var Z = 2: Var/(Var + s^2) at 200 s of (0, 50]"""
    s = np.linspace(0.25, 50, 200)
    return equal(bound(s), facts.cantelli_bound(2.0, s), where={"s": s})


@check("Equation 34", Route.EXACT)
def mean_by_cantelli(context: Context, *, bound=lambda s: 2 / (2 + s**2)) -> Verdicts:
    """E f^(j*) >= f1 - (f1 - f2) 2 / (2 + log^2(f1/f2)/sigma^2) for 5 laws, 6 sigma, 202 ratios in [1, inf]"""
    for law, sigma, tail in over_laws(ANY_SIGMA):
        yield at_least(
            1 + np.expm1(-T) * tail,
            1 + np.expm1(-T) * bound(T / sigma),
            where={"law": law.name, "sigma": sigma, "t": T},
        )


@check("Equation 35", Route.CLOSED_FORM)
def in_terms_of_h(context: Context, *, h=noise.h) -> Verdict:
    """the step before it: (f1 - f2) 2/(2 + log^2(f1/f2)/sigma^2) = f1 h(log(f1/f2); sigma), 1,000 random pairs"""
    f1, f2 = np.sort(context.rng.exponential(size=(2, 1000)), axis=0)[::-1]
    sigma = context.rng.uniform(0.01, 5, 1000)
    t = np.log(f1 / f2)
    return equal(f1 * h(t, sigma), (f1 - f2) * 2 / (2 + t**2 / sigma**2), where={"f1": f1, "f2": f2, "sigma": sigma})


@check("Equation 35", Route.CLOSED_FORM)
def by_lemma(context: Context, *, constant=0.72) -> Verdicts:
    """(f1 - f2) 2/(2 + log^2(f1/f2)/sigma^2) <= 0.72 (1 - e^{-sqrt2 sigma}) f1: 5 sigma <= 1/(2 sqrt2), 202 ratios"""
    for sigma in SIGMAS:
        taken = -np.expm1(-T) * 2 / (2 + (T / sigma) ** 2)
        yield at_most(taken / -np.expm1(-np.sqrt(2) * sigma), constant, where={"sigma": sigma, "t": T})


@check("Equation 36", Route.EXACT)
def pair(context: Context, *, factors=PRINTED_FACTORS) -> Verdicts:
    """E f^(j*) >= (1 - 0.72 (1 - e^{-sqrt2 sigma})) f1 for 5 laws, 5 sigma <= 1/(2 sqrt2), 202 ratios in [1, inf]"""
    for law, sigma, tail in over_laws(SIGMAS):
        yield at_least(1 + np.expm1(-T) * tail, factors[sigma], where={"law": law.name, "sigma": sigma, "t": T})


@check("Equation 37", Route.EXACT)
def either_order(context: Context, *, factors=PRINTED_FACTORS) -> Verdicts:
    """E f^(j*) >= (1 - 0.72 (1 - e^{-sqrt2 sigma})) max f in either order of the two, 1,000 pairs, 5 laws, 5 sigma"""
    first, second = context.rng.exponential(size=(2, 1000))
    for law in LAWS:
        for sigma, factor in factors.items():
            second_wins = law.difference_sf(np.log(first / second) / sigma)
            kept = (first * (1 - second_wins) + second * second_wins) / np.maximum(first, second)
            where = {"law": law.name, "sigma": sigma, "f(1)": first, "f(2)": second}
            yield at_least(kept, factor, where=where)


@check("Equation 38", Route.EXACT)
def over_candidates(context: Context, *, factors=PRINTED_FACTORS) -> Verdicts:
    """F^_{2,approx} >= (1 - 0.72 (1 - e^{-sqrt2 sigma})) F^_2 on the constants as printed; 5 laws, 5 sigma,
    200 vectors
    """
    for law in LAWS:
        for sigma, factor in factors.items():
            losses = loss_vectors(context.rng, sigma, rows=200, n=5)
            ratio = noise_laws.expected_selected(losses, 2, sigma, law) / rho.expected_max(losses, 2)
            yield at_least(ratio, factor, where=f"{law.name}, {sigma = :.4g}")


@check("Equation 39", Route.EXACT)
def relative_to_mean(context: Context, *, factors=PRINTED_FACTORS) -> Verdicts:
    """rho_{2,approx}(w) >= (1 - 0.72 (1 - e^{-sqrt2 sigma})) rho_2(w); 5 laws, 5 sigma <= 1/(2 sqrt2), 200 vectors"""
    for law in LAWS:
        for sigma, factor in factors.items():
            losses = loss_vectors(context.rng, sigma, rows=200, n=5)
            noisy = noise_laws.expected_selected(losses, 2, sigma, law) / losses.mean(axis=-1)
            yield at_least(noisy, factor * rho.rho(losses, 2), where=f"{law.name}, {sigma = :.4g}")


@check("Equation 40", Route.EXACT)
def over_points(context: Context, *, factors=PRINTED_FACTORS) -> Verdicts:
    """the infima over w keep the factor: 200 random sets of 50 points w, 5 laws, 5 sigma <= 1/(2 sqrt2)"""
    for law in LAWS:
        for sigma, factor in factors.items():
            losses = loss_vectors(context.rng, sigma, rows=10_000, n=3).reshape(200, 50, 3)
            noisy = noise_laws.expected_selected(losses, 2, sigma, law) / losses.mean(axis=-1)
            infima = noisy.min(axis=1), rho.rho(losses, 2).min(axis=1)
            yield at_least(infima[0] / infima[1], factor, where=f"{law.name}, {sigma = :.4g}")
