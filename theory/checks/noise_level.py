"""Checks of Corollary 5.16: up to which noise level GSGD with R = 2 keeps an advantage over SGD."""

from __future__ import annotations

import numpy as np

from theory.formulas import noise, noise_laws, rho
from theory.formulas.noise_laws import LAWS
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_least, at_most, check, equal

RHO = np.linspace(1, 2, 1001)[1:]


def p_printed(sigma: np.ndarray) -> np.ndarray:
    """1 - 0.72 (1 - e^{-sqrt2 sigma}) at any sigma, where `noise.p` stops at 1/(2 sqrt2)."""
    return 1 - 0.72 * (1 - np.exp(-np.sqrt(2) * sigma))


def p_two(sigma: np.ndarray) -> np.ndarray:
    """p_R(sigma) at R = 2, (1 + e^{-2 sigma/sqrt3}) / 2."""
    return (1 + np.exp(-2 * sigma / np.sqrt(3))) / 2


def sigma_max_two(rho_2: np.ndarray) -> np.ndarray:
    return noise.sigma_max_R(rho_2, 2)


@check("Corollary 5.16", Route.CLOSED_FORM)
def solves(context: Context, *, sigma_max=noise.sigma_max) -> Verdict:
    """p(sigma_max) rho = 1: the printed sigma_max solves the printed p for rho, at 1,000 rho in (1, 2]"""
    return equal(p_printed(sigma_max(RHO)) * RHO, 1.0, where={"rho": RHO})


@check("Corollary 5.16", Route.CLOSED_FORM)
def statement(context: Context, *, sigma_max=noise.sigma_max) -> Verdict:
    """p(sigma) rho > 1 for sigma < sigma_max: 1,000 rho in (1, 2], 99 shares of sigma_max up to 0.99"""
    share = np.linspace(0, 0.99, 100)[1:, None]
    # Strictly above 1: at 0.99 sigma_max there is about 0.01 (rho - 1) left.
    return at_least(p_printed(share * sigma_max(RHO)) * RHO, 1 + 0.001 * (RHO - 1), where={"rho": RHO, "share": share})


@check("Corollary 5.16", Route.CLOSED_FORM)
def statement_by_p_two(context: Context, *, factor=p_two) -> Verdicts:
    """the gap closed: p_2 rho >= p rho > 1 for sigma < sigma_max, beyond 1/(2 sqrt2) too: 1,000 rho, 99 shares"""
    sigma = np.linspace(0, 0.99, 100)[1:, None] * noise.sigma_max(RHO)
    yield at_least(factor(sigma), p_printed(sigma), where={"rho": RHO, "sigma": sigma})
    yield at_least(factor(sigma) * RHO, 1 + 0.001 * (RHO - 1), where={"rho": RHO, "sigma": sigma})


@check("Corollary 5.16", Route.EXACT)
def on_problems(context: Context, *, sigma_max=noise.sigma_max) -> Verdicts:
    """on problems: rho_{2,approx} >= p min rho_2 > 1 at all 201 w, sigma = 0.99 sigma_max; 6 problems, 5 laws"""
    return _on_problems(context, sigma_max, p_printed)


def _on_problems(context: Context, sigma_max, factor) -> Verdicts:
    for _ in range(6):
        losses = mean_estimation(context.rng)
        least = rho.rho(losses, 2).min()
        sigma = 0.99 * sigma_max(least)
        yield at_least(factor(sigma) * least, 1 + 0.001 * (least - 1), where=f"{least = :.4g}, {sigma = :.4g}")
        for law in LAWS:
            noisy = noise_laws.expected_selected(losses, 2, sigma, law) / losses.mean(axis=-1)
            yield at_least(noisy.min(), factor(sigma) * least, where=f"{law.name}, {least = :.4g}")


def mean_estimation(rng: np.random.Generator) -> np.ndarray:
    """Losses (w - x_i)^2 / 2 of 4 atoms at 201 w around them, where rho_2 stays away from 1."""
    w = np.linspace(-3, 3, 201)[:, None]
    return (w - rng.standard_normal(4)) ** 2 / 2


