"""Random numbers that are a function of (seed, epoch, row) and of nothing else."""

from __future__ import annotations

import numpy as np

GAMMA = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, epoch: int, rows: np.ndarray, count: int) -> np.ndarray:
    """Uniform draws, (B, count) float64 in [0, 1): row b's depend on (seed, epoch, rows[b]) alone.

    A chain of SplitMix64 steps over seed, epoch, row and draw. Not a generator per row, because making one takes
    longer than augmenting an image.

    Args:
        seed, epoch: >= 0.
        rows: (B,), whole numbers >= 0.
        count: draws per row.

    Reference:
        Steele, Lea, Flood: Fast splittable pseudorandom number generators. OOPSLA 2014.
    """
    state = np.zeros((1, 1), dtype=np.uint64)
    draws = np.arange(count, dtype=np.uint64)[None, :]
    for word in (_word(seed), _word(epoch), np.asarray(rows).astype(np.uint64)[:, None], draws):
        state = _mix(state + (word + np.uint64(1)) * GAMMA)
    return (state >> np.uint64(11)) * 2.0**-53


def _word(value: int) -> np.ndarray:
    # An array, since a uint64 scalar warns where it wraps around.
    return np.array([[value % 2**64]], dtype=np.uint64)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
