"""Checks of Lemma C.1: each comes out as expected, and fails when its constant is pushed past the truth."""

import numpy as np
import pytest

from theory.checks import lemma_c1
from theory.formulas import noise
from theory.verdict import Status


@pytest.mark.parametrize(
    ("constant", "status"),
    [(0.72, Status.PROVED), (0.515, Status.PROVED), (0.5112, Status.PROVED), (0.511, Status.REFUTED)],
)
def test_lemma_c1_boxes_decide_the_constants_on_both_sides_of_the_best(constant, status):
    assert lemma_c1.subdivide(constant, noise.SIGMA_LIMIT).status is status


def test_lemma_c1_boxes_give_up_where_they_cannot_decide():
    best = noise.lemma_c1_ratio(noise.SIGMA_LIMIT)
    verdict = lemma_c1.subdivide(best, noise.SIGMA_LIMIT, max_boxes=100)
    assert verdict.status is Status.INCONCLUSIVE
    assert "100 boxes" in verdict.witness


def test_lemma_c1_a_box_bounds_the_ratio_inside_it():
    rng = np.random.default_rng(0)
    u1, u2 = np.sort(rng.uniform(0, np.sqrt(2), (2, 2000)), axis=0)
    s1, s2 = np.sort(rng.uniform(0, 3, (2, 2000)), axis=0)
    u, sigma = u1 + (u2 - u1) * rng.uniform(size=2000), s1 + (s2 - s1) * rng.uniform(size=2000)
    ratio = noise.h(u * sigma, sigma) / -np.expm1(-np.sqrt(2) * sigma)
    assert np.all(ratio <= lemma_c1.box_bound(u1, u2, s1, s2))


def test_lemma_c1_refutation_can_be_evaluated_again():
    verdict = lemma_c1.subdivide(0.511, noise.SIGMA_LIMIT)
    assert verdict.witness == "0.511093 > 0.511 at t = 0.40625, sigma = 0.353553"
    t, sigma = 0.40625, noise.SIGMA_LIMIT
    value = 2 * (1 - np.exp(-t)) / (2 + t**2 / sigma**2) / (1 - np.exp(-np.sqrt(2) * sigma))
    assert value == pytest.approx(verdict.value)
    assert value > 0.511


def test_lemma_c1_decimals_at_two_precisions_agree():
    assert abs(lemma_c1.constant_by_decimals(20) - lemma_c1.constant_by_decimals(60)) < 1e-19
