"""Overlap at any B and k: against the other exact route, the normal integral, and simulated batches."""

import math

import numpy as np
import pytest
from scipy import stats

from theory.formulas import early_exit
from theory.formulas.overlap import LARGEST_BATCH, overlap, overlap_curve, overlap_limit
from theory.routes.montecarlo import mean_equals
from theory.verdict import Status

BETAS = (-0.99, -0.5, 0.0, 0.3, 0.7, 0.95, 0.999, 0.99999)


def simulated_overlaps(beta, B, k, batches, seed):
    rng = np.random.default_rng(seed)
    last = rng.standard_normal((batches, B))
    early = beta * last + math.sqrt(1 - beta**2) * rng.standard_normal((batches, B))
    top = [np.argpartition(-margins, k - 1, axis=1)[:, :k] for margins in (last, early)]
    member = np.zeros((2, batches, B), bool)
    for number, rows in enumerate(top):
        np.put_along_axis(member[number], rows, True, axis=1)
    return (member[0] & member[1]).sum(axis=1) / k


def counted_overlap(beta, B, k, nodes=64):
    """(B / k) P(sample 1 is among the k largest by either margin), by a recursion over the other B - 1 samples.

    Quadrature is over sample 1's margins; memory grows as nodes^2 k^2.
    """
    weight, u_below, v_below, neither = early_exit._quadrants(beta, nodes)
    # Rounding leaves differences of probabilities a little below 0.
    u_only = np.maximum(v_below - neither, 0.0)
    v_only = np.maximum(u_below - neither, 0.0)
    both = np.maximum(1 - u_below - v_below + neither, 0.0)
    # chance[a, b]: a of the others exceed sample 1 at the exit and b at the last layer; from k on they are dropped.
    chance = np.zeros((k, k, *weight.shape))
    chance[0, 0] = 1.0
    for _ in range(B - 1):
        after = neither * chance
        after[1:] += u_only * chance[:-1]
        after[:, 1:] += v_only * chance[:, :-1]
        after[1:, 1:] += both * chance[:-1, :-1]
        chance = after
    return B / k * np.sum(weight * chance.sum(axis=(0, 1)))


@pytest.mark.parametrize(("B", "k"), [(2, 1), (3, 2), (8, 3), (16, 8), (20, 1), (20, 19)])
def test_both_exact_routes_agree(B, k):
    # The other route's time grows fast with B, and large batches have tests of their own.
    for beta in BETAS if B < 20 else BETAS[::3]:
        assert overlap(beta, B, k) == pytest.approx(counted_overlap(beta, B, k), abs=1e-8)


def test_overlap_of_all_but_one_follows_from_the_smallest():
    # Leaving out one of B, the two choices share B - 1 samples if it is the same one, else B - 2; by symmetry the
    # smallest coincide as often as the largest.
    for B in (3, 5, 9):
        p = early_exit.agreement_R(0.6, B)
        assert overlap(0.6, B, B - 1) == pytest.approx((B - 2 + p) / (B - 1), abs=1e-12)


