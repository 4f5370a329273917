"""Checks that are read later: which step, row and value they name, and when the host waits for them."""

import pytest

torch = pytest.importorskip("torch")

from gsgd.sift.scoring_pass import late_checks  # noqa: E402
from gsgd.sift.scoring_pass.late_checks import BadScore, LateChecks, TooManyLabels  # noqa: E402
from gsgd.sift.scoring_pass.padded_positions import Fullest  # noqa: E402

FORM = (("labels", "torch.int64", 2),)


def fullest(most, taken=8, form=FORM):
    return Fullest(form, 16, taken, torch.tensor(most))


def test_nothing_is_wrong():
    checks = LateChecks()
    checks.add(0, torch.ones(3), [fullest(8)])
    checks.add(1, None, [])
    assert list(checks.read()) == []


def test_what_is_wrong_is_told_in_order():
    checks = LateChecks()
    checks.add(3, torch.tensor([1.0, float("inf"), float("nan")], dtype=torch.float64), [])
    checks.add(4, torch.tensor([float("-inf"), 0.0]), [fullest(8), fullest(9)])
    checks.add(5, None, [fullest(12, taken=11)])
    found = list(checks.read())
    assert found[0] == BadScore(3, 1, float("inf"), 2)
    assert (type(found[1]), found[1].step, found[1].most, found[1].at.taken) == (TooManyLabels, 4, 9, 8)
    assert found[2] == BadScore(4, 0, float("-inf"), 1)
    assert (type(found[3]), found[3].step, found[3].most, found[3].at.taken) == (TooManyLabels, 5, 12, 11)
    assert list(checks.read()) == []


def test_what_follows_an_error_is_told_the_next_time():
    checks = LateChecks()
    for step in range(3):
        checks.add(step, torch.tensor([float("nan")]), [])
    assert next(checks.read()).step == 0
    assert [found.step for found in checks.read()] == [1, 2]


def test_tensors_without_values_are_not_waited_for():
    checks = LateChecks()
    checks.add(0, torch.ones(3, device="meta"), [])
    assert list(checks.read(wait=True)) == []


class Event:
    """Stands for a CUDA event; notes that it was waited for."""

    def __init__(self, done):
        self.done, self.waited = done, False

    def query(self):
        return self.done

    def synchronize(self):
        self.waited = not self.done


def on_the_way(checks, done):
    event = Event(done)
    numbers = torch.tensor([1.0, 0.0, float("inf")])
    checks._on_the_way.append(late_checks._OnTheWay(len(checks._on_the_way), [], numbers, event))
    return event


def test_what_is_on_its_way_is_left_for_the_next_time():
    checks = LateChecks()
    events = [on_the_way(checks, done) for done in (True, False, True)]
    assert [found.step for found in checks.read()] == [0]
    events[1].done = True
    assert [found.step for found in checks.read()] == [1, 2]
    assert not any(event.waited for event in events)


def test_it_is_waited_for_when_asked_or_when_there_is_too_much():
    checks = LateChecks()
    events = [on_the_way(checks, False) for _ in range(late_checks.UNREAD_AT_MOST + 2)]
    assert [found.step for found in checks.read()] == [0, 1]
    assert [event.waited for event in events] == [True, True] + [False] * late_checks.UNREAD_AT_MOST
    assert len(list(checks.read(wait=True))) == late_checks.UNREAD_AT_MOST
    assert all(event.waited for event in events)
