"""`examine`: what the theorems say about a problem of one's own, beside what SGD and GSGD do on it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from gsgd.oracle import Noise, Oracle, standard_normal
from gsgd.ranges import whole
from gsgd.selectors import Selector, select_random, select_top_k
from gsgd.sgd import run
from theory.examination import finite
from theory.examination.finite import Assumption, Callables, FiniteProblem, Function, LinearModel
from theory.examination.report import Curve, Examination, PromisedGain
from theory.formulas import convergence, improved, nonconvex
from theory.formulas import noise as noise_bounds
from theory.problems.known import KnownProblem, point
from theory.routes import exact

# A tree of this many leaves takes a fraction of a second.
_LEAVES = 20_000
_RECORDED = 60
# Of F(w_0): an F* that small is what rounding leaves of 0.
_ZERO = 1e-14
# Such a gain is what the search for the minimiser leaves of none.
_NO_GAIN = 1e-6
_PROBES = 64
_TRIED_R = (2, 3, 4, 8, 16, 32, 64)


def examine(
    losses: Function | None = None,
    gradients: Function | None = None,
    *,
    loss: str | None = None,
    data: tuple[Any, Any] | None = None,
    ridge: float = 0.0,
    weights: Any = None,
    w0: Any = None,
    eta: float | None = None,
    K: int = 1000,
    R: int = 2,
    k: int = 1,
    noise: Noise | float | None = None,
    select: Selector = select_top_k,
    L: float | None = None,
    minimiser: Any = None,
    runs: int = 32,
    seed: int = 0,
) -> Examination:
    """Examine a finite problem: assumptions, constants, bounds, F of the average iterate, and where they cross.

    Either `losses` and `gradients`, or `loss` and `data`. Assumptions are looked at numerically, at sampled points.

    Args:
        losses: w (d,) -> (n,), the loss of each sample, at least 0.
        gradients: w (d,) -> (n, d), their gradients.
        loss: "logistic" or "squared", a linear model without intercept.
        data: X (n, d) and y (n,).
        ridge: mu >= 0; (mu / 2) |w|^2 is added to every loss of a linear model.
        weights: (n,), probabilities of the samples up to a factor; None for equal ones.
        w0: (d,), where runs start; zeros for a linear model, required otherwise.
        eta: constant step size in (0, 2 / L); None takes the best for GSGD's bound at K steps.
        K: steps, at least 2.
        R: candidates drawn a step (B of the mini-batch form).
        k: how many of them are trained on.
        noise: of the approximate losses (Assumption 5.12), or its sigma for normal noise; None for exact losses.
        select: any rule of `gsgd.selectors`. Bounds are proved for `select_top_k` alone; SGD is run beside it.
        L: smoothness of every loss; None: exact for a linear model, estimated from below otherwise.
        minimiser: (d,), a minimiser of F; None looks for one.
        runs: simulated runs of either method, where the tree of all choices is too large.
        seed: of all that is sampled here.

    Raises:
        ValueError: for arguments out of range, shapes that do not match, losses below 0 or not finite, gradients that
            finite differences contradict, an L that gradients contradict, or a `minimiser` that is none.
    """
    rng = np.random.default_rng(seed)
    problem, start = _problem(losses, gradients, loss, data, ridge, weights, w0)
    K, R, runs = whole("K", K, least=2), whole("R", R, least=1), whole("runs", runs, least=2)
    k = whole("k", k, least=1)
    if k > R:
        raise ValueError(f"k = {k} must be at most R = {R}: k of the R candidates are trained on")
    if select is select_random:
        raise ValueError("select = select_random is SGD, which is run in any case: give another rule")
    own = noise if isinstance(noise, Noise) or noise is None else Noise(float(noise))
    own = None if own is not None and own.sigma == 0 else own

    finite.verify_gradients(problem, finite.probes(problem, start[None], rng, 4), rng)
    w_star = _minimiser(problem, start, minimiser)
    centres = np.stack([start, w_star if w_star is not None else start])
    u, v = (finite.probes(problem, centres, rng, _PROBES) for _ in range(2))
    assumptions = [finite.look_at_losses(problem, np.concatenate([u, v])), finite.look_at_convexity(problem, u, v)]
    L, said = _smoothness(problem, L, np.concatenate([centres, u[:6]]), rng)
    exact_L = said.startswith("exact")
    assumptions += [Assumption("L-smooth (5.3)", True if exact_L else None, said), _about_minimiser(problem, w_star)]

    selected = functools.partial(finite.selected_mean, weights=problem.weights, R=R, k=k)
    factor = 1.0 if own is None else _noise_factor(own, R)
    D0 = None if w_star is None else float(np.linalg.norm(start - w_star))
    F_star = None if w_star is None else float(problem.objective(w_star))
    Delta = None if w_star is None else float(selected(problem.all_losses(w_star)))
    if F_star is not None and F_star <= _ZERO * float(problem.objective(start)):
        F_star = Delta = 0.0
    if eta is None:
        eta = 0.5 / L if D0 is None or D0 == 0 else float(improved.best_step(K, L=L, D0=D0, Delta=Delta))
    convergence.verify_step_size(eta, L, limit=2)

    greedy = select is select_top_k
    methods = {"GSGD" if greedy else "own rule": select, "SGD": select_random}
    curves, visited = {}, {}
    for name, rule in methods.items():
        curves[name], visited[name] = _follow(problem, start, L, w_star, rule, own, eta, K, R, k, runs, rng)
    main = next(iter(methods))
    rho = _infimum(problem, selected, visited[main])
    rho = _capped(rho, Delta, F_star)
    rho_ball = None if w_star is None or not D0 else _infimum(problem, selected, _ball(w_star, D0, rng))

    found = Examination(
        method=main,
        n=problem.n,
        dim=problem.dim,
        K=K,
        R=R,
        k=k,
        eta=eta,
        sigma=0.0 if own is None else own.sigma,
        L=L,
        D0=D0,
        F0=float(problem.objective(start)),
        F_star=F_star,
        Delta=Delta,
        rho=rho,
        rho_ball=rho_ball,
        noise_factor=factor,
        minimiser=w_star,
        assumptions=assumptions,
        curves=curves,
    )
    _conclude(found, problem, start, selected, visited[main], own, greedy=greedy)
    return found


def _conclude(
    found: Examination,
    problem: FiniteProblem,
    start: np.ndarray,
    selected: Callable[[np.ndarray], np.ndarray],
    visited: np.ndarray,
    own: Noise | None,
    *,
    greedy: bool,
) -> None:
    """Add the bounds that hold here, remarks on what does not, and for which R a gain is promised."""
    if found.k == found.R:
        found.remarks.append("rho is 1: all candidates are kept, so there is no selection.")
    elif greedy and found.rho == 1:
        at_minimiser = found.F_star and _capped(np.inf, found.Delta, found.F_star) == 1
        where = "the minimiser" if at_minimiser else "an iterate, such as w_0,"
        found.remarks.append(f"rho is 1: at {where} all losses are the same, and no gain is promised from this w_0.")
    convex = all(item.holds is not False for item in found.assumptions if item.name.startswith("convex"))
    if not convex:
        found.remarks.append("A loss is not convex: no bound on F is promised.")
        if greedy:
            F_R0 = float(selected(problem.all_losses(start)))
            least = nonconvex.stationarity_bound(found.K, L=found.L, F_R0=F_R0, eta=found.eta, p=found.noise_factor)
            found.remarks.append(
                f"Convex or not, min over k < K of E|grad env(w_k)|^2 <= {least:.4g}, of the Moreau envelope of F^."
            )
        return
    comparators = _comparators(problem, start, found.minimiser, found.L)
    if greedy:
        _bound_greedy(found, comparators, problem, start, selected)
    else:
        found.remarks.append("No Delta is proved for this rule: it is for the largest of R and the k largest of B.")
    _bound_sgd(found, comparators, problem, start)
    if greedy and found.minimiser is not None:
        _promise(found, problem, visited, own)


def _problem(
    losses: Function | None,
    gradients: Function | None,
    loss: str | None,
    data: tuple[Any, Any] | None,
    ridge: float,
    weights: Any,
    w0: Any,
) -> tuple[FiniteProblem, np.ndarray]:
    by_name = loss is not None or data is not None
    if by_name == (losses is not None or gradients is not None):
        raise ValueError("give either losses and gradients, or loss and data")
    start = None if w0 is None else np.asarray(w0, float)
    if start is not None and (start.ndim != 1 or not len(start) or not np.isfinite(start).all()):
        raise ValueError(f"w0 has shape {start.shape}, but must be (d,), and finite")
    if by_name:
        if loss is None or data is None:
            raise ValueError("loss and data = (X, y) go together")
        if len(data) != 2:
            raise ValueError(f"data must be (X, y), but has {len(data)} parts")
        model = LinearModel(loss, *data, ridge=ridge, weights=weights)
        start = np.zeros(model.dim) if start is None else start
        if len(start) != model.dim:
            raise ValueError(f"w0 has shape {start.shape}, but must be (d,) = ({model.dim},)")
        return model, start
    if losses is None or gradients is None:
        raise ValueError("losses and gradients go together")
    if start is None:
        raise ValueError("w0 is None, but must be given with losses and gradients: it says what d is")
    if ridge:
        raise ValueError(f"ridge = {ridge} is for linear models: add it to losses and gradients")
    return Callables(losses, gradients, start, weights), start


def _minimiser(problem: FiniteProblem, start: np.ndarray, given: Any) -> np.ndarray | None:
    if given is None:
        return finite.find_minimiser(problem, start)
    given = np.asarray(given, float)
    if given.shape != start.shape:
        raise ValueError(f"minimiser has shape {given.shape}, but must be (d,) = {start.shape}")
    better = finite.minimise(problem.objective, problem.slope, given)
    value, least = float(problem.objective(given)), float(problem.objective(better))
    if least < value - 1e-9 * (1 + value):
        raise ValueError(f"minimiser: F is {value:.9g} there, but {least:.9g} elsewhere")
    return given


def _smoothness(
    problem: FiniteProblem, given: float | None, points: np.ndarray, rng: np.random.Generator
) -> tuple[float, str]:
    if given is None and isinstance(problem, LinearModel):
        return problem.smoothness, "exact: sup phi'' max |x|^2 + mu"
    seen = finite.largest_curvature(problem, points, rng)
    if given is None:
        if seen == 0:
            raise ValueError("no gradient changes anywhere: the losses are constant or linear, and L is 0")
        return seen, f"estimated from below at {len(points)} points; a larger L where you know it is safer"
    if not (np.isfinite(given) and given > 0):
        raise ValueError(f"L = {given} must be positive and finite")
    if seen > given * (1 + 1e-6):
        raise ValueError(f"L = {given:.6g} is too small: a gradient changes at the rate {seen:.6g}")
    return float(given), f"given; the largest rate seen at {len(points)} points is {seen:.4g}"


def _about_minimiser(problem: FiniteProblem, w_star: np.ndarray | None) -> Assumption:
    if w_star is None:
        why = "the data are linearly separable" if isinstance(problem, LinearModel) else "F falls ever further out"
        return Assumption("F has a minimiser", False, f"none: {why}; a bound with a comparator takes its place")
    slope = float(np.linalg.norm(problem.slope(w_star)))
    return Assumption("F has a minimiser", True, f"|grad F| = {slope:.1e} there")


def _noise_factor(own: Noise, R: int) -> float:
    if own.zeta is standard_normal and R > 1:
        return float(noise_bounds.p_law(own.sigma, R, _normal_max(R)))
    return float(noise_bounds.p_R(own.sigma, R))


def _normal_max(R: int) -> float:
    """E max of R standard normals, from above by the rounding of a fine trapezoid rule."""
    # E max = int over z > 0 of 1 - Phi(z)^R - Phi(-z)^R.
    z = np.linspace(0.0, 12.0, 12001)
    return float(np.trapezoid(1 - special.ndtr(z) ** R - special.ndtr(-z) ** R, z)) + 1e-6


def _follow(
    problem: FiniteProblem,
    start: np.ndarray,
    L: float,
    w_star: np.ndarray | None,
    rule: Selector,
    own: Noise | None,
    eta: float,
    K: int,
    R: int,
    k: int,
    runs: int,
    rng: np.random.Generator,
) -> tuple[Curve, np.ndarray]:
    """E F(average iterate), by the tree of all choices if it is small, else by runs; and the iterates visited."""
    random = rule is select_random
    plain = k == 1 and (random or (rule is select_top_k and own is None))
    if plain and problem.n ** (K - 1) <= _LEAVES:
        known = KnownProblem("", problem, L, point(start if w_star is None else w_star), None, start)
        tree = exact.walk(known, exact.weighted_greedy(problem.weights, 1 if random else R), eta=eta, K=K)
        return Curve(np.arange(1, K + 1), tree.averages, None), np.concatenate(tree.points)
    watched = _Watched(problem)
    steps = np.unique(np.geomspace(1, K, _RECORDED).round().astype(int))
    oracle = Oracle(watched, R, None if random else own)
    done = run(oracle, start, eta=eta, K=K, rng=rng, k=k, select=rule, runs=runs, record=steps.tolist())
    return Curve(steps, done.objective_of_average.mean(axis=1), done.objective_of_average), watched.visited()


class _Watched:
    """The problem, noting the w at which it is asked for losses: the iterates of all runs."""

    def __init__(self, problem: FiniteProblem):
        self._problem, self._seen = problem, list[np.ndarray]()
        self.dim, self.draw = problem.dim, problem.draw
        self.gradients, self.objective = problem.gradients, problem.objective

    def losses(self, w: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        self._seen.append(w.copy())
        return self._problem.losses(w, candidates)

    def visited(self) -> np.ndarray:
        return np.concatenate(self._seen)


def _infimum(problem: FiniteProblem, selected: Callable[[np.ndarray], np.ndarray], points: np.ndarray) -> float:
    """The least F^ / F over the points (m, d), at least 1; where F is 0 the recursion holds for every rho."""
    least = np.inf
    for part in np.array_split(points, max(1, len(points) * problem.n // 2_000_000)):
        losses = problem.all_losses(part)
        mean = losses @ problem.weights
        if (mean > 0).any():
            least = min(least, float(np.min(selected(losses[mean > 0]) / mean[mean > 0])))
    # Rounding may leave 1 a little short of it, or above.
    return least if 1 + 1e-12 < least < np.inf else 1.0


def _capped(rho: float, Delta: float | None, F_star: float | None) -> float:
    """rho, and at most Delta / F* (Equation 5); 1 where it exceeds 1 by rounding alone."""
    if F_star and Delta:
        rho = min(rho, Delta / F_star)
    return rho if rho > 1 + _NO_GAIN else 1.0


def _ball(centre: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """(m, d): points of the ball, along random directions at distances of all sizes."""
    directions = rng.standard_normal((512, len(centre)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return centre + radius * np.sqrt(rng.random((512, 1))) * directions


def _comparators(problem: FiniteProblem, start: np.ndarray, w_star: np.ndarray | None, L: float) -> np.ndarray:
    """(m, d): points u on the way from w_0 to where F is small, argmin of F + lambda |u - w_0|^2 / 2."""
    points = [start if w_star is None else w_star]
    last = start
    for pull in L * 10.0 ** -np.arange(0.0, 9.0):

        def value(u: np.ndarray, pull: float = pull) -> float:
            return float(problem.objective(u)) + pull / 2 * float(np.sum((u - start) ** 2))

        def slope(u: np.ndarray, pull: float = pull) -> np.ndarray:
            return problem.slope(u) + pull * (u - start)

        last = finite.minimise(value, slope, last)
        points.append(last)
    return np.stack(points)


def _with_comparators(
    steps: np.ndarray, points: np.ndarray, start: np.ndarray, values: np.ndarray, eta: float, L: float
) -> np.ndarray:
    """The least of `comparator_bound` over the points, for each number of steps."""
    distances = np.linalg.norm(points - start, axis=1)
    pairs = zip(distances, values, strict=True)
    bounds = [improved.comparator_bound(steps, eta=eta, L=L, distance=far, F_hat=value) for far, value in pairs]
    return np.min(bounds, axis=0)


def _bound_greedy(
    found: Examination,
    points: np.ndarray,
    problem: FiniteProblem,
    start: np.ndarray,
    selected: Callable[[np.ndarray], np.ndarray],
) -> None:
    """The bounds of GSGD. Those that are a multiple of 1 / rho are taken at rho = 1 first: noise may leave rho < 1."""
    curve = found.curves[found.method]
    steps, eta, L, rate = curve.steps, found.eta, found.L, found.noise_factor * found.rho
    if found.D0 is not None:
        known: dict[str, Any] = {"eta": eta, "L": L, "D0": found.D0, "rho": 1.0, "Delta": found.Delta}
        printed = "Theorem 5.7 as printed" if found.sigma == 0 else "Theorem 5.14 as printed"
        if eta * L < 1:
            found.add(printed, found.method, steps, convergence.gsgd_bound(steps, **known) / rate)
        ours = improved.gsgd_bound_improved(steps, **known)
        found.add("improved, best alpha", found.method, steps, ours / rate)
        found.add("the same with rho = 1", found.method, steps, ours / found.noise_factor)
        if rate >= 1:
            sharp = improved.gsgd_bound_sharp(steps, **known | {"rho": rate}, F_star=found.F_star)
            found.add("sharpest", found.method, steps, sharp)
    values = selected(problem.all_losses(points))
    found.add("best comparator u", found.method, steps, _with_comparators(steps, points, start, values, eta, L) / rate)


def _bound_sgd(found: Examination, points: np.ndarray, problem: FiniteProblem, start: np.ndarray) -> None:
    steps, eta, L = found.curves["SGD"].steps, found.eta, found.L
    if found.D0 is not None:
        if eta * L < 1:
            printed = convergence.sgd_bound(steps, eta=eta, L=L, D0=found.D0, F_star=found.F_star)
            found.add("Theorem 5.8 as printed", "SGD", steps, printed)
        known: dict[str, Any] = {"eta": eta, "L": L, "D0": found.D0, "rho": 1.0, "Delta": found.F_star}
        found.add("improved, best alpha", "SGD", steps, improved.gsgd_bound_improved(steps, **known))
        found.add("sharpest", "SGD", steps, improved.gsgd_bound_sharp(steps, **known, F_star=found.F_star))
    values = problem.objective(points)
    found.add("best comparator u", "SGD", steps, _with_comparators(steps, points, start, values, eta, L))


def _promise(found: Examination, problem: FiniteProblem, visited: np.ndarray, own: Noise | None) -> None:
    """For R and k: rho over some of the visited iterates, Delta, and up to where the bounds promise a gain."""
    assert found.minimiser is not None
    assert found.D0 is not None
    assert found.F_star is not None
    some = visited[:: max(1, len(visited) // 400)]
    tried = {(R, k) for R in _TRIED_R for k in (1, max(1, R // 2))} | {(found.R, found.k)}
    for R, k in sorted(pair for pair in tried if pair[1] < pair[0]):
        selected = functools.partial(finite.selected_mean, weights=problem.weights, R=R, k=k)
        Delta = float(selected(problem.all_losses(found.minimiser)))
        rho = found.rho if (R, k) == (found.R, found.k) else _infimum(problem, selected, some)
        # F* of 0 may have left some rounding in Delta.
        rho, Delta = _capped(rho, Delta, found.F_star), Delta if found.F_star else 0.0
        until, sigma = 0.0, 0.0
        rate = rho * (1.0 if own is None else _noise_factor(own, R))
        if rate > 1 and found.D0 > 0:
            known = {"D0": found.D0, "rho": rate, "Delta": Delta, "F_star": found.F_star}
            until = convergence.crossover_tuned(L=found.L, **known)
        if rho > 1:
            sigma = noise_bounds.sigma_max_R(min(rho, R), R)
        found.promises.append(PromisedGain(R, k, rho, Delta, until, sigma))
    rate = found.noise_factor * found.rho
    if rate > 1 and found.D0 > 0:
        found.predicted = convergence.crossover(
            eta=found.eta, D0=found.D0, rho=rate, Delta=found.Delta, F_star=found.F_star
        )
