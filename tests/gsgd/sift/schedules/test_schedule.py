"""Which steps select, against lists written by hand."""

import pytest

pytest.importorskip("torch")

from gsgd.sift import Schedule


def selecting(schedule, steps=12):
    return [step for step in range(steps) if schedule.selects(step)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ({"start_step": 9}, [9, 10, 11]),
        ({"end_step": 3}, [0, 1, 2]),
        ({"start_step": 2, "end_step": 4}, [2, 3]),
        ({"start_step": 5, "end_step": 5}, []),
        ({"interrupt": 2}, [0, 2, 4, 6, 8, 10]),
        ({"interrupt": 5}, [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]),
        ({"interrupt": 3, "start_step": 4, "end_step": 10}, [4, 6, 7, 9]),
        ({"interrupt": lambda step: step in (1, 7)}, [0, 2, 3, 4, 5, 6, 8, 9, 10, 11]),
        ({"interrupt": lambda step: True}, []),
    ],
)
def test_selecting_steps(arguments, expected):
    assert selecting(Schedule(**arguments)) == expected


def test_a_step_is_judged_by_itself():
    """Asked in any order, any number of times: nothing is remembered, so ranks and resumed runs agree."""
    schedule = Schedule(2, 9, 3)
    expected = selecting(schedule)
    for order in ([*reversed(range(12))], [*range(0, 12, 2), *range(1, 12, 2)]):
        assert sorted(step for step in order if schedule.selects(step)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_step": -1}, "start_step = -1 must be a whole number of at least 0"),
        ({"start_step": 0.5}, "start_step = 0.5 must"),
        ({"start_step": True}, "start_step = True must"),
        ({"start_step": None}, "start_step = None must"),
        ({"start_step": 5, "end_step": 4}, "end_step = 4 must be a whole number of at least 5"),
        ({"end_step": "7"}, "end_step = '7' must"),
        ({"interrupt": 1}, "interrupt = 1 must be a whole number of at least 2"),
        ({"interrupt": 0}, "interrupt = 0 must"),
        ({"interrupt": 0.1}, "interrupt = 0.1 must"),
        ({"interrupt": True}, "interrupt = True must"),
    ],
)
def test_values_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)
