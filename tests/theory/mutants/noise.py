from dataclasses import replace

import numpy as np

import theory.checks.noise
import theory.checks.noise_laws
import theory.checks.noise_level
import theory.checks.noise_proof  # noqa: F401 (importing the modules registers their checks)
from theory.checks.noise_laws import chosen_with_fixed_noise, chosen_with_fresh_noise
from theory.checks.noise_proof import SIGMAS
from theory.formulas import noise, noise_laws

# The false-alarm probability of every Monte Carlo check here; seeds are fixed, so a pass stays a pass.
ALPHA = 1e-8


def keep(coefficient):
    """1 - coefficient (1 - e^{-sqrt2 sigma}): more than the truth for a small coefficient."""
    return lambda sigma: 1 - coefficient * (1 - np.exp(-np.sqrt(2) * np.asarray(sigma)))


def more(factor):
    """p_R, larger by a factor."""
    return lambda sigma, R: factor * noise.p_R(sigma, R)


def two(rho):
    """The noise level of p_R at R = 2, beyond the printed one."""
    return noise.sigma_max_R(rho, 2)


def swap(law, changed):
    return tuple(changed if known is law else known for known in noise_laws.LAWS)


def uniform_choice(losses, R, sigma, law):
    return np.full(np.shape(losses), 1 / np.shape(losses)[-1])


def greedy_choice(losses, R, sigma, law):
    return noise_laws.selection_probabilities(losses, R, 0.0, law)


def reversed_choice(losses, R, sigma, law):
    return noise_laws.selection_probabilities(1 / (1 + np.asarray(losses)), R, sigma, law)


def choice_of_three(losses, R, sigma, law):
    return noise_laws.selection_probabilities(losses, R + 1, sigma, law)


def sharper_factors(coefficient):
    return {sigma: keep(coefficient)(sigma) for sigma in SIGMAS}


wide_gaussian = replace(noise_laws.gaussian, pdf=lambda z: np.exp(-np.square(z) / 2.2) / np.sqrt(2.2 * np.pi))


shifted_draws = replace(noise_laws.laplace, draw=lambda rng, size: noise_laws.laplace.draw(rng, size) + 0.05)


MUTANTS = {
    "noise_laws.moments": {"laws": swap(noise_laws.gaussian, wide_gaussian)},
    "noise_laws.draws": {"sampled": swap(noise_laws.laplace, shifted_draws)},
    "noise_laws.biased_noise": {"law": noise_laws.rademacher},
    "noise_laws.negative_sigma": {"sigma": 0.1},
    "noise_laws.choice_by_simulation": {"probabilities": greedy_choice},
    "noise_laws.at_most_exact_choice": {
        "expected_selected": lambda losses, R, sigma, law: noise_laws.expected_selected(losses, R + 1, sigma, law),
    },
    "noise_laws.no_noise": {
        "expected_selected": lambda losses, R, sigma, law: noise_laws.expected_selected(losses, R, 0.05, law),
    },
    "noise_laws.prefers_larger": {"probabilities": reversed_choice},
    "noise_laws.at_least_random": {
        "expected_selected": lambda losses, R, sigma, law: np.sum(
            reversed_choice(losses, R, sigma, law) * losses, axis=-1
        ),
    },
    "noise_laws.fixed_noise": {"chosen": chosen_with_fresh_noise},
    "noise_laws.fixed_noise_of_two": {
        "chosen": lambda q, f, R, sigma: chosen_with_fixed_noise(q, f, R + 1, sigma),
    },
    "noise.theorem": {"bound": keep(0.17)},
    "noise.theorem_for_rho": {"bound": keep(0.16)},
    "noise.theorem_by_simulation": {"bound": lambda sigma: 1.0},
    "noise.independent_of_mu": {
        # mu scales the noise instead of the loss.
        "approximate": lambda losses, mu, sigma, zeta: losses * np.exp(sigma * (1 + abs(mu) / 300) * zeta),
    },
    "noise.decreasing": {"bound": lambda sigma: 1 - 0 * np.asarray(sigma)},
    "noise.gaussian_choice": {"formula": lambda ratio, sigma: noise_laws.gaussian.cdf(np.log(ratio) / sigma)},
    "noise_proof.event": {
        "wins": lambda f1, f2, difference, sigma: -sigma * difference <= np.log(f1 / np.maximum(f2, 1e-9)),
    },
    "noise_proof.difference_moments": {"variance": 1.0},
    "noise_proof.probability_of_first": {"tail": lambda law, s: law.difference_sf(np.sqrt(2) * s)},
    "noise_proof.probability_of_second": {"tail": lambda law, s: law.difference_sf(s) + law.difference_atom(s)},
    "noise_proof.mean_by_simulation": {"tail": lambda law, s: law.difference_sf(2 * s)},
    "noise_proof.mean_by_tail": {"mean": lambda f1, f2, tail: f2 * (1 - tail) + f1 * tail},
    "noise_proof.mean_rearranged": {"mean": lambda f1, f2, tail: f1 - (f1 + f2) * tail},
    "noise_proof.cantelli": {"bound": lambda s: 1.42 / (2 + s**2)},
    "noise_proof.cantelli_is_fact": {"bound": lambda s: 1 / (1 + s**2)},
    "noise_proof.mean_by_cantelli": {"bound": lambda s: 1 / (1 + s**2)},
    "noise_proof.in_terms_of_h": {"h": lambda t, sigma: noise.h(t, np.sqrt(2) * sigma)},
    "noise_proof.by_lemma": {"constant": 0.511},
    "noise_proof.pair": {"factors": sharper_factors(0.33)},
    "noise_proof.either_order": {"factors": sharper_factors(0.33)},
    "noise_proof.over_candidates": {"factors": sharper_factors(0.16)},
    "noise_proof.relative_to_mean": {"factors": sharper_factors(0.16)},
    "noise_proof.over_points": {"factors": sharper_factors(0.125)},
    "noise_level.statement": {"sigma_max": lambda rho: 1.02 * noise.sigma_max(rho)},
    "noise_level.within_theorem": {"sigma_max": lambda rho: np.minimum(noise.sigma_max(rho), noise.SIGMA_LIMIT)},
    "noise_level.within_theorem_up_to": {"rho_limit": 1.3954},
    "noise_level.at_every_level": {"advantage": 0.3},
    "noise_level.impossible_rho": {"rho_2": 1.2},
    "noise.every_R": {"bound": more(1.01)},
    "noise.given_candidates": {"bound": more(1.02)},
    "noise.climbed": {"bound": more(1.02)},
    "noise.mean_of_largest": {"bound": lambda R: 0.95 * (R - 1) / np.sqrt(2 * R - 1)},
    "noise.known_law": {"bound": lambda *a: 1.01 * noise.p_law(*a)},
    "noise.too_much_noise": {"bound": lambda sigma: noise.p_R(sigma, 2)},
    "noise_level.statement_by_p_two": {"factor": keep(0.73)},
    "noise_level.solves": {"sigma_max": two},
    "noise_level.on_problems": {"sigma_max": two},
    "noise_level.sharp_solves": {"sigma_max": lambda rho, R: 1.001 * noise.sigma_max_R(rho, R)},
    "noise_level.sharp_on_problems": {"sigma_max": lambda rho: 1.02 * noise.sigma_max_R(rho, 2)},
}
