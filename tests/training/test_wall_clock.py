"""Speed-ups by the clock: on runs with a known factor, and whether the clock's word is taken at all."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from training.budget import Budget
from training.comparison.ladder_results import LadderResult, claims_in_seconds
from training.comparison.ladder_tables import show
from training.comparison.time_left import TimeLeft, duration
from training.run import Ending

RUNGS = [Budget(float(2**rung), "work") for rung in range(5)]
SEEDS = 8


def accuracy(budget):
    return 0.92 - 0.06 * budget**-0.5


def outcome(value, seconds, **header):
    header = {"test_accuracy": value, "test_loss": 1 - value, "wall_clock_s": seconds, "machine": "one", **header}
    return Ending(header.pop("status", "finished"), Path("l") / "run", header, [])


def ladder(rng, *, factor=1.4, dearer=2.0, spread=0.1, noise=0.0005):
    """A method that goes `factor` times as far on a budget, and takes `dearer` times as long for it."""
    found = {}
    for rung in RUNGS:
        for method, gain, price in (("baseline", 1.0, 3.0), ("m", factor, 3.0 * dearer)):
            found[method, rung] = [
                outcome(
                    accuracy(gain * rung.amount) + noise * rng.normal(),
                    price * rung.amount * (1 + spread * rng.random()),
                )
                for _ in range(SEEDS)
            ]
    return found


def test_a_known_factor():
    """plain(c t) = method(t): 1.4 times the budget in twice the time is 0.7 of plain training's seconds.

    50 experiments: at 95% less than 42 intervals hold it with a probability of 2 in 10,000.
    """
    rng, held, factors = np.random.default_rng(1), 0, []
    for _ in range(50):
        found = claims_in_seconds(RUNGS, ladder(rng), jobs=1)
        assert found.left_out is None
        (by_accuracy,) = [each.speed_up for each in found.claims if each.measure == "accuracy"]
        held += by_accuracy.low <= 0.7 <= by_accuracy.high
        factors.append(by_accuracy.factor)
    assert held >= 42
    assert np.exp(np.mean(np.log(factors))) == pytest.approx(0.7, rel=0.03)


@pytest.mark.parametrize("unit", ["work", "s"])
def test_in_words(unit):
    """What was tuned for equal work says less by the clock."""
    found = claims_in_seconds(RUNGS, ladder(np.random.default_rng(6)), jobs=1)
    file = io.StringIO()
    show(Console(width=80, file=file), LadderResult("finished", Path("l"), unit, "test", True, [], [], found))
    text = " ".join(file.getvalue().split())
    assert "m, by accuracy: slower than plain training, 0.7" in text
    assert "this holds if nothing else ran on the machine" in text
    assert ("values were chosen for equal work, not for equal seconds" in text) == (unit == "work")


def test_one_slow_run_is_told_from_its_seeds():
    outcomes = ladder(np.random.default_rng(2))
    runs = outcomes["m", RUNGS[2]]
    runs[3] = outcome(0.9, 46 * runs[3].header["wall_clock_s"])
    found = claims_in_seconds(RUNGS, outcomes, jobs=1)
    assert found.claims == []
    assert "the machine did something else, too: m at 4work took from" in found.left_out
    assert "give the same command again" in found.left_out


@pytest.mark.parametrize(
    ("jobs", "header", "reason"),
    [
        (2, {}, "2 runs were trained at a time"),
        (None, {}, "it was not recorded how many"),
        (1, {"machine": "other"}, "the runs differ in machine: one; other"),
        (1, {"threads": 3}, "the runs differ in threads: None; 3"),
        (1, {"wall_clock_s": 1e9}, "the machine did something else"),
    ],
)
def test_when_the_clock_says_nothing(jobs, header, reason):
    outcomes = ladder(np.random.default_rng(3))
    last = outcomes["m", RUNGS[-1]]
    last[-1] = outcome(0.9, **{"seconds": header.pop("wall_clock_s", last[-1].header["wall_clock_s"]), **header})
    found = claims_in_seconds(RUNGS, outcomes, jobs)
    assert found.claims == []
    assert reason in found.left_out


def test_plain_training_that_is_quicker_at_a_larger_budget_has_no_curve():
    outcomes = ladder(np.random.default_rng(4))
    outcomes["baseline", RUNGS[3]] = [outcome(0.9 + 0.001 * seed, 1.0) for seed in range(SEEDS)]
    found = claims_in_seconds(RUNGS, outcomes, jobs=1)
    assert "plain training does not take longer from rung to rung (3" in found.left_out


def test_a_method_that_diverged_is_left_out_and_others_are_not():
    outcomes = ladder(np.random.default_rng(5))
    outcomes |= {("n", rung): outcomes["m", rung] for rung in RUNGS}
    outcomes["m", RUNGS[1]] = [outcome(0.1, 0.5, status="diverged")] * SEEDS
    found = claims_in_seconds(RUNGS, outcomes, jobs=1)
    assert {each.method for each in found.claims} == {"n"}


def test_the_time_left(monkeypatch):
    """30 of 120 priced seconds took 60: the other 90 take 180."""
    now = [100.0]
    monkeypatch.setattr("training.comparison.time_left.time.monotonic", lambda: now[0])
    left = TimeLeft(120.0)
    now[0] += 60
    assert left.after(30.0) == "about 3 minutes left"
    now[0] += 180
    assert left.after(90.0) == "about 0 s left"


def test_durations():
    assert [duration(seconds) for seconds in (12.3, 150, 9000)] == ["12 s", "2 minutes", "2.5 hours"]
