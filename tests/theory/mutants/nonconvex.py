from theory.formulas import nonconvex

MUTANTS = {
    "nonconvex.stationarity": {"bound": lambda *a, **q: 0.13 * nonconvex.stationarity_bound(*a, **q)},
    "nonconvex.one_step": [{"growth": 1.0}, {"descent": 1.2}],
    "nonconvex.one_noisy_step": [{"descent": 3.0}, {"growth": 0.0}],
    # F^_1 is F.
    "nonconvex.objective_is_not_stationary": {"R": 1},
    "nonconvex.quasar": [{"gamma": 0.55}],
}
