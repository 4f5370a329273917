"""The exact route: E F(average iterate) by enumerating the tree of choices, with no sampling error.

On n atoms, one step of GSGD, SGD or the k-of-B form has finitely many outcomes. A law says with which probability
each outcome happens at given losses; `walk` follows all of them for K steps, level by level.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gsgd.selectors import select_top_k
from theory import assumptions
from theory.formulas import noise_laws
from theory.problems.known import KnownProblem
from theory.verdict import AssumptionViolated, Verdict, at_most, worst

MAX_LEAVES = 2_000_000


@dataclass(frozen=True)
class Law:
    """One step's outcomes: the step goes along `weights[c] @ gradients` with probability `probabilities(losses)[c]`.

    Attributes:
        weights: (c, n), each row the share of every atom in the step's mean gradient.
        probabilities: losses (m, n) -> (m, c).
    """

    weights: np.ndarray
    probabilities: Callable[[np.ndarray], np.ndarray]

    def expected_loss(self, losses: np.ndarray) -> np.ndarray:
        """The expected mean loss of what a step picks, for losses (m, n): (m,). F^_R, F^_{B,k}, F^_approx, or F."""
        return np.sum(self.probabilities(losses) * (losses @ self.weights.T), axis=-1)


def greedy(n: int, R: int) -> Law:
    """GSGD: the largest of R i.i.d. draws; equal losses share their probability (ties to the earlier candidate)."""
    return Law(np.eye(n), lambda losses: greedy_probabilities(losses, R))


def greedy_probabilities(losses: Any, R: int, weights: Any = None) -> np.ndarray:
    """P(atom i is the first of the largest of R draws) for losses (..., n): (..., n).

    A group of equal losses with the weight g, smaller ones with the weight b, is chosen with probability (b + g)^R -
    b^R. Candidates are exchangeable, so atoms within a group come first in proportion to their weights, which are equal
    unless given.
    """
    losses = np.asarray(losses, float)
    n = losses.shape[-1]
    share = np.full(n, 1.0) if weights is None else np.asarray(weights, float) * n
    # Whole numbers where weights are equal, so that ties are exact.
    below = (losses[..., None, :] < losses[..., :, None]) @ share
    group = (losses[..., None, :] == losses[..., :, None]) @ share
    # A group of weight 0 is never chosen.
    return share * (((below + group) / n) ** R - (below / n) ** R) / np.where(group > 0, group, 1.0)


def weighted_greedy(weights: Any, R: int) -> Law:
    """GSGD where atom i is drawn with probability `weights[i]`."""
    return Law(np.eye(len(weights)), lambda losses: greedy_probabilities(losses, R, weights))


def uniform(n: int) -> Law:
    """SGD: every atom with probability 1 / n."""
    return Law(np.eye(n), lambda losses: np.full(losses.shape, 1.0 / n))


def noisy(n: int, R: int, sigma: float, noise: noise_laws.Law) -> Law:
    """GSGD on noisy losses (Assumption 5.12): the largest of R values f(w, x) exp(sigma zeta), zeta per candidate."""
    return Law(np.eye(n), lambda losses: noise_laws.selection_probabilities(losses, R, sigma, noise))


def top_k(n: int, B: int, k: int, *, factors: tuple[float, ...] = (1.0,)) -> Law:
    """SIFT's step: the k largest of B i.i.d. draws, by running `select_top_k` on every possible draw.

    With `factors`, each candidate's loss is multiplied by one of them, all equally likely: a noisy loss whose zeta
    takes finitely many values. No formula of order statistics enters, so this is a witness for
    `theory.formulas.rho.expected_top_k`.
    """
    pairs = np.array(list(itertools.product(range(n * len(factors)), repeat=B)))
    draws, scales = pairs // len(factors), np.asarray(factors)[pairs % len(factors)]
    kept_sets = np.array(list(itertools.combinations_with_replacement(range(n), k)))
    weights = np.stack([np.bincount(kept, minlength=n) / k for kept in kept_sets])
    powers = n ** np.arange(k)
    codes = np.sort(kept_sets, axis=1) @ powers
    order = np.argsort(codes)

    def probabilities(losses: np.ndarray) -> np.ndarray:
        chosen = select_top_k(losses[:, draws] * scales, k)
        atoms = np.take_along_axis(np.broadcast_to(draws, (len(losses), *draws.shape)), chosen, axis=-1)
        outcome = order[np.searchsorted(codes[order], np.sort(atoms, axis=-1) @ powers)]
        shares = np.zeros((len(losses), len(codes)))
        np.add.at(shares, (np.arange(len(losses))[:, None], outcome), 1.0 / len(draws))
        return shares

    return Law(weights, probabilities)


@dataclass(frozen=True)
class Tree:
    """All paths of K steps.

    Attributes:
        points, probabilities: per level k = 0..K-1, the reachable w_k (m_k, d) and their probabilities (m_k,).
        averages: (K,), E F(average of the first k iterates) for k = 1..K, weighted by the step sizes.
        objectives: (K,), E F(w_k) for k = 0..K-1.
    """

    points: list[np.ndarray]
    probabilities: list[np.ndarray]
    averages: np.ndarray
    objectives: np.ndarray


def walk(
    known: KnownProblem, law: Law, *, eta: Any, K: int, objective: Callable[[np.ndarray], Any] | None = None
) -> Tree:
    """Follow every path of K steps from `known.start`; outcomes of probability 0 are dropped.

    Args:
        eta: the step size, or K of them.
        objective: what takes the place of F, w (m, d) -> (m,).

    Raises:
        ValueError: unless K >= 1, or if the tree would have more than MAX_LEAVES leaves.
    """
    if K < 1:
        raise ValueError(f"K = {K} must be at least 1: an average needs an iterate")
    if len(law.weights) ** (K - 1) > MAX_LEAVES:
        raise ValueError(f"{len(law.weights)} outcomes over {K} steps exceed {MAX_LEAVES} leaves: take a smaller K")
    etas = np.broadcast_to(np.asarray(eta, float), (K,))
    parts = etas / etas[0]
    objective = objective or known.problem.objective
    w, probability = known.start[None], np.ones(1)
    total = w.copy()
    points, probabilities, averages, objectives = [], [], [], []
    for step in range(K):
        points.append(w)
        probabilities.append(probability)
        objectives.append(float(probability @ objective(w)))
        averages.append(float(probability @ objective(total / parts[: step + 1].sum())))
        if step == K - 1:
            break
        shares = law.probabilities(known.atom_losses(w))
        steps = law.weights @ known.atom_gradients(w)
        alive = shares > 0
        parent = np.nonzero(alive)[0]
        w = w[parent] - etas[step] * steps[alive]
        total = total[parent] + parts[step + 1] * w
        probability = probability[parent] * shares[alive]
    return Tree(points, probabilities, np.array(averages), np.array(objectives))


def Delta(known: KnownProblem, law: Law) -> float:
    """sup over Phi_F of F^ (Definition 5.6: Delta_R, F* for SGD, Delta_{B,k}); the vertices suffice."""
    # F^ is convex (F^_approx is not: it bounds what noise-free selection would take).
    return float(np.max(law.expected_loss(known.atom_losses(known.minimisers.vertices))))


def rho_over(known: KnownProblem, law: Law, points: list[np.ndarray], Delta: float) -> float:
    """inf of F^ / F over the visited points off Phi_F, at most Delta / F*: a rho with which bounds may be evaluated.

    The convergence proofs hold with rho* replaced by the infimum over any set that contains the iterates, as long as
    rho F* <= Delta, which Equation 5 says of rho* itself.

    Raises:
        AssumptionViolated: if every point is a minimiser and F* = 0, where rho is 0/0.
    """
    w = np.concatenate(points)
    off = known.minimisers.distance(w) > 1e-12
    ratios = []
    if off.any():
        ratios.append(float(np.min(law.expected_loss(known.atom_losses(w[off])) / known.problem.objective(w[off]))))
    # Float64 leaves some 1e-30 of an F* that is 0.
    if known.F_star > 1e-12:
        ratios.append(Delta / known.F_star)
    if not ratios:
        raise AssumptionViolated("Definition 5.6", f"{known.name} starts at a minimiser with F* = 0: rho is 0/0")
    rho = min(ratios)
    # Float64 may leave an infimum of exactly 1 an ulp short of it.
    return max(rho, 1.0) if rho > 1.0 - 1e-12 else rho


def bound_holds(
    known: KnownProblem,
    law: Law,
    bound: Callable[..., Any],
    *,
    eta: Any,
    K: int,
    Delta: float,
    rng: np.random.Generator,
    first: int = 2,
) -> Verdict:
    """Is E F(average of the first k iterates) <= bound(k, eta, L, D0, rho, Delta) for k = first..K, by enumeration?

    `eta` is a step size or several, each of which must pass. The problem's claims about itself are verified first, by
    probing with `rng`. K = 1, where F(w_0) may be the bound itself, is left out unless `first` asks for it: it would
    hide how close the bound is elsewhere.

    Raises:
        AssumptionViolated: if the problem is not what the bound supposes.
    """
    assumptions.verify_section_5(known, rng, compact=known.minimisers.compact)
    k, verdicts = np.arange(first, K + 1), []
    for step in np.atleast_1d(eta).tolist():
        tree = walk(known, law, eta=step, K=K)
        rho = rho_over(known, law, tree.points, Delta)
        values = bound(k, eta=step, L=known.L, D0=known.D0, rho=rho, Delta=Delta)
        where = {"problem": known.name, "K": k, "eta L": step * known.L}
        verdicts.append(at_most(tree.averages[first - 1 :], values, where=where))
    return worst(*verdicts)


def affordable_steps(known: KnownProblem, law: Law, *, leaves: int = 4000, most: int = 12) -> int:
    """The largest K <= most whose tree has at most `leaves` leaves."""
    return next((K for K in range(1, most) if len(law.weights) ** K > leaves), most)
