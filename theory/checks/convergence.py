"""Theorems 5.7 and 5.8, Remarks 5.9 and 5.11, Corollary 5.10: the bounds, and where they cross."""

from __future__ import annotations

import numpy as np

from gsgd import sgd
from gsgd.oracle import Oracle
from gsgd.selectors import select_random, select_top_k
from theory import assumptions, exact, montecarlo
from theory.formulas import convergence
from theory.formulas.rho import expected_max
from theory.problems import convex
from theory.problems.known import KnownProblem
from theory.verdict import Context, Route, Status, Verdict, at_least, at_most, check, equal, worst

RATES = (0.1, 0.5, 0.9)
"""eta L of the instances."""
SMALL_RATE = 0.02
"""eta L where GSGD's limit must stand out from SGD's noise floor eta L F* / (1 - eta L)."""


@check(
    "Theorem 5.7", "E F(average) <= bound, K = 1 up to 6..12: 9 instances, R = 2, 3, eta L = .1, .5, .9", Route.EXACT
)
def gsgd_by_enumeration(context: Context, *, bound=convergence.gsgd_bound) -> Verdict:
    return worst(*_gsgd_instances(context, convex.compact_problems(), bound, compact=True))


@check("Theorem 5.7", "the same where F* = 0, with Phi_F unbounded in two of three problems", Route.EXACT)
def gsgd_interpolating(context: Context, *, bound=convergence.gsgd_bound) -> Verdict:
    return worst(*_gsgd_instances(context, convex.interpolating_problems(), bound, compact=False))


def _gsgd_instances(context: Context, problems: list[KnownProblem], bound, *, compact: bool) -> list[Verdict]:
    verdicts = []
    for known in problems:
        assumptions.verify_section_5(known, context.rng, compact=compact)
        for R in (2, 3):
            law = exact.greedy(known.problem.n, R)
            K = exact.affordable_steps(known, law)
            verdicts += [
                exact.bound_holds(known, law, bound, eta=rate / known.L, K=K, Delta=known.Delta(R)) for rate in RATES
            ]
    return verdicts


@check(
    "Theorem 5.7",
    "mean over k of E F^_R(w_k), which is rho times the mean of F, <= rho bound: least squares, K = 10, 50, 200",
    Route.MONTE_CARLO,
)
def gsgd_by_simulation(context: Context, *, bound=convergence.gsgd_bound) -> Verdict:
    # rho* is an infimum over the iterates, which a sample overestimates; F^_R itself needs none, and F <= F^_R / rho*.
    known = convex.random_least_squares(np.random.default_rng(57), n=40, d=5)
    assumptions.verify_section_5(known, context.rng)
    R, runs, eta, marks = 8, 2000, 0.25 / known.L, (10, 50, 200)
    oracle = Oracle(known.problem, R)
    w = np.tile(known.start, (runs, 1))
    total, verdicts = np.zeros(runs), []
    for step in range(1, max(marks) + 1):
        total += expected_max(known.atom_losses(w), R)
        query = oracle.query(w, oracle.draw(context.rng, (runs,)))
        w = w - eta * query.gradients(select_top_k(query.scores, 1))[:, 0]
        if step in marks:
            limit = bound(step, eta=eta, L=known.L, D0=known.D0, rho=1.0, Delta=known.Delta(R))
            verdicts.append(montecarlo.mean_at_most(total / step, limit, context.alpha / len(marks), cap=2 * limit))
    return worst(*verdicts)


@check("Theorem 5.8", "E F(average) <= bound, K = 1 up to 6..12: 12 instances, eta L = .1, .5, .9", Route.EXACT)
def sgd_by_enumeration(context: Context, *, bound=convergence.sgd_bound) -> Verdict:
    verdicts = []
    for known in convex.compact_problems() + convex.interpolating_problems():
        assumptions.verify_section_5(known, context.rng, compact=known.minimisers.compact)
        law = exact.uniform(known.problem.n)
        K = exact.affordable_steps(known, law)
        k = np.arange(1, K + 1)
        for rate in RATES:
            tree = exact.walk(known, law, eta=rate / known.L, K=K)
            limit = bound(k, eta=rate / known.L, L=known.L, D0=known.D0, F_star=known.F_star)
            verdicts.append(at_most(tree.averages, limit, where={"problem": known.name, "K": k, "eta L": rate}))
    return worst(*verdicts)


