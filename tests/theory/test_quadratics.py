"""One-dimensional quadratics: rho* against a dense grid, simulated runs against the tree of all choices."""

import numpy as np
import pytest

from theory.checks.rho import random_quadratics
from theory.formulas import rho
from theory.formulas.improved import best_step
from theory.problems.quadratics import average_at_best_step, crossing_problem, infimum, minimum, quadratics
from theory.routes import exact
from theory.routes.montecarlo import mean_equals
from theory.verdict import Status


def test_equation_5_infimum_is_that_of_a_dense_grid():
    # Losses with nearly equal curvature cross far out, hence the geometric tails.
    far = np.geomspace(20, 1e9, 20_001)
    reach = np.concatenate([-far[::-1], np.linspace(-20, 20, 100_000), far])
    for x, c, R in random_quadratics(np.random.default_rng(0))[:40]:
        values = rho.rho(quadratics(minimum(x, c) + reach, x, c), R)
        # The grid's minimum lies above the infimum, by its coarseness.
        assert -1e-9 <= values.min() - infimum(x, c, R) <= 3e-4


@pytest.mark.parametrize(("R", "law"), [(1, exact.uniform(4)), (4, exact.greedy(4, 4))])
def test_simulated_runs_have_the_mean_of_the_tree(R, law):
    """Errs with probability 1e-9; a mean off by 10% is caught with the same certainty."""
    known, K = crossing_problem(), 6
    eta = best_step(K, L=known.L, D0=known.D0, Delta=known.Delta(R))
    expected = float(exact.walk(known, law, eta=eta, K=K).averages[-1])
    found = average_at_best_step(K, R, runs=20_000, rng=np.random.default_rng(0))
    # Iterates stay between the atoms' minimisers and w_0, where F is at most F(w_0) < 1.
    assert mean_equals(found, expected, 1e-9, cap=1.0).status is Status.CONSISTENT
    assert mean_equals(found, 1.1 * expected, 1e-9, cap=1.0).status is Status.REFUTED