@check("Corollary 5.16", Route.CLOSED_FORM, expected=Status.REFUTED)
def within_theorem(context: Context, *, sigma_max=noise.sigma_max) -> Verdict:
    """Theorem 5.15 as stated is enough for it: sigma_max <= 1/(2 sqrt2) for every rho in (1, 2]"""
    return at_most(sigma_max(RHO), noise.SIGMA_LIMIT, where={"rho": RHO})


@check("Corollary 5.16", Route.CLOSED_FORM)
def within_theorem_up_to(context: Context, *, rho_limit=1.3952) -> Verdict:
    """Theorem 5.15 as stated is enough for it up to rho = 1.3952:
    sigma_max <= 1/(2 sqrt2) at 1,000 rho in (1, 1.3952]
    """
    rhos = np.linspace(1, rho_limit, 1001)[1:]
    return at_most(noise.sigma_max(rhos), noise.SIGMA_LIMIT, where={"rho": rhos})


@check("Beyond 5.16", Route.CLOSED_FORM)
def sharp_solves(context: Context, *, sigma_max=noise.sigma_max_R) -> Verdicts:
    """p_R(sigma) rho = 1 at sigma_max_R(rho), R = 2, 3, 10, 1000, 999 rho in (1, R); at R = 2 >= the printed"""
    R = np.array([2, 3, 10, 1000])[:, None]
    rhos = 1 + (R - 1) * (RHO[:-1] - 1)
    found = sigma_max(rhos, R)
    yield equal(noise.p_R(found, R) * rhos, 1.0, where={"rho": rhos, "R": R})
    yield at_least(found[0], noise.sigma_max(rhos[0]), where={"rho": rhos[0]})
    yield equal(sigma_max(np.array([2.0, 5.0]), np.array([2, 5])), np.inf, where="rho = R")


@check("Beyond 5.16", Route.EXACT)
def sharp_on_problems(context: Context, *, sigma_max=sigma_max_two) -> Verdicts:
    """on problems: rho_{2,approx} >= p_2 min rho_2 > 1 at 201 w, sigma = 0.99 sigma_max_R; 6 problems, 5 laws"""
    return _on_problems(context, sigma_max, p_two)


# Z is a difference of two i.i.d. numbers, so every neighbourhood of 0 has positive probability, and P(Z > s) < 1/2 for
# every s > 0: a noisy choice between two unlike losses is better than a coin. How much better depends on the law.
@check("Beyond 5.16", Route.EXACT)
def at_every_level(context: Context, *, advantage=0.1) -> Verdicts:
    """rho_{2,approx}(w) > 1 wherever losses differ, at any sigma: 5 laws (P(Z > s) <= 1/2 - s/10, s <= 1),
    sigma to 1e3
    """
    for sigma in (0.3, 1.0, 10.0, 1e3):
        losses = mean_estimation(context.rng)
        unlike = np.abs(losses[:, :, None] - losses[:, None, :])
        s = np.abs(np.log(losses[:, :, None] / losses[:, None, :])) / sigma
        # Of two candidates, a coin keeps their mean, and the noisy choice (f1 - f2) (1/2 - P(Z > s)) more.
        least = 1 + advantage * np.mean(unlike * np.minimum(s, 1), axis=(1, 2)) / losses.mean(axis=-1)
        for law in LAWS:
            noisy = noise_laws.expected_selected(losses, 2, sigma, law) / losses.mean(axis=-1)
            yield at_least(noisy, least, where=f"{law.name}, {sigma = }")


@check("Corollary 5.16", Route.CLOSED_FORM, expected=Status.ASSUMPTION_VIOLATED)
def impossible_rho(context: Context, *, rho_2=0.9, sigma_max=noise.sigma_max) -> Verdict:
    """sigma_max asked for at rho = 0.9, outside 1 < rho <= 2"""
    return at_least(sigma_max(rho_2), 0.0, where=f"rho = {rho_2}")
