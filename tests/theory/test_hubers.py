"""One-dimensional Huber losses and the problems found among them."""

import numpy as np
import pytest

from theory import assumptions
from theory.problems.adversaries import adversaries, random_hubers
from theory.problems.hubers import Hubers, huber_problem
from theory.problems.quadratics import crossing_problem


def test_a_huber_loss_by_hand():
    problem = Hubers(*(np.array([x]) for x in (2.0, 1.0, 0.0, 3.0, 1.0)))
    # Flat left of 1, (w - 1)^2 up to 4, of slope 6 beyond.
    w, atom = np.array([[0.0], [1.0], [2.0], [4.0], [5.0]]), np.zeros((5, 1), int)
    assert problem.losses(w, atom)[:, 0] == pytest.approx([0, 0, 1, 9, 15])
    assert problem.gradients(w, atom)[:, 0, 0] == pytest.approx([0, 0, 2, 6, 6])


def test_minimisers_by_hand():
    both = {"left": [0.0, 1.0], "right": [1.0, 0.0]}
    # Two flat losses that meet nowhere: a segment of minimisers between 0 and 2.
    apart = huber_problem([1.0, 1.0], [2.0, 0.0], **both, start=5.0)
    assert apart.minimisers.vertices[:, 0] == pytest.approx([0.0, 2.0])
    assert (apart.F_star, apart.D0) == (0.0, 3.0)
    weighted = huber_problem([1.0, 1.0], [0.0, 3.0], [9.0] * 2, [9.0] * 2, start=0.0, weights=[1 / 3, 2 / 3])
    assert weighted.minimisers.vertices[:, 0] == pytest.approx([2.0])
    assert weighted.F_star == pytest.approx((4 + 2 * 1) / 6)
    with pytest.raises(ValueError, match="no compact set"):
        huber_problem([1.0], [0.0], [0.0], [1.0], start=1.0)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"curvature": [0.0, 1.0]}, "positive"),
        ({"left": [0.0, 1.0], "right": [0.0, 1.0]}, "not both 0"),
        ({"weights": [0.5, 0.6]}, "sum 1"),
        ({"centre": [1.0]}, "entries"),
    ],
)
def test_bad_shapes_are_refused(wrong, match):
    shape = {"curvature": [1.0, 1.0], "centre": [0.0, 1.0], "left": [1.0, 1.0], "right": [1.0, 1.0]}
    with pytest.raises(ValueError, match=match):
        huber_problem(**{**shape, **wrong}, start=2.0)


def test_random_and_found_problems_are_what_they_say():
    rng = np.random.default_rng(0)
    found = [item.known for item in adversaries()]
    assert len(found) == 79
    for known in [*found, *random_hubers(rng, 20), crossing_problem()]:
        assumptions.verify_section_5(known, rng)


def test_adversaries_belong_to_their_class():
    from theory.checks.improved import largest_at_minimisers

    for item in adversaries():
        if item.theorem != "any":
            share = largest_at_minimisers(item) / item.known.D0**2
            assert share == pytest.approx(0.25, rel=1e-6)
            assert item.rho * item.known.F_star <= largest_at_minimisers(item) * (1 + 1e-6)
