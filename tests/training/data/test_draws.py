"""Draws against SplitMix64 in Python's own integers."""

import numpy as np
import pytest

from training.data.draws import uniforms

MASK = 2**64 - 1


def splitmix(state):
    state = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def chain(*words):
    state = 0
    for word in words:
        state = splitmix(state + word * 0x9E3779B97F4A7C15)
    return state


def test_the_reference_is_splitmix64():
    assert splitmix(0) == 0xE220A8397B1DCDAF  # the published first output of seed 0


def test_uniforms_are_a_chain_of_splitmix64():
    rows = np.array([0, 7, 123_456_789_012])
    expected = [[(chain(3, 2**63 + 5, int(row), draw) >> 11) / 2**53 for draw in range(4)] for row in rows]
    np.testing.assert_array_equal(uniforms(3, 2**63 + 5, rows, 4), expected)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64])
def test_a_row_draws_the_same_wherever_it_is(dtype):
    rows = np.arange(50, dtype=dtype)
    shuffled = np.random.default_rng(0).permutation(50)
    np.testing.assert_array_equal(uniforms(1, 2, rows, 3)[shuffled], uniforms(1, 2, rows[shuffled], 3))
    np.testing.assert_array_equal(uniforms(1, 2, rows[7:8], 3)[0], uniforms(1, 2, rows, 3)[7])
    np.testing.assert_array_equal(uniforms(1, 2, rows, 5)[:, :3], uniforms(1, 2, rows, 3))


def test_uniform_and_without_correlation_between_neighbours():
    """Fails for a good generator with probability below 1e-5: 4 correlations and 10 cells, each at 5 standard errors.

    A correlation of .025, or a cell that is off by 8%, is found almost surely.
    """
    count = 40_000
    rows = np.arange(count)
    draws = uniforms(0, 0, rows, 2)
    pairs = {
        "rows": (draws[:-1, 0], draws[1:, 0]),
        "draws": (draws[:, 0], draws[:, 1]),
        "epochs": (draws[:, 0], uniforms(0, 1, rows, 1)[:, 0]),
        "seeds": (draws[:, 0], uniforms(1, 0, rows, 1)[:, 0]),
    }
    for name, (a, b) in pairs.items():
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(count), name
    cells = np.histogram(draws[:, 0], bins=10, range=(0, 1))[0]
    assert cells.sum() == count
    assert np.abs(cells - count / 10).max() < 5 * np.sqrt(count * 0.1 * 0.9)
