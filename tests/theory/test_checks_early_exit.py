import numpy as np

from theory.formulas import early_exit
from theory.problems.linear_network import RESIDUAL


def test_theorem_6_2_networks_would_show_a_flatter_law():
    # The arcsin's slope times .9 moves p_j of the 4-layer network by .011, .016 and .029 at its exits.
    betas = np.array([RESIDUAL.beta(j) for j in (1, 2, 3)])
    flatter = 0.5 + 0.9 * np.arcsin(betas) / np.pi
    assert min(early_exit.agreement(betas) - flatter) > 0.01
