from dataclasses import replace

from theory import checks
from theory.formulas import convergence, improved


def scaled(bound, factor):
    return lambda *a, **q: factor * bound(*a, **q)


def printed(factor):
    return {"bound": scaled(convergence.gsgd_bound, factor)}


def sharp(factor):
    return {"bound": scaled(improved.gsgd_bound_sharp, factor)}


def smaller(method, K, **q):
    from theory.routes import worstcase

    found = worstcase.worst_case(method, K, **q)
    return replace(found, value=0.999 * found.value)


ALL = {
    "worst_case.gsgd_two_atoms": printed(0.48),
    "worst_case.gsgd_gaining": printed(0.5),
    "worst_case.gsgd_three_atoms": printed(0.53),
    "worst_case.sgd": {"bound": scaled(convergence.sgd_bound, 0.5)},
    "worst_case.noisy": printed(0.5),
    "worst_case.top_k": printed(0.45),
    "worst_case.sharper_bound": sharp(0.98),
    "worst_case.sharper_bound_small_minimum": sharp(0.95),
    "worst_case.improved_step": {"share": 0.99},
    "worst_case.improved_bound": {"bound": scaled(improved.gsgd_bound_improved, 0.29)},
    "worst_case.sharp_at_the_start": [sharp(0.9999), sharp(1.0001)],
    "worst_case.one_step": {"share": 1.001},
    "worst_case.one_step_is_tight": {"factor": 1.0},
    "worst_case.gradient_descent": [{"known": lambda K: 1 / (4 * K + 1)}, {"known": lambda K: 1 / (4 * K + 2.01)}],
    "worst_case.gsgd_contains_problems": {"worst_case": smaller},
    "worst_case.sgd_contains_problems": {"worst_case": smaller},
}
MUTANTS = ALL if checks.available("worst_case") else {}
