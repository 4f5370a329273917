import operator

from theory.formulas import rho


def scaled_max(factor):
    return lambda losses, R: factor(R) * rho.expected_max(losses, R)


def scaled_top_k(factor):
    return lambda losses, B, k: factor(B, k) * rho.expected_top_k(losses, B, k)


def one_draw_more(losses, B, k):
    return rho.expected_top_k(losses, B + 1, k)


MUTANTS = {
    "rho.expected_max_enumerated": [{"expected_max": lambda f, R: rho.expected_max(f, R + 1)}],
    "rho.expected_max_sampled": [
        {"expected_max": scaled_max(lambda R: 1.03)},
        {"expected_max": scaled_max(lambda R: 0.97)},
    ],
    "rho.rho_at_least_one": [{"least": 1.0001}],
    "rho.rho_at_most_R": [{"most": lambda R: 0.9999 * R}],
    "rho.rho_attains_R": [{"most": lambda R: 1.00001 * R}],
    "rho.rho_monotone": [{"expected_max": scaled_max(lambda R: 1 - 1e-6 * R)}],
    "rho.rho_two_is_gini": [{"half": 0.501}, {"half": 0.499}],
    "rho.strict_at_the_minimum": [{"less": operator.le}],
    "rho.strict_at_infinity": [{"region": 10}],
    "rho.zero_minimum": [{"minimum_loss": 0.5}],
    "rho.infimum_at_least_one": [{"least": 1 + 1e-6}],
    "rho.infimum_at_most_ratio": [{"bound": lambda Delta, F_star: 0.9999 * rho.rho_star_bound(Delta, F_star)}],
    "rho.strict_on_a_compact_region": [{"half": 0.51}],
    "top_k.enumerated": [{"expected_top_k": one_draw_more}],
    "top_k.sampled": [
        {"expected_top_k": scaled_top_k(lambda B, k: 1.02)},
        {"expected_top_k": scaled_top_k(lambda B, k: 0.98)},
    ],
    "top_k.rho_at_least_one": [{"least": 1.0001}],
    "top_k.rho_at_most_ratio": [{"most": lambda ratio: 0.9999 * ratio}],
    "top_k.monotone_in_B": [{"expected_top_k": scaled_top_k(lambda B, k: 1 - 1e-6 * B)}],
    "top_k.monotone_in_k": [{"expected_top_k": scaled_top_k(lambda B, k: 1 + 1e-6 * k)}],
    "top_k.cvar_variational": [{"cvar": lambda f, kappa: rho.cvar(f, 0.999 * kappa)}],
    "top_k.tends_to_cvar": [{"cvar": lambda f, kappa: 0.999 * rho.cvar(f, kappa)}, {"rate": 0.19}],
    "rho.continuity_of_the_mean": [{"power": 1}],
    "rho.spectral": [{"expected_max": scaled_max(lambda R: 0.999)}],
}
