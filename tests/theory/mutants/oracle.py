import numpy as np

from theory.routes import exact

MUTANTS = {
    "oracle.candidates_are_independent": {"p": 1 / 9 + 0.01},
    # Ignores that equal losses share their probability.
    "oracle.greedy_choice_by_brute_force": {
        "probabilities": lambda losses, R: np.eye(losses.shape[-1])[losses.argmax(-1)]
    },
    "oracle.steps_follow_the_rule": {"rate": 0.401},
    "oracle.simulated_gsgd_matches_the_tree": {"law": lambda n, R: exact.uniform(n)},
    "oracle.simulated_sgd_matches_the_tree": {"law": lambda n: exact.greedy(n, 2)},
    "oracle.greedy_pick_beats_the_mean": {
        "law": lambda n, R: exact.Law(np.eye(n), lambda f: 1.0 * (f == f.min(-1, keepdims=True)))
    },
    "oracle.plain_steps": {"rate": 0.41},
}
