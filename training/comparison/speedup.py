"""How much further a method's budget goes than plain training's: the speed-up on a ladder of budgets, with an interval.

Plain training and the method are trained at every rung of a ladder of budgets b_1 < ... < b_n, each on the same seeds.
The speed-up of the method at the budget b is the c with

    plain(c b) = method(b),

so that c = 1.4 says that plain training needs 1.4 times the budget for the same value. The budgets may be of any unit
in which both pay for all they do. Nothing here knows where the values came from.

plain: in x = log b, the monotone cubic of Fritsch and Carlson through the rungs' means over seeds, which isotonic
regression has brought into order where noise had not. It is never extrapolated: what no budget between b_1 and b_n
reaches is "above the ladder", what all exceed "below the ladder". Where it gets worse with the budget beyond what noise
explains, as the cross-entropy of a model does that learns its rows by heart, no budget stands for a value, and there
is no factor.

Seeds: seed s of plain has that curve plus its own deviations from the means, linear in x between the rungs, so that the
mean over seeds is the curve itself:

    P_s(x) = P(x) + e_s(x),      mean over s of e_s = 0.

References:
    Fritsch, Carlson, Monotone piecewise cubic interpolation, SIAM J. Numer. Anal. 17 (1980) 238-246.
    Fieller, Some problems in interval estimation, J. R. Stat. Soc. B 16 (1954) 175-185: intervals of a ratio as all
    that a t test does not reject, of which this is the case of a curve in place of a line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq, isotonic_regression
from scipy.stats import t as student

ON, ABOVE, BELOW = "on the ladder", "above the ladder", "below the ladder"
FALLS = "plain training gets worse with the budget"
STEPS_PER_OCTAVE = 32
"""Budgets of each factor of 2 at which the test is tried before the ends of an interval are refined."""


@dataclass(frozen=True)
class SpeedUp:
    """A factor in budget with its interval.

    Attributes:
        factor: c; beyond the ladder NaN for one rung, and for the mean of several what the ladder bounds it by.
        low, high: of all c that are not rejected; 0 and infinity where nothing on the ladder is.
        place: ON, ABOVE or BELOW; FALLS where there is no factor.
    """

    factor: float
    low: float
    high: float
    place: str

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 1."""
        return not self.low <= 1 <= self.high


class PlainCurve:
    """Plain training's values against the budget, of which there is one curve a seed.

    Args:
        budgets: (n,), ascending, above 0, n >= 2.
        values: (n, seeds), of plain training at each budget.
        higher_is_better: as of an accuracy; not so of a loss.

    Raises:
        ValueError: for budgets or values that are none.
    """

    def __init__(self, budgets: ArrayLike, values: ArrayLike, *, higher_is_better: bool = True):
        self.budgets = np.asarray(budgets, dtype=float)
        self.sign = 1.0 if higher_is_better else -1.0
        self.values = self.sign * np.asarray(values, dtype=float)
        if self.budgets.ndim != 1 or len(self.budgets) < 2:
            raise ValueError(f"budgets of shape {self.budgets.shape} must be at least 2 in a row")
        if not (self.budgets[0] > 0 and np.all(np.diff(self.budgets) > 0) and np.isfinite(self.budgets[-1])):
            raise ValueError(f"budgets = {self.budgets.tolist()} must be above 0, finite and ascending")
        if self.values.ndim != 2 or len(self.values) != len(self.budgets) or not self.values.shape[1]:
            raise ValueError(f"values of shape {self.values.shape} must be ({len(self.budgets)}, seeds)")
        if not np.isfinite(self.values).all():
            raise ValueError("values of plain training must be finite: a run that diverged has none")
        self.logs = np.log(self.budgets)
        means = self.values.mean(axis=1)
        self.knots = np.asarray(isotonic_regression(means).x)
        self._curve = PchipInterpolator(self.logs, self.knots, extrapolate=False)
        self._deviations = self.values - means[:, None]

    def falls(self, error: float = 0.05) -> bool:
        """Whether plain training is worse at some rung than at an earlier one, by a paired t test over seeds.

        Args:
            error: the probability that the test of a pair of rungs finds a difference, in either direction, by chance.
        """
        pairs = itertools.combinations(self.values, 2)
        return self.seeds > 1 and any(
            float((later - earlier).mean() + _half_width(later - earlier, error)) < 0 for earlier, later in pairs
        )

    @property
    def seeds(self) -> int:
        return int(self.values.shape[1])

    def mean(self, logs: ArrayLike) -> np.ndarray:
        """P at log budgets on the ladder, higher being better; not decreasing, NaN beyond the ladder."""
        return np.asarray(self._curve(np.asarray(logs, dtype=float)))

    def of_seeds(self, logs: ArrayLike) -> np.ndarray:
        """P_s at log budgets (...) on the ladder: (..., seeds), higher being better."""
        places = np.asarray(logs, dtype=float)
        after = np.clip(np.searchsorted(self.logs, places), 1, len(self.logs) - 1)
        share = ((places - self.logs[after - 1]) / (self.logs[after] - self.logs[after - 1]))[..., None]
        deviations = (1 - share) * self._deviations[after - 1] + share * self._deviations[after]
        return self.mean(places)[..., None] + deviations

    def reached(self, value: float) -> tuple[float, str]:
        """(log budget at which P is `value`, where that is); of a flat stretch its middle, beyond the ladder its end.

        Args:
            value: higher being better.
        """
        if value < self.knots[0]:
            return float(self.logs[0]), BELOW
        if value > self.knots[-1]:
            return float(self.logs[-1]), ABOVE
        first, last = np.searchsorted(self.knots, value, "left"), np.searchsorted(self.knots, value, "right")
        if first < last:
            return float((self.logs[first] + self.logs[last - 1]) / 2), ON
        ends = self.logs[first - 1], self.logs[first]
        return float(brentq(lambda x: float(self.mean(x)) - value, *ends, xtol=1e-12)), ON

    def slope(self, log: float) -> float:
        """The mean slope of P between the two rungs around a log budget."""
        after = int(np.clip(np.searchsorted(self.logs, log), 1, len(self.logs) - 1))
        return float(np.diff(self.knots)[after - 1] / np.diff(self.logs)[after - 1])