@check("Theorem 5.8", "E F(average) <= bound at K = 10, 100, 1000 on least squares, n = 40, d = 5", Route.MONTE_CARLO)
def sgd_by_simulation(context: Context, *, bound=convergence.sgd_bound) -> Verdict:
    known = convex.random_least_squares(np.random.default_rng(58), n=40, d=5)
    eta, marks = 0.25 / known.L, (10, 100, 1000)
    result = sgd.run(
        Oracle(known.problem, 8),
        known.start,
        eta=eta,
        K=max(marks),
        runs=2000,
        rng=context.rng,
        select=select_random,
        record=marks,
    )
    verdicts = []
    for row, k in enumerate(marks):
        limit = bound(k, eta=eta, L=known.L, D0=known.D0, F_star=known.F_star)
        values = result.objective_of_average[row]
        verdicts.append(montecarlo.mean_at_most(values, limit, context.alpha / len(marks), cap=2 * limit))
    return worst(*verdicts)


def _printed_step_size(K: np.ndarray, L: float) -> np.ndarray:
    # The print's eta = 1 / (eta L sqrt K) names eta on both sides; solved for eta it is this.
    return 1.0 / np.sqrt(L * np.sqrt(K))


@check(
    "Theorem 5.8",
    "as printed: eta = 1/(eta L sqrt K) is a step size the theorem allows (L = 4, K = 2..64)",
    Route.CLOSED_FORM,
    expected=Status.REFUTED,
)
def printed_step_size(context: Context, *, step_size=_printed_step_size) -> Verdict:
    K, L = np.arange(2, 65), 4.0
    return at_most(step_size(K, L) * L, 1.0 - 1e-9, where={"K": K, "eta": step_size(K, L)})


@check(
    "Theorem 5.8",
    "with eta = 1/(L sqrt K) the bound is F* + (L D0^2 / 2 + F*)/(sqrt K - 1), K = 2..1e12",
    Route.CLOSED_FORM,
)
def corrected_step_size(context: Context, *, bound=convergence.sgd_bound) -> Verdict:
    K = np.unique(np.geomspace(2, 1e12, 200).astype(int))
    L, D0, F_star = 4.0, 3.0, 0.7
    excess = bound(K, eta=1 / (L * np.sqrt(K)), L=L, D0=D0, F_star=F_star) - F_star
    # D0^2 L / (2 (sqrt K - 1)) + F* / (sqrt K - 1): the same two terms, by hand.
    return equal(excess * (np.sqrt(K) - 1), L * D0**2 / 2 + F_star, where={"K": K}, tolerance=1e-6)


@check(
    "Theorem 5.8",
    "control: eta = 1/(L sqrt K) is allowed at K = 1",
    Route.CLOSED_FORM,
    expected=Status.ASSUMPTION_VIOLATED,
)
def control_first_step(context: Context, *, K: int = 1) -> Verdict:
    value = convergence.sgd_bound(K, eta=1 / (4.0 * np.sqrt(K)), L=4.0, D0=1.0, F_star=1.0)
    return Verdict(status=Status.PROVED, value=value)


def _three_atoms() -> KnownProblem:
    # f = (w - x)^2 with atoms 0, 0, 1 as a linear problem, which the compiled kernel knows.
    return convex.least_squares(np.sqrt(2) * np.ones((3, 1)), np.sqrt(2) * np.array([0.0, 0.0, 1.0]), start=[1.0])


