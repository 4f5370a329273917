from theory.formulas import convergence


def scaled(factor):
    return lambda *a, **q: factor * convergence.gsgd_bound_sharp(*a, **q)


def one_step_fewer(K, **q):
    # As if the noise of one more step did not count.
    return convergence.gsgd_bound_sharp(K + 1, **q)


MUTANTS = {
    "convergence_sharp.at_most_the_printed": [{"bound": scaled(1.001)}],
    "convergence_sharp.best_of_its_inequalities": [{"bound": one_step_fewer}, {"bound": scaled(1 + 1e-6)}],
    "convergence_sharp.gsgd_by_enumeration": [{"bound": scaled(0.99)}, {"bound": one_step_fewer}],
    "convergence_sharp.sgd_by_enumeration": [{"bound": scaled(0.99)}, {"bound": one_step_fewer}],
    "convergence_sharp.top_k_by_enumeration": [{"bound": scaled(0.99)}],
    "convergence_sharp.noisy_by_enumeration": [{"bound": scaled(0.99)}],
    "convergence_sharp.by_simulation": [{"bound": scaled(0.05)}],
    "convergence_sharp.smoothness_above_the_minimum": [{"factor": 0.499}],
    "convergence_sharp.attained_at_the_start": [{"bound": scaled(0.999)}, {"bound": scaled(1.001)}],
}
