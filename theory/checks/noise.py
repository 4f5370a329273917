"""Checks of Theorem 5.15, and of p_R(sigma), which holds for every R, noise level and law, and for the k of B step."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import integrate, special

from gsgd.selectors import select_top_k
from theory.checks.noise_laws import loss_vectors, random_laws, simulated_choice
from theory.formulas import noise, noise_laws, rho
from theory.formulas.noise_laws import LAWS, expected_selected
from theory.routes import montecarlo
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_least, at_most, check, equal

# sigma = 0, where nothing is left to bound, is `decreasing` and Definition 5.13's `no_noise`.
PRINTED = np.linspace(0, noise.SIGMA_LIMIT, 10)[1:]
WIDE = np.array([0.001, 0.01, 0.1, noise.SIGMA_LIMIT, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0])


@check("Theorem 5.15", Route.EXACT)
def theorem(context: Context, *, bound=noise.p) -> Verdicts:
    """F^_{2,approx} >= p(sigma) F^_2: 5 laws, 9 sigma in (0, 1/(2 sqrt2)], 1,000 random vectors of 6 losses each"""
    return _bound_holds(context, PRINTED, bound)


def _bound_holds(context: Context, sigmas: np.ndarray, bound) -> Verdicts:
    for law in LAWS:
        for sigma in sigmas:
            losses = loss_vectors(context.rng, sigma, rows=1000, n=6)
            ratio = expected_selected(losses, 2, sigma, law) / rho.expected_max(losses, 2)
            yield at_least(ratio, bound(sigma), where=f"{law.name}, {sigma = :.4g}")


@check("Theorem 5.15", Route.EXACT)
def theorem_for_rho(context: Context, *, bound=noise.p) -> Verdicts:
    """rho_{2,approx}(w) >= p(sigma) rho_2(w), and so for their infima over 401 w: mean estimation, 4 atoms, 5 laws"""
    w = np.linspace(-8, 8, 401)[:, None]
    losses = (w - np.array([-1.0, 0.2, 0.5, 2.0])) ** 2 / 2
    exact = rho.rho(losses, 2)
    for law in LAWS:
        for sigma in PRINTED:
            noisy = expected_selected(losses, 2, sigma, law) / losses.mean(axis=-1)
            where = f"{law.name}, {sigma = :.4g}"
            yield at_least(noisy, bound(sigma) * exact, where=where)
            yield at_least(noisy.min(), bound(sigma) * exact.min(), where=where)


@check("Theorem 5.15", Route.MONTE_CARLO)
def theorem_by_simulation(context: Context, *, bound=noise.p) -> Verdicts:
    """F^_{2,approx} >= p(sigma) F^_2 in simulation: 5 laws, sigma = 1/(2 sqrt2), 4 atoms of losses 1, .6, .36, .216"""
    losses, sigma, alpha = 0.6 ** np.arange(4), noise.SIGMA_LIMIT, context.alpha / len(LAWS)
    n = montecarlo.sample_size(0.015, alpha)
    # P(max >= f_(i)) by hand: of 16 pairs, 7, 5, 3, 1 have the largest, second, ... as their maximum.
    target = bound(sigma) * float(losses @ [7, 5, 3, 1]) / 16
    chosen = (simulated_choice(context.rng, losses, 2, sigma, law, n) for law in LAWS)
    for atoms in chosen:
        yield montecarlo.mean_at_least(losses[atoms], target, alpha, cap=1.0)


def approximate_losses(losses: np.ndarray, mu: float, sigma: float, zeta: np.ndarray) -> np.ndarray:
    """f~ = f exp(mu + sigma zeta) (Assumption 5.12)."""
    return losses * np.exp(mu + sigma * zeta)


@check("Theorem 5.15", Route.EXACT)
def independent_of_mu(context: Context, *, approximate=approximate_losses) -> Verdicts:
    """the result does not depend on mu(w): the very same of R candidates wins for 6 mu in [-300, 300], 5 laws,
    R = 2, 5
    """
    for law in LAWS:
        for R in (2, 5):
            f = context.rng.exponential(size=(20_000, R))
            zeta = law.draw(context.rng, f.shape)
            reference = np.argmax(approximate(f, 0.0, 0.3, zeta), axis=-1)
            for mu in (-300.0, -5.0, -0.1, 1.0, 10.0, 300.0):
                changed = np.argmax(approximate(f, mu, 0.3, zeta), axis=-1) != reference
                yield equal(np.sum(changed), 0.0, where=f"{law.name}, {R = }, {mu = }")


@check("Theorem 5.15", Route.CLOSED_FORM)
def decreasing(context: Context, *, bound=noise.p) -> Verdicts:
    """p(0) = 1, and p decreases in sigma: 1,001 sigma in [0, 1/(2 sqrt2)]"""
    sigma = np.linspace(0, noise.SIGMA_LIMIT, 1001)
    yield equal(bound(0.0), 1.0, where="sigma = 0")
    yield at_most(np.diff(bound(sigma)), -1e-5, where={"sigma": sigma[1:]})


@check("Theorem 5.15", Route.CLOSED_FORM, expected=Status.ASSUMPTION_VIOLATED)
def too_much_noise(context: Context, *, sigma=0.5, bound=noise.p) -> Verdict:
    """p asked for at sigma = 0.5, outside sigma <= 1/(2 sqrt2)"""
    return at_most(bound(sigma), 1.0, where=f"sigma = {sigma}")


@check("Beyond 5.15", Route.QUADRATURE)
def gaussian_choice(
    context: Context, *, formula=lambda ratio, sigma: special.ndtr(np.log(ratio) / (np.sqrt(2) * sigma))
) -> Verdicts:
    """Gaussian zeta: P(j* = argmax) = Phi(log(f_1/f_2) / (sqrt2 sigma)) against quadrature; 20 ratios, 8 sigma"""
    for ratio in np.geomspace(1, 100, 20):
        for sigma in (0.05, 0.2, noise.SIGMA_LIMIT, 0.7, 1.0, 2.0, 5.0, 20.0):
            shift = np.log(ratio) / sigma

            def wins(z: float, shift: float = shift) -> float:
                return float(np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * special.ndtr(z + shift))

            value = integrate.quad(wins, -10, 10, epsabs=1e-12, epsrel=1e-12)[0]
            yield equal(formula(ratio, sigma), value, where=f"f_1/f_2 = {ratio:.4g}, {sigma = :.4g}")


@check("Beyond 5.15", Route.QUADRATURE)
def every_R(context: Context, *, bound=noise.p_R) -> Verdicts:
    """F^_{R,approx} >= p_R(sigma) F^_R: 5 laws, R = 2, 3, 8, 10 sigma in (0, 20], 60 random vectors of 6 losses each"""
    for law, sigma, R in itertools.product(LAWS, WIDE, (2, 3, 8)):
        losses = loss_vectors(context.rng, sigma, rows=60, n=6)
        ratio = expected_selected(losses, R, sigma, law) / rho.expected_max(losses, R)
        yield at_least(ratio, bound(sigma, R), where=f"{law.name}, {sigma = :.4g}, {R = }")


def kept_of_candidates(law: noise_laws.Discrete, losses: np.ndarray, sigma: float, k: int) -> np.ndarray:
    """E mean of the k kept of B candidates with losses (m, B), over that of the k largest, by all noise values."""
    B = losses.shape[-1]
    picks = np.array(list(itertools.product(range(len(law.atoms)), repeat=B)))
    zeta, probability = np.asarray(law.atoms)[picks], np.prod(np.asarray(law.weights)[picks], axis=1)
    with np.errstate(divide="ignore"):
        scores = np.log(losses)[:, None, :] + sigma * zeta
    kept = np.take_along_axis(np.broadcast_to(losses[:, None, :], scores.shape), select_top_k(scores, k), axis=-1)
    largest = np.sort(losses, axis=-1)[:, -k:]
    return (kept.mean(axis=-1) @ probability) / largest.mean(axis=-1)


@check("Beyond 5.15", Route.EXACT)
def given_candidates(context: Context, *, bound=noise.p_R) -> Verdicts:
    """given the candidates: k of B keep p_B(sigma) of the k largest, B = 2, 3, 4, k = 1, 2; 100 random laws"""
    for law in random_laws(context.rng, 100):
        for B, k in ((2, 1), (3, 1), (4, 1), (3, 2), (4, 2)):
            sigma = float(np.exp(context.rng.uniform(-3, 2)))
            losses = np.exp(-sigma * context.rng.exponential(2, (20, B)))
            losses[:, 0] = 1.0
            where = f"{law.name}, {sigma = :.4g}, B = {B}, k = {k}"
            yield at_least(kept_of_candidates(law, losses, sigma, k), bound(sigma, B), where=where)


@check("Beyond 5.15", Route.EXACT)
def climbed(context: Context, *, bound=noise.p_R) -> Verdicts:
    """climbed: 400 steps towards the law on 3 atoms and the losses that keep least, 3 sigma, R = 2, 3"""
    for sigma, R in itertools.product((0.1, noise.SIGMA_LIMIT, 1.0), (2, 3)):

        def kept(point: np.ndarray, sigma: float = sigma, R: int = R) -> float:
            weights = np.exp(point[:3]) / np.exp(point[:3]).sum()
            atoms = point[3:6] - weights @ point[3:6]
            atoms = atoms / np.sqrt(weights @ atoms**2)
            law = noise_laws.Discrete(name="climbed", atoms=tuple(atoms), weights=tuple(weights))
            losses = np.exp(-sigma * np.abs(np.append(0.0, point[6:])))
            return float(kept_of_candidates(law, losses[None], sigma, 1)[0])

        # From Rademacher noise (almost) and a rival that it just reaches.
        best = np.concatenate([[0.0, 0.0, -8.0, -1.0, 1.0, 0.1], np.full(R - 1, 1.999)])
        least, size = kept(best), 0.3
        for _ in range(400):
            tried = best + size * context.rng.standard_normal(best.size) * (context.rng.random(best.size) < 0.4)
            if (value := kept(tried)) < least:
                least, best, size = value, tried, min(0.5, 1.3 * size)
            else:
                size = max(1e-3, 0.98 * size)
        yield at_least(least, bound(sigma, R), where=f"{sigma = :.4g}, {R = }")


@check("Beyond 5.15", Route.EXACT)
def mean_of_largest(context: Context, *, bound=lambda R: (R - 1) / np.sqrt(2 * R - 1)) -> Verdicts:
    """E max of R zeta <= (R - 1)/sqrt(2R - 1): 300 random laws, R = 2 to 100; attained by quantiles u^(R-1), n = 1e5"""
    R = np.array([2, 3, 5, 10, 100])
    for law in random_laws(context.rng, 300):
        order = np.argsort(law.atoms)
        below = np.cumsum(np.asarray(law.weights)[order])
        shares = np.diff(np.minimum(below, 1.0) ** R[:, None], axis=1, prepend=0.0)
        yield at_most(shares @ np.asarray(law.atoms)[order], bound(R), where={"law": law.name, "R": R})
    for r in R:
        quantiles = ((np.arange(100_000) + 0.5) / 100_000) ** (r - 1)
        largest = rho.expected_max(quantiles, r) - quantiles.mean()
        yield equal(largest / quantiles.std() / bound(r), 1.0, where=f"R = {r}", tolerance=1e-3)


@check("Beyond 5.15", Route.QUADRATURE)
def known_law(context: Context, *, bound=noise.p_law) -> Verdicts:
    """a known law: F^_{R,approx} >= p_law F^_R for Gaussian zeta with its E max of R, R = 2, 4, 8; sharper than p_R"""
    for R, mean in ((2, 1 / np.sqrt(np.pi)), (4, 1.0293753730), (8, 1.4236003060)):
        for sigma in WIDE:
            losses = loss_vectors(context.rng, sigma, rows=40, n=6)
            ratio = expected_selected(losses, R, sigma, noise_laws.gaussian) / rho.expected_max(losses, R)
            limit = bound(sigma, R, mean)
            yield at_least(ratio, limit, where=f"{sigma = :.4g}, {R = }")
            yield at_least(limit, noise.p_R(sigma, R))
