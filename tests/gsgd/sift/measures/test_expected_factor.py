"""The factor that selection is expected to be worth: against enumeration, and cases counted by hand."""

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gsgd.sift.measures.expected_factor import (  # noqa: E402
    EXPONENT,
    expected_factor,
    least_overlap,
    progress_of_overlap,
    ratio_kept,
    step_cost,
)


def test_the_share_of_the_loss_that_is_kept():
    scores = torch.tensor([3.0, 1.0, 2.0, 0.0])
    losses = np.array([1.0, 4.0, 2.0, 1.0])
    assert ratio_kept(scores, losses, 2) == (1 + 2) / 2 / 2
    assert ratio_kept(scores, losses, 4) == 1
    assert ratio_kept(scores, np.zeros(4), 2) == 1
    with pytest.raises(ValueError, match="kept = 5"):
        ratio_kept(scores, losses, 5)


@pytest.mark.parametrize(("kept", "share", "drawn"), [(3, 0.34, 1), (4, 0.5, 2), (3, 1.0, 3), (5, 1.0, 1)])
def test_rows_drawn_at_random_count_with_their_expectation(kept, share, drawn):
    """Over all draws, each as likely as another."""
    rng = np.random.default_rng(3)
    scores, losses = rng.normal(size=6), rng.exponential(size=6)
    top, others = np.split(np.argsort(-scores), [kept - drawn])
    means = [losses[[*top, *more]].mean() for more in itertools.combinations(others, drawn)]
    expected = np.mean(means) / losses.mean()
    assert ratio_kept(torch.from_numpy(scores), losses, kept, random_share=share) == pytest.approx(expected)


def test_a_step_costs_what_scoring_and_training_add_to_three_forward_passes():
    """Of 64 rows 16 are kept: 48 forward passes of a row to train, 64 to score, a quarter of it at an exit."""
    assert step_cost(1.0, 16 / 64) == pytest.approx((48 + 64) / 48)
    assert step_cost(0.25, 16 / 64) == pytest.approx((48 + 16) / 48)
    assert step_cost(0.25, 16 / 64, training=0.5) == pytest.approx((48 + 16 + 8) / 48)
    assert step_cost(0.0, 0.5) == 1


def test_the_factor():
    assert expected_factor(1.6, 1.25) == pytest.approx(math.exp(EXPONENT * math.log(1.6)) / 1.25)
    assert expected_factor(-0.3, 2.0) == 0


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_progress_is_the_mean_over_all_choices_of_an_overlap(kept):
    """Every choice of k rows, of which so many are of the exact choice: their mean loss over that of all rows."""
    losses = np.random.default_rng(kept).exponential(size=7)
    order = np.argsort(-losses)
    rho = losses[order[:kept]].mean() / losses.mean()
    for common in range(max(0, 2 * kept - 7), kept + 1):
        means = [
            losses[list(top + others)].mean()
            for top in itertools.combinations(order[:kept], common)
            for others in itertools.combinations(order[kept:], kept - common)
        ]
        expected = np.mean(means) / losses.mean()
        assert progress_of_overlap(common / kept, rho, kept / 7) == pytest.approx(expected)


def test_by_chance_nothing_is_gained():
    for rho, keep in ((1.5, 0.5), (3.0, 0.25), (1.2, 0.1)):
        assert progress_of_overlap(keep, rho, keep) == pytest.approx(1)


@pytest.mark.parametrize(("rho", "keep"), [(1.5, 0.5), (1.9, 0.5), (3.0, 0.25)])
def test_the_least_overlap_is_where_the_factor_is_one(rho, keep):
    for cost in (1.0, 1.05, 1.2):
        overlap = least_overlap(cost, rho, keep)
        assert keep - 1e-9 <= overlap <= 1
        assert expected_factor(progress_of_overlap(overlap, rho, keep), cost) == pytest.approx(1)
    assert least_overlap(1.0, rho, keep) == pytest.approx(keep)  # what costs nothing pays above chance
    assert least_overlap(rho**EXPONENT * 1.001, rho, keep) == math.inf
    assert least_overlap(1.0, 1.0, keep) == keep


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: progress_of_overlap(1.1, 1.5, 0.5), r"overlap = 1\.1 must lie in \[0, 1\]"),
        (lambda: progress_of_overlap(0.5, 2.1, 0.5), r"rho = 2\.1 must lie in \[1, 2\], of 1 / keep"),
        (lambda: least_overlap(0.9, 1.5, 0.5), r"cost = 0\.9 must be at least 1"),
        (lambda: least_overlap(1.1, 1.5, 1.0), r"keep = 1\.0 must lie in \(0, 1\)"),
    ],
)
def test_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()