def speed_up(plain: PlainCurve, budget: float, values: ArrayLike, *, error: float = 0.05) -> SpeedUp:
    """The speed-up of a method at one budget.

        d_s(c) = method_s(b) - P_s(log(c b)),      interval: all c with  |mean of d_s| <= t s(d) / sqrt(seeds)

    that is, all c that a paired t test over seeds does not reject. If they are no interval, the least that holds them.

    Args:
        budget: b, above 0.
        values: (seeds,), of the method at that budget, on the seeds of `plain` and in their order.
        error: of the test; the probability of missing c, if differences are normal and plain's curve is what it is
            taken for between the rungs.

    Returns:
        With a single seed there is no interval: it is from 0 to infinity.

    Raises:
        ValueError: if the values are not as many as plain has seeds, or not finite.
    """
    own = _paired(plain, np.asarray(values, dtype=float)[None])[0]
    if plain.falls():
        return SpeedUp(math.nan, 0.0, math.inf, FALLS)
    at, place = plain.reached(float(own.mean()))
    low, high = _not_rejected(lambda logs: own - plain.of_seeds(logs), at, (plain.logs[0], plain.logs[-1]), error=error)
    factor = math.exp(at - math.log(budget)) if place == ON else math.nan
    return SpeedUp(factor, _factor(low - math.log(budget)), _factor(high - math.log(budget)), place)


