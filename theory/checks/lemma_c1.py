"""Checks of Lemma C.1 and its proof, Equations 41 to 46, at points; `rigorous_lemma_c1` proves it everywhere."""

from __future__ import annotations

import numpy as np
from scipy import optimize

from theory.formulas import noise
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_least, at_most, check, equal

SQRT2 = np.sqrt(2)
GRID = np.linspace(0, noise.SIGMA_LIMIT, 1001)[1:]


@check("Lemma C.1", Route.NUMERICAL)
def by_maximiser(context: Context, *, ratio=noise.lemma_c1_ratio, constant=noise.LEMMA_C1) -> Verdicts:
    """max_t h(t; sigma) <= 0.72 (1 - e^{-sqrt2 sigma}) by a numerical maximiser; it is the root of (41), 61 sigma"""
    sigma = np.append(np.geomspace(1e-3, 30, 60), noise.SIGMA_LIMIT)
    found = [
        -optimize.minimize_scalar(
            lambda t, level=level: -2 * (1 - np.exp(-t)) / (2 + t**2 / level**2),
            bounds=(0, 2 * level),
            method="bounded",
            options={"xatol": 1e-9 * level},
        ).fun
        for level in sigma
    ]
    found = found / (1 - np.exp(-SQRT2 * sigma))
    inside = sigma <= noise.SIGMA_LIMIT
    yield equal(ratio(sigma), found, where={"sigma": sigma})
    yield at_most(found[inside], constant, where={"sigma": sigma[inside]})


@check("Beyond C.1", Route.CLOSED_FORM)
def ratio_increases(context: Context, *, ratio=noise.lemma_c1_ratio) -> Verdicts:
    """the ratio increases in sigma from its limit 1/2 at 0: 2,000 sigma in [.001, 30]; within 1e-6 of 1/2 at 1e-3"""
    sigma = np.geomspace(1e-3, 30, 2000)
    yield at_least(np.diff(ratio(sigma)), 0.0, where={"sigma": sigma[1:]}, rounding=0.0)
    yield equal(ratio(np.array([0.0, 1e-300, 1e-12, 1e-3])), 0.5, where="sigma = 0 .. 0.001", tolerance=1e-6)


@check("Equation 41", Route.CLOSED_FORM)
def stationary(context: Context, *, t_star=noise.t_star) -> Verdicts:
    """dh/dt = 0 where e^t = 1 + sigma^2/t + t/2: h' > 0 before the root and < 0 after it; 40 sigma in [.001, 20]"""
    sigma = np.geomspace(1e-3, 20, 40)[:, None]
    root = t_star(sigma)
    factor = np.concatenate([np.linspace(0.01, 0.999999, 200), np.linspace(1.000001, 5, 200)])
    t = root * factor
    # h' = 2 e^{-t} (2 + t^2/sigma^2) / (...)^2 - ..., whose sign is that of the following.
    slope = np.exp(-t) * (2 + t**2 / sigma**2) + np.expm1(-t) * 2 * t / sigma**2
    yield equal(np.exp(root), 1 + sigma**2 / root + root / 2, where={"sigma": sigma})
    yield at_least(np.sign(slope) * np.sign(1 - factor), 1.0, where={"sigma": sigma, "t": t})


def nu_series(t: np.ndarray, *, terms: int = 40) -> np.ndarray:
    """1 + 2 sum_{j>=1} t^j / (j+1)! (Equation 42)."""
    total, term = np.ones_like(t), np.ones_like(t)
    for j in range(1, terms):
        term = term * t / (j + 1)
        total = total + 2 * term
    return total


@check("Equation 42", Route.CLOSED_FORM)
def series(context: Context, *, nu=nu_series) -> Verdict:
    """t*^2 nu(t*) = 2 sigma^2 with nu as the printed series, at 60 sigma in [.001, 20]"""
    sigma = np.geomspace(1e-3, 20, 60)
    root = noise.t_star(sigma)
    return equal(root**2 * nu(root) / (2 * sigma**2), 1.0, where={"sigma": sigma})


