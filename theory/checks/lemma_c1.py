"""Checks of Lemma C.1 and its proof, Equations 41 to 46.

Two routes to the lemma: the maximiser by the root of Equation (41), on a grid of sigma; and, with no grid, boxes. Put
u = t / sigma and phi(x) = (1 - e^{-x}) / x, decreasing with phi(0) = 1. Then

    h(t; sigma) / (1 - e^{-sqrt2 sigma}) = g(u) phi(u sigma) / phi(sqrt2 sigma),    g(u) = sqrt2 u / (2 + u^2).

For u >= sqrt2 the quotient of phi's is at most 1 and g at most 1/2 (2 sqrt2 u <= 2 + u^2). For u <= sqrt2, g increases,
so on a box [u1, u2] x [s1, s2] the ratio is at most g(u2) phi(u1 s1) / phi(sqrt2 s2).
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
from scipy import optimize

from theory.formulas import noise
from theory.verdict import Context, Route, Status, Verdict, at_least, at_most, check, equal, worst

SQRT2 = np.sqrt(2)
GRID = np.linspace(0, noise.SIGMA_LIMIT, 1001)[1:]

# An endpoint evaluation is a dozen float64 operations, each correct to a few units in the last place (expm1 included),
# on numbers of size one: 1e-14 would do. The boxes' outer edges are widened by the same share.
MARGIN = 1e-12


def phi(x: np.ndarray) -> np.ndarray:
    """(1 - e^{-x}) / x, 1 at 0."""
    safe = np.where(x > 0, x, 1.0)
    return np.where(x > 0, -np.expm1(-safe) / safe, 1.0)


def box_bound(u1: np.ndarray, u2: np.ndarray, s1: np.ndarray, s2: np.ndarray) -> np.ndarray:
    """Upper bound of the ratio on [u1, u2] x [s1, s2], u2 <= sqrt2, rounding included."""
    return SQRT2 * u2 / (2 + u2**2) * phi(u1 * s1) / phi(SQRT2 * s2) * (1 + MARGIN)


def subdivide(constant: float, sigma_limit: float, *, max_boxes: int = 2_000_000) -> Verdict:
    """Is the ratio at most `constant` for all u in [0, sqrt2] and sigma in [0, sigma_limit]? By halving boxes.

    Proved once every box's bound is below `constant` (`value`: the largest of them), refuted by a corner of a box
    where the ratio itself is above it, inconclusive if `max_boxes` do not suffice.
    """
    u1, u2, s1, s2 = (np.array([edge]) for edge in (0.0, SQRT2 * (1 + MARGIN), 0.0, sigma_limit * (1 + MARGIN)))
    highest, seen = 0.5, 0
    while len(u1):
        seen += len(u1)
        if seen > max_boxes:
            return Verdict(status=Status.INCONCLUSIVE, witness=f"{max_boxes} boxes do not suffice for {constant}")
        upper = box_bound(u1, u2, s1, s2)
        done = upper <= constant
        highest = max(highest, upper[done].max(initial=0.0))
        u1, u2, s1, s2 = u1[~done], u2[~done], s1[~done], s2[~done]
        u, sigma = (u1 + u2) / 2, np.minimum(s2, sigma_limit)
        at = noise.h(u * sigma, sigma) / -np.expm1(-SQRT2 * sigma)
        if at.max(initial=0.0) > constant * (1 + MARGIN):
            return at_most(at, constant, where={"t": u * sigma, "sigma": sigma}, rounding=0.0)
        # The longer side in units in which the bound falls about equally fast.
        wide = u2 - u1 >= s2 - s1
        left = np.where(wide, u, u2), np.where(wide, s2, (s1 + s2) / 2)
        right = np.where(wide, u, u1), np.where(wide, s1, (s1 + s2) / 2)
        u1, u2 = np.concatenate([u1, right[0]]), np.concatenate([left[0], u2])
        s1, s2 = np.concatenate([s1, right[1]]), np.concatenate([left[1], s2])
    return at_most(highest, constant, where="the highest box")


@check(
    "Lemma C.1",
    "max_t h(t; sigma) <= 0.72 (1 - e^{-sqrt2 sigma}) for every sigma in (0, 1/(2 sqrt2)], by boxes over (u, sigma)",
    Route.CLOSED_FORM,
)
def by_boxes(context: Context, *, constant=noise.LEMMA_C1) -> Verdict:
    return subdivide(constant, noise.SIGMA_LIMIT)


@check(
    "Beyond C.1",
    "0.5112 can replace 0.72 for every sigma in (0, 1/(2 sqrt2)], by boxes over (u, sigma)",
    Route.CLOSED_FORM,
)
def by_boxes_sharp(context: Context, *, constant=0.5112) -> Verdict:
    return subdivide(constant, noise.SIGMA_LIMIT)


@check(
    "Beyond C.1",
    "0.511 can replace 0.72, too",
    Route.CLOSED_FORM,
    expected=Status.REFUTED,
)
def too_sharp(context: Context, *, constant=0.511) -> Verdict:
    return subdivide(constant, noise.SIGMA_LIMIT)


@check(
    "Beyond C.1",
    "0.72 itself stays valid for every sigma in (0, 3.02], by boxes over (u, sigma)",
    Route.CLOSED_FORM,
)
def wider_range(context: Context, *, constant=noise.LEMMA_C1, sigma_limit=3.02) -> Verdict:
    return subdivide(constant, sigma_limit)


@check(
    "Beyond C.1",
    "0.72 stays valid up to sigma = 3.03",
    Route.CLOSED_FORM,
    expected=Status.REFUTED,
)
def too_wide_range(context: Context, *, constant=noise.LEMMA_C1, sigma_limit=3.03) -> Verdict:
    return subdivide(constant, sigma_limit)


@check(
    "Beyond C.1",
    "the boxes' other half: for t >= sqrt2 sigma, h(t; sigma) <= (1 - e^{-sqrt2 sigma})/2; 40 sigma in (0, 20], 400 t",
    Route.CLOSED_FORM,
)
def beyond_sqrt2(context: Context, *, constant=0.5) -> Verdict:
    sigma = np.geomspace(1e-3, 20, 40)[:, None]
    t = sigma * np.geomspace(SQRT2, 1e3, 400)
    return at_most(noise.h(t, sigma) / -np.expm1(-SQRT2 * sigma), constant, where={"t": t, "sigma": sigma})


@check(
    "Lemma C.1",
    "max_t h(t; sigma) <= 0.72 (1 - e^{-sqrt2 sigma}) by the root of Equation (41), at 1,000 sigma in (0, 1/(2 sqrt2)]",
    Route.CLOSED_FORM,
)
def by_root(context: Context, *, constant=noise.LEMMA_C1) -> Verdict:
    return at_most(noise.lemma_c1_ratio(GRID), constant, where={"sigma": GRID})


@check(
    "Lemma C.1",
    "the maximum by the root of (41) is the one a numerical maximiser of h finds, at 60 sigma in [.001, 30]",
    Route.CLOSED_FORM,
)
def maxima_agree(context: Context, *, ratio=noise.lemma_c1_ratio) -> Verdict:
    sigma = np.geomspace(1e-3, 30, 60)
    found = [
        -optimize.minimize_scalar(
            lambda t, level=level: -2 * (1 - np.exp(-t)) / (2 + t**2 / level**2),
            bounds=(0, 2 * level),
            method="bounded",
            options={"xatol": 1e-9 * level},
        ).fun
        for level in sigma
    ]
    return equal(ratio(sigma), found / (1 - np.exp(-SQRT2 * sigma)), where={"sigma": sigma})


def constant_by_decimals(digits: int = 40) -> Decimal:
    """max_t h / (1 - e^{-1/2}) at sigma = 1/(2 sqrt2), by bisecting (41) with `digits` decimals."""
    with localcontext() as arithmetic:
        arithmetic.prec = digits + 10
        square, low, high = Decimal(1) / 8, Decimal("0.3"), Decimal("0.5")
        for _ in range(4 * digits):
            middle = (low + high) / 2
            below = middle.exp() < 1 + square / middle + middle / 2
            low, high = (middle, high) if below else (low, middle)
        return 2 * (1 - (-low).exp()) / (2 + low * low / square) / (1 - Decimal("-0.5").exp())


@check(
    "Beyond C.1",
    "the best constant up to sigma = 1/(2 sqrt2) is 0.511145504417459: float64 against 40 decimals",
    Route.CLOSED_FORM,
)
def best_constant(context: Context, *, ratio=noise.lemma_c1_ratio) -> Verdict:
    best = ratio(noise.SIGMA_LIMIT)
    return worst(
        equal(best, float(constant_by_decimals()), where="sigma = 1/(2 sqrt2)", tolerance=1e-14),
        equal(best, 0.511145504417459, where="sigma = 1/(2 sqrt2)", tolerance=1e-14),
    )


@check(
    "Beyond C.1",
    "the ratio increases in sigma from its limit 1/2 at 0: 2,000 sigma in [.001, 30]; within 1e-6 of 1/2 at 1e-3",
    Route.CLOSED_FORM,
)
def ratio_increases(context: Context, *, ratio=noise.lemma_c1_ratio) -> Verdict:
    sigma = np.geomspace(1e-3, 30, 2000)
    return worst(
        at_least(np.diff(ratio(sigma)), 0.0, where={"sigma": sigma[1:]}, rounding=0.0),
        equal(ratio(np.array([0.0, 1e-300, 1e-12, 1e-3])), 0.5, where="sigma = 0 .. 0.001", tolerance=1e-6),
    )


@check(
    "Equation 41",
    "dh/dt = 0 where e^t = 1 + sigma^2/t + t/2: h' > 0 before the root and < 0 after it; 40 sigma in [.001, 20]",
    Route.CLOSED_FORM,
)
def stationary(context: Context, *, t_star=noise.t_star) -> Verdict:
    sigma = np.geomspace(1e-3, 20, 40)[:, None]
    root = t_star(sigma)
    factor = np.concatenate([np.linspace(0.01, 0.999999, 200), np.linspace(1.000001, 5, 200)])
    t = root * factor
    # h' = 2 e^{-t} (2 + t^2/sigma^2) / (...)^2 - ..., whose sign is that of the following.
    slope = np.exp(-t) * (2 + t**2 / sigma**2) + np.expm1(-t) * 2 * t / sigma**2
    return worst(
        equal(np.exp(root), 1 + sigma**2 / root + root / 2, where={"sigma": sigma}),
        at_least(np.sign(slope) * np.sign(1 - factor), 1.0, where={"sigma": sigma, "t": t}),
    )


def nu_series(t: np.ndarray, *, terms: int = 40) -> np.ndarray:
    """1 + 2 sum_{j>=1} t^j / (j+1)! (Equation 42)."""
    total, term = np.ones_like(t), np.ones_like(t)
    for j in range(1, terms):
        term = term * t / (j + 1)
        total = total + 2 * term
    return total


@check(
    "Equation 42",
    "t*^2 nu(t*) = 2 sigma^2 with nu as the printed series, at 60 sigma in [.001, 20]",
    Route.CLOSED_FORM,
)
def series(context: Context, *, nu=nu_series) -> Verdict:
    sigma = np.geomspace(1e-3, 20, 60)
    root = noise.t_star(sigma)
    return equal(root**2 * nu(root) / (2 * sigma**2), 1.0, where={"sigma": sigma})


@check(
    "Equation 43",
    "t* <= sqrt2 sigma, at 400 sigma in [1e-6, 100]; hence t* <= 1/2 up to sigma = 1/(2 sqrt2)",
    Route.CLOSED_FORM,
)
def root_above(context: Context, *, share=1.0) -> Verdict:
    sigma = np.geomspace(1e-6, 100, 400)
    return worst(
        at_most(noise.t_star(sigma) / (SQRT2 * sigma), share, where={"sigma": sigma}),
        at_most(noise.t_star(GRID), share / 2, where={"sigma": GRID}),
    )


@check(
    "Equation 44",
    "nu = 2 (e^t - 1)/t - 1 (as the series) increases, so nu(t) <= nu(1/2) = 4 sqrt(e) - 5 at 1,000 t of (0, 1/2]",
    Route.CLOSED_FORM,
)
def nu_below(context: Context, *, bound=noise.NU_LIMIT) -> Verdict:
    t = np.linspace(0, 0.5, 1001)[1:]
    return worst(
        equal(noise.nu(t), nu_series(t), where={"t": t}),
        at_least(np.diff(nu_series(t)), 0.0, where={"t": t[1:]}, rounding=0.0),
        equal(nu_series(np.array(0.5)), 4 * np.exp(0.5) - 5, where="t = 1/2"),
        at_most(nu_series(t), bound, where={"t": t}),
    )


@check(
    "Equation 45",
    "t* >= sqrt2 sigma / sqrt(4 sqrt(e) - 5) >= 0.62 sqrt2 sigma (loose), at 1,000 sigma in (0, 1/(2 sqrt2)]",
    Route.CLOSED_FORM,
)
def root_below(context: Context, *, share=0.62) -> Verdict:
    middle = 1 / np.sqrt(4 * np.exp(0.5) - 5)
    return worst(
        at_least(noise.t_star(GRID) / (SQRT2 * GRID), middle, where={"sigma": GRID}),
        at_least(middle, share, where="1 / sqrt(4 sqrt(e) - 5)"),
    )


@check(
    "Equation 45",
    "with the root: t* >= 0.7918 sqrt2 sigma at 1,000 sigma in (0, 1/(2 sqrt2)]",
    Route.CLOSED_FORM,
)
def root_below_sharp(context: Context, *, share=0.7918) -> Verdict:
    return worst(
        at_least(noise.t_star(GRID) / (SQRT2 * GRID), share, where={"sigma": GRID}),
        at_least(noise.t_star_share(), share, where="1 / sqrt(4 sqrt(e) - 5)"),
    )


@check(
    "Equation 45",
    "where 0.62 comes from: it is 1 / (4 sqrt(e) - 5), without the square root, cut to two digits",
    Route.CLOSED_FORM,
)
def dropped_root(context: Context, *, without_root=1 / noise.NU_LIMIT) -> Verdict:
    return equal(np.floor(100 * without_root) / 100, 0.62, where="1 / (4 sqrt(e) - 5)")


@check(
    "Equation 46",
    "as printed: 2 / (2 (1 + 0.62^2)) <= 0.72",
    Route.CLOSED_FORM,
    expected=Status.REFUTED,
)
def rounding_slip(context: Context, *, share=0.62) -> Verdict:
    return at_most(2 / (2 * (1 + share**2)), 0.72, where=f"t* = {share:.4g} sqrt2 sigma")


@check(
    "Equation 46",
    "corrected: 2/(2 + t*^2/sigma^2) <= 1/(1 + 0.7918^2) <= 0.6147, and with it max h <= 0.6147 (1 - e^{-sqrt2 sigma})",
    Route.CLOSED_FORM,
)
def corrected(context: Context, *, constant=0.6147) -> Verdict:
    root = noise.t_star(GRID)
    return worst(
        at_most(2 / (2 + root**2 / GRID**2), 1 / (1 + 0.7918**2), where={"sigma": GRID}),
        at_most(1 / (1 + 0.7918**2), constant, where="t* = 0.7918 sqrt2 sigma"),
        at_most(-np.expm1(-root), -np.expm1(-SQRT2 * GRID), where={"sigma": GRID}),
        subdivide(constant, noise.SIGMA_LIMIT),
    )


@check(
    "Equation 46",
    "h(t*; sigma) <= 0.72 (1 - e^{-sqrt2 sigma}) at 200 sigma in (0, 1/(2 sqrt2)], h and t* by the printed formulas",
    Route.CLOSED_FORM,
)
def conclusion(context: Context, *, constant=0.72) -> Verdict:
    root = np.array([_bisected(level) for level in GRID[::5]])
    printed = 2 * (1 - np.exp(-root)) / (2 + root**2 / GRID[::5] ** 2)
    return at_most(printed / (1 - np.exp(-SQRT2 * GRID[::5])), constant, where={"sigma": GRID[::5]})


def _bisected(sigma: float) -> float:
    return float(optimize.brentq(lambda t: np.exp(t) - 1 - sigma**2 / t - t / 2, 1e-9, 1.0, xtol=1e-14))
