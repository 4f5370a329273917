from theory.formulas import convergence


def small(share):
    return lambda *args, **kwargs: share * convergence.gsgd_bound(*args, **kwargs)


MUTANTS = {
    "noisy_convergence.simulation_matches_the_tree": {"sigma": 0.1},
    # Without noise the recipe is right.
    "noisy_convergence.gradient_of_the_noisy_mean": {"sigma": 0.0},
    "noisy_convergence.repaired_step": {"share": 0.9},
    "noisy_convergence.by_enumeration": {"bound": small(0.94)},
    "noisy_convergence.by_quadrature": {"bound": small(0.94)},
    "noisy_convergence.noisy_top_k": {"bound": small(0.94)},
}
