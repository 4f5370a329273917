from theory.formulas import improved, stale


def scaled(name, function, factor):
    return {name: lambda *a, **q: factor * function(*a, **q)}


def promised_more(losses, scores, k):
    value, limit = stale.selected_by_scores(losses, scores, k)
    return value, 1.01 * limit


MUTANTS = {
    "stale.measured": {"selected": promised_more},
    "stale.measured_attained": {"selected": promised_more},
    "stale.stale_losses": scaled("factor", stale.stale_factor, 1.02),
    "stale.of_age": scaled("factor", stale.stale_factor_of_age, 1.01),
    "stale.along_runs": {"share": 1.01},
    "stale.age_is_not_bounded": {"largest": 10},
    "stale.additive_error": scaled("bound", stale.additive_error_bound, 0.9),
    "stale.random_share": [{"kept": 1.01}, scaled("bound", improved.gsgd_bound_improved, 0.94)],
    "stale.unbiased": {"factor": 1.99},
    "stale.unbiased_convergence": scaled("bound", stale.unbiased_bound, 0.95),
    # Selection by the losses themselves.
    "stale.same_rule": {"selected": lambda f, s, k: stale.selected_by_scores(f, f, k)},
}
