import numpy as np

from theory.problems import controls, convex


def sound():
    """A problem that satisfies everything."""
    return convex.witness_quadratics()


MUTANTS = {
    "assumptions.continuity": {"problems": lambda: [controls.jump()]},
    "assumptions.convexity": {"problems": lambda: [controls.non_convex()]},
    "assumptions.smoothness": {"problems": lambda: [controls.understated_smoothness()]},
    "assumptions.zero_minimum": {"problems": lambda: [controls.positive_minimum()]},
    "assumptions.minimisers": {"problems": lambda: [controls.wrong_minimiser()]},
    "assumptions.compact": {"problems": convex.interpolating_problems},
    **{
        f"assumptions.control_{name}": {"known": sound}
        for name in (
            "jump",
            "non_convex",
            "not_smooth",
            "understated_smoothness",
            "logistic",
            "positive_minimum",
            "wrong_minimiser",
            "interpolation",
            "separable",
        )
    },
    "assumptions.monotone_losses": {"transforms": (np.log, np.sin)},
    "assumptions.control_noisy_losses": {"sigma": 0.0},
    "assumptions.control_step_size": {"eta_L": 0.999},
    "assumptions.gradient_bound": {"factor": 1.999},
    "assumptions.gradient_bound_is_tight": {"factor": 1.999},
}
