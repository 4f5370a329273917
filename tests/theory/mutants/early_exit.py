import math
from typing import Any

import numpy as np

import theory.checks.early_exit  # importing a module of checks registers them
import theory.checks.early_exit_beyond
import theory.checks.early_exit_model  # noqa: F401
from theory.checks import early_exit_proof as proof
from theory.formulas import early_exit
from theory.problems.linear_network import (
    PLANE,
    PRINTED_SIGN,
    SPACE,
    USUAL_SIGN,
    DeepLinearNetwork,
    EvenLabels,
    SignLabels,
)

Mutants = dict[str, dict[str, Any]]


def flatter(beta):
    """Theorem 6.2 with the arcsin's slope times .9."""
    return 0.5 + 0.9 * np.arcsin(beta) / math.pi


def off(step, factor=1.001):
    """A step of the proof, a little off."""
    return lambda *arguments: factor * step(*arguments)


MODEL: Mutants = {
    "weights_as_printed": {"last": lambda k, d: k},
    "weights": {"last": lambda k, d: d},
    # One layer too many in B_j, and one too few in A_j.
    "split_product": {"later": lambda network, j: network.B(j) @ network.weights[j - 1]},
    "early_prediction": {"earlier": lambda network, j: network.A(max(1, j - 1))},
    "final_prediction": {"split": lambda network, j: network.A(j) @ network.B(j)},
    "cross_entropy": {"losses": lambda network, x, y: DeepLinearNetwork.losses(network, x, 1 - y)},
    # With three candidates the sign does matter: the argmax of one is the argmin of the other.
    "sign_of_sigmoid": {"candidates": 3},
    "loss_order_printed_sign": {"sign": USUAL_SIGN},
    "loss_order_usual_sign": {"sign": PRINTED_SIGN},
    "last_exit": {"layer": 0},
    "even_labels": {"data": EvenLabels(SPACE.mean, SPACE.radius, lambda rng, shape: 1.1 * rng.standard_normal(shape))},
    "labels_are_even": {"data": SignLabels(np.ones(5))},
    "sign_labels": {"data": SPACE},
    "sign_labels_are_even": {"data": SPACE},
    "sign_labels_break_theorem": {"data": PLANE},
}


THEOREM: Mutants = {
    "half_planes": {"formula": flatter},
    "rotation_network": {"formula": flatter},
    "residual_network": {"formula": flatter},
    "usual_sigmoid_network": {"formula": flatter},
    "parallel": {"stretch": ((2.0, 0.0), (0.0, 2.1))},
    "lower_bound_negative_beta": {"angle": 1.1},
    "loose_at_zero": {"bound": early_exit.agreement_bound_sharp},
    "tight_up_to_constants": {"bound": early_exit.agreement_bound_sharp},
    "corollary": {"bound": lambda tau: 1 - 0.49 * np.sqrt(tau)},
    "corollary_chain": {"bound": early_exit.agreement_bound_sharp},
    "corollary_order": {"power": 0.49},
    "corollary_constant": {"bound": early_exit.corollary_bound_sharp},
}


PROOF: Mutants = {
    "both_predictions": {"last": lambda network, j: network.A(j) @ network.B(j)},
    "both_losses": {"swap": True},
    "covariance_entries": {"factor": 1.99},
    "symmetry": {"half": 0.51},
    "conditional_event": {"formula": flatter},
    "joint_event": {"formula": lambda beta: early_exit.agreement(beta) - 0.02},
    "covariance_matrix": {"formula": lambda alpha_1, alpha_2, beta: proof.covariance(alpha_1, alpha_2, beta) / 2},
    "general_density": {"formula": off(proof.density_67)},
    "density": {"formula": off(proof.density_68)},
    **{f"step_{number}": {"step": off(getattr(proof, f"equation_{number}"))} for number in range(69, 83)},
    # (80) with the better e^{-t^2} and a little more: no longer below (79).
    "step_80": {"step": lambda alpha_1, alpha_2, beta: 1 - 0.49 * math.sqrt(1 - beta**2)},
}


BEYOND: Mutants = {
    "sharp_bound_sharper": {"bound": lambda beta: early_exit.agreement_bound(beta) - 0.001},
    "sharp_bound_negative_beta": {"beta": 0.5},
    "trivial_below": {"threshold": 0.9},
    "integral_continued": {"formula": flatter},
    "opposed_network": {"formula": flatter},
    "corollary_sharp": {"bound": lambda tau: 1 - 0.499 * np.sqrt(tau)},
    "corollary_sharper": {"bound": early_exit.corollary_bound},
    "corollary_constants": {"low": 0.451},
    "general_R_monotone": {"formula": lambda beta, R, nodes: 1 - early_exit.agreement_R(beta, R, nodes=nodes)},
    "general_R_of_4": {"formula": lambda beta, R: early_exit.agreement_R(0.95 * beta, R)},
    "general_R_of_16": {"formula": lambda beta, R: early_exit.agreement_R(0.95 * beta, R)},
    "top_half_of_2": {"law": flatter},
    "top_half_limit": {"law": flatter},
    # The limit in place of the value at B = 8.
    "top_half_of_8": {"formula": lambda beta, B, k: early_exit.top_half_overlap(beta)},
    "top_half_of_64": {"law": flatter},
    "spherical": {"formula": flatter},
    "spherical_is_not_gaussian": {"degrees": 1e9},
    "correlated": {"root": ((1.0, 0.0), (0.0, 1.0))},
}


MUTANTS: Mutants = {
    f"{module}.{name}": replaced
    for module, mutants in (
        ("early_exit_model", MODEL),
        ("early_exit", THEOREM),
        ("early_exit_proof", PROOF),
        ("early_exit_beyond", BEYOND),
    )
    for name, replaced in mutants.items()
}
