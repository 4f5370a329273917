import numpy as np

from theory import exact
from theory.formulas import convergence


def without_delta(K, *, eta, L, D0, rho, Delta):
    """Theorem 5.7 with its second term left out."""
    return convergence.gsgd_bound(K, eta=eta, L=L, D0=D0, rho=rho, Delta=0.0)


def small(share):
    return lambda *args, **kwargs: share * convergence.gsgd_bound(*args, **kwargs)


def small_sgd(share):
    return lambda *args, **kwargs: share * convergence.sgd_bound(*args, **kwargs)


MUTANTS = {
    "convergence.gsgd_by_enumeration": {"bound": without_delta},
    "convergence.gsgd_interpolating": {"bound": small(0.3)},
    "convergence.gsgd_by_simulation": {"bound": small(0.1)},
    "convergence.sgd_by_enumeration": {"bound": small_sgd(0.88)},
    "convergence.sgd_by_simulation": {"bound": small_sgd(0.4)},
    "convergence.printed_step_size": {"step_size": lambda K, L: 1 / (L * np.sqrt(K))},
    "convergence.corrected_step_size": {"bound": small_sgd(0.999)},
    "convergence.control_first_step": {"K": 2},
    # R = 1 is SGD, whose target is the minimum itself.
    "convergence.limit_exceeds_minimum": {"R": 1},
    "convergence.gsgd_worse_in_the_end": {"bound": small_sgd(1.1)},
    "convergence.gsgd_better_at_first": {"laws": (exact.greedy, lambda n: exact.greedy(n, 2))},
    "convergence.bounds_cross": {"value": lambda **q: 1.001 * convergence.crossover_value(**q)},
    "convergence.bounds_ordered": {"crossover": lambda **q: 1.2 * convergence.crossover(**q)},
    "convergence.crossing_edges": {"crossover": lambda **q: np.array([np.inf, 1.0])},
    "convergence.control_impossible_delta": {"Delta": 3.5},
    "convergence.fewer_iterations_by_the_bounds": {"margins": (1.01, 0.99)},
    "convergence.fewer_iterations_measured": {"laws": (lambda n, R: exact.uniform(n), exact.uniform)},
}