def claim(plain: PlainCurve, budgets: ArrayLike, values: ArrayLike, *, error: float = 0.05) -> SpeedUp:
    """What is claimed of a method: the geometric mean of its speed-ups at several budgets.

    The interval is of all c e^delta that a paired t test over seeds does not reject, where c_r are the factors found,
    c their geometric mean, and

        d_s(delta) = sum over r of  (method_s(b_r) - P_s(log(c_r b_r) + delta)) / P'(log(c_r b_r)).

    Divided by the slopes, every rung counts as much as in the geometric mean. At a rung beyond the ladder the ladder's
    end stands in for it: then the factor is a bound ("above the ladder": it is at least so much), and so is the
    interval's end on that side.

    Args:
        budgets: (rungs,), the inner rungs as a rule, decided before the values are seen: a factor above 1 cannot be
            measured at the last rung, nor one below 1 at the first.
        values: (rungs, seeds), on the seeds of `plain`.

    Raises:
        ValueError: as `speed_up`, or without a budget.
    """
    logs = np.log(np.asarray(budgets, dtype=float))
    if logs.ndim != 1 or not len(logs):
        raise ValueError("a claim needs at least one rung")
    own = _paired(plain, np.asarray(values, dtype=float))
    if len(own) != len(logs):
        raise ValueError(f"values of {len(own)} rungs must be of {len(logs)}, as there are budgets")
    if plain.falls():
        return SpeedUp(math.nan, 0.0, math.inf, FALLS)
    reached = [plain.reached(float(row.mean())) for row in own]
    places = {place for _, place in reached} - {ON}
    if len(places) == 2:
        # Too good for the ladder here and too bad for it there: their mean is bounded on no side.
        return SpeedUp(math.nan, 0.0, math.inf, f"{ABOVE} and {BELOW}")
    place = next(iter(places), ON)
    at = np.array([log for log, _ in reached])
    mean = float((at - logs).mean())
    slopes = np.array([plain.slope(log) for log in at])
    if not (slopes > 0).all():
        return SpeedUp(math.exp(mean), 0.0, math.inf, place)

    def differences(shifts: np.ndarray) -> np.ndarray:
        found = np.zeros((len(shifts), plain.seeds))
        for row, log, slope in zip(own, at, slopes, strict=True):
            found += (row - plain.of_seeds(np.clip(log + shifts, plain.logs[0], plain.logs[-1]))) / slope
        return found

    span = float((plain.logs[0] - at).max()), float((plain.logs[-1] - at).min())
    low, high = _not_rejected(differences, 0.0, span, error=error)
    return SpeedUp(
        math.exp(mean),
        0.0 if place == BELOW else _factor(mean + low),
        math.inf if place == ABOVE else _factor(mean + high),
        place,
    )


def _paired(plain: PlainCurve, values: np.ndarray) -> np.ndarray:
    """(rungs, seeds) of a method, higher being better."""
    if values.ndim != 2 or values.shape[1] != plain.seeds:
        raise ValueError(f"values of shape {values.shape} must have {plain.seeds} seeds, as plain training has")
    if not np.isfinite(values).all():
        raise ValueError("values of the method must be finite: a run that diverged has none")
    return plain.sign * values


def _not_rejected(
    differences: Callable[[np.ndarray], np.ndarray], centre: float, span: tuple[float, float], *, error: float
) -> tuple[float, float]:
    """(low, high) of the places in `span` at which a t test does not tell the mean difference from 0.

    Args:
        differences: places (m,) -> differences (m, seeds).
        centre: where their mean is 0, or else the end of the span that is nearest to it.

    Returns:
        Minus or plus infinity in place of an end of the span that is not rejected. If everything is, the end of the
        span at `centre`, with infinity beyond.
    """
    first, last = min(span[0], centre), max(span[1], centre)
    count = max(2, math.ceil((last - first) / math.log(2) * STEPS_PER_OCTAVE) + 1)
    places = np.union1d(np.linspace(first, last, count), [centre])

    def excess(at: Any) -> np.ndarray:
        found = differences(np.atleast_1d(at))
        seeds = found.shape[-1]
        if seeds < 2:
            return np.full(len(found), -math.inf)
        half = _half_width(found, error)
        # Rounding must not reject the place where the mean is 0 of seeds that all agree.
        return np.abs(found.mean(axis=-1)) - half - 1e-12 * np.abs(found).max(axis=-1, initial=1.0)

    accepted = np.flatnonzero(excess(places) <= 0)
    if not len(accepted):
        return (last, math.inf) if centre == last else (-math.inf, first)
    lowest, highest = int(accepted[0]), int(accepted[-1])

    def crossing(one: int, other: int) -> float:
        return float(brentq(lambda at: float(excess(at)[0]), places[one], places[other], xtol=1e-10))

    low = -math.inf if lowest == 0 else crossing(lowest - 1, lowest)
    high = math.inf if highest == len(places) - 1 else crossing(highest, highest + 1)
    return low, high


def _half_width(values: np.ndarray, error: float) -> np.ndarray:
    """Of the t interval of the means of values (..., seeds), seeds >= 2."""
    seeds = values.shape[-1]
    return np.asarray(student.ppf(1 - error / 2, seeds - 1) * values.std(axis=-1, ddof=1) / math.sqrt(seeds))


def _factor(log: float) -> float:
    return math.exp(log) if log < math.inf else math.inf
