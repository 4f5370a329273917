"""Bounds without convexity, by hand, and the losses and envelopes on which they are checked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsgd.linear import squared
from theory.formulas import nonconvex
from theory.formulas.convergence import gsgd_bound
from theory.formulas.rho import expected_max
from theory.problems.convex import smoothed_relu_pair
from theory.problems.nonconvex import SHAPES
from theory.problems.nonconvex import nonconvex as nonconvex_problem
from theory.routes import exact
from theory.routes.envelope import Envelope
from theory.verdict import AssumptionViolated


@given(st.integers(1, 10**6), st.floats(1e-3, 1e3), st.floats(0, 1e3))
def test_the_default_step_has_the_stated_constant_and_is_nearly_the_best(K, L, F_R0):
    value = nonconvex.stationarity_bound(K, L=L, F_R0=F_R0)
    assert value <= min(8 / 7, 4.48 / np.sqrt(K)) * L * F_R0 * (1 + 1e-9)
    others = nonconvex.stationarity_bound(K, L=L, F_R0=F_R0, eta=np.geomspace(1e-4, 2, 400) / L)
    assert value <= 1.01 * others.min()


def test_a_step_of_ones_own_by_summing_the_weights():
    K, L, eta, p = 40, 2.0, 0.05, 0.99
    h = eta * L
    u = 1 - p * (1 - h)
    M = 1 + 2 * h * u
    total = 1 / 8 + 3 / 4 * M ** -(K - 1) + h * (2 - u) / 4 * sum(M ** -(k + 1) for k in range(K - 1))
    assert nonconvex.stationarity_bound(K, L=L, F_R0=3.0, eta=eta, p=p) == pytest.approx(L * 3 / total)
    assert total > 7 / 8


def test_large_steps_leave_the_start():
    for eta in (0.5, 1.0, 3.0):
        assert nonconvex.stationarity_bound(9, L=1.0, F_R0=3.0, eta=eta) == pytest.approx(24 / 7)


def test_convex_losses_are_quasar_convex():
    q = {"eta": 0.3, "L": 2.0, "D0": 1.5, "rho": 1.2, "Delta": 0.7}
    assert nonconvex.quasar_bound(5, gamma=1.0, **q) == pytest.approx(gsgd_bound(5, **q))
    # gamma = 0.8: (2.25 / 3 + 0.56) / (1.2 * 0.2).
    assert nonconvex.quasar_bound(5, gamma=0.8, **q) == pytest.approx((2.25 / 3 + 0.56) / 0.24)
    with pytest.raises(AssumptionViolated, match="gamma/L"):
        nonconvex.quasar_bound(5, gamma=0.6, **q)


def test_for_quasar_convex_losses_rho_counts_iterates_among_the_minimisers():
    """All of [-1, 1] minimises F of the two smoothed ReLUs, off which F^_2 / F >= 4/3; at w* = 0 it is 1.

    So no rho above Delta / F* = 1 will do about this w*: with 4/3 the bound would in time fall below F*.
    """
    known = smoothed_relu_pair(start=0.5)
    q = {"eta": 0.01, "L": known.L, "gamma": 1.0, "D0": 0.5, "Delta": expected_max(known.atom_losses([0.0]), 2)}
    assert nonconvex.quasar_bound(10**6, rho=1.0, **q) >= known.F_star
    assert nonconvex.quasar_bound(10**6, rho=4 / 3, **q) < known.F_star


@pytest.mark.parametrize("wrong", [{"p": 0.0}, {"K": 0}, {"F_R0": -1.0}, {"eta": 0.0}])
def test_bad_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} ="):
        nonconvex.stationarity_bound(**{"K": 3, "L": 1.0, "F_R0": 1.0, **wrong})


@pytest.mark.parametrize("loss", SHAPES, ids=lambda loss: loss.name)
def test_losses_are_1_smooth_with_minimum_0_and_not_convex(loss):
    z = np.linspace(-8, 8, 40_001)
    value, slope = loss.value(z, loss.c), loss.slope(z, loss.c)
    assert value.min() == loss.value(np.array([0.0]), loss.c)[0] == 0
    # The curvature of the bump jumps, by which a difference over 4e-4 is off by 2e-4.
    assert np.gradient(value, z)[1:-1] == pytest.approx(slope[1:-1], abs=3e-4)
    curvature = np.diff(slope) / np.diff(z)
    assert curvature.max() <= 1 + 1e-6
    assert -1 - 1e-6 <= curvature.min() < -0.1


def test_the_envelope_of_a_parabola_is_one():
    # Of (w - 1)^2/2, min over u of (u-1)^2/2 + (u - w)^2 is at u = (1 + 2 w)/3: (w - 1)^2/3, with slope 2 (w - 1)/3.
    envelope, w = (
        Envelope(nonconvex_problem(squared(), [1.0], [1.0], start=0.0), exact.uniform(1)),
        np.array([-3.0, 2.0]),
    )
    value, gradient = envelope(w)
    assert value == pytest.approx((w - 1) ** 2 / 3)
    assert gradient == pytest.approx((2 * (w - 1) / 3) ** 2)


def test_the_envelope_has_the_kink_of_its_function():
    # F^_2 of (w + 1)^2/2 and (w - 1)^2/2 has the slope +-1/2 beside 0: u = 0 is nearest for |w| <= 1/4.
    known = nonconvex_problem(squared(), [1.0, 1.0], [-1.0, 1.0], start=0.0)
    value, gradient = Envelope(known, exact.greedy(2, 2))(np.array([0.1, -0.25]))
    assert value == pytest.approx([0.5 + 0.01, 0.5 + 0.0625])
    assert gradient == pytest.approx([0.04, 0.25])
