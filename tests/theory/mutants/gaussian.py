from gsgd.oracle import standard_normal
from theory.formulas import rho
from theory.problems.linear_gaussian import LinearGaussian


def exact_times(factor):
    return lambda eps, delta, R: factor * rho.gaussian_rho(eps, delta, R)


def bound_times(factor):
    return lambda eps, delta, R: factor * rho.gaussian_rho_bound(eps, delta, R)


def nu_times(factor):
    return lambda R: factor * rho.nu(R)


MUTANTS = {
    "gaussian.linear_model_is_gaussian": [{"stretch": 1.1}, {"stretch": 0.9}],
    "gaussian.skewed_features": [{"noise": standard_normal}],
    "gaussian.no_error_at_the_minimum": [{"away": 1.0}],
    "gaussian.second_moment": [{"objective": lambda p, w: p.eps(w) ** 2 + 0.999 * p.delta(w) ** 2}],
    "gaussian.two_draws": [{"gaussian_rho": exact_times(1 + 1e-10)}],
    "gaussian.by_sampling": [{"gaussian_rho": exact_times(1.05)}, {"gaussian_rho": exact_times(0.95)}],
    "gaussian.bound_holds_in_the_model": [{"bound": bound_times(1.25)}],
    "gaussian.too_few_draws": [{"R": 9}],
    "gaussian.first_useful_R": [{"first": 24}, {"first": 26}],
    "gaussian.sharp_bound_is_sharper": [{"bound": rho.gaussian_rho_bound}],
    "gaussian.restated": [{"bound": rho.gaussian_rho_bound_sharp}, {"bound": bound_times(1 + 1e-9)}],
    "gaussian_growth.order_of_growth": [{"constant": 1.21}],
    "gaussian_growth.order_is_exact": [{"constant": 1.6}],
    "gaussian_growth.logarithmic_growth": [{"window": (1.25, 1.9)}, {"window": (1.2, 1.8)}],
    "gaussian_growth.extreme_value_law": [{"slope": 2.02}, {"slope": 1.98}],
    "gaussian_growth.follows_from_the_bound": [{"constant": 0.35}],
    "gaussian_growth.one_sided_hypothesis": [{"eps": -1.0}],
    "gaussian_growth.one_sided_hypothesis_any_constant": [{"eps": -1.0}],
    "gaussian_proof.distribution_of_the_largest": [{"power": 5.2}, {"power": 4.8}],
    "gaussian_proof.second_moment_bound": [{"nu": nu_times(1.4)}],
    "gaussian_proof.step_for_negative_level": [{"eps": -1.0}],
    "gaussian_proof.step_for_positive_level": [{"nu": nu_times(1.4)}],
    "gaussian_proof.unnormalised": [{"factor": 1.01}],
    "gaussian.by_quantiles": [{"gaussian_rho": exact_times(1 + 1e-7)}],
    "gaussian.divided_by_the_mean": [{"bound": bound_times(1 + 1e-9)}],
    "gaussian.squared_loss": [{"losses": lambda *a: 0.999 * LinearGaussian.losses(*a)}],
    "gaussian_growth.from_a_region": [{"w": 1.0}],
}
