"""The hypotheses of Section 5 as predicates: a problem's claims about itself are verified before a bound is evaluated.

Each function returns nothing if the hypothesis is seen to hold and raises `AssumptionViolated`, with the place,
where it is broken. Points are sampled at many scales around the minimisers; a closed form is used where one exists.
"""

from __future__ import annotations

import numpy as np

from gsgd.linear import LinearProblem
from theory.problems.known import KnownProblem
from theory.verdict import AssumptionViolated

_SCALES = np.array([1e-4, 1e-2, 0.1, 0.5, 1.0, 2.0, 10.0, 100.0])
# Float64 noise of a loss of size one, with room for sums over features.
_NOISE = 1e-9


def _probes(known: KnownProblem, rng: np.random.Generator, count: int) -> np.ndarray:
    """(points, d): around Phi_F, the atoms' minimisers and w_0, at all scales."""
    centres = [known.minimisers.vertices, known.start[None]]
    if known.atom_minimisers is not None:
        centres.append(known.atom_minimisers)
    centres_array = np.concatenate(centres)
    picks = rng.integers(len(centres_array), size=count)
    scales = rng.choice(_SCALES, size=count)
    return centres_array[picks] + scales[:, None] * rng.standard_normal((count, known.problem.dim))


def verify_continuity(known: KnownProblem, rng: np.random.Generator, *, segments: int = 64) -> None:
    """f(., x) is continuous (Assumption 5.1): no jump survives bisection of a segment down to float64's resolution."""
    a, b = _probes(known, rng, segments), _probes(known, rng, segments)
    for _ in range(6):
        share = np.linspace(0.0, 1.0, 65)[:, None, None]
        points = a + share * (b - a)
        jumps = np.abs(np.diff(known.atom_losses(points), axis=0)).max(axis=-1)
        at = np.argmax(jumps, axis=0)
        rows = np.arange(len(a))
        a, b = points[at, rows], points[at + 1, rows]
        last = jumps[at, rows]
    # After six rounds the segments are 64^-6 = 1.5e-11 of their length; a continuous loss moves by next to nothing.
    scale = 1.0 + np.abs(known.atom_losses(a)).max(axis=-1)
    worst = int(np.argmax(last / scale))
    # Negated, here and below, so that a loss which is not a number passes nowhere.
    if not last[worst] <= 1e-5 * scale[worst]:
        raise AssumptionViolated("Assumption 5.1", f"{known.name} jumps by {last[worst]:.3g} at w = {_show(a[worst])}")


def verify_convexity(known: KnownProblem, rng: np.random.Generator, *, pairs: int = 2000) -> None:
    """f(., x) is convex (Assumption 5.2): f((u+v)/2) <= (f(u) + f(v))/2 and f(v) >= f(u) + <grad f(u), v - u>."""
    u, v = _probes(known, rng, pairs), _probes(known, rng, pairs)
    fu, fv = known.atom_losses(u), known.atom_losses(v)
    size = 1.0 + np.abs(fu) + np.abs(fv)
    excess = known.atom_losses((u + v) / 2) - (fu + fv) / 2
    _raise_worst("Assumption 5.2", known, excess / size, u, v, "convexity fails between")
    tangent = fu + np.einsum("pnd,pd->pn", known.atom_gradients(u), v - u)
    size = size + np.abs(tangent)
    _raise_worst("Assumption 5.2", known, (tangent - fv) / size, u, v, "the tangent exceeds the loss between")


def verify_smoothness(known: KnownProblem, rng: np.random.Generator, *, pairs: int = 2000) -> None:
    """f(., x) is L-smooth (Assumption 5.3): |grad f(u) - grad f(v)| <= L |u - v|; for linear problems also exactly."""
    if isinstance(known.problem, LinearProblem) and known.problem.smoothness * (1 - 1e-12) > known.L:
        raise AssumptionViolated(
            "Assumption 5.3",
            f"{known.name} claims L = {known.L:.6g}, but sup phi'' max |x|^2 = {known.problem.smoothness:.6g}",
        )
    u = _probes(known, rng, pairs)
    v = np.where(rng.random((pairs, 1)) < 0.5, _probes(known, rng, pairs), u + 1e-3 * rng.standard_normal(u.shape))
    gu, gv = known.atom_gradients(u), known.atom_gradients(v)
    distance = known.L * np.linalg.norm(u - v, axis=-1)[:, None]
    excess = np.linalg.norm(gu - gv, axis=-1) - distance
    size = 1.0 + np.linalg.norm(gu, axis=-1) + distance
    _raise_worst("Assumption 5.3", known, excess / size, u, v, f"the gradient moves faster than L = {known.L:.6g} from")


