import importlib.util
from fractions import Fraction

from theory.formulas import rho

# Decimals and fractions, as ball arithmetic takes them; the claims are the exact ones of the checks.
MUTANTS = {
    "rigorous_lemma_c1.printed_constant": [{"constant": "0.511"}, {"constant": "0.499"}],
    "rigorous_lemma_c1.sharp_constant": {"constant": "0.511"},
    "rigorous_lemma_c1.too_sharp_constant": {"constant": "0.5112"},
    "rigorous_lemma_c1.best_constant": {"constant": "0.51114550441745910942"},
    "rigorous_lemma_c1.widest_range": [{"last": "3.0202"}, {"first": "3.0201"}, {"constant": "0.719"}],
    "rigorous_facts.erf_bound": {"rate": Fraction(399, 100)},
    "rigorous_facts.erfc_bound": [{"factor": Fraction(99, 100)}, {"rate": Fraction(101, 100)}],
    "rigorous_facts.erfc_bound_sharp": [{"factor": Fraction(999, 1000)}, {"rate": Fraction(101, 100)}],
    "rigorous_gaussian.quadrature_is_enclosed": {"gaussian_rho": lambda *at: rho.gaussian_rho(*at) * (1 + 1e-11)},
    "rigorous_gaussian.bound_holds": {"factor": Fraction(4, 3)},
    "rigorous_gaussian.without_the_factor": {"factor": Fraction(4, 3)},
    "rigorous_gaussian_proof.independent_draws": {"extra": 1},
    "rigorous_gaussian_proof.normal_by_erf": {"square": 2 + Fraction(1, 10**15)},
    "rigorous_gaussian_proof.erf_replaced": {"rate": Fraction(199, 100)},
    "rigorous_gaussian_proof.root_replaced": {"half": Fraction(501, 1000)},
    "rigorous_gaussian_proof.collected": {"quarter": Fraction(251, 1000)},
    "rigorous_gaussian_proof.exponential_replaced": {"factor": Fraction(999, 1000)},
    "rigorous_gaussian_proof.choice_of_t": {"four": 4 + Fraction(1, 10**15)},
    "rigorous_gaussian_proof.nu_is_real": [{"first": 8}, {"first": 10}],
    "rigorous_gaussian_proof.event": {"factor": Fraction(3, 2)},
    "rigorous_early_exit.integral_is_closed_form": [
        # The slope of the arcsine times 0.9.
        {"formula": lambda beta: (1 + beta.asin() * 9 / 5 / beta.pi()) / 2},
        {"power": 2},
    ],
    "rigorous_early_exit.lower_bound": {"factor": Fraction(499, 1000)},
    "rigorous_early_exit.sharp_bound": {"half": Fraction(499, 1000)},
    "rigorous_early_exit.signed_bound": {"factor": Fraction(999, 1000)},
    "rigorous_noise.decreases_in_the_share": {"rate": Fraction(99, 100)},
    "rigorous_noise.derivative_is_negative": {"factor": Fraction(99, 100)},
    "rigorous_noise.at_least_the_printed": {"constant": "0.499"},
}
if importlib.util.find_spec("flint") is None:
    # Without the extra there are no such checks.
    MUTANTS = {}
