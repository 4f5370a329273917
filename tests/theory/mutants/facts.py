from typing import Any

import numpy as np
from scipy import special

import theory.checks.facts  # noqa: F401  (registers the checks)
from theory.formulas import facts

# What pushes each claim past the truth; for an expected refutation, the corrected formula.
MUTANTS: dict[str, dict[str, Any]] = {
    "facts.erf_definition": {"erf": facts.erf_as_printed},
    "facts.cantelli_discrete": {"bound": lambda variance, t: 0.99 * facts.cantelli_bound(variance, t)},
    "facts.cantelli_continuous": {"bound": lambda variance, t: 0.49 * facts.cantelli_bound(variance, t)},
    "facts.cantelli_extremal": {"bound": lambda variance, t: 0.999 * facts.cantelli_bound(variance, t)},
    "facts.cantelli_negative_t": {"t": 1.0},
    "facts.erf_bound_at_zero": {"bound": lambda t: 1.0001 * facts.erf_bound(t)},
    "facts.erfc_bound_any_t": {"t": 1.0},
    "facts.erf_identity_as_printed": {"probability": facts.erf_as_probability},
    "facts.erf_identity": {"probability": facts.erf_as_printed},
    "facts.erfc_tail_as_printed": {"stretch": np.sqrt(2)},
    "facts.erfc_tail": {"stretch": 1.414},
    "facts.erfc_bound_sharp_negative_t": {"t": 1.0},
    "facts.half_gaussian": {"formula": lambda t: 1.001 * facts.half_gaussian_integral(t)},
    "facts.half_gaussian_as_probability": {"formula": lambda t: 1.001 * facts.half_gaussian_integral(t)},
    "facts.half_gaussian_negative_t": {"t": 1.0},
    "facts.erf_limit": {"erfc": lambda t: 1.01 * special.erfc(t)},
}
