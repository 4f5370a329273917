"""What an early exit's k largest of B share with the exact k largest, for any B, and its limit (beyond Theorem 6.2)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from scipy import special

from theory.formulas._numbers import correlation, integer

LARGEST_BATCH = 512
"""Above it `overlap_curve` is the limit, which is then within 6e-4 at kept share 1/2 and 3e-3 at 1/10."""
_REACH = 8.5
_BULK = np.linspace(-_REACH, _REACH, 15)
_CELLS = 12 * 2.0 ** np.arange(-5, 1)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2


def overlap_limit(beta: Any, keep: Any) -> Any:
    """Share of the top `keep` of a batch that an early exit's top `keep` contains, as B -> inf (beyond Theorem 6.2).

        P(U > q, V > q) / keep,    P(U > q) = keep;    1/2 + arcsin(beta)/pi at keep = 1/2

    U and V are standard normal margins of correlation beta: both quantiles of a large batch are fixed numbers.

    Args:
        beta: in [-1, 1].
        keep: kept share of the batch, in (0, 1].

    Raises:
        ValueError: for beta or keep out of range.
    """
    beta, keep = np.broadcast_arrays(correlation(beta), np.asarray(keep, float))
    if not ((keep > 0) & (keep <= 1)).all():
        raise ValueError(f"keep = {keep} must lie in (0, 1]")
    # At the ends, and for keep = 1, Owen's formula is 0/0.
    plain = (np.abs(beta) < 1) & (keep < 1)
    q = special.ndtri(np.where(plain, keep, 0.5))  # P(U > -q) = keep
    inner = np.where(plain, beta, 0.0)
    found = np.clip(_both_below(q, q, inner, np.sqrt((1 - inner) * (1 + inner))) / keep, 0.0, 1.0)
    found = np.where(plain, found, np.where(beta == 1, 1.0, np.clip(2 - 1 / keep, 0.0, 1.0)))
    found = np.where(keep == 1, 1.0, found)
    return float(found) if found.ndim == 0 else found


def overlap(beta: float, B: int, k: int, *, nodes: int = 40) -> float:
    """Expected share of the k largest of B that an early exit's k largest contain (beyond Theorem 6.2).

    Given the (k+1)-th largest early margin t, the k above it are independent, and so are the B - k - 1 below it; one of
    the k is kept by the last layer, too, if at most k - 1 of all others exceed its final margin v there, which number
    is a sum of two binomial counts and a coin. What is left is an integral over t and v: within 1e-8, in memory of some
    14,000 k numbers (B = 250, k = 125: 0.1 s). At k = 1 it is `early_exit.agreement_R(beta, B)`.

    Args:
        beta: in [-1, 1].
        B: candidates, an integer >= 2.
        k: how many are kept, an integer in [1, B].
        nodes: of the integral over t.

    Raises:
        ValueError: for beta, B or k out of range.
    """
    beta = float(correlation(beta))
    B, k = integer("B", B, 2), integer("k", k, 1)
    if k > B:
        raise ValueError(f"k = {k} must be at most B = {B}")
    if k == B or beta == 1:
        return 1.0
    if beta == -1:
        return max(0, 2 * k - B) / k
    root = np.sqrt((1 - beta) * (1 + beta))
    # P(U < t) has the law Beta(B - k, k + 1). The midpoint rule in t converges geometrically: all is smooth and
    # vanishes at both ends.
    low = special.ndtri(special.betaincinv(B - k, k + 1, 1e-17))
    high = -special.ndtri(special.betaincinv(k + 1, B - k, 1e-17))
    width = (high - low) / nodes
    t = (low + width * (np.arange(nodes) + 0.5))[:, None]
    of_t = np.exp(
        (B - k - 1) * special.log_ndtr(t)
        + k * special.log_ndtr(-t)
        - special.betaln(B - k, k + 1)
        - t**2 / 2
        - np.log(2 * np.pi) / 2
    )
    v, of_v = _final_margins(t, beta, root, B, k)
    above = special.ndtr(-t)
    # A margin above t at the exit, which is v at the last layer.
    of_v = of_v * np.exp(-(v**2) / 2) / np.sqrt(2 * np.pi) * special.ndtr((beta * v - t) / root) / above
    both = _both_below(-t, -v, beta, root)
    p_above = np.clip(both / above, 0.0, 1.0)
    p_below = np.clip((special.ndtr(-v) - both) / special.ndtr(t), 0.0, 1.0)
    p_threshold = special.ndtr((beta * t - v) / root)
    return float(width * np.sum(of_t * of_v * _at_most(k - 1, k - 1, p_above, B - k - 1, p_below, p_threshold)))


@functools.lru_cache(maxsize=64)
def overlap_curve(B: int, k: int, *, degree: int = 32) -> Any:
    """`overlap` at one B and k as a function of beta that costs next to nothing, within 1e-4 (1e-6 for B <= 64).

    The limit and a polynomial in arccos(beta) through Chebyshev points. For B > `LARGEST_BATCH` it is the limit itself.

    Args:
        B, k: as of `overlap`.
        degree: of the polynomial.

    Returns:
        A function beta -> share, which takes arrays.
    """
    if B > LARGEST_BATCH:
        return lambda beta: overlap_limit(beta, k / B)
    x = np.cos(np.pi * np.arange(degree + 1) / degree)
    gaps = [overlap(b, B, k, nodes=24) - overlap_limit(b, k / B) for b in np.cos(np.pi * (1 - x) / 2)]
    coefficients = chebyshev.chebfit(x, gaps, degree)

    def curve(beta: Any) -> Any:
        gap = chebyshev.chebval(1 - 2 * np.arccos(correlation(beta)) / np.pi, coefficients)
        found = np.clip(overlap_limit(beta, k / B) + gap, 0.0, 1.0)
        return float(found) if found.ndim == 0 else found

    return curve


def _final_margins(t: np.ndarray, beta: float, root: float, B: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Quadrature over the final margin v for each t, shape (nodes of t, points): points and weights.

    What is integrated rises where v passes t / beta, within root / |beta|, and where v passes the batch's threshold,
    within B^-1/2: panels grow from both places on.
    """
    step, rise = min(root / max(abs(beta), 1e-3), 1.0), 1 / np.sqrt(B)
    centre = np.clip(t / beta if beta else t * 0, -_REACH, _REACH)
    threshold = -special.ndtri((k - 0.5) / B)
    offsets = np.concatenate([-_CELLS[::-1], [0.0], _CELLS])
    edges = np.concatenate(
        [
            np.broadcast_to(_BULK, (len(t), len(_BULK))),
            centre + step * offsets,
            np.broadcast_to(threshold + rise * offsets, (len(t), len(offsets))),
        ],
        axis=1,
    )
    edges = np.sort(np.clip(edges, -_REACH, _REACH), axis=1)
    lengths = np.diff(edges, axis=1)[..., None]
    shape = (len(t), -1)
    return (edges[:, :-1, None] + lengths * _NODES).reshape(shape), (lengths * _WEIGHTS).reshape(shape)