@pytest.mark.parametrize(("B", "measured"), [(4, 0.732), (8, 0.734), (32, 0.743)])
def test_top_half_overlap_of_finite_batches(B, measured):
    # Order statistics counted in 400,000 (B = 4, 8) and 100,000 (B = 32) simulated batches; standard errors below .001.
    rng = np.random.default_rng(B)
    u, w = rng.standard_normal((2, 400_000 if B < 32 else 100_000, B))
    v = 0.7 * u + math.sqrt(1 - 0.49) * w
    share = 2 * np.mean((u > np.median(u, axis=1, keepdims=True)) & (v > np.median(v, axis=1, keepdims=True)), axis=1)
    exact = overlap(0.7, B, B // 2)
    # Six standard errors: a false alarm once in 5e8 runs, and the seed is fixed.
    assert abs(share.mean() - exact) < 6 * share.std() / math.sqrt(len(share))
    assert exact == pytest.approx(measured, abs=6e-4)


@pytest.mark.parametrize("beta", [-1.0, -0.3, 0.7, 1.0])
def test_overlap_of_everything_is_one(beta):
    assert overlap(beta, 5, 5) == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize(("B", "k"), [(250, 125), (250, 25), (500, 400)])
def test_unrelated_margins_keep_their_share_by_chance(B, k):
    assert overlap(0.0, B, k) == pytest.approx(k / B, abs=1e-10)


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_large_batches_against_simulation(beta):
    """Errs with probability 1e-9; a value off by 0.007 is caught with the same certainty."""
    found = simulated_overlaps(beta, 250, 125, 6000, seed=3)
    expected = overlap(beta, 250, 125)
    verdict = mean_equals(found, expected, 1e-9, cap=1.0)
    assert verdict.status is Status.CONSISTENT
    assert verdict.detectable < 0.007
    for wrong in (expected + 0.007, expected - 0.007):
        assert mean_equals(found, wrong, 1e-9, cap=1.0).status is Status.REFUTED


def test_the_distance_to_the_limit_halves_as_the_batch_doubles():
    for beta, keep in ((0.7, 0.5), (0.9, 0.25), (0.4, 0.75)):
        gaps = [overlap(beta, B, round(keep * B), nodes=24) - overlap_limit(beta, keep) for B in (100, 200, 400)]
        assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.03)
        assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.015)


@pytest.mark.parametrize("beta", [-0.9, -0.2, 0.0, 0.6, 0.97])
@pytest.mark.parametrize("keep", [0.1, 0.37, 0.5, 0.8])
def test_the_limit_is_a_probability_of_two_normals(beta, keep):
    q = stats.norm.ppf(keep)
    joint = stats.multivariate_normal.cdf([q, q], cov=[[1, beta], [beta, 1]], abseps=1e-10, releps=1e-10)
    assert overlap_limit(beta, keep) == pytest.approx(joint / keep, abs=1e-7)
    assert overlap_limit(beta, 0.5) == pytest.approx(0.5 + math.asin(beta) / math.pi, abs=1e-14)


def test_the_ends():
    for B, k in ((10, 4), (10, 7), (30, 20), (5, 5)):
        for of in (lambda beta, B=B, k=k: overlap(beta, B, k), overlap_curve(B, k)):
            assert of(1.0) == pytest.approx(1.0, abs=1e-12)
            assert of(-1.0) == pytest.approx(max(0, 2 * k - B) / k, abs=1e-12)
        assert overlap_limit(1.0, k / B) == 1.0
        assert overlap_limit(-1.0, k / B) == pytest.approx(max(0, 2 * k - B) / k, abs=1e-12)
    assert overlap(0.3, 7, 7) == 1.0
    assert overlap_limit(0.3, 1.0) == 1.0


@pytest.mark.parametrize(("B", "k", "within"), [(64, 32, 1e-6), (128, 32, 1e-5), (250, 125, 1e-4)])
def test_the_curve_is_the_exact_number(B, k, within):
    curve = overlap_curve(B, k)
    betas = np.array([-0.93, -0.11, 0.05, 0.345, 0.71, 0.95, 0.9951, 0.9999])
    assert curve(betas) == pytest.approx([overlap(b, B, k) for b in betas], abs=within)
    assert isinstance(curve(0.5), float)


@pytest.mark.slow
def test_of_very_large_batches_the_curve_is_the_limit():
    B = 2 * LARGEST_BATCH
    assert overlap_curve(B, B // 2)(0.7) == overlap_limit(0.7, 0.5)
    assert overlap(0.7, B, B // 2) == pytest.approx(overlap_limit(0.7, 0.5), abs=6e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: overlap(1.1, 4, 2),
        lambda: overlap(-1.1, 4, 2),
        lambda: overlap(math.nan, 4, 2),
        lambda: overlap(0.5, 4, 0),
        lambda: overlap(0.5, 4, 5),
        lambda: overlap(0.5, 1, 1),
        lambda: overlap(0.5, 4.5, 2),
        lambda: overlap_limit(0.5, 0.0),
        lambda: overlap_limit(0.5, 1.1),
        lambda: overlap_limit([0.5, -2.0], 0.5),
        lambda: overlap_curve(8, 4)(1.5),
    ],
)
def test_what_is_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match="must"):
        wrong()
