from theory.formulas import rho


def lower(ceiling, share):
    """A ceiling whose excess over 1 is `share` of what it should be."""
    return {"ceiling": lambda *a: 1 + share * (ceiling(*a) - 1)}


MUTANTS = {
    "ceilings.draws_ceiling": lower(rho.rho_ceiling, 0.99),
    "ceilings.draws_ceiling_attained": [lower(rho.rho_ceiling, 0.99), lower(rho.rho_ceiling, 1.01)],
    "ceilings.top_k_ceiling": lower(rho.rho_top_k_ceiling, 0.95),
    "ceilings.batch_ceiling": [lower(rho.rho_top_k_ceiling, 0.99), lower(rho.rho_top_k_ceiling, 1.01)],
    "ceilings.decreasing_in_the_bias": {"gaussian_rho": lambda c, delta, R: rho.gaussian_rho(30 - c, delta, R)},
    "ceilings.linear_model_infimum": {"infimum": lambda c, R: rho.gaussian_rho(0.99 * c, 1.0, R)},
    "ceilings.derivative": {"factor": 1.99},
}
