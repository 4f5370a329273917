"""What a check is and what it may find: five outcomes, never a bare boolean.

A check is a function of a `Context`, registered under the statement it is about, which returns a verdict, or yields one
for each of its parts, of which `worst` makes one. What it claims is the first paragraph of its docstring:

    @check("Fact A.3", Route.CLOSED_FORM)
    def erf_bound(context: Context, *, bound=facts.erf_bound) -> Verdict:
        "erf(t) <= sqrt(1 - exp(-4 t^2 / pi)) at 4,001 points of [0, 8]"

The formula under test is a keyword argument, so that a test can push it past the truth and see the check fail.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

# Rounding that float64 leaves in a closed form or a sum over a tree, relative to the size of what is compared.
ROUNDING = 1e-11


class Status(StrEnum):
    """Outcome of a check."""

    PROVED = "proved"
    """Closed form, exact enumeration, balls or a dual certificate leave no doubt, as far as the scope goes."""
    CONSISTENT = "consistent"
    """Samples (at a stated error probability) or numerical methods (to a tolerance) do not contradict the claim."""
    REFUTED = "refuted"
    """The claim is false; the verdict carries a witness that anyone can evaluate again."""
    ASSUMPTION_VIOLATED = "assumption-violated"
    """The claim does not apply: the verdict names the hypothesis that is broken."""
    INCONCLUSIVE = "inconclusive"
    """Neither; the verdict says why."""


class Route(StrEnum):
    """How a check arrives at its verdict, in order of trust."""

    CLOSED_FORM = "closed-form"
    EXACT = "exact"
    RIGOROUS = "rigorous"
    WORST_CASE = "worst-case"
    QUADRATURE = "quadrature"
    NUMERICAL = "numerical"
    """Optimisers, linear programs, finite differences, random probing: right to a tolerance, proved by nothing."""
    MONTE_CARLO = "monte-carlo"


APPROXIMATE = (Route.QUADRATURE, Route.NUMERICAL)
"""Routes that end in a tolerance which nothing proves: what holds by them is consistent."""


class Scope(StrEnum):
    """What a verdict speaks of. Statuses are counted apart by it, so that a grid never passes for a proof."""

    EVERYWHERE = "everywhere"
    """Over the whole range that the claim names: balls, dual certificates over a class, exact algebra."""
    INSTANCES = "instances"
    """Exact, or right to a tolerance, at the listed points or problems."""
    SAMPLES = "samples"
    """At random samples, of which others might say otherwise."""


class AssumptionViolated(ValueError):
    """A hypothesis of a statement is broken. `assumption` names it, the message gives the value and the rule."""

    def __init__(self, assumption: str, message: str):
        super().__init__(f"{assumption}: {message}")
        self.assumption = assumption


class Inconclusive(RuntimeError):
    """A check cannot tell, as where a solver fails; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check found.

    `value` is compared with `bound` at the tightest place seen; `slack >= 0` means that the claim held there.
    `detectable` is the power of the check. By samples: a larger violation is caught with probability 1 - alpha. Of an
    inequality by other routes: a bound tightened by a larger share (of the larger side) is refuted.
    """

    status: Status
    value: float | None = None
    bound: float | None = None
    slack: float | None = None
    witness: str | None = None
    detectable: float | None = None


Verdicts = Iterable[Verdict]
"""What a check with several parts gives: `worst` of them is its own."""


@dataclass(frozen=True)
class Context:
    """What a check gets from the run: its own generator, and its share of the run's error probability."""

    rng: np.random.Generator
    alpha: float


@dataclass(frozen=True)
class Check:
    """A registered check: which statement, what it claims, by which route, and the status that should come out."""

    name: str
    statement: str
    claim: str
    route: Route
    expected: Status
    function: Callable[..., Verdict]
    scope: Scope = Scope.INSTANCES

    def run(self, *, seed: int, alpha: float, **formulas: Any) -> Verdict:
        """The verdict at `seed`; `alpha` is this check's own error probability.

        The generator depends on the check's name and the seed alone. `formulas` replace formulas under test.
        """
        context = Context(rng=generator(self.name, seed), alpha=alpha)
        try:
            found = self.function(context, **formulas)
            return within_tolerance(found) if self.route in APPROXIMATE else found
        except AssumptionViolated as broken:
            return Verdict(status=Status.ASSUMPTION_VIOLATED, witness=str(broken))
        except Inconclusive as reason:
            return Verdict(status=Status.INCONCLUSIVE, witness=str(reason))