def _both_below(u: Any, v: Any, beta: Any, root: Any) -> Any:
    """P(U <= u, V <= v) of standard normals of correlation beta, root = sqrt(1 - beta^2) (Owen 1956)."""
    # A margin of 1e-100 is 0 to the last digit, and no slope overflows.
    u, v = np.where(np.abs(u) < 1e-100, 1e-100, u), np.where(np.abs(v) < 1e-100, 1e-100, v)
    slopes = (v - beta * u) / (u * root), (u - beta * v) / (v * root)
    both = (
        (special.ndtr(u) + special.ndtr(v)) / 2
        - special.owens_t(u, slopes[0])
        - special.owens_t(v, slopes[1])
        - 0.5 * (u * v < 0)
    )
    return np.clip(both, 0.0, 1.0)


def _at_most(m: int, n1: int, p1: np.ndarray, n2: int, p2: np.ndarray, coin: np.ndarray) -> np.ndarray:
    """P(Bin(n1, p1) + Bin(n2, p2) + coin <= m), m >= n1, elementwise."""
    first = _counts(n1, p1)
    second = _counts(min(n2, m), p2, of=n2)
    below = np.cumsum(second, axis=-1)
    # P(second <= m - j) for j = 0 .. n1, and P(second <= m - 1 - j); from its largest count on it is 1.
    reach = np.clip(m - np.arange(n1 + 1), None, below.shape[-1] - 1)
    whole = np.where(m - np.arange(n1 + 1) >= n2, 1.0, below[..., reach])
    less = m - 1 - np.arange(n1 + 1)
    short = np.where(less >= n2, 1.0, np.where(less < 0, 0.0, below[..., np.clip(less, 0, below.shape[-1] - 1)]))
    return np.sum(first * ((1 - coin[..., None]) * whole + coin[..., None] * short), axis=-1)


def _counts(largest: int, p: np.ndarray, of: int | None = None) -> np.ndarray:
    """P(Bin(of, p) = j) for j = 0 .. largest, along a new last axis."""
    n = largest if of is None else of
    j = np.arange(largest + 1)
    ways = special.gammaln(n + 1) - special.gammaln(j + 1) - special.gammaln(n - j + 1)
    p = p[..., None]
    return np.exp(ways + special.xlogy(j, p) + special.xlog1py(n - j, -p))
