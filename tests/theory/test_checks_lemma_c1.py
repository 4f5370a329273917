"""Checks of Lemma C.1: each comes out as expected, and fails when its constant is pushed past the truth."""

import numpy as np
import pytest

from theory import noise
from theory.checks import lemma_c1
from theory.verdict import Status, registered

CHECKS = {name: check for name, check in registered().items() if name.startswith("lemma_c1.")}

MUTANTS = {
    "lemma_c1.by_boxes": {"constant": 0.511},
    "lemma_c1.by_boxes_sharp": {"constant": 0.511},
    "lemma_c1.too_sharp": {"constant": 0.5112},
    "lemma_c1.wider_range": {"sigma_limit": 3.03},
    "lemma_c1.too_wide_range": {"sigma_limit": 3.02},
    "lemma_c1.beyond_sqrt2": {"constant": 0.499},
    "lemma_c1.by_root": {"constant": 0.511},
    "lemma_c1.maxima_agree": {"ratio": lambda sigma: noise.lemma_c1_ratio(1.01 * sigma)},
    "lemma_c1.best_constant": {"ratio": lambda sigma: noise.lemma_c1_ratio(sigma) + 1e-12},
    "lemma_c1.ratio_increases": {"ratio": lambda sigma: 1 - noise.lemma_c1_ratio(sigma)},
    "lemma_c1.stationary": {"t_star": lambda sigma: noise.t_star(sigma) * (1 + 1e-5)},
    "lemma_c1.series": {"nu": lambda t: lemma_c1.nu_series(t) - t / 100},
    "lemma_c1.root_above": {"share": 0.9},
    "lemma_c1.nu_below": {"bound": 1.59},
    "lemma_c1.root_below": {"share": 0.8},
    "lemma_c1.root_below_sharp": {"share": 0.83},
    "lemma_c1.dropped_root": {"without_root": noise.t_star_share()},
    "lemma_c1.rounding_slip": {"share": 1 / noise.NU_LIMIT},  # .627, not yet cut to .62
    "lemma_c1.corrected": {"constant": 0.6146},  # 0.61465 cut, not rounded up: the print's slip again
    "lemma_c1.conclusion": {"constant": 0.511},
}


@pytest.mark.parametrize("name", CHECKS)
def test_comes_out_as_expected(name):
    verdict = CHECKS[name].run(seed=0, alpha=1e-8)
    assert verdict.status is CHECKS[name].expected, verdict


@pytest.mark.parametrize("name", MUTANTS)
def test_fails_when_pushed_past_the_truth(name):
    verdict = CHECKS[name].run(seed=0, alpha=1e-8, **MUTANTS[name])
    assert verdict.status is not CHECKS[name].expected, verdict


def test_every_check_has_a_mutant():
    assert set(MUTANTS) == set(CHECKS)


@pytest.mark.parametrize("number", range(41, 47))
def test_every_step_of_the_proof_has_a_check(number):
    assert any(check.statement == f"Equation {number}" for check in CHECKS.values())


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
