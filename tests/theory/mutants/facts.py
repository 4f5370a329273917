from typing import Any

import numpy as np

import theory.checks.facts  # noqa: F401  (registers the checks)
from theory.formulas import facts

# What pushes each claim past the truth; for an expected refutation, the corrected formula.
MUTANTS: dict[str, dict[str, Any]] = {
    "facts.erf_definition": {"erf": facts.erf_as_printed},
    "facts.cantelli_discrete": {"bound": lambda variance, t: 0.99 * facts.cantelli_bound(variance, t)},
    "facts.cantelli_continuous": {"bound": lambda variance, t: facts.cantelli_bound(variance, 2 * t)},
    "facts.cantelli_extremal": {"bound": lambda variance, t: 0.999 * facts.cantelli_bound(variance, t)},
    "facts.cantelli_negative_t": {"t": 1.0},
    "facts.erf_bound": {"bound": lambda t: np.sqrt(1 - np.exp(-1.01 * t**2))},
    "facts.erf_bound_negative": {"bound": lambda t: -facts.erf_bound(t)},
    "facts.erf_bound_at_zero": {"bound": lambda t: 1.0001 * facts.erf_bound(t)},
    "facts.erf_bound_used": {"bound": lambda t: facts.erf_bound(np.sqrt(2) * t)},
    "facts.erfc_bound": {"bound": lambda t: 0.49 * facts.erfc_bound(t)},
    "facts.erfc_bound_any_t": {"t": 1.0},
    "facts.erf_identity_as_printed": {"probability": facts.erf_as_probability},
    "facts.erf_identity": {"probability": facts.erf_as_printed},
    "facts.erfc_tail_as_printed": {"stretch": np.sqrt(2)},
    "facts.erfc_tail": {"stretch": 1.414},
    "facts.gaussian_tail": {"factor": 0.499},
    "facts.gaussian_tail_sharp": {"factor": 0.499},
    "facts.erfc_bound_sharp": {"bound": lambda t: np.exp(-1.01 * t**2 - 1e-6)},
    "facts.erfc_bound_sharper": {"bound": lambda t: 2.001 * np.exp(-(t**2) / 2)},
    "facts.erfc_bound_sharp_negative_t": {"t": 1.0},
    "facts.half_gaussian": {"formula": lambda t: 1.001 * facts.half_gaussian_integral(t)},
    "facts.half_gaussian_as_probability": {"formula": lambda t: 1.001 * facts.half_gaussian_integral(t)},
    "facts.half_gaussian_negative_t": {"t": 1.0},
}
