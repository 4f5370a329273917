"""Weaker forms of `noise.p_R` and `noise.sigma_max_R` at R = 2, not sharp in spite of their names.

Z = zeta_2 - zeta_1 is symmetric with variance 2, so P(Z > s) <= min(1/2, 1/s^2), half of Chebyshev's inequality. The
next version drops this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from theory.formulas.noise import p_R, sigma_max_R

# exp(-2 sigma / sqrt3) at sqrt(3/2) sigma is exp(-sqrt2 sigma).
_STRETCH = np.sqrt(1.5)


def p_sharp(sigma: ArrayLike) -> Any:
    """1 - (1/2) (1 - e^{-sqrt2 sigma}), below `noise.p_R(sigma, 2)` for every sigma > 0 (beyond Theorem 5.15)."""
    return p_R(_STRETCH * np.asarray(sigma, float), 2)


def sigma_max_sharp(rho: ArrayLike) -> Any:
    """(1 / sqrt2) log(rho / (2 - rho)), below `noise.sigma_max_R(rho, 2)` (beyond Corollary 5.16)."""
    return sigma_max_R(rho, 2) / _STRETCH
