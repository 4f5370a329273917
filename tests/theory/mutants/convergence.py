import numpy as np

from theory.formulas import convergence
from theory.routes import exact


def small(share):
    return lambda *args, **kwargs: share * convergence.gsgd_bound(*args, **kwargs)


def small_sgd(share):
    return lambda *args, **kwargs: share * convergence.sgd_bound(*args, **kwargs)


MUTANTS = {
    "convergence.printed_step_size": {"step_size": lambda K, L: 1 / (L * np.sqrt(K))},
    "convergence.corrected_step_size": {"bound": small_sgd(0.999)},
    "convergence.control_first_step": {"K": 2},
    # R = 1 is SGD, whose target is the minimum itself.
    "convergence.limit_exceeds_minimum": {"R": 1},
    "convergence.gsgd_worse_in_the_end": {"bound": small_sgd(1.1)},
    "convergence.bounds_cross": {"value": lambda **q: 1.001 * convergence.crossover_value(**q)},
    "convergence.bounds_ordered": {"crossover": lambda **q: 1.2 * convergence.crossover(**q)},
    "convergence.crossing_edges": {"crossover": lambda **q: np.array([np.inf, 1.0])},
    "convergence.control_impossible_delta": {"Delta": 3.5},
    "convergence.fewer_iterations_by_the_bounds": {"margins": (1.01, 0.99)},
    "convergence.fewer_iterations_measured": {"laws": (lambda n, R: exact.uniform(n), exact.uniform)},
    "convergence.gsgd_by_enumeration": {"bound": small(0.94)},
    "convergence.gsgd_interpolating": {"bound": small(0.285)},
    "convergence.gsgd_by_simulation": {"bound": small(0.88)},
    "convergence.at_the_start": {"bound": small(0.94)},
    "convergence.gsgd_weighted": {"bound": small(0.94)},
    "convergence.gsgd_continuous": {"bound": small(0.93)},
    "convergence.limit_of_gsgd": {"bound": small(0.999)},
    "convergence.sgd_by_enumeration": {"bound": small_sgd(0.94)},
    "convergence.sgd_by_simulation": {"bound": small_sgd(0.88)},
    "convergence.gsgd_better_at_first": {"laws": (lambda n, R: exact.uniform(n), exact.uniform)},
    "convergence.crossing_measured": [{"marks": (128, 128)}, {"marks": (12, 12)}],
    "convergence.crossing_predicted": {"predicted": 37.0},
    "convergence.tuned_bounds_cross": {"crossover": lambda **q: 1.2 * convergence.crossover_tuned(**q)},
}
