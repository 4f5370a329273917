"""A made-up table with a rare class: clusters of two classes in a space that some columns mix and others hide.

The recipe is that of scikit-learn's `make_classification`, after Guyon: each class has clusters around corners of a
hypercube, each cluster is stretched by a random matrix of its own, further columns are mixtures of the informative
ones, the rest is noise, and a share of the labels is wrong.

Reference:
    Guyon: Design of experiments for the NIPS 2003 variable selection benchmark.
"""

from __future__ import annotations

import numpy as np

ROWS, POSITIVE_SHARE = 60_000, 0.02
INFORMATIVE, MIXED, NOISE = 12, 8, 10
"""Columns of each kind."""
CLUSTERS = 6
"""Of each class."""
APART = 1.6
"""Half the edge of the hypercube."""
FLIPPED = 0.002
"""Share of the rows that get the other label."""
SEED = 2003


def rare_positives(
    rng: np.random.Generator, rows: int = ROWS, positive_share: float = POSITIVE_SHARE
) -> tuple[np.ndarray, np.ndarray]:
    """(columns (rows, 30) float64, classes (rows,) int64 in 0..1) with round(positive_share * rows) true positives."""
    positives = round(positive_share * rows)
    classes = np.zeros(rows, dtype=np.int64)
    classes[rng.permutation(rows)[:positives]] = 1
    corners = rng.permutation(2**INFORMATIVE)[: 2 * CLUSTERS]
    bits = (corners[:, None] >> np.arange(INFORMATIVE)) & 1
    centres = APART * (2.0 * bits - 1)
    stretches = rng.uniform(-1, 1, (2 * CLUSTERS, INFORMATIVE, INFORMATIVE))
    cluster = rng.integers(CLUSTERS, size=rows) + CLUSTERS * classes
    informative = np.empty((rows, INFORMATIVE))
    for number in range(2 * CLUSTERS):
        own = np.flatnonzero(cluster == number)
        informative[own] = centres[number] + rng.standard_normal((len(own), INFORMATIVE)) @ stretches[number]
    mixed = informative @ rng.uniform(-1, 1, (INFORMATIVE, MIXED))
    columns = np.hstack([informative, mixed, rng.standard_normal((rows, NOISE))])
    flipped = rng.random(rows) < FLIPPED
    return columns[:, rng.permutation(columns.shape[1])], np.where(flipped, 1 - classes, classes)
