from theory.formulas import convergence


def without_delta(K, *, eta, L, D0, rho, Delta):
    return convergence.gsgd_bound(K, eta=eta, L=L, D0=D0, rho=rho, Delta=0.0)


MUTANTS = {
    "top_k_convergence.by_enumeration": {"bound": without_delta},
    "top_k_convergence.by_simulation": {"bound": lambda *a, **q: 0.15 * convergence.gsgd_bound(*a, **q)},
    "top_k_convergence.mean_gradient_bound": {"factor": 1.9},
    "top_k_convergence.convexity_step": {"share": 0.99},
}