@check(
    "Remark 5.9", "GSGD's target, the minimiser of F^_2, has F = 1/4 > F* = 2/9 for atoms 0, 0, 1", Route.CLOSED_FORM
)
def limit_exceeds_minimum(context: Context, *, R: int = 2) -> Verdict:
    # F^_R is convex and has a kink at 1/2, where the largest loss changes; there its slope changes sign.
    known, kink = _three_atoms(), np.array([0.5])
    beside = kink + np.array([[-1e-9], [1e-9]])
    slopes = exact.greedy_probabilities(known.atom_losses(beside), R) * known.atom_gradients(beside)[..., 0]
    left, right = slopes.sum(axis=-1)
    return worst(
        at_most(left, 0.0, where="left of w = 1/2"),
        at_least(right, 0.0, where="right of w = 1/2"),
        equal(known.problem.objective(kink), 1 / 4),
        equal(known.F_star, 2 / 9),
    )


@check(
    "Remark 5.9", "at K = 10,000 GSGD's mean F(average) lies above SGD's bound, for atoms 0, 0, 1", Route.MONTE_CARLO
)
def gsgd_worse_in_the_end(context: Context, *, bound=convergence.sgd_bound) -> Verdict:
    known = _three_atoms()
    eta, K = SMALL_RATE / known.L, 10_000
    result = sgd.run(Oracle(known.problem, 2), known.start, eta=eta, K=K, runs=1000, rng=context.rng, record=[K])
    limit = bound(K, eta=eta, L=known.L, D0=known.D0, F_star=known.F_star)
    values = result.objective_of_average[0]
    low = montecarlo.mean_lower(values, context.alpha / 2, cap=0.5)
    high = montecarlo.mean_upper(np.minimum(values, 0.5), context.alpha / 2, cap=0.5)
    # Shown only if the lower bound clears the limit; "not shown" is no refutation.
    status = Status.CONSISTENT if low > limit else Status.REFUTED if high < limit else Status.INCONCLUSIVE
    return Verdict(
        status=status,
        value=float(values.mean()),
        bound=limit,
        slack=low - limit,
        witness=None if low > limit else f"mean F in [{low:.6g}, {high:.6g}], SGD's bound is {limit:.6g}",
        detectable=high - low,
    )


@check(
    "Corollary 5.10", "early on GSGD's E F(average) is below SGD's, K = 2..9, for the same problem and eta", Route.EXACT
)
def gsgd_better_at_first(context: Context, *, laws=(exact.greedy, exact.uniform)) -> Verdict:
    known = _three_atoms()
    greedy, uniform = laws[0](3, 2), laws[1](3)
    ours = exact.walk(known, greedy, eta=SMALL_RATE / known.L, K=9).averages
    theirs = exact.walk(known, uniform, eta=SMALL_RATE / known.L, K=9).averages
    return at_most(ours[1:], theirs[1:] - 1e-4, where={"K": np.arange(2, 10)})