def verify_zero_minimum(known: KnownProblem, rng: np.random.Generator, *, points: int = 4000) -> None:
    """min_w f(w, x) = 0 (Assumption 5.4): attained at the stated minimiser of every atom, and never below."""
    losses = known.atom_losses(_probes(known, rng, points))
    if not losses.min() >= -_NOISE:
        raise AssumptionViolated("Assumption 5.4", f"{known.name} has a negative loss {losses.min():.6g}")
    if known.atom_minimisers is None:
        raise AssumptionViolated(
            "Assumption 5.4", f"{known.name} attains no minimum: the least loss seen is {losses.min():.3g} > 0"
        )
    at = np.diagonal(known.atom_losses(known.atom_minimisers))
    worst = int(np.argmax(np.abs(at)))
    if not abs(at[worst]) <= _NOISE:
        raise AssumptionViolated("Assumption 5.4", f"{known.name} has min f(., x_{worst}) = {at[worst]:.6g}, not 0")


def verify_minimisers(known: KnownProblem, rng: np.random.Generator, *, points: int = 4000) -> None:
    """Phi_F is as stated: F is least there, the same on all of it, and larger off it."""
    vertices = known.minimisers.vertices
    values = known.problem.objective(vertices)
    w = _probes(known, rng, points)
    below = known.problem.objective(w) - known.F_star
    worst = int(np.argmin(below))
    if not (below[worst] >= -_NOISE and np.ptp(values) <= _NOISE):
        raise AssumptionViolated(
            "Phi_F as stated",
            f"F({_show(w[worst])}) is {-below[worst]:.3g} below F at the stated minimiser of {known.name}",
        )
    projected = known.problem.objective(known.minimisers.project(w))
    if not np.abs(projected - known.F_star).max() <= _NOISE * (1 + known.F_star):
        raise AssumptionViolated("Phi_F as stated", f"the projection of {known.name} leaves the minimisers")
    away = known.minimisers.distance(w) > 1e-3
    if away.any() and below[away].min() <= 0:
        place = w[away][np.argmin(below[away])]
        raise AssumptionViolated("Phi_F as stated", f"{known.name} has a further minimiser at {_show(place)}")


def verify_compact(known: KnownProblem, rng: np.random.Generator, *, directions: int = 2000) -> None:
    """Phi_F is closed and compact (Section 5): F grows along every direction from a minimiser."""
    u = rng.standard_normal((directions, known.problem.dim))
    if isinstance(known.problem, LinearProblem):
        u = np.concatenate([u, np.linalg.svd(known.problem.features)[2], -np.linalg.svd(known.problem.features)[2]])
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    far = known.minimisers.vertices[0] + 1e3 * u
    growth = known.problem.objective(far) - known.F_star
    flat = int(np.argmin(growth))
    if not growth[flat] >= 1e-6:
        raise AssumptionViolated(
            "Phi_F compact", f"F of {known.name} stays at F* along {_show(u[flat])}: its minimisers are unbounded"
        )


def verify_section_5(known: KnownProblem, rng: np.random.Generator, *, compact: bool = True) -> None:
    """Assumptions 5.1 to 5.4 and Phi_F as stated (and compact), in the order of the paper."""
    verify_continuity(known, rng)
    verify_convexity(known, rng)
    verify_smoothness(known, rng)
    verify_zero_minimum(known, rng)
    verify_minimisers(known, rng)
    if compact:
        verify_compact(known, rng)


def _raise_worst(which: str, known: KnownProblem, excess: np.ndarray, u: np.ndarray, v: np.ndarray, text: str) -> None:
    pair, atom = np.unravel_index(int(np.argmax(excess)), excess.shape)
    if not excess[pair, atom] <= _NOISE:
        raise AssumptionViolated(
            which,
            f"{known.name}, atom {atom}: {text} w = {_show(u[pair])} to {_show(v[pair])} (by {excess[pair, atom]:.3g})",
        )


def _show(w: np.ndarray) -> str:
    return "(" + ", ".join(f"{item:.4g}" for item in np.atleast_1d(w)) + ")"
