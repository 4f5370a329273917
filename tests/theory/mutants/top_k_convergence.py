from theory.formulas import convergence


def small(share):
    return lambda *args, **kwargs: share * convergence.gsgd_bound(*args, **kwargs)


MUTANTS = {
    "top_k_convergence.by_enumeration": {"bound": small(0.94)},
    "top_k_convergence.by_simulation": {"bound": small(0.88)},
    "top_k_convergence.mean_gradient_bound": {"factor": 1.99},
    "top_k_convergence.convexity_step": {"share": 0.99},
}