def _random_parameters(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    F_star, rho = rng.uniform(0.01, 5, count), 1 + rng.exponential(1, count)
    return {
        "eta": rng.uniform(0.01, 0.99, count) / 2.0,
        "D0": rng.uniform(0.1, 10, count),
        "rho": rho,
        "Delta": rho * F_star * (1 + rng.exponential(1, count)),
        "F_star": F_star,
    }


@check(
    "Corollary 5.10",
    "both bounds equal (Delta-F*)/((1-eta L)(rho-1)) at the crossing, 2,000 parameter sets",
    Route.CLOSED_FORM,
)
def bounds_cross(context: Context, *, crossover=convergence.crossover, value=convergence.crossover_value) -> Verdict:
    q = _random_parameters(context.rng, 2000)
    # The crossing may lie below K = 1; both formulas hold for real K, so D0 is scaled to put it at K >= 1.
    q["D0"] = q["D0"] * np.sqrt(np.maximum(1.0, 2.0 / crossover(**q)))
    K = crossover(**q)
    common = value(eta=q["eta"], L=2.0, rho=q["rho"], Delta=q["Delta"], F_star=q["F_star"])
    gsgd = convergence.gsgd_bound(K, eta=q["eta"], L=2.0, D0=q["D0"], rho=q["rho"], Delta=q["Delta"])
    sgd_value = convergence.sgd_bound(K, eta=q["eta"], L=2.0, D0=q["D0"], F_star=q["F_star"])
    return worst(equal(gsgd / common, 1.0, where=q), equal(sgd_value / common, 1.0, where=q))


@check(
    "Corollary 5.10",
    "GSGD's bound is lower at .9 of the crossing and higher at 1.1 of it, 2,000 parameter sets",
    Route.CLOSED_FORM,
)
def bounds_ordered(context: Context, *, crossover=convergence.crossover) -> Verdict:
    q = _random_parameters(context.rng, 2000)
    q["D0"] = q["D0"] * np.sqrt(np.maximum(1.0, 4.0 / crossover(**q)))
    K = crossover(**q)

    def difference(at: np.ndarray) -> np.ndarray:
        gsgd = convergence.gsgd_bound(at, eta=q["eta"], L=2.0, D0=q["D0"], rho=q["rho"], Delta=q["Delta"])
        return gsgd - convergence.sgd_bound(at, eta=q["eta"], L=2.0, D0=q["D0"], F_star=q["F_star"])

    return worst(at_most(difference(0.9 * K), 0.0, where=q), at_least(difference(1.1 * K), 0.0, where=q))


@check("Corollary 5.10", "edges: Delta = rho F* never crosses (K = inf), rho = 1 crosses at K = 0", Route.CLOSED_FORM)
def crossing_edges(context: Context, *, crossover=convergence.crossover) -> Verdict:
    K = crossover(eta=0.5, D0=2.0, rho=[1.5, 1.0], Delta=[3.0, 3.0], F_star=[2.0, 2.0])
    return equal(K, [np.inf, 0.0])


@check(
    "Corollary 5.10",
    "control: Delta < rho F* has a crossing",
    Route.CLOSED_FORM,
    expected=Status.ASSUMPTION_VIOLATED,
)
def control_impossible_delta(context: Context, *, Delta: float = 2.0) -> Verdict:
    return Verdict(status=Status.PROVED, value=convergence.crossover(eta=0.5, D0=1.0, rho=1.5, Delta=Delta, F_star=2.0))


@check(
    "Remark 5.11",
    "GSGD's bound reaches 1.01, 1.1, 2 and 10 times the crossing value in fewer iterations",
    Route.CLOSED_FORM,
)
def fewer_iterations_by_the_bounds(context: Context, *, margins=(1.01, 1.1, 2.0, 10.0)) -> Verdict:
    q = _random_parameters(context.rng, 2000)
    rate = 1 - 2.0 * q["eta"]
    crossing = convergence.crossover_value(eta=q["eta"], L=2.0, rho=q["rho"], Delta=q["Delta"], F_star=q["F_star"])
    level = np.multiply.outer(margins, crossing)
    # Each bound is a / K + b; it reaches the level at K = a / (level - b).
    gsgd = q["D0"] ** 2 / (2 * q["rho"] * q["eta"] * rate) / (level - q["Delta"] / (q["rho"] * rate))
    plain = q["D0"] ** 2 / (2 * q["eta"] * rate) / (level - q["F_star"] / rate)
    return at_most(gsgd / plain, 1.0, where=q)


@check("Remark 5.11", "E F(w_k) <= 4 F* is reached in fewer steps by GSGD (R = 2, least squares, n = 4)", Route.EXACT)
def fewer_iterations_measured(context: Context, *, laws=(exact.greedy, exact.uniform)) -> Verdict:
    known = convex.compact_problems()[3]
    steps = []
    for law in (laws[0](4, 2), laws[1](4)):
        objectives = exact.walk(known, law, eta=0.25 / known.L, K=10).objectives
        reached = np.nonzero(objectives <= 4 * known.F_star)[0]
        steps.append(float(reached[0]) if len(reached) else np.inf)
    return at_most(steps[0], steps[1] - 1)
