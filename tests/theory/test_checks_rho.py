"""Checks of Definition 5.6, Equation 5 and the k-of-B form come out as expected, and fail once their claim is false."""

import numpy as np

from theory.checks import rho as checks
from theory.formulas import rho


def test_equation_5_infimum_is_that_of_a_dense_grid():
    # Losses with nearly equal curvature cross far out, hence the geometric tails.
    far = np.geomspace(20, 1e9, 20_001)
    reach = np.concatenate([-far[::-1], np.linspace(-20, 20, 100_000), far])
    for x, c, R in checks.random_quadratics(np.random.default_rng(0))[:40]:
        values = rho.rho(checks.quadratics(checks.minimum(x, c) + reach, x, c), R)
        # The grid's minimum lies above the infimum, by its coarseness.
        assert -1e-9 <= values.min() - checks.infimum(x, c, R) <= 3e-4
