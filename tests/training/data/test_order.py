"""The order of the data: permutations that depend on nothing but the seed and the epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.order import Order


def epochs(order, sizes, count):
    """Rows of each epoch, taken in batches of the sizes in turn."""
    found = {}
    for number in range(count):
        rows, epoch = order.take(sizes[number % len(sizes)])
        found.setdefault(epoch, []).extend(rows.tolist())
    return found


def test_every_epoch_is_a_permutation_of_its_own():
    found = epochs(Order(60, seed=3), [12], 25)
    assert list(found) == [0, 1, 2, 3, 4]
    assert all(sorted(rows) == list(range(60)) for rows in found.values())
    assert len({tuple(rows) for rows in found.values()}) == 5


@given(st.integers(1, 50), st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 99))
def test_no_row_comes_twice_in_an_epoch_and_little_is_left_out(size, sizes, seed):
    """Batches of changing sizes: what is left out is less than the batch that did not fit."""
    sizes = [min(count, size) for count in sizes]
    order, found, taken = Order(size, seed), {}, []
    for number in range(40):
        rows, epoch = order.take(sizes[number % len(sizes)])
        if taken and epoch > taken[-1]:
            assert len(found[taken[-1]]) + len(rows) > size
        taken.append(epoch)
        assert len(rows) == sizes[number % len(sizes)]
        found.setdefault(epoch, []).extend(rows.tolist())
    assert all(len(set(rows)) == len(rows) and set(rows) <= set(range(size)) for rows in found.values())
    assert taken == sorted(taken)
    assert set(np.diff(taken)) <= {0, 1}


def test_batches_of_other_sizes_are_cut_from_the_same_order():
    """Before and after a selection starts: the sizes change, the order does not."""
    assert epochs(Order(48, seed=1), [4], 12) == epochs(Order(48, seed=1), [8, 16], 4) == epochs(Order(48, 1), [48], 1)


def test_seeds_differ():
    assert Order(50, 1).take(50)[0].tolist() != Order(50, 2).take(50)[0].tolist()


@given(st.integers(0, 30), st.integers(0, 5))
def test_a_resumed_order_goes_on(before, seed):
    one = Order(23, seed)
    for _ in range(before):
        one.take(5)
    two = Order(23, seed)
    two.take(7)
    two.load_state_dict(one.state_dict())
    for _ in range(12):
        (rows, epoch), (others, other) = one.take(4), two.take(4)
        assert epoch == other
        np.testing.assert_array_equal(rows, others)


def test_a_batch_larger_than_an_epoch():
    with pytest.raises(ValueError, match=r"takes 11 rows but the training set has 10: lower batch_size or raise keep"):
        Order(10, 0).take(11)
