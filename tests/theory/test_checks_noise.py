"""Checks on noisy losses: each comes out as expected, and fails when its formula is pushed past the truth."""

import numpy as np
import pytest

from theory.checks import load
from theory.checks.noise_laws import COIN, chosen_with_fixed_noise
from theory.formulas import noise_laws
from theory.verdict import Status


def test_assumption_5_12_coin_names_the_assumption():
    verdict = load()["noise_laws.biased_noise"].run(seed=0, alpha=1e-8)
    assert verdict.status is Status.ASSUMPTION_VIOLATED
    assert "Assumption 5.12" in verdict.witness
    assert "mean 0.5" in verdict.witness
    assert COIN.moments() == (0.5, 0.25)


def test_fixed_noise_counterexample_falls_to_864_over_900():
    # .9^3 + (1 - .9^3 - .1^3) / 2 = .864, up to a loss of 1e-6.
    assert chosen_with_fixed_noise(0.9, (1.0, 1e-6), 3, 1e6) == pytest.approx(0.864, abs=1e-5)


def test_fixed_noise_needs_a_positive_rival():
    # With f = (1, 0) the second atom's approximate loss is 0 under any noise: it is chosen with probability .1^3.
    losses = np.repeat([1.0, 0.0], [9, 1])
    assert noise_laws.expected_selected(losses, 3, 1e4, noise_laws.gaussian) == pytest.approx(0.999)


@pytest.mark.parametrize("function", ["exp", "log"])
@pytest.mark.parametrize("towards", [-np.inf, np.inf])
def test_equation_28_does_not_hang_on_the_last_digit(monkeypatch, function, towards):
    """Which noise wins is read off a comparison, and processors differ in the last digit of exponentials."""
    exact = getattr(np, function)
    monkeypatch.setattr(np, function, lambda numbers: np.nextafter(exact(numbers), towards))
    assert load()["noise_proof.probability_of_first"].run(seed=0, alpha=1e-8).status is Status.CONSISTENT
