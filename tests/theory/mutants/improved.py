from theory.formulas import improved


def scaled(bound, factor):
    return {"bound": lambda *a, **q: factor * bound(*a, **q)}


def sharp(factor):
    return scaled(improved.gsgd_bound_sharp, factor)


def better(factor):
    return scaled(improved.gsgd_bound_improved, factor)


def one_step_fewer(K, **q):
    # As if the noise of one more step did not count.
    return improved.gsgd_bound_sharp(K + 1, **q)


def right_side(share):
    """(*) with beta times `share`."""
    return {"right_side": lambda w2, f_w, f_u, eta, a, b: w2 - 2 * eta * a * f_w + 2 * eta * share * b * f_u}


LARGER = (improved.gsgd_bound_sharp, lambda *a, **q: 1.001 * improved.gsgd_bound_improved(*a, **q))
MUTANTS = {
    "improved.step": right_side(0.999),
    "improved.step_attained": [right_side(0.999), right_side(1.001)],
    "improved.improved_by_enumeration": better(0.94),
    "improved.improved_sgd_and_interpolating": better(0.94),
    "improved.sharp_by_enumeration": [sharp(0.99), {"bound": one_step_fewer}],
    "improved.sharp_for_others": [sharp(0.99), {"bound": one_step_fewer}],
    "improved.sharp_noisy": sharp(0.99),
    "improved.sharp_against_adversaries": [sharp(0.97), {"bound": one_step_fewer}],
    "improved.sharp_for_random_problems": sharp(0.95),
    "improved.at_most_the_printed": {"bounds": LARGER},
    "improved.best_of_its_inequalities": [{"bound": one_step_fewer}, sharp(1 + 1e-6)],
    "improved.by_simulation": better(0.88),
    "improved.smoothness_above_the_minimum": {"factor": 0.499},
    "improved.attained_at_the_start": [sharp(0.999), sharp(1.001)],
    "improved.best_step_is_best": {"best_step": lambda K, **q: 0.99 * improved.best_step(K, **q)},
    "improved.comparator": scaled(improved.comparator_bound, 0.999),
    "improved.last_iterate": scaled(improved.last_iterate_bound, 0.999),
    "improved.last_iterate_attained": scaled(improved.last_iterate_bound, 0.99),
    "improved.decreasing": scaled(improved.decreasing_steps_bound, 0.96),
    "improved.with_a_floor": [
        better(0.98),
        {"bound": lambda *a, floor, **q: improved.gsgd_bound_improved(*a, floor=1.3 * floor, **q)},
    ],
}
