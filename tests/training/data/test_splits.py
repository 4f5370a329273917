"""Splits are disjoint, complete, by class, and stay what they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.splits import balanced, hold_out


@given(
    labels=st.lists(st.integers(0, 4), min_size=12, max_size=80).map(np.array),
    share=st.sampled_from([0.1, 0.25, 0.5, 0.9]),
)
def test_disjoint_complete_and_of_every_class_its_share(labels, share):
    rows = np.arange(len(labels))
    sizes = np.bincount(labels)
    wanted = [int(share * size + 0.5) for size in sizes]  # rounded half up
    if not 0 < sum(wanted) < len(labels):
        with pytest.raises(ValueError, match="at least 1 of both"):
            hold_out(labels, rows, share, "validation")
        return
    kept, held = hold_out(labels, rows, share, "validation")
    assert sorted([*kept, *held]) == list(rows)
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()
    assert list(np.bincount(labels[held], minlength=len(sizes))) == wanted


def test_held_out_rows_are_scattered_and_differ_between_purposes():
    labels, rows = np.zeros(1000, dtype=int), np.arange(1000)
    _, validation = hold_out(labels, rows, 0.5, "validation")
    _, test = hold_out(labels, rows, 0.5, "test")
    # Each half of the rows holds 250 of the 500, standard error 7.9; two random halves share 250, likewise. Five
    # standard errors: a random split fails with probability 1e-6, one of neighbouring rows always.
    assert abs((validation < 500).sum() - 250) < 40
    assert abs(len(np.intersect1d(validation, test)) - 250) < 40


def test_the_split_of_a_class_does_not_depend_on_other_rows():
    labels = np.array([0, 1] * 50)
    ones = np.flatnonzero(labels == 1)
    alone = hold_out(labels, ones, 0.3, "validation")[1]
    among = hold_out(labels, np.arange(100), 0.3, "validation")[1]
    np.testing.assert_array_equal(alone, np.intersect1d(among, ones))


def test_the_split_is_the_one_published_results_used():
    """Written down once: a change of the hash would move images between training and validation."""
    labels = np.arange(40) % 2
    assert list(hold_out(labels, np.arange(40), 0.1, "validation")[1]) == RECORDED


RECORDED = [11, 14, 20, 25]


def test_nothing_is_held_out_for_share_0():
    kept, held = hold_out(np.zeros(5, dtype=int), np.arange(5), 0.0, "test")
    assert (len(kept), len(held)) == (5, 0)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_share_out_of_range(share):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        hold_out(np.zeros(5, dtype=int), np.arange(5), share, "test")


@given(
    labels=st.lists(st.integers(0, 3), min_size=4, max_size=60).map(np.array),
    data=st.data(),
)
def test_balanced_fills_classes_evenly_and_grows(labels, data):
    rows = np.arange(len(labels)) * 3 + 1
    every = np.full(rows.max() + 1, 9)
    every[rows] = labels
    limit = data.draw(st.integers(1, len(labels)))
    chosen = balanced(every, rows, limit)
    assert len(chosen) == limit
    assert set(chosen) <= set(rows)
    counts, there = np.bincount(every[chosen], minlength=4), np.bincount(labels, minlength=4)
    # A class has fewer than the fullest, less one, only if all of it is taken.
    assert all(taken >= counts.max() - 1 or taken == has for taken, has in zip(counts, there, strict=True))
    if limit > 1:
        assert set(balanced(every, rows, limit - 1)) < set(chosen)


@pytest.mark.parametrize("limit", [0, 6])
def test_limit_out_of_range(limit):
    with pytest.raises(ValueError, match=rf"limit of {limit} rows must lie in 1\.\.5"):
        balanced(np.zeros(5, dtype=int), np.arange(5), limit)
