"""Laws of the noise zeta in Assumption 5.12, and the exact law of the noisy choice (Definition 5.13).

The paper asks of zeta only mean 0 and variance 1. The laws here span what that allows: light and heavy tails, symmetric
and skewed, with and without ties. Each states its own density or atoms, so that every expectation over the noise can be
computed without sampling, and draws from a generator, so that it can be sampled too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from theory.formulas._numbers import integer
from theory.verdict import AssumptionViolated

# Gauss-Legendre nodes on a panel of width <= 1: exact to rounding for the analytic pieces of every law below.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)

# Floats that one temporary array of `selection_probabilities` may hold (64 MB).
_CHUNK = 8_000_000


@dataclass(frozen=True, kw_only=True)
class Discrete:
    """A law with finitely many values: `atoms[k]` with probability `weights[k]`."""

    name: str
    atoms: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.atoms) != len(self.weights) or not min(self.weights) > 0 or abs(sum(self.weights) - 1) > 1e-12:
            raise ValueError(f"{self.weights} must be a positive weight for each of {self.atoms}, of sum 1")

    def draw(self, rng: np.random.Generator, size: Any) -> np.ndarray:
        """Independent draws of zeta, of shape `size`."""
        return rng.choice(np.asarray(self.atoms), size=size, p=self.weights)

    def moments(self) -> tuple[float, float]:
        """Mean and variance of zeta, by summing over the atoms."""
        a, w = np.asarray(self.atoms), np.asarray(self.weights)
        mean = float(w @ a)
        return mean, float(w @ (a - mean) ** 2)

    def difference_sf(self, s: ArrayLike) -> np.ndarray:
        """P(zeta_2 - zeta_1 > s), by enumerating the pairs of atoms."""
        return self._over_pairs(s, np.greater)

    def difference_atom(self, s: ArrayLike) -> np.ndarray:
        """P(zeta_2 - zeta_1 = s), by enumerating the pairs of atoms; equality is that of float64."""
        return self._over_pairs(s, np.equal)

    def _over_pairs(self, s: ArrayLike, relation: Callable[..., Any]) -> np.ndarray:
        s = np.asarray(s, float)
        total = np.zeros(s.shape)
        for a1, w1 in zip(self.atoms, self.weights, strict=True):
            for a2, w2 in zip(self.atoms, self.weights, strict=True):
                total += w1 * w2 * relation(a2 - a1, s)
        return total


@dataclass(frozen=True, kw_only=True)
class Continuous:
    """A law with a density.

    `kinks` are the points where the density is not smooth, `support` an interval outside of which lies less than 1e-17
    of the probability: with them Gauss-Legendre quadrature on panels is exact to rounding.
    """

    name: str
    draw: Callable[..., np.ndarray]
    pdf: Callable[[np.ndarray], np.ndarray]
    cdf: Callable[[np.ndarray], np.ndarray]
    difference_sf: Callable[[ArrayLike], np.ndarray]
    support: tuple[float, float]
    kinks: tuple[float, ...] = ()

    def difference_atom(self, s: ArrayLike) -> np.ndarray:
        """P(zeta_2 - zeta_1 = s) = 0."""
        return np.zeros(np.shape(s))

    def nodes(self, *breaks: float) -> tuple[np.ndarray, np.ndarray]:
        """Quadrature points and weights on the support, with panels that end at the kinks and at `breaks`."""
        return panels(self.support, np.array([*self.kinks, *breaks]))

    def moments(self) -> tuple[float, float]:
        """Mean and variance of zeta, by quadrature of the density."""
        z, weight = self.nodes()
        mass = weight * self.pdf(z)
        mean = float(mass @ z)
        return mean, float(mass @ (z - mean) ** 2)


Law = Discrete | Continuous


def two_point(q: float) -> Discrete:
    """sqrt((1-q)/q) with probability q, -sqrt(q/(1-q)) otherwise: mean 0, variance 1, skewed unless q = 1/2.

    Its difference attains half of Chebyshev's inequality: P(zeta_2 - zeta_1 >= s) = 1/s^2 at s = 1/sqrt(q(1-q)).
    """
    if not 0 < q < 1:
        raise ValueError(f"q = {q} must lie in (0, 1)")
    low, high = -float(np.sqrt(q / (1 - q))), float(np.sqrt((1 - q) / q))
    return Discrete(name=f"two-point({q:g})", atoms=(low, high), weights=(1 - q, q))


def _laplace_difference_sf(s: ArrayLike) -> np.ndarray:
    # Density of the difference of two Laplace(b): (1 + |s|/b) exp(-|s|/b) / (4b); here b = 1/sqrt(2).
    # The cap keeps inf * 0 out; exp(-1000) is 0.
    x = np.minimum(np.sqrt(2) * np.abs(np.asarray(s, float)), 1e3)
    tail = (2 + x) * np.exp(-x) / 4
    return np.where(np.asarray(s) >= 0, tail, 1 - tail)


def _laplace_cdf(z: ArrayLike) -> np.ndarray:
    tail = np.exp(-np.sqrt(2) * np.abs(z)) / 2
    return np.where(np.asarray(z) < 0, tail, 1 - tail)


def _exponential_difference_sf(s: ArrayLike) -> np.ndarray:
    tail = np.exp(-np.abs(s)) / 2
    return np.where(np.asarray(s) >= 0, tail, 1 - tail)


def _exponential_pdf(z: ArrayLike) -> np.ndarray:
    z = np.asarray(z)
    return np.where(z >= -1, np.exp(-np.maximum(z + 1, 0)), 0.0)


gaussian = Continuous(
    name="gaussian",
    draw=lambda rng, size: rng.standard_normal(size),
    pdf=lambda z: np.exp(-np.square(z) / 2) / np.sqrt(2 * np.pi),
    cdf=special.ndtr,
    difference_sf=lambda s: special.ndtr(-np.asarray(s, float) / np.sqrt(2)),
    support=(-9.0, 9.0),
)
laplace = Continuous(
    name="laplace",
    draw=lambda rng, size: rng.laplace(scale=1 / np.sqrt(2), size=size),
    pdf=lambda z: np.exp(-np.sqrt(2) * np.abs(z)) / np.sqrt(2),
    cdf=_laplace_cdf,
    difference_sf=_laplace_difference_sf,
    support=(-28.0, 28.0),
    kinks=(0.0,),
)
exponential = Continuous(
    name="centred exponential",
    draw=lambda rng, size: rng.standard_exponential(size) - 1,
    pdf=_exponential_pdf,
    cdf=lambda z: -np.expm1(-np.maximum(np.asarray(z) + 1, 0)),
    difference_sf=_exponential_difference_sf,
    support=(-1.0, 40.0),
    kinks=(-1.0,),
)
rademacher = Discrete(name="rademacher", atoms=(-1.0, 1.0), weights=(0.5, 0.5))
lopsided = two_point(0.05)

LAWS: tuple[Law, ...] = (gaussian, rademacher, laplace, exponential, lopsided)


def verify_standardised(law: Law, *, tolerance: float = 1e-9) -> None:
    """Does zeta have mean 0 and variance 1 (Assumption 5.12)?

    Raises:
        AssumptionViolated: if not, within `tolerance`.
    """
    mean, variance = law.moments()
    if not (abs(mean) <= tolerance and abs(variance - 1) <= tolerance):
        message = f"zeta ({law.name}) has mean {mean:.6g} and variance {variance:.6g}; they must be 0 and 1"
        raise AssumptionViolated("Assumption 5.12", message)


def selection_probabilities(losses: ArrayLike, R: int, sigma: float, law: Law) -> np.ndarray:
    """Probability that the noisy choice falls on each of n equally likely atoms (Definition 5.13).

    R candidates are drawn independently, with replacement; candidate c has the approximate loss
    f(w, x^(c)) exp(mu + sigma zeta_c), and the largest one is chosen, the earlier one of a tie.

        R = 2:                (1/n^2) sum_j [ 2 P(Z < s_ij) + P(Z = s_ij) ],       s_ij = log(f_i / f_j) / sigma
        zeta with a density:  (R/n) int pdf(z) [ (1/n) sum_j cdf(z + s_ij) ]^{R-1} dz
        zeta with atoms:      G^R over the sorted values log f_i + sigma a_k, a tie shared by weight

    # Paper: zeta(w, x), a function of the sample; here: one zeta per candidate, because with one zeta per atom and
    # repeated atoms rho_{R,approx} can fall below 1 for R >= 3 (for R = 2 the two agree).

    Args:
        losses: f(w, x_i) >= 0, finite, of shape (..., n).
        R: number of candidates, at least 1.
        sigma: noise level, at least 0 (0: the exact choice).
        law: law of zeta.

    Returns:
        Array of the shape of `losses`; its last axis sums to 1.

    Raises:
        AssumptionViolated: if a loss or sigma is negative.
    """
    losses = _checked(losses, R, sigma)
    n = losses.shape[-1]
    flat = losses.reshape(-1, n)
    if sigma == 0:
        law = Discrete(name="no noise", atoms=(0.0,), weights=(1.0,))
    rule: Callable[[np.ndarray], np.ndarray]
    if R == 2:
        rule, width = partial(chosen_by_pairs, sigma=sigma, law=law), n * n
    elif isinstance(law, Discrete):
        rule, width = partial(chosen_by_atoms, R=R, sigma=sigma, law=law), (n * len(law.atoms)) ** 2
    else:
        # Panels: one per unit length of the support, and one more per kink of the integrand.
        count = int(np.ptp(law.support)) + 2 + len(law.kinks) * (n + 1)
        rule, width = partial(chosen_by_quadrature, R=R, sigma=sigma, law=law), n * count * len(_NODES)
    rows = max(1, _CHUNK // width)
    result = np.empty_like(flat)
    for start in range(0, len(flat), rows):
        result[start : start + rows] = rule(flat[start : start + rows])
    return result.reshape(losses.shape)


def expected_selected(losses: ArrayLike, R: int, sigma: float, law: Law) -> np.ndarray:
    """F^_{R,approx}(w): the mean loss of the noisy choice among n equally likely atoms (Definition 5.13).

    Args and Raises as for `selection_probabilities`.

    Returns:
        Array of shape `losses.shape[:-1]`.
    """
    return np.sum(selection_probabilities(losses, R, sigma, law) * np.asarray(losses, float), axis=-1)


def _checked(losses: ArrayLike, R: int, sigma: float) -> np.ndarray:
    losses = np.asarray(losses, float)
    if losses.ndim == 0 or losses.shape[-1] == 0:
        raise ValueError(f"losses of shape {losses.shape} have no atoms on the last axis")
    if not np.isfinite(losses).all():
        raise ValueError("losses must be finite")
    if losses.min(initial=0.0) < 0:
        raise AssumptionViolated("Assumption 5.4", f"loss {losses.min()} is negative; log(f_1 / f_2) needs f >= 0")
    integer("R", R)
    if not np.isfinite(sigma):
        raise ValueError(f"sigma = {sigma} must be finite")
    if sigma < 0:
        raise AssumptionViolated("Assumption 5.12", f"sigma = {sigma} must be at least 0")
    return losses


def _logs(losses: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # log 0 = -inf is what is meant: such a loss stays 0 under any noise
        return np.log(losses)


def _log_ratios(losses: np.ndarray, sigma: float) -> np.ndarray:
    """log(f_i / f_j) / sigma of shape (..., n, n); 0 where both losses are 0 (a tie, like any two equal losses)."""
    logs = _logs(losses)
    with np.errstate(invalid="ignore", over="ignore"):  # -inf - (-inf), set below; a tiny sigma may reach inf
        s = (logs[..., :, None] - logs[..., None, :]) / sigma
    return np.where(np.isnan(s), 0.0, s)


def chosen_by_pairs(losses: np.ndarray, *, sigma: float, law: Law) -> np.ndarray:
    """`selection_probabilities` at R = 2, from the law of zeta_2 - zeta_1."""
    # The difference Z is symmetric, so that winning as the second candidate has probability P(Z < s).
    s = _log_ratios(losses, sigma) if sigma > 0 else np.sign(losses[..., :, None] - losses[..., None, :])
    return np.mean(2 * (1 - law.difference_sf(s)) - law.difference_atom(s), axis=-1) / losses.shape[-1]


def chosen_by_atoms(losses: np.ndarray, *, R: int, sigma: float, law: Discrete) -> np.ndarray:
    """`selection_probabilities` for a discrete zeta, from the sorted values that log f + sigma zeta can take."""
    n, atoms = losses.shape[-1], np.asarray(law.atoms)
    values = (_logs(losses)[..., :, None] + sigma * atoms).reshape(*losses.shape[:-1], -1)
    weight = np.tile(np.asarray(law.weights) / n, n)
    up_to = (values[..., None, :] <= values[..., :, None]) @ weight
    below = (values[..., None, :] < values[..., :, None]) @ weight
    # Candidates that tie for the maximum are i.i.d. from the tied values, so the earliest falls on each by its weight.
    chosen = weight * (up_to**R - below**R) / (up_to - below)
    return chosen.reshape(*losses.shape, len(atoms)).sum(axis=-1)


def chosen_by_quadrature(losses: np.ndarray, *, R: int, sigma: float, law: Continuous) -> np.ndarray:
    """`selection_probabilities` for a zeta with a density and sigma > 0, by Gauss-Legendre quadrature."""
    n = losses.shape[-1]
    s = _log_ratios(losses, sigma)
    # The density has its kinks at k, and cdf(z + s_ij) at k - s_ij.
    kinks = [np.broadcast_to(k, (*s.shape[:-1], 1)) for k in law.kinks] + [k - s for k in law.kinks]
    breaks = np.concatenate(kinks, axis=-1) if kinks else s[..., :0]
    z, weight = panels(law.support, breaks)
    mean_cdf = np.zeros(z.shape)
    for j in range(n):
        mean_cdf += law.cdf(z + s[..., j, None]) / n
    chosen = R / n * np.sum(weight * law.pdf(z) * mean_cdf ** (R - 1), axis=-1)
    # A loss of 0 stays 0 under any noise: it is chosen only if all R candidates have loss 0, and then the first is.
    zero = losses == 0
    zeros = np.broadcast_to(zero.sum(axis=-1, keepdims=True), zero.shape)
    return np.where(zero, (zeros / n) ** R / np.maximum(zeros, 1), chosen)


def panels(support: tuple[float, float], breaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre points and weights on panels of width <= 1 that end at every one of `breaks` (last axis)."""
    low, high = support
    grid = np.linspace(low, high, int(np.ceil(high - low)) + 1)
    grid = np.broadcast_to(grid, (*breaks.shape[:-1], len(grid)))
    edges = np.sort(np.concatenate([grid, np.clip(breaks, low, high)], axis=-1), axis=-1)
    half = np.diff(edges)[..., None] / 2
    nodes = edges[..., :-1, None] + half * (1 + _NODES)
    weights = half * _WEIGHTS
    shape = (*breaks.shape[:-1], -1)
    return nodes.reshape(shape), np.broadcast_to(weights, nodes.shape).reshape(shape)
