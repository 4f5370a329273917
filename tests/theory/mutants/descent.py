from theory.formulas import convergence

MUTANTS = {
    "descent.expansion": {"cross": 1.99},
    "descent.mean_gradient_is_the_gradient": {"scale": 0.99},
    "descent.differentiable_at_ties": {"at": 1.5},
    "descent.mean_gradient_is_a_subgradient": {"strength": 1.0},
    "descent.convexity_step": {"share": 0.99},
    "descent.smoothness_step": {"factor": 1.99},
    # Printed as an equality; with the exact second moment it is one.
    "descent.one_step_equality": {"right_side": lambda s, coefficient: s.after},
    "descent.one_step_inequality": {"coefficient": 2.5},
    "descent.relu_pair_rho": {"expected": 1.34},
    "descent.rho_inside_the_minimisers": {"w": 1.0},
    "descent.distance_potential": {"coefficient": 3.0},
    "descent.leaving_the_minimisers": {"factor": 0.12},
    "descent.largest_inside_the_minimisers": {"share": 0.99},
    "descent.dividing_by_one_over_K": {"divisor": 5},
    "descent.mean_of_objectives": {"bound": lambda K, **q: convergence.gsgd_bound(K, **(q | {"Delta": 0.0}))},
    "descent.jensen": {"share": 0.99},
    "descent.rearranged": {"share": 0.99},
    "descent.nearest_minimiser": {"share": 0.99},
}
