"""Summaries against hand numbers and scipy's own intervals."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from training.comparison.summary import Interval, RunResult, default_target, interval, reach, summarise
from training.run_folder.records import Evaluation


def evaluation(step, accuracy, samples=None, wall=None, reference=None, selection=0.0):
    return Evaluation(
        step=step,
        method="m",
        score=None,
        exit_layer=None,
        seed=0,
        backprop_samples=10 * step if samples is None else samples,
        gross_samples=20 * step,
        wall_clock_s=float(step) if wall is None else wall,
        selection_s=selection,
        forward_s=0.0,
        backward_s=0.0,
        val_accuracy=accuracy,
        val_loss=1 - accuracy,
        reference_s=reference,
    )


def run(method, seed, *accuracies, status="finished", test=None):
    return RunResult(method, seed, status, [evaluation(i + 1, a) for i, a in enumerate(accuracies)], test)


# ---- Intervals ----


def test_an_interval_by_hand():
    """Of 1, 2, 3: standard deviation 1, and t(.975, 2) = 4.302653."""
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9).filter(lambda values: np.ptp(values) > 1e-3))
def test_intervals_are_scipys(values):
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values))
    found = interval(values)
    assert found.mean - found.half_width == pytest.approx(low, rel=1e-9, abs=1e-9)
    assert found.mean + found.half_width == pytest.approx(high, rel=1e-9, abs=1e-9)
    assert found.excludes_zero == (low > 0 or high < 0)


def test_one_value_has_no_interval():
    found = interval([0.5])
    assert (found.mean, found.count) == (0.5, 1)
    assert math.isnan(found.half_width)
    assert not found.excludes_zero
    assert str(found) == "0.5000"


def test_no_values():
    with pytest.raises(ValueError, match="0 values"):
        interval([])


def test_intervals_as_text():
    assert str(Interval(0.51239, 0.01, 3)) == "0.5124 ±0.0100"


# ---- What a target took ----


def test_a_target_between_two_evaluations():
    found = [evaluation(10, 0.2, wall=100.0), evaluation(20, 0.6, wall=300.0), evaluation(30, 0.7, wall=400.0)]
    # .3 is a quarter of the way from .2 to .6.
    assert reach(found, 0.3) == (pytest.approx(150), pytest.approx(125))
    assert reach(found, 0.6) == (pytest.approx(300), pytest.approx(200))
    # From 0 at 0.
    assert reach(found, 0.1) == (pytest.approx(50), pytest.approx(50))
    assert reach(found, 0.71) is None
    assert reach([], 0.1) is None


def test_a_target_is_reached_for_the_first_time():
    found = [evaluation(10, 0.5), evaluation(20, 0.3), evaluation(30, 0.7)]
    assert reach(found, 0.4) == (pytest.approx(8), pytest.approx(80))
    assert reach(found, 0.6) == (pytest.approx(27.5), pytest.approx(275))


def test_reference_time_counts_where_there_is_one():
    found = [evaluation(10, 0.5, wall=100.0, reference=7.0), evaluation(20, 0.6, wall=200.0, reference=9.0)]
    assert reach(found, 0.55)[0] == pytest.approx(8)


# ---- The table ----


def test_means_and_paired_differences():
    """Seeds with large differences of their own, between which the methods differ by a little: paired, it shows."""
    results = [
        *(run("baseline", seed, 0.1, value) for seed, value in ((0, 0.50), (1, 0.60), (2, 0.70))),
        *(run("random", seed, 0.1, value) for seed, value in ((2, 0.71), (1, 0.60), (0, 0.52))),
        *(run("loss@1", seed, 0.1, value) for seed, value in ((0, 0.52), (1, 0.63), (2, 0.72))),
    ]
    baseline, random, loss = summarise(results, target=0.5)
    assert [summary.method for summary in (baseline, random, loss)] == ["baseline", "random", "loss@1"]
    assert baseline.over_baseline is None
    assert random.over_random is None
    assert baseline.over_random.mean == pytest.approx(-0.01)
    assert loss.val_accuracy.mean == pytest.approx(0.6233333)
    assert loss.val_loss.mean == pytest.approx(1 - 0.6233333)
    differences = np.array([0.02, 0.03, 0.02])
    low, high = scipy.stats.t.interval(0.95, 2, loc=differences.mean(), scale=scipy.stats.sem(differences))
    assert loss.over_baseline.mean == pytest.approx(differences.mean())
    assert loss.over_baseline.half_width == pytest.approx((high - low) / 2)
    assert loss.over_baseline.excludes_zero
    assert loss.over_random.mean == pytest.approx(np.mean([0.0, 0.03, 0.01]))
    assert (loss.runs, loss.diverged, loss.reached) == (3, 0, 3)
    assert (loss.steps, loss.backprop_samples, loss.wall_clock_s) == (2, 20, 2)
    assert loss.reference_s is None
    assert loss.test_accuracy is None


def test_test_accuracies_and_shares():
    results = [
        RunResult("loss@1", 0, "finished", [evaluation(10, 0.5, wall=8.0, selection=2.0, reference=3.0)], 0.4),
        RunResult("loss@1", 1, "finished", [evaluation(10, 0.5, wall=8.0, selection=4.0, reference=5.0)], 0.6),
    ]
    (summary,) = summarise(results, 0.1)
    assert summary.test_accuracy.mean == pytest.approx(0.5)
    assert summary.scoring_share == pytest.approx((0.25 + 0.5) / 2)
    assert summary.reference_s == 4.0
    assert summary.over_baseline is None
    assert summary.seconds_to_target.mean == pytest.approx((0.2 * 3 + 0.2 * 5) / 2)


def test_a_method_that_diverged_has_no_means():
    """Otherwise the seeds that came through would speak for it."""
    results = [
        run("baseline", 0, 0.5),
        run("baseline", 1, 0.6),
        run("loss@1", 0, 0.9),
        run("loss@1", 1, 0.3, status="diverged"),
        run("random", 0, status="diverged"),
        run("random", 1, status="diverged"),
    ]
    baseline, loss, random = summarise(results, 0.5)
    assert (loss.runs, loss.diverged, random.diverged) == (2, 1, 2)
    for summary in (loss, random):
        for name in (
            "val_accuracy",
            "val_loss",
            "test_accuracy",
            "over_baseline",
            "seconds_to_target",
            "samples_to_target",
        ):
            assert getattr(summary, name) is None
    assert loss.reached == 1
    assert math.isnan(random.steps)
    assert baseline.over_random is None
    assert baseline.val_accuracy is not None


def test_differences_need_every_seed_of_the_other():
    results = [run("baseline", 0, 0.5), run("loss@1", 0, 0.6), run("loss@1", 1, 0.6)]
    assert summarise(results, 0.5)[1].over_baseline is None


def test_a_target_that_some_missed_has_no_cost():
    results = [run("loss@1", 0, 0.2, 0.6), run("loss@1", 1, 0.2, 0.4)]
    (summary,) = summarise(results, 0.5)
    assert (summary.reached, summary.seconds_to_target, summary.samples_to_target) == (1, None, None)


def test_the_default_target():
    assert default_target(
        [run("loss@1", 0, 0.9), run("baseline", 0, 0.1, 0.5), run("baseline", 1, 0.7)]
    ) == pytest.approx(0.6)
    assert default_target([run("loss@1", 0, 0.9), run("random", 0, 0.4)]) == pytest.approx(0.4)
    assert default_target([]) == 0.0


def test_runs_that_diverged_set_no_target():
    """Their last evaluation is of before."""
    results = [run("baseline", 0, 0.6), run("baseline", 1, 0.1, status="diverged"), run("loss@1", 0, 0.7)]
    assert default_target(results) == pytest.approx(0.6)
    results = [run("baseline", 0, 0.1, status="diverged"), run("loss@1", 0, 0.7), run("random", 0, 0.5)]
    assert default_target(results) == pytest.approx(0.5)
