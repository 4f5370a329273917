"""Bounds without convexity, by hand, and the losses and envelopes on which they are checked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.formulas import nonconvex
from theory.formulas.convergence import gsgd_bound
from theory.problems.nonconvex import SHAPES, Envelope
from theory.verdict import AssumptionViolated


@given(st.integers(1, 10**6), st.floats(1e-3, 1e3), st.floats(0, 1e3))
def test_the_default_step_gives_at_most_4_sqrt_3(K, L, F_R0):
    value = nonconvex.stationarity_bound(K, L=L, F_R0=F_R0)
    # The weights (1 + 1/K)^{-(k+1)} add up to between K/2 and K (1 - 1/e).
    assert value <= 4 * np.sqrt(3) * L * F_R0 / np.sqrt(K) * (1 + 1e-9)
    assert value >= 2 * np.sqrt(3) / (1 - np.exp(-1)) * L * F_R0 / np.sqrt(K) * (1 - 1e-9)


def test_a_step_of_ones_own_by_summing_the_weights():
    K, L, eta, p = 7, 2.0, 0.1, 0.9
    M = 1 + 3 * (eta * L) ** 2 + 3 * eta * L * (1 - p)
    weights = sum(M ** -(k + 1) for k in range(K))
    assert nonconvex.stationarity_bound(K, L=L, F_R0=3.0, eta=eta, p=p) == pytest.approx(2 / eta / weights * 3)


def test_convex_losses_are_quasar_convex():
    q = {"eta": 0.3, "L": 2.0, "D0": 1.5, "rho": 1.2, "Delta": 0.7}
    assert nonconvex.quasar_bound(5, gamma=1.0, **q) == pytest.approx(gsgd_bound(5, **q))
    # gamma = 0.8: (2.25 / 3 + 0.56) / (1.2 * 0.2).
    assert nonconvex.quasar_bound(5, gamma=0.8, **q) == pytest.approx((2.25 / 3 + 0.56) / 0.24)
    with pytest.raises(AssumptionViolated, match="gamma/L"):
        nonconvex.quasar_bound(5, gamma=0.6, **q)


@pytest.mark.parametrize("wrong", [{"p": 0.0}, {"K": 0}, {"F_R0": -1.0}, {"eta": 0.0}])
def test_bad_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} ="):
        nonconvex.stationarity_bound(**{"K": 3, "L": 1.0, "F_R0": 1.0, **wrong})


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_shapes_are_1_smooth_with_minimum_0_and_not_convex(shape):
    z = np.linspace(-8, 8, 40_001)
    value, slope = shape.value(z), shape.slope(z)
    assert value.min() == shape.value(np.array([0.0]))[0] == 0
    assert np.gradient(value, z)[1:-1] == pytest.approx(slope[1:-1], abs=1e-6)
    curvature = np.diff(slope) / np.diff(z)
    assert curvature.max() <= 1 + 1e-6
    assert -1 - 1e-6 <= curvature.min() < -0.1


def test_the_envelope_of_a_parabola_is_one():
    # min over u of u^2/2 + (u - w)^2 is at u = 2 w / 3, where it is w^2 / 3; its slope is 2 w / 3.
    envelope, w = Envelope(lambda u: u[:, 0] ** 2 / 2), np.array([-3.0, 0.1, 2.0])
    value, gradient = envelope(w)
    assert value == pytest.approx(w**2 / 3, abs=1e-9)
    assert gradient == pytest.approx((2 * w / 3) ** 2, abs=1e-4)
