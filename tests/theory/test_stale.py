"""Selection by stale and other approximate losses, by hand; checks and mutants run in `test_checks.py`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.formulas import stale
from theory.formulas.convergence import sgd_bound
from theory.formulas.improved import gsgd_bound_improved

positive = st.floats(1e-3, 1e3)


def test_a_batch_by_hand():
    # Scores prefer the second row. sqrt f = (3, 2), sqrt s = (2, 2.5): deltas 1/2 on S and 1 on S*.
    value, limit = stale.selected_by_scores([9.0, 4.0], [4.0, 6.25], 1)
    assert (value, limit) == (4.0, pytest.approx((3 - 0.5 - 1.0) ** 2))
    # All rows are kept: whatever the scores, the mean of all.
    assert stale.selected_by_scores([9.0, 4.0], [0.0, 1.0], 2)[0] == 6.5
    # Exact scores promise what the largest have.
    assert stale.selected_by_scores([1.0, 9.0, 4.0], [1.0, 9.0, 4.0], 2) == (6.5, pytest.approx(6.5))


@given(positive, positive, st.floats(0, 10))
def test_the_factor_of_a_distance(F_hat, L, distance):
    root = max(0.0, np.sqrt(F_hat) - np.sqrt(2 * L) * distance)
    assert stale.stale_factor(F_hat, L, distance) * F_hat == pytest.approx(root**2, rel=1e-9, abs=1e-12 * F_hat)


def test_ages_by_hand():
    # h = 1/4: an age of 2 halves the root.
    assert stale.stale_factor_of_age(0.125, 2.0, [0, 2, 6]) == pytest.approx([1.0, 1 / 4, 1 / 16])


def test_additive_errors_and_unbiased_use():
    q = {"eta": 0.5, "L": 1.0, "D0": 2.0, "rho": 1.25, "Delta": 3.0}
    found = stale.additive_error_bound(4, error=0.25, **q)
    assert found == pytest.approx(gsgd_bound_improved(4, **q) + 0.5 / 1.25)
    q = {"eta": 0.1, "D0": 2.0, "F_star": 0.5}
    assert stale.unbiased_bound(7, L=1.0, share=0.25, **q) == sgd_bound(7, L=4.0, **q)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: stale.selected_by_scores([1.0], [1.0, 2.0], 1), "losses"),
        (lambda: stale.selected_by_scores([1.0, 2.0], [1.0, 2.0], 3), "k = 3"),
        (lambda: stale.selected_by_scores([1.0, -2.0], [1.0, 2.0], 1), "losses = -2"),
        (lambda: stale.stale_factor(0.0, 1.0, 1.0), "F_hat"),
        (lambda: stale.stale_factor(1.0, 1.0, -1.0), "distance"),
        (lambda: stale.stale_factor_of_age(0.1, 1.0, -1), "age"),
        (lambda: stale.unbiased_bound(1, eta=0.1, L=1.0, D0=1.0, F_star=0.0, share=0.0), "share"),
    ],
)
def test_bad_arguments_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
