"""Beyond 5.5: selection by stale and other approximate losses, which Assumption 5.12 does not cover (F0 to F6)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gsgd.selectors import select_top_k
from theory.formulas import improved, stale
from theory.problems import convex
from theory.problems.adversaries import random_hubers
from theory.problems.known import KnownProblem
from theory.routes import exact
from theory.verdict import Context, Route, Status, Verdict, Verdicts, at_least, at_most, check, equal


@check("Beyond 5.5", Route.EXACT)
def measured(context: Context, *, selected=stale.selected_by_scores) -> Verdict:
    """any score: sqrt(mean_S f) >= sqrt(mean_S* f) - delta_S - delta_S* on 2,000 batches of 2 to 12 rows, every k"""
    values, limits = [], []
    for _ in range(2000):
        B = int(context.rng.integers(2, 13))
        f = np.exp(context.rng.normal(0, 1.5, B))
        s = f * np.exp(context.rng.normal(0, context.rng.exponential(0.5), B))
        value, limit = selected(f, s, int(context.rng.integers(1, B + 1)))
        values.append(value)
        limits.append(limit)
    return at_least(values, limits)


@check("Beyond 5.5", Route.EXACT)
def measured_attained(context: Context, *, selected=stale.selected_by_scores) -> Verdict:
    """any score: attained in the limit by f = (a^2, b^2), s = ((a - d)^2, (b + d)^2), d = (a - b)/2, k = 1;
    100 pairs
    """
    a, b = np.sort(context.rng.exponential(1, (2, 100)), axis=0)[::-1]
    d = (a - b) / 2 * (1 + 1e-9)
    found = [selected([x**2, y**2], [(x - z) ** 2, (y + z) ** 2], 1) for x, y, z in zip(a, b, d, strict=True)]
    return equal([value for value, _ in found], [limit for _, limit in found], where={"a": a, "b": b}, tolerance=1e-6)


def _stale_choice(known: KnownProblem, w: np.ndarray, seen: np.ndarray, R: int) -> tuple[np.ndarray, np.ndarray]:
    """(F^_stale, F^_R) at w (m, 1), atom i scored by its loss at seen (m, n)."""
    n = known.problem.n
    losses = known.atom_losses(w)
    scores = np.stack([known.atom_losses(seen[:, i : i + 1])[:, i] for i in range(n)], axis=-1)
    return np.sum(exact.greedy_probabilities(scores, R) * losses, axis=-1), exact.greedy(n, R).expected_loss(losses)


@check("Beyond 5.5", Route.EXACT)
def stale_losses(context: Context, *, factor=stale.stale_factor) -> Verdicts:
    """stale losses: F^_stale >= theta(F^_R, L, d) F^_R, a place per atom within d of w; 300 Huber problems, 100 w"""
    for known in random_hubers(context.rng, 300):
        w = known.start + 3 * context.rng.standard_normal((100, 1))
        d = np.exp(context.rng.uniform(-4, 0.5, 100))
        # The worst places are at the ends: the largest loss seen too small, another one too large.
        seen = w + d[:, None] * context.rng.choice([-1.0, 1.0], (100, known.problem.n))
        R = int(context.rng.integers(2, 4))
        value, F_hat = _stale_choice(known, w, seen, R)
        keep = F_hat > 1e-9
        limit = factor(F_hat[keep], 1.0, d[keep]) * F_hat[keep]
        yield at_least(value[keep], limit, where={"problem": known.name, "d": d[keep]})


@check("Beyond 5.5", Route.CLOSED_FORM)
def of_age(context: Context, *, factor=stale.stale_factor_of_age) -> Verdict:
    """of age, losses level: 1/(1 + 2 h tau)^2 solves sqrt(F_s) = sqrt(F^) - 2 h tau sqrt(F_s), 200 (h, tau)"""
    h, age = context.rng.uniform(0.001, 1, 200), context.rng.integers(0, 50, 200)
    root = np.sqrt(factor(h, 1.0, age))
    return equal(root, 1 - 2 * h * age * root, where={"h": h, "tau": age})


def _stale_run(known: KnownProblem, order: np.ndarray, eta: float, largest: int | None) -> tuple[float, float]:
    """(least F^_stale / (sqrt F^ - 2 h tau sqrt m)^2, oldest age) of a run that keeps the loss last seen of each atom.

    Two candidates a step from `order` (K, 2): the one with the larger score is trained on and its score renewed, with
    the loss before the step; scores older than `largest` are renewed for nothing.
    """
    w, n = known.start.copy(), known.problem.n
    scores, born = known.atom_losses(w).copy(), np.zeros(n, int)
    chosen: list[float] = []
    ratio, oldest = np.inf, 0
    for step, pair in enumerate(order):
        if largest is not None:
            renew = step - born >= largest
            scores[renew], born[renew] = known.atom_losses(w)[renew], step
        losses = known.atom_losses(w)
        age = int(np.max(step - born))
        oldest = max(oldest, age)
        # The mean over all pairs, which is F^_stale, against the bound from the losses that were stepped along.
        value = float(np.sum(exact.greedy_probabilities(scores, 2) * losses))
        F_hat = float(exact.greedy(n, 2).expected_loss(losses))
        moved = 2 * eta * sum(np.sqrt(chosen[len(chosen) - age :])) if age else 0.0
        limit = max(0.0, np.sqrt(F_hat) - moved) ** 2
        ratio = min(ratio, (value + 1e-12) / (limit + 1e-12))
        row = int(pair[np.argmax(scores[pair])])
        chosen.append(float(losses[row]))
        scores[row], born[row] = losses[row], step
        w = w - eta * known.atom_gradients(w)[row]
    return ratio, float(oldest)


@check("Beyond 5.5", Route.EXACT)
def along_runs(context: Context, *, share: float = 1.0) -> Verdict:
    """100 runs by losses last seen, at most 5 steps ago: sqrt(F^_stale) >= sqrt(F^_2) - 2 h sum sqrt f(w_s, x^_s)"""
    ratios = []
    for known in random_hubers(context.rng, 100):
        order = context.rng.integers(known.problem.n, size=(60, 2))
        ratios.append(_stale_run(known, order, context.rng.uniform(0.01, 0.3), 5)[0])
    return at_least(ratios, share)


@check("Beyond 5.5", Route.EXACT, expected=Status.REFUTED)
def age_is_not_bounded(context: Context, *, largest: int | None = None) -> Verdict:
    """control: without renewal no score gets older than 20 in 200 steps (rows that are not trained on keep theirs)"""
    known = convex.least_squares(np.ones((4, 1)), [0.0, 0.0, 0.0, 2.0], start=[0.9])
    order = context.rng.integers(4, size=(200, 2))
    return at_most(_stale_run(known, order, 0.01, largest)[1], 20.0)


def _off_by(known: KnownProblem, error: float) -> exact.Law:
    """GSGD, R = 2, by scores that are `error` too low for the largest loss and as much too high for all others."""

    def probabilities(losses: np.ndarray) -> np.ndarray:
        largest = losses == losses.max(axis=-1, keepdims=True)
        return exact.greedy_probabilities(losses + np.where(largest, -error, error), 2)

    return exact.Law(np.eye(known.problem.n), probabilities)


@check("Beyond 5.5", Route.EXACT)
def additive_error(context: Context, *, bound=stale.additive_error_bound) -> Verdicts:
    """losses off by at most .05, .3, 2: E F(average) <= additive bound, 10 instances, R = 2, K up to 6..12, 3 rates"""
    for known in convex.compact_problems():
        greedy = exact.greedy(known.problem.n, 2)
        for error in (0.05, 0.3, 2.0):
            law, K = _off_by(known, error), exact.affordable_steps(known, greedy, leaves=1000)
            for rate in (0.05, 0.5, 1.5):
                eta, Delta = rate / known.L, known.Delta(2)
                tree = exact.walk(known, law, eta=eta, K=K)
                # rho is that of the exact choice at these iterates.
                rho = exact.rho_over(known, greedy, tree.points, Delta)
                k = np.arange(2, K + 1)
                q: dict[str, Any] = {"eta": eta, "L": known.L, "D0": known.D0, "rho": rho, "Delta": Delta}
                limit = bound(k, error=error, **q)
                where = {"problem": known.name, "K": k, "error": error}
                yield at_most(tree.averages[1:], limit, where=where)


@check("Beyond 5.5", Route.EXACT)
def random_share(context: Context, *, bound=improved.gsgd_bound_improved, kept: float = 1.0) -> Verdicts:
    """a share of the picks at random: F^ >= (1 - e) F^_R, and the improved bound holds with that rho, 10 instances,
    3 e
    """
    for known in convex.compact_problems():
        n = known.problem.n
        greedy = exact.greedy(n, 2)
        for share in (0.1, 0.5, 1.0):
            law = exact.Law(np.eye(n), partial(_mixed, greedy, share))
            w = known.start + 2 * context.rng.standard_normal((100, known.problem.dim))
            losses = known.atom_losses(w)
            limit = kept * (1 - share) * greedy.expected_loss(losses) + share * losses.mean(axis=-1)
            yield at_least(law.expected_loss(losses), limit, where=known.name)
            q: dict[str, Any] = {
                "K": exact.affordable_steps(known, law, leaves=1000),
                "Delta": known.Delta(2),
                "rng": context.rng,
            }
            yield exact.bound_holds(known, law, bound, eta=np.array((0.05, 0.9)) / known.L, **q)


def _mixed(law: exact.Law, share: float, losses: np.ndarray) -> np.ndarray:
    return (1 - share) * law.probabilities(losses) + share / losses.shape[-1]


@check("Beyond 5.5", Route.EXACT)
def unbiased(context: Context, *, factor: float = 2.0) -> Verdicts:
    """without bias: E|g|^2 <= (2L/e) F for rows drawn with q_j >= e/B, weighted 1/(B q_j): 300 problems, e >= .1"""
    for known in random_hubers(context.rng, 300):
        n, e = known.problem.n, context.rng.uniform(0.1, 1)
        w = known.start + 3 * context.rng.standard_normal((50, 1))
        losses, slopes = known.atom_losses(w), known.atom_gradients(w)[..., 0]
        # The rest of the probability goes to one row: the worst is where the largest gradient gets the least.
        q = e / n + (1 - e) * np.eye(n)[np.argmin(losses, axis=1)]
        square = np.sum(slopes**2 / (n**2 * q), axis=1)
        yield at_most(square, factor / e * losses.mean(axis=1), where=known.name)


@check("Beyond 5.5", Route.EXACT)
def unbiased_convergence(context: Context, *, bound=stale.unbiased_bound) -> Verdicts:
    """without bias: E F(average) <= unbiased bound, q_j half by loss and half even, 10 instances,
    eta L = .02, .2, .45
    """
    for known in convex.compact_problems():
        n, e = known.problem.n, 0.5
        K = exact.affordable_steps(known, exact.uniform(n), leaves=1000)
        for rate in (0.02, 0.2, 0.45):
            averages = _unbiased_tree(known, rate / known.L, K, e)
            k = np.arange(2, K + 1)
            q: dict[str, Any] = {"eta": rate / known.L, "L": known.L, "D0": known.D0, "F_star": known.F_star}
            yield at_most(averages[1:], bound(k, share=e, **q), where={"problem": known.name, "K": k})


def _unbiased_tree(known: KnownProblem, eta: float, K: int, share: float) -> np.ndarray:
    """E F(average of the first k iterates), k = 1..K, of SGD that draws rows by loss and weights them back."""
    n = known.problem.n
    w, probability = known.start[None], np.ones(1)
    total, averages = w.copy(), []
    for step in range(K):
        averages.append(float(probability @ known.problem.objective(total / (step + 1))))
        losses = known.atom_losses(w)
        q = share / n + (1 - share) * losses / losses.sum(axis=1, keepdims=True)
        moved = w[:, None, :] - eta * known.atom_gradients(w) / (n * q)[..., None]
        w, probability = moved.reshape(-1, known.problem.dim), (probability[:, None] * q).ravel()
        total = np.repeat(total, n, axis=0) + w
    return np.array(averages)


@check("Beyond 5.5", Route.EXACT)
def same_rule(context: Context, *, selected=stale.selected_by_scores) -> Verdict:
    """the largest scores are what select_top_k keeps: `selected_by_scores` against it on 500 batches without ties"""
    values, expected = [], []
    for _ in range(500):
        f, s = context.rng.exponential(1, (2, 8))
        kept = select_top_k(s, 3)
        values.append(selected(f, s, 3)[0])
        expected.append(float(f[kept].mean()))
    return equal(values, expected)