def generator(name: str, seed: int) -> np.random.Generator:
    """A generator for the pair (name, seed); different names give independent streams."""
    digest = hashlib.sha256(name.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


_registry: dict[str, Check] = {}


def check(
    statement: str,
    route: Route,
    by: Route | None = None,
    *,
    claim: str | None = None,
    expected: Status | None = None,
    scope: Scope | None = None,
) -> Callable[[Callable[..., Verdict | Verdicts]], Callable[..., Verdict]]:
    """Register a check, and make one verdict of several.

    `claim` is the first paragraph of the function's docstring, unless given.
    `expected` is `consistent` for Monte Carlo and for `APPROXIMATE` routes and `proved` otherwise, unless given.
    `scope` is `samples` for Monte Carlo and `instances` otherwise: `everywhere` is always said, never assumed.
    `check(statement, claim, route)` is the older form, which goes with the next version.

    Raises:
        ValueError: if nothing says what the function claims, or another check has its name.
    """
    if by is not None:
        warnings.warn("a check's claim is its docstring now: check(statement, route)", DeprecationWarning, stacklevel=2)
        claim, route = route, by

    def register(function: Callable[..., Verdict | Verdicts]) -> Callable[..., Verdict]:
        @functools.wraps(function)
        def checked(context: Context, **formulas: Any) -> Verdict:
            return as_one(function(context, **formulas))

        name = f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"
        if name in _registry:
            raise ValueError(f"a check named {name} is already registered")
        said = claim or " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
        if not said:
            raise ValueError(f"the check {name} has no docstring, which is to say what it claims")
        sampled = route is Route.MONTE_CARLO
        default = Status.CONSISTENT if sampled or route in APPROXIMATE else Status.PROVED
        reach = scope or (Scope.SAMPLES if sampled else Scope.INSTANCES)
        _registry[name] = Check(name, statement, said, route, expected or default, checked, reach)
        return checked

    return register


def registered() -> dict[str, Check]:
    """All checks by name, in the order in which they were registered."""
    return dict(_registry)


def as_one(found: Verdict | Verdicts) -> Verdict:
    """The verdict of a check that gave one, or several: `worst`, without a look at what follows a refutation."""
    if isinstance(found, Verdict):
        return found
    held = []
    for part in found:
        if part.status is Status.REFUTED:
            return part
        held.append(part)
    return worst(*held)


def within_tolerance(verdict: Verdict) -> Verdict:
    """A tolerance decides: what holds is consistent, not proved."""
    return replace(verdict, status=Status.CONSISTENT) if verdict.status is Status.PROVED else verdict


def at_most(value: Any, bound: Any, *, where: Any = None, rounding: float = ROUNDING) -> Verdict:
    """Does `value <= bound` hold everywhere? Proved, or refuted with the worst place as witness.

    Args:
        value, bound: floats or arrays, broadcast together.
        where: what to print of a place: a mapping from names to arrays that broadcast with `value`, or a string.
        rounding: what float64 may leave, relative to max(1, |value|, |bound|).

    Returns:
        `value`, `bound` and `slack = bound - value` at the place with the least slack; if it holds, `detectable`, the
        least relative slack of all places.
    """
    value, bound = np.broadcast_arrays(np.asarray(value, float), np.asarray(bound, float))
    if value.size == 0:
        raise ValueError("nothing to compare: the claim was evaluated at no place")
    bad = ~(np.isfinite(value) & ~np.isnan(bound))
    if bad.any():
        place = describe(where, np.unravel_index(int(np.argmax(bad)), bad.shape), bad.shape)
        return Verdict(status=Status.INCONCLUSIVE, witness=f"not a number{place}")
    scale = np.maximum(1.0, np.maximum(np.abs(value), np.where(np.isfinite(bound), np.abs(bound), 1.0)))
    slack = bound - value
    # The verdict is taken at the worst place relative to rounding; a claim that holds reports its tightest place.
    index = np.unravel_index(int(np.argmin(slack / scale)), slack.shape)
    holds = bool(slack[index] >= -rounding * scale[index])
    return Verdict(
        status=Status.PROVED if holds else Status.REFUTED,
        value=float(value[index]),
        bound=float(bound[index]),
        slack=float(slack[index]),
        witness=None if holds else f"{value[index]:.6g} > {bound[index]:.6g}{describe(where, index, slack.shape)}",
        detectable=_unnoticed(value, bound) if holds else None,
    )


def _unnoticed(value: np.ndarray, bound: np.ndarray) -> float | None:
    """The share of the larger side by which the bound may be tightened before some place breaks it."""
    size = np.maximum(np.abs(value), np.abs(bound))
    # Where both are 0 nothing can be tightened, and an infinite bound is no bound.
    told = (size > 0) & np.isfinite(bound)
    return float(max(0.0, np.min((bound - value)[told] / size[told]))) if told.any() else None


def at_least(value: Any, bound: Any, *, where: Any = None, rounding: float = ROUNDING) -> Verdict:
    """Does `value >= bound` hold everywhere? `slack = value - bound` at the tightest place."""
    return _mirrored(at_most(-np.asarray(value, float), -np.asarray(bound, float), where=where, rounding=rounding))


def _mirrored(verdict: Verdict) -> Verdict:
    value, bound = verdict.value, verdict.bound
    if value is None or bound is None:
        return verdict
    witness = verdict.witness
    if verdict.status is Status.REFUTED and witness is not None:
        place = witness.partition(" at ")[2]
        witness = f"{-value:.6g} < {-bound:.6g}" + (f" at {place}" if place else "")
    return replace(verdict, value=-value, bound=-bound, witness=witness)


def equal(value: Any, expected: Any, *, where: Any = None, tolerance: float = 1e-9) -> Verdict:
    """Are `value` and `expected` equal within `tolerance` (relative to max(1, |expected|)) everywhere?

    `slack` is the tolerance less the largest difference; `value` and `bound` are the two sides at that place.
    """
    value, expected = np.broadcast_arrays(np.asarray(value, float), np.asarray(expected, float))
    if value.size == 0:
        raise ValueError("nothing to compare: the claim was evaluated at no place")
    bad = np.isnan(value) | np.isnan(expected)
    if bad.any():
        place = describe(where, np.unravel_index(int(np.argmax(bad)), bad.shape), bad.shape)
        return Verdict(status=Status.INCONCLUSIVE, witness=f"not a number{place}")
    same = value == expected  # infinities, too, whose difference would not be a number
    difference = np.abs(np.where(same, 0.0, value) - np.where(same, 0.0, expected))
    scale = np.where(np.isfinite(expected), np.maximum(1.0, np.abs(expected)), 1.0)
    difference = difference / scale
    index = np.unravel_index(int(np.argmax(difference)), difference.shape)
    holds = bool(difference[index] <= tolerance)
    text = f"{value[index]:.10g} differs from {expected[index]:.10g}{describe(where, index, difference.shape)}"
    return Verdict(
        status=Status.PROVED if holds else Status.REFUTED,
        value=float(value[index]),
        bound=float(expected[index]),
        slack=float(tolerance - difference[index]),
        witness=None if holds else text,
    )


def describe(where: Any, index: tuple[Any, ...], shape: tuple[int, ...]) -> str:
    """' at name = value, ...' for the place `index` of arrays of `shape`."""
    if where is None:
        return ""
    if isinstance(where, str):
        return f" at {where}"
    parts = []
    for name, values in where.items():
        item = np.broadcast_to(np.asarray(values, dtype=object), shape)[index]
        parts.append(f"{name} = {item:.6g}" if isinstance(item, (float, np.floating)) else f"{name} = {item}")
    return " at " + ", ".join(parts)


def worst(*verdicts: Verdict) -> Verdict:
    """One verdict for a claim with several parts: the first that does not hold, else the one with least slack.

    A claim with a sampled part is consistent, not proved, and is as weak as its weakest part: the largest `detectable`.
    Parts by other routes test one formula at many places, and one of them is enough to notice: the least.
    """
    if not verdicts:
        raise ValueError("worst() needs at least one verdict")
    for status in (Status.REFUTED, Status.ASSUMPTION_VIOLATED, Status.INCONCLUSIVE):
        for verdict in verdicts:
            if verdict.status is status:
                return verdict
    sampled = [verdict for verdict in verdicts if verdict.status is Status.CONSISTENT]
    least = min(sampled or verdicts, key=lambda v: np.inf if v.slack is None else v.slack)
    powers = [verdict.detectable for verdict in sampled or verdicts if verdict.detectable is not None]
    power = max if sampled else min
    return replace(least, detectable=power(powers) if powers else None)
