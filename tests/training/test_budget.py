"""Budgets: their grammar, and how many steps they pay for, against counting."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from training.budget import Budget, StepCosts, parse_budget, seconds_of, steps_within
from training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("800000steps", 800_000, "steps"),
        ("20000samples", 20_000, "samples"),
        ("100epochs", 100, "epochs"),
        ("2e3epochs", 2000, "epochs"),
        ("600s", 600, "s"),
        (" 1.5 S ", 1.5, "s"),
        (".25epochs", 0.25, "epochs"),
        ("100baseline-epochs", 100, "baseline-epochs"),
    ],
)
def test_grammar(text, amount, unit):
    budget = parse_budget(text)
    assert (budget.amount, budget.unit) == (amount, unit)
    assert parse_budget(str(budget)) == budget
    assert budget.is_time == (unit in ("s", "baseline-epochs"))


@pytest.mark.parametrize(
    "text", ["", "600", "s", "600m", "600 minutes", "0s", "-1s", "1,5s", "nans", "infs", "1e999s", "1e999steps", "1s2s"]
)
def test_what_is_no_budget(text):
    with pytest.raises(ValueError, match=r"budget = .* must be a number above 0 and a unit: steps.*samples.*epochs"):
        parse_budget(text)


@given(st.floats(1e-6, 1e18), st.sampled_from(["steps", "s", "samples"]))
def test_a_budget_is_read_back_as_it_is_written(amount, unit):
    assert parse_budget(str(Budget(amount, unit))).amount == pytest.approx(amount, rel=1e-14)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("7steps", 7),
        ("0.2steps", 1),
        # 32 samples a step, 1000 samples an epoch.
        ("320samples", 10),
        ("335samples", 10),
        ("337samples", 11),
        ("1samples", 1),
        ("1epochs", 31),
        ("3epochs", 94),
    ],
)
def test_steps_and_samples(text, steps):
    found = steps_within(
        parse_budget(text), samples_per_step=32, train_size=1000, costs=None, dearer_steps=lambda total: total
    )
    assert found == steps


SHARES = st.floats(0, 1)


@given(
    seconds=st.floats(0.5, 300),
    plain=st.floats(0.5, 2),
    ratio=st.floats(0.9, 3),
    start=SHARES,
    end=SHARES,
)
@example(seconds=9.0, plain=1.0, ratio=3.0, start=0.25, end=0.75)
def test_time_pays_for_as_many_steps_as_counting_finds(seconds, plain, ratio, start, end):
    """With selection in part of the run only: no step more than the money lasts for."""
    settings = TrainingSettings(method="loss@1", start_share=min(start, end), end_share=max(start, end))
    costs = StepCosts(plain, plain * ratio)

    def price(steps):
        first = round(min(start, end) * steps)
        selecting = max(round(max(start, end) * steps) - first, 0)
        return selecting * costs.selecting_s + (steps - selecting) * costs.plain_s

    paid = [steps for steps in range(1, 700) if price(steps) <= seconds * (1 + 1e-9)]
    arguments = {"samples_per_step": 8, "train_size": 64, "costs": costs, "dearer_steps": settings.dearer_steps}
    # Both ends of the selection are rounded, so that a longer run may cost less than a shorter one.
    missed = 2 * (ratio - 1) if ratio > 2 else 0
    if not paid:
        with pytest.raises(ValueError, match=r"budget = .*s is .* but a single step takes"):
            steps_within(Budget(seconds, "s"), **arguments)
        return
    if max(paid) <= missed:
        return
    found = steps_within(Budget(seconds, "s"), **arguments)
    assert found in paid
    assert found >= max(paid) - missed


@given(seconds=st.floats(60, 600), start=SHARES, end=SHARES, ratio=st.floats(1, 1.5))
def test_time_is_kept_to_two_percent(seconds, start, end, ratio):
    """Of steps of half a second: a budget of a hundred steps or more."""
    settings = TrainingSettings(method="loss@1", start_share=min(start, end), end_share=max(start, end))
    costs = StepCosts(0.5, 0.5 * ratio)
    steps = steps_within(
        Budget(seconds, "s"),
        samples_per_step=8,
        train_size=64,
        costs=costs,
        dearer_steps=settings.dearer_steps,
    )
    spent = seconds_of(steps, costs, settings.selecting_steps(steps))
    assert 0.98 * seconds <= spent <= seconds * (1 + 1e-6)


def test_the_time_of_the_baselines_epochs():
    """10 epochs of 1000 samples at 50 a step are 200 steps of .1 s: 20 s, which pay for 160 steps of .125 s."""
    costs = StepCosts(0.1, 0.125)
    arguments = {"samples_per_step": 50, "train_size": 1000, "costs": costs}
    budget = parse_budget("10baseline-epochs")
    assert steps_within(budget, **arguments, dearer_steps=lambda total: 0) == 200
    assert steps_within(budget, **arguments, dearer_steps=lambda total: total) == 160


@given(
    amount=st.floats(30, 3000),
    scoring=st.floats(0, 1),
    drawn=st.integers(8, 32),
    start=SHARES,
    end=SHARES,
)
def test_work_pays_for_as_many_steps_as_counting_finds(amount, scoring, drawn, start, end):
    """A step that trains on 8 rows costs 24, and what is drawn costs its scoring where the step selects."""
    settings = TrainingSettings(method="loss@1", start_share=min(start, end), end_share=max(start, end))
    budget, arguments = Budget(amount, "work"), {"samples_per_step": 8, "train_size": 64}
    costs = StepCosts(1.0, 1.0, scoring)

    def work(steps):
        return 24 * steps + scoring * drawn * settings.selecting_steps(steps)

    paid = [steps for steps in range(1, 200) if work(steps) <= amount * (1 + 1e-9)]
    of_method = {**arguments, "costs": costs, "dearer_steps": settings.dearer_steps, "drawn_per_step": drawn}
    if not paid:
        with pytest.raises(ValueError, match=r"budget = .*work is .* work, but a single step takes .* work"):
            steps_within(budget, **of_method)
        return
    missed = 2 * scoring * drawn / 24
    found = steps_within(budget, **of_method) if max(paid) > missed else max(paid)
    assert found in paid
    assert found >= max(paid) - missed


@pytest.mark.parametrize("costs", [None, StepCosts(1.0, 2.0)])
def test_work_needs_to_be_counted(costs):
    with pytest.raises(ValueError, match="budget = 9work is work: it needs the counted work of scoring"):
        steps_within(parse_budget("9work"), samples_per_step=1, train_size=9, costs=costs, dearer_steps=lambda total: 0)


def test_time_needs_prices():
    with pytest.raises(ValueError, match="budget = 9s is a time: it needs the measured costs"):
        steps_within(parse_budget("9s"), samples_per_step=1, train_size=9, costs=None, dearer_steps=lambda total: total)


def test_reference_time_by_hand():
    assert math.isclose(seconds_of(10, StepCosts(1.0, 3.0), 4), 6 * 1.0 + 4 * 3.0)
