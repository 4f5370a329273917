"""Definition 4.1 and Eqs. (3) and (4): what the oracle draws, what GSGD picks, and how it steps."""

from __future__ import annotations

import itertools

import numpy as np

from gsgd import sgd
from gsgd.oracle import Oracle
from gsgd.selectors import select_random, select_top_k
from theory.formulas.rho import expected_max
from theory.problems import convex
from theory.routes import exact, montecarlo
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_most, check, equal


@check("Definition 4.1", Route.MONTE_CARLO)
def candidates_are_independent(context: Context, *, p: float = 1 / 9) -> Verdicts:
    """the candidates of a query are i.i.d. from D: all 9 pairs of 3 atoms equally likely"""
    known = convex.witness_three_atoms()
    n = montecarlo.sample_size(0.01, context.alpha / 9)
    pairs = Oracle(known.problem, 2).draw(context.rng, (n,)).candidates.astype(int)
    counts = np.bincount(3 * pairs[:, 0] + pairs[:, 1], minlength=9)
    for count in counts:
        yield montecarlo.probability_equals(count, n, p, context.alpha / 9)


@check("Equation 3", Route.EXACT)
def greedy_choice_by_brute_force(context: Context, *, probabilities=exact.greedy_probabilities) -> Verdicts:
    """P(x^ = x_i), ties shared, equals brute force over all n^R candidate tuples"""
    for n, R in itertools.product((2, 3, 4), (1, 2, 3, 4)):
        # Small integers, so that ties are common.
        losses = context.rng.integers(0, 3, size=(20, n)).astype(float)
        draws = np.array(list(itertools.product(range(n), repeat=R)))
        first = select_top_k(losses[:, draws], 1)[..., 0]
        chosen = draws[np.arange(len(draws)), first]
        counted = np.stack([np.bincount(row, minlength=n) for row in chosen]) / len(draws)
        yield equal(probabilities(losses, R), counted, where=f"n = {n}, R = {R}", tolerance=1e-12)


@check("Equation 1", Route.EXACT)
def plain_steps(context: Context, *, rate: float = 0.4) -> Verdict:
    """one draw a step: gsgd.sgd steps as w - eta grad f(w, x) in a plain loop, 12 steps"""
    return _follows_a_loop(context, rate, R=1)


@check("Equation 4", Route.EXACT)
def steps_follow_the_rule(context: Context, *, rate: float = 0.4) -> Verdict:
    """gsgd.sgd steps as a plain Python loop over the same 3 candidates does, 12 steps"""
    return _follows_a_loop(context, rate, R=3)


def _follows_a_loop(context: Context, rate: float, *, R: int) -> Verdict:
    known = convex.compact_problems()[3]
    K, runs = 12, 5
    eta = 0.4 / known.L
    seed = int(context.rng.integers(2**32))
    result = sgd.run(
        Oracle(known.problem, R),
        known.start,
        eta=eta,
        K=K,
        runs=runs,
        rng=np.random.default_rng(seed),
        record=range(1, K + 1),
    )
    expected = []
    for stream in np.random.default_rng(seed).spawn(runs):
        candidates = known.problem.draw(stream, (K, R))
        w = known.start.copy()
        for row in candidates:
            best = max(row, key=lambda i: float(known.atom_losses(w)[i]))
            w = w - rate / known.L * known.atom_gradients(w)[best]
        expected.append(w)
    return equal(result.last, np.array(expected), tolerance=1e-12)


@check("Equation 4", Route.MONTE_CARLO)
def simulated_gsgd_matches_the_tree(context: Context, *, law=exact.greedy) -> Verdict:
    """simulated GSGD has the mean F(average) that enumeration gives, K = 6"""
    return _matches_tree(context, law(4, 2), select_top_k)


@check("Equation 4", Route.MONTE_CARLO)
def simulated_sgd_matches_the_tree(context: Context, *, law=exact.uniform) -> Verdict:
    """simulated SGD has the mean F(average) that enumeration gives, K = 6"""
    return _matches_tree(context, law(4), select_random)


def _matches_tree(context: Context, law: exact.Law, select) -> Verdict:
    known = convex.compact_problems()[3]
    eta, K, runs = 0.5 / known.L, 6, 30_000
    tree = exact.walk(known, law, eta=eta, K=K)
    result = sgd.run(
        Oracle(known.problem, 2), known.start, eta=eta, K=K, runs=runs, rng=context.rng, select=select, record=[K]
    )
    # Every step along any atom keeps F(average) below its largest value on the tree, which bounds the samples.
    cap = float(max(np.max(known.problem.objective(points)) for points in tree.points))
    return montecarlo.mean_equals(result.objective_of_average[0], float(tree.averages[-1]), context.alpha, cap=cap)


@check("Definition 4.1", Route.EXACT)
def greedy_pick_beats_the_mean(context: Context, *, law=exact.greedy) -> Verdict:
    """GSGD's expected loss of the pick is F^_R, and never below the mean, 200 loss vectors"""
    losses = context.rng.random((200, 5)) ** 3
    picked = law(5, 3).expected_loss(losses)
    same = equal(picked, expected_max(losses, 3), tolerance=1e-12)
    return same if same.status is Status.REFUTED else at_most(losses.mean(axis=-1), picked)
