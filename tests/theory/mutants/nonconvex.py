from theory.formulas import nonconvex


def scaled(factor):
    return {"bound": lambda *a, **q: factor * nonconvex.stationarity_bound(*a, **q)}


MUTANTS = {
    "nonconvex.attained_at_the_start": [scaled(0.9999), scaled(1.0001)],
    "nonconvex.stationarity_of_the_bump": scaled(0.95),
    "nonconvex.stationarity": scaled(0.65),
    "nonconvex.one_step": [{"growth": 1.99}, {"descent": 0.252}],
    "nonconvex.one_noisy_step": [{"growth": 1.99}, {"descent": 0.252}],
    # F^_1 is F.
    "nonconvex.objective_is_not_stationary": {"R": 1},
    # Slow turns leave no valley.
    "nonconvex.growth_of_the_mean_is_not_enough": {"frequency": 1.0},
    "nonconvex.quasar": [{"gamma": 0.5}],
}
