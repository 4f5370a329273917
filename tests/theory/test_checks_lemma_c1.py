"""Lemma C.1 by boxes in float64, the witness of the proof by ball arithmetic (`rigorous_lemma_c1`), and by 40 decimals.

Put u = t / sigma and phi(x) = (1 - e^{-x}) / x, decreasing with phi(0) = 1. Then

    h(t; sigma) / (1 - e^{-sqrt2 sigma}) = g(u) phi(u sigma) / phi(sqrt2 sigma),    g(u) = sqrt2 u / (2 + u^2).

For u >= sqrt2 the quotient of phi's is at most 1 and g at most 1/2 (2 sqrt2 u <= 2 + u^2). For u <= sqrt2, g increases,
so on a box [u1, u2] x [s1, s2] the ratio is at most g(u2) phi(u1 s1) / phi(sqrt2 s2).
"""

from decimal import Decimal, localcontext

import numpy as np
import pytest

from theory.formulas import noise
from theory.verdict import Status, Verdict, at_most

SQRT2 = np.sqrt(2)
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


@pytest.mark.parametrize(
    ("constant", "status"),
    [(0.72, Status.PROVED), (0.515, Status.PROVED), (0.5112, Status.PROVED), (0.511, Status.REFUTED)],
)
def test_lemma_c1_boxes_decide_the_constants_on_both_sides_of_the_best(constant, status):
    assert subdivide(constant, noise.SIGMA_LIMIT).status is status


def test_lemma_c1_boxes_find_where_the_printed_constant_ends():
    assert subdivide(noise.LEMMA_C1, 3.02).status is Status.PROVED
    assert subdivide(noise.LEMMA_C1, 3.03).status is Status.REFUTED


def test_lemma_c1_the_boxes_other_half():
    sigma = np.geomspace(1e-3, 20, 40)[:, None]
    t = sigma * np.geomspace(SQRT2, 1e3, 400)
    assert np.max(noise.h(t, sigma) / -np.expm1(-SQRT2 * sigma)) <= 0.5 * (1 + 1e-12)


def test_lemma_c1_best_constant_by_decimals():
    assert noise.lemma_c1_ratio(noise.SIGMA_LIMIT) == pytest.approx(float(constant_by_decimals()), abs=1e-14)


def test_lemma_c1_boxes_give_up_where_they_cannot_decide():
    best = noise.lemma_c1_ratio(noise.SIGMA_LIMIT)
    verdict = subdivide(best, noise.SIGMA_LIMIT, max_boxes=100)
    assert verdict.status is Status.INCONCLUSIVE
    assert "100 boxes" in verdict.witness


def test_lemma_c1_a_box_bounds_the_ratio_inside_it():
    rng = np.random.default_rng(0)
    u1, u2 = np.sort(rng.uniform(0, np.sqrt(2), (2, 2000)), axis=0)
    s1, s2 = np.sort(rng.uniform(0, 3, (2, 2000)), axis=0)
    u, sigma = u1 + (u2 - u1) * rng.uniform(size=2000), s1 + (s2 - s1) * rng.uniform(size=2000)
    ratio = noise.h(u * sigma, sigma) / -np.expm1(-np.sqrt(2) * sigma)
    assert np.all(ratio <= box_bound(u1, u2, s1, s2))


def test_lemma_c1_refutation_can_be_evaluated_again():
    verdict = subdivide(0.511, noise.SIGMA_LIMIT)
    assert verdict.witness == "0.511093 > 0.511 at t = 0.40625, sigma = 0.353553"
    t, sigma = 0.40625, noise.SIGMA_LIMIT
    value = 2 * (1 - np.exp(-t)) / (2 + t**2 / sigma**2) / (1 - np.exp(-np.sqrt(2) * sigma))
    assert value == pytest.approx(verdict.value)
    assert value > 0.511


def test_lemma_c1_decimals_at_two_precisions_agree():
    assert abs(constant_by_decimals(20) - constant_by_decimals(60)) < 1e-19


def test_lemma_c1_enclosure_agrees_with_decimals_to_40_digits():
    pytest.importorskip("flint")
    from theory.routes import rigorous
    from theory.routes.rigorous import enclosures

    with rigorous.precision(200):
        digits = rigorous.ball(str(constant_by_decimals(40)))
        assert abs(enclosures.lemma_c1_best("1/2") - digits) < rigorous.ball("1e-40")
