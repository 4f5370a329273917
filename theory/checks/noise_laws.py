"""Checks of Assumption 5.12 (the noise) and Definition 5.13 (the noisy choice and its mean loss)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from theory.formulas import noise_laws, rho
from theory.formulas.noise_laws import LAWS, Continuous, Discrete, Law
from theory.routes import montecarlo
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_least, at_most, check, equal

SIGMAS = (0.0, 0.01, 0.1, 0.35, 1.0, 3.0, 20.0)
COIN = Discrete(name="coin", atoms=(0.0, 1.0), weights=(0.5, 0.5))


def loss_vectors(rng: np.random.Generator, sigma: float, *, rows: int, n: int) -> np.ndarray:
    """Losses of shape (rows, n) whose logarithms spread by sigma, 4 sigma, 1 or 3; some are 0, some are equal."""
    spread = np.resize([sigma, 4 * sigma, 1.0, 3.0], rows)[:, None]
    losses = np.exp(spread * rng.standard_normal((rows, n)))
    losses[::10, 0] = 0.0
    losses[::7, 1] = losses[::7, 2]
    return losses


def random_laws(rng: np.random.Generator, count: int) -> Iterator[Discrete]:
    """Random laws of mean 0 and variance 1 on 2 to 5 atoms."""
    for _ in range(count):
        size = rng.integers(2, 6)
        atoms, weights = rng.standard_t(3, size=size), rng.dirichlet(np.full(size, 0.7)) + 1e-3
        weights /= weights.sum()
        atoms -= weights @ atoms
        atoms /= np.sqrt(weights @ atoms**2)
        yield Discrete(name=f"atoms {atoms}, weights {weights}", atoms=tuple(atoms), weights=tuple(weights))


@check("Assumption 5.12", Route.QUADRATURE)
def moments(context: Context, *, laws: tuple[Law, ...] = LAWS) -> Verdicts:
    """each of 5 laws of zeta has mean 0 and variance 1, by quadrature of its density or by summing over its atoms"""
    names = {"law": [law.name for law in laws]}
    mean, variance = np.transpose([law.moments() for law in laws])
    yield equal(mean, 0.0, where=names)
    yield equal(variance, 1.0, where=names)


@check("Assumption 5.12", Route.MONTE_CARLO)
def draws(context: Context, *, laws: tuple[Law, ...] = LAWS, sampled: tuple[Law, ...] = LAWS) -> Verdicts:
    """what each of 5 laws draws follows its distribution function (or atoms), hence has mean 0 and variance 1"""
    alpha = context.alpha / len(laws)
    for law, source in zip(laws, sampled, strict=True):
        if isinstance(law, Continuous):
            zeta = source.draw(context.rng, montecarlo.sample_size(0.01, alpha))
            yield montecarlo.distribution_equals(zeta, law.cdf, alpha)
        else:
            share = alpha / len(law.atoms)
            zeta = source.draw(context.rng, montecarlo.sample_size(0.005, share))
            yield from [
                montecarlo.probability_equals(int(np.sum(zeta == atom)), len(zeta), weight, share)
                for atom, weight in zip(law.atoms, law.weights, strict=True)
            ]


@check("Assumption 5.12", Route.CLOSED_FORM, expected=Status.ASSUMPTION_VIOLATED)
def biased_noise(context: Context, *, law=COIN) -> Verdict:
    """a coin in {0, 1} as zeta: its mean is 1/2, not 0"""
    noise_laws.verify_standardised(law)
    return equal(law.moments()[0], 0.0, where=law.name)


@check("Assumption 5.12", Route.CLOSED_FORM, expected=Status.ASSUMPTION_VIOLATED)
def negative_sigma(context: Context, *, sigma=-0.1) -> Verdict:
    """the noisy choice asked for at sigma = -0.1, outside sigma >= 0"""
    chosen = noise_laws.selection_probabilities([1.0, 2.0], 2, sigma, noise_laws.gaussian)
    return equal(chosen.sum(), 1.0, where=f"sigma = {sigma}")


@check("Definition 5.13", Route.MONTE_CARLO)
def choice_by_simulation(context: Context, *, probabilities=noise_laws.selection_probabilities) -> Verdicts:
    """simulated noisy choices fall on each of 4 atoms (one of loss 0, two equal) as computed: 5 laws, R = 2 and 4"""
    losses = np.array([1.0, 0.6, 0.6, 0.0])
    sigma, alpha = 0.5, context.alpha / (2 * len(LAWS) * len(losses))
    n = montecarlo.sample_size(0.01, alpha)
    for law in LAWS:
        for R in (2, 4):
            chosen = simulated_choice(context.rng, losses, R, sigma, law, n)
            yield from [
                montecarlo.probability_equals(int(np.sum(chosen == atom)), n, probability, alpha)
                for atom, probability in enumerate(probabilities(losses, R, sigma, law))
            ]


def simulated_choice(
    rng: np.random.Generator, losses: np.ndarray, R: int, sigma: float, law: Law, size: int, mu: float = 0.0
) -> np.ndarray:
    """Atoms chosen in `size` queries: R candidates each, the first of the largest approximate losses wins."""
    candidates = rng.integers(len(losses), size=(size, R))
    approximate = losses[candidates] * np.exp(mu + sigma * law.draw(rng, (size, R)))
    return candidates[np.arange(size), np.argmax(approximate, axis=1)]


@check("Definition 5.13", Route.QUADRATURE)
def at_most_exact_choice(context: Context, *, expected_selected=noise_laws.expected_selected) -> Verdicts:
    """F^_{R,approx} <= F^_R: 5 laws, 7 sigma in [0, 20], R = 2, 3, 8, 40 random loss vectors each"""
    for law in LAWS:
        for sigma in SIGMAS:
            losses = loss_vectors(context.rng, sigma, rows=40, n=5)
            losses /= losses.max(axis=-1, keepdims=True)
            yield from [
                at_most(
                    expected_selected(losses, R, sigma, law),
                    rho.expected_max(losses, R),
                    where=f"{law.name}, {sigma = }, {R = }",
                )
                for R in (2, 3, 8)
            ]


@check("Definition 5.13", Route.EXACT)
def no_noise(context: Context, *, expected_selected=noise_laws.expected_selected) -> Verdicts:
    """sigma = 0 is the exact choice: F^_{R,approx} = F^_R for R = 1, 2, 3, 8 and 200 random loss vectors with ties"""
    losses = loss_vectors(context.rng, 0.3, rows=400, n=6)
    for R in (1, 2, 3, 8):
        yield equal(
            expected_selected(losses, R, 0.0, noise_laws.gaussian), rho.expected_max(losses, R), where=f"{R = }"
        )


@check("Beyond 5.13", Route.QUADRATURE)
def prefers_larger(context: Context, *, probabilities=noise_laws.selection_probabilities) -> Verdicts:
    """the noisy choice prefers larger losses: P(j* = j) does not decrease in f_j; 5 laws, 6 sigma, R = 2, 3, 8"""
    for law in LAWS:
        for sigma in SIGMAS[1:]:
            losses = np.sort(loss_vectors(context.rng, sigma, rows=40, n=5), axis=-1)
            for R in (2, 3, 8):
                steps = np.diff(probabilities(losses, R, sigma, law), axis=-1)
                yield at_least(steps, 0.0, where=f"{law.name}, {sigma = }, {R = }")


@check("Beyond 5.13", Route.QUADRATURE)
def at_least_random(context: Context, *, expected_selected=noise_laws.expected_selected) -> Verdicts:
    """noise never makes GSGD worse than random: rho_{R,approx} >= 1 for 5 laws, 6 sigma in (0, 20], R = 2, 3, 8, 16"""
    for law in LAWS:
        for sigma in SIGMAS[1:]:
            losses = loss_vectors(context.rng, sigma, rows=40, n=5)
            yield from [
                at_least(
                    expected_selected(losses, R, sigma, law) / losses.mean(axis=-1),
                    1.0,
                    where=f"{law.name}, {sigma = }, {R = }",
                )
                for R in (2, 3, 8, 16)
            ]


def chosen_with_fixed_noise(q: float, f: tuple[float, float], R: int, sigma: float) -> float:
    """E f(x^(j*)) for D = (q, 1-q) on two atoms with losses f if each atom has one Gaussian zeta, kept by its repeats.

    If both atoms are among the candidates, the first wins with probability Phi(log(f_1/f_2) / (sqrt2 sigma)).
    """
    only_first, only_second = q**R, (1 - q) ** R
    wins = 1 - noise_laws.gaussian.difference_sf(np.log(f[0] / f[1]) / sigma)
    first = only_first + (1 - only_first - only_second) * wins
    return float(first * f[0] + (1 - first) * f[1])


def chosen_with_fresh_noise(q: float, f: tuple[float, float], R: int, sigma: float) -> float:
    """The same with a zeta for every candidate (q a multiple of 1/10)."""
    losses = np.repeat(f, [round(10 * q), 10 - round(10 * q)])
    return float(noise_laws.expected_selected(losses, R, sigma, noise_laws.gaussian))


# The first atom is chosen with probability .9^3 + .27/2 = .864 < .9 as sigma grows. Its rival's loss must be positive:
# at f = (1, 0) the approximate loss of the second atom is 0 under any noise, and rho = .999 / .9.
@check("Beyond 5.13", Route.CLOSED_FORM, expected=Status.REFUTED)
def fixed_noise(context: Context, *, chosen=chosen_with_fixed_noise) -> Verdict:
    """rho_{R,approx} >= 1 even if zeta is fixed per atom: D = (.9, .1), f = (1, 1e-6), R = 3, sigma = 1e4"""
    q, f, sigma = 0.9, (1.0, 1e-6), 1e4
    mean = q * f[0] + (1 - q) * f[1]
    return at_least(chosen(q, f, 3, sigma) / mean, 1.0, where=f"D = ({q}, 0.1), f = {f}, R = 3, {sigma = }")


@check("Beyond 5.13", Route.EXACT)
def fixed_noise_of_two(context: Context, *, chosen=chosen_with_fixed_noise) -> Verdicts:
    """at R = 2 it makes no difference whether zeta is drawn per candidate or per atom: 9 weights, 6 sigma, 5 ratios"""
    cases = itertools.product(np.arange(1, 10) / 10, (0.01, 0.5, 0.9, 1.0, 2.0), SIGMAS[1:])
    for q, f, sigma in cases:
        yield equal(
            chosen(q, (1.0, f), 2, sigma),
            chosen_with_fresh_noise(q, (1.0, f), 2, sigma),
            where=f"{q = :.1f}, {f = }",
        )
