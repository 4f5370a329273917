"""Checks of the k-of-B form of F^ and rho, which SIFT averages over, and of its limit, the mean of the worst share."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from gsgd.selectors import select_top_k
from theory.checks.rho import enumerate_top_k, loss_vectors, small_instances
from theory.formulas import rho
from theory.routes.montecarlo import mean_equals, sample_size
from theory.verdict import Context, Route, Verdict, Verdicts, at_least, at_most, check, equal

BATCHES = (1, 2, 3, 5, 8, 16, 64, 1000)


@check("Beyond 5.7", Route.EXACT)
def enumerated(context: Context, *, expected_top_k=rho.expected_top_k) -> Verdicts:
    """F^_{B,k} equals the enumeration of all n^B draws in exact rationals: 15 instances, n <= 4, 1 <= k <= B <= 5"""
    for losses in small_instances(context.rng, 15, 4):
        floats = [float(f) for f in losses]
        for B in range(1, 6):
            for k in range(1, B + 1):
                exact = float(enumerate_top_k(losses, B, k))
                yield equal(expected_top_k(floats, B, k), exact, where=f"B = {B}, k = {k}", tolerance=1e-13)


@check("Beyond 5.7", Route.MONTE_CARLO)
def sampled(context: Context, *, expected_top_k=rho.expected_top_k) -> Verdict:
    """the mean of what select_top_k keeps, 4 of 8 sampled losses, is F^_{8,4}"""
    losses = context.rng.random(20) ** 3
    drawn = losses[context.rng.integers(20, size=(sample_size(0.01, context.alpha), 8))]
    kept = np.take_along_axis(drawn, select_top_k(drawn, 4), axis=1)
    return mean_equals(kept.mean(axis=1), expected_top_k(losses, 8, 4), context.alpha, cap=1.0)


@check("Beyond 5.7", Route.CLOSED_FORM)
def rho_at_least_one(context: Context, *, least: float = 1.0) -> Verdicts:
    """rho_{B,k} >= 1 for B <= 1,000 and k in {1, B/4, B/2, B}, 130 random loss vectors"""
    for value, _, place in _rho_top_k(context.rng):
        yield at_least(value, least, where=place)


@check("Beyond 5.7", Route.CLOSED_FORM)
def rho_at_most_ratio(context: Context, *, most: Callable[[float], float] = lambda ratio: ratio) -> Verdicts:
    """rho_{B,k} <= B/k for B <= 1,000 and k in {1, B/4, B/2, B}, 130 random loss vectors"""
    for value, ratio, place in _rho_top_k(context.rng):
        yield at_most(value, most(ratio), where=place)


@check("Beyond 5.7", Route.CLOSED_FORM)
def monotone_in_B(context: Context, *, expected_top_k=rho.expected_top_k) -> Verdicts:
    """F^_{B,k} is non-decreasing in B = k..1,000 at k = 1, 2, 5, on 130 random loss vectors"""
    for losses in loss_vectors(context.rng):
        for k in (1, 2, 5):
            values = np.stack([expected_top_k(losses, B, k) for B in BATCHES if k <= B]) / losses.max(axis=1)
            yield at_least(values[1:], values[:-1], where=f"k = {k}")


@check("Beyond 5.7", Route.CLOSED_FORM)
def monotone_in_k(context: Context, *, expected_top_k=rho.expected_top_k) -> Verdicts:
    """F^_{B,k} is non-increasing in k = 1..B at B = 2, 8, 64, on 130 random loss vectors"""
    for losses in loss_vectors(context.rng):
        for B in (2, 8, 64):
            values = np.stack([expected_top_k(losses, B, k) for k in range(1, B + 1)]) / losses.max(axis=1)
            yield at_most(values[1:], values[:-1], where=f"B = {B}")


@check("Beyond 5.7", Route.CLOSED_FORM)
def cvar_variational(context: Context, *, cvar=rho.cvar) -> Verdicts:
    """CVaR_{1-kappa} is the minimum over t of t + E(f - t)^+ / kappa, at 5 kappa, on 130 random loss vectors"""
    for losses in loss_vectors(context.rng):
        scale = losses.max(axis=1)
        excess = np.maximum(losses[:, None, :] - losses[:, :, None], 0).mean(axis=2)
        for kappa in (0.01, 0.1, 0.25, 0.5, 1.0):
            # The objective is convex and piecewise linear in t, so an atom attains the minimum (Rockafellar & Uryasev).
            expected = (losses + excess / kappa).min(axis=1)
            yield equal(cvar(losses, kappa) / scale, expected / scale, where=f"kappa = {kappa}")


@check("Beyond 5.7", Route.CLOSED_FORM)
def tends_to_cvar(context: Context, *, cvar=rho.cvar, rate: float = 0.25) -> Verdicts:
    """0 <= CVaR_{1-kappa} - F^_{B, kappa B} <= range / (4 kappa sqrt(B)): kappa in {1/10, 1/2}, B = 10..10^6"""
    for losses in loss_vectors(context.rng):
        scale = losses.max(axis=1)
        spread = np.ptp(losses, axis=1) / scale
        for share, B in itertools.product((10, 2), (10, 100, 1000, 10_000, 100_000, 1_000_000)):
            # The gap in the share of the top v n is at most E(M/B - v)^+ / kappa for M ~ Bin(B, v), by cases v <= kappa
            # and v >= kappa, and E(M/B - v)^+ is half of E|M/B - v| <= 1 / (2 sqrt B).
            gap = (cvar(losses, 1 / share) - rho.expected_top_k(losses, B, B // share)) / scale
            where = f"kappa = 1/{share}, B = {B}"
            yield at_least(gap, 0.0, where=where)
            yield at_most(gap, rate * spread * share / np.sqrt(B), where=where)


def _rho_top_k(rng: np.random.Generator) -> list[tuple[np.ndarray, float, str]]:
    """(rho_{B,k}, B / k, place) over loss vectors, B and k."""
    return [
        (rho.rho_top_k(losses, B, k), B / k, f"n = {losses.shape[1]}, B = {B}, k = {k}")
        for losses in loss_vectors(rng)
        for B in BATCHES
        for k in sorted({1, max(1, B // 4), max(1, B // 2), B})
    ]