@check("Equation 43", Route.CLOSED_FORM)
def root_above(context: Context, *, share=1.0) -> Verdicts:
    """t* <= sqrt2 sigma, at 400 sigma in [1e-6, 100]; hence t* <= 1/2 up to sigma = 1/(2 sqrt2)"""
    sigma = np.geomspace(1e-6, 100, 400)
    yield at_most(noise.t_star(sigma) / (SQRT2 * sigma), share, where={"sigma": sigma})
    yield at_most(noise.t_star(GRID), share / 2, where={"sigma": GRID})


@check("Equation 44", Route.CLOSED_FORM)
def nu_below(context: Context, *, bound=noise.NU_LIMIT) -> Verdicts:
    """nu = 2 (e^t - 1)/t - 1 (as the series) increases, so nu(t) <= nu(1/2) = 4 sqrt(e) - 5 at 1,000 t of (0, 1/2]"""
    t = np.linspace(0, 0.5, 1001)[1:]
    yield equal(noise.nu_of_t(t), nu_series(t), where={"t": t})
    yield at_least(np.diff(nu_series(t)), 0.0, where={"t": t[1:]}, rounding=0.0)
    yield equal(nu_series(np.array(0.5)), 4 * np.exp(0.5) - 5, where="t = 1/2")
    yield at_most(nu_series(t), bound, where={"t": t})


@check("Equation 45", Route.CLOSED_FORM)
def root_below(context: Context, *, share=0.62) -> Verdicts:
    """t* >= sqrt2 sigma / sqrt(4 sqrt(e) - 5) >= 0.62 sqrt2 sigma (loose), at 1,000 sigma in (0, 1/(2 sqrt2)]"""
    middle = 1 / np.sqrt(4 * np.exp(0.5) - 5)
    yield at_least(noise.t_star(GRID) / (SQRT2 * GRID), middle, where={"sigma": GRID})
    yield at_least(middle, share, where="1 / sqrt(4 sqrt(e) - 5)")


@check("Equation 45", Route.CLOSED_FORM)
def root_below_sharp(context: Context, *, share=0.7918) -> Verdicts:
    """with the root: t* >= 0.7918 sqrt2 sigma at 1,000 sigma in (0, 1/(2 sqrt2)]"""
    yield at_least(noise.t_star(GRID) / (SQRT2 * GRID), share, where={"sigma": GRID})
    yield at_least(noise.t_star_share(), share, where="1 / sqrt(4 sqrt(e) - 5)")


@check("Equation 45", Route.CLOSED_FORM)
def dropped_root(context: Context, *, without_root=1 / noise.NU_LIMIT) -> Verdict:
    """where 0.62 comes from: it is 1 / (4 sqrt(e) - 5), without the square root, cut to two digits"""
    return equal(np.floor(100 * without_root) / 100, 0.62, where="1 / (4 sqrt(e) - 5)")


@check("Equation 46", Route.CLOSED_FORM, expected=Status.REFUTED)
def rounding_slip(context: Context, *, share=0.62) -> Verdict:
    """as printed: 2 / (2 (1 + 0.62^2)) <= 0.72"""
    return at_most(2 / (2 * (1 + share**2)), 0.72, where=f"t* = {share:.4g} sqrt2 sigma")


@check("Equation 46", Route.CLOSED_FORM)
def corrected(context: Context, *, constant=0.6147) -> Verdicts:
    """corrected: 2/(2 + t*^2/sigma^2) <= 1/(1 + 0.7918^2) <= 0.6147,
    and with it max h <= 0.6147 (1 - e^{-sqrt2 sigma})
    """
    root = noise.t_star(GRID)
    yield at_most(2 / (2 + root**2 / GRID**2), 1 / (1 + 0.7918**2), where={"sigma": GRID})
    yield at_most(1 / (1 + 0.7918**2), constant, where="t* = 0.7918 sqrt2 sigma")
    yield at_most(-np.expm1(-root), -np.expm1(-SQRT2 * GRID), where={"sigma": GRID})
    yield at_most(noise.lemma_c1_ratio(GRID), constant, where={"sigma": GRID})
