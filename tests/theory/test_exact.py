"""The exact route against a plain recursion over candidate tuples, in fractions where the problem allows it."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.formulas import noise_laws
from theory.formulas.convergence import gsgd_bound
from theory.formulas.rho import expected_max, expected_top_k
from theory.problems import convex
from theory.problems.known import KnownProblem, point
from theory.routes import exact
from theory.verdict import AssumptionViolated, Status

RNG = np.random.default_rng(0)

# --- The recursion: every tuple of candidates, one at a time ----------------------------------------------------------


def pick_largest(losses, candidates):
    """The first of the largest."""
    return [max(candidates, key=lambda i: losses[i])]


def pick_first(losses, candidates):
    return [candidates[0]]


def pick_top(k):
    def pick(losses, candidates):
        return sorted(candidates, key=lambda i: -losses[i])[:k]

    return pick


def enumerate_scalar(atoms, start, *, eta, K, draws, pick):
    """E F(average) and E F(w_{K-1}) for f_i = (w - x_i)^2, in fractions, over all n^draws tuples of each step."""

    def F(w):
        return sum((w - x) ** 2 for x in atoms) / len(atoms)

    def descend(w, total, left):
        if left == 1:
            return F((total + w) / K), F(w)
        losses = [(w - x) ** 2 for x in atoms]
        average, last, tuples = Fraction(0), Fraction(0), list(itertools.product(range(len(atoms)), repeat=draws))
        for candidates in tuples:
            kept = pick(losses, candidates)
            gradient = sum((2 * (w - atoms[i]) for i in kept), Fraction(0)) / len(kept)
            a, b = descend(w - eta * gradient, total + w, left - 1)
            average, last = average + a, last + b
        return average / len(tuples), last / len(tuples)

    return descend(Fraction(start), Fraction(0), K)


CASES = [
    # Atoms, w_0 and eta are fractions that float64 holds exactly, and chosen so that ties occur on the way.
    ("largest of 2", [0, 0, 1], 2, Fraction(1, 8), 4, 2, pick_largest, lambda n: exact.greedy(n, 2)),
    ("largest of 3", [0, 2], 1, Fraction(1, 4), 4, 3, pick_largest, lambda n: exact.greedy(n, 3)),
    ("largest of 1", [0, 1, 4], -1, Fraction(1, 4), 5, 1, pick_largest, lambda n: exact.greedy(n, 1)),
    ("random", [0, 1, 4], -1, Fraction(1, 4), 5, 1, pick_first, exact.uniform),
    ("2 largest of 3", [0, 1, 4], Fraction(1, 2), Fraction(1, 8), 3, 3, pick_top(2), lambda n: exact.top_k(n, 3, 2)),
    ("1 largest of 2", [0, 0, 1], 2, Fraction(1, 8), 4, 2, pick_top(1), lambda n: exact.top_k(n, 2, 1)),
    ("all of 2", [0, 2], 1, Fraction(1, 4), 4, 2, pick_top(2), lambda n: exact.top_k(n, 2, 2)),
]


@pytest.mark.parametrize(("atoms", "start", "eta", "K", "draws", "pick", "law"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])  # fmt: skip
def test_tree_agrees_with_a_recursion_over_tuples_in_fractions(atoms, start, eta, K, draws, pick, law):
    known = convex.mean_estimation([[float(x)] for x in atoms], start=[float(start)])
    tree = exact.walk(known, law(len(atoms)), eta=float(eta), K=K)
    for k in range(1, K + 1):
        average, last = enumerate_scalar([Fraction(x) for x in atoms], start, eta=eta, K=k, draws=draws, pick=pick)
        assert tree.averages[k - 1] == pytest.approx(float(average), rel=1e-14)
        assert tree.objectives[k - 1] == pytest.approx(float(last), rel=1e-14)


def enumerate_problem(known, *, eta, K, outcomes, pick):
    """E F(average) by a recursion over equally likely outcomes of a step, for any problem in float64."""

    def descend(w, total, left):
        if left == 1:
            return float(known.problem.objective((total + w) / K))
        losses, gradients = known.atom_losses(w), known.atom_gradients(w)
        values = [
            descend(w - eta * gradients[pick(losses, outcome)].mean(axis=0), total + w, left - 1)
            for outcome in outcomes
        ]
        return sum(values) / len(values)

    return descend(known.start, np.zeros_like(known.start), K)


@pytest.mark.parametrize("known", convex.compact_problems() + convex.interpolating_problems(), ids=lambda k: k.name)
def test_tree_agrees_with_a_recursion_on_every_problem(known):
    outcomes = list(itertools.product(range(known.problem.n), repeat=2))
    eta = 0.5 / known.L
    tree = exact.walk(known, exact.greedy(known.problem.n, 2), eta=eta, K=3)
    for K in (1, 2, 3):
        expected = enumerate_problem(known, eta=eta, K=K, outcomes=outcomes, pick=pick_largest)
        assert tree.averages[K - 1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("known", [convex.compact_problems()[i] for i in (0, 3, 8)], ids=lambda k: k.name)
@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_noisy_tree_agrees_with_a_recursion_over_candidates_and_signs(known, sigma):
    # zeta = +-1 for each of two candidates; two candidates with equal approximate losses share their probability, which
    # the first candidate's winning does too, since the pair in the other order is as likely.
    outcomes = list(
        itertools.product(itertools.product(range(known.problem.n), repeat=2), itertools.product((-1, 1), repeat=2))
    )

    def pick(losses, outcome):
        candidates, signs = outcome
        scores = [losses[i] * np.exp(sigma * sign) for i, sign in zip(candidates, signs, strict=True)]
        return [candidates[int(np.argmax(scores))]]

    law = exact.noisy(known.problem.n, 2, sigma, noise_laws.rademacher)
    tree = exact.walk(known, law, eta=0.4 / known.L, K=3)
    expected = enumerate_problem(known, eta=0.4 / known.L, K=3, outcomes=outcomes, pick=pick)
    assert tree.averages[-1] == pytest.approx(expected, rel=1e-10)


def test_top_k_with_noise_agrees_with_a_recursion():
    known, factors = convex.compact_problems()[2], (0.5, 3.0)
    pairs = [(i, f) for i in range(3) for f in factors]
    law = exact.top_k(3, 3, 2, factors=factors)
    tree = exact.walk(known, law, eta=0.2, K=3)

    def pick(losses, outcome):
        return [i for i, f in sorted(outcome, key=lambda pair: -losses[pair[0]] * pair[1])[:2]]

    outcomes = list(itertools.product(pairs, repeat=3))
    expected = enumerate_problem(known, eta=0.2, K=2, outcomes=outcomes, pick=pick)
    assert tree.averages[1] == pytest.approx(expected, rel=1e-12)


# --- A closed form: SGD on mean estimation ----------------------------------------------------------------------------


def test_tree_of_sgd_agrees_with_the_variance_of_an_autoregression():
    # w_{k+1} - m = q (w_k - m) + eta c (x - m) with q = 1 - eta c, so cov(w_j, w_k) = q^|j-k| v_min(j,k).
    known = convex.compact_problems()[2]
    c, K, eta = known.L, 7, 0.15
    atoms, m = known.problem.atoms, known.problem.atoms.mean(axis=0)
    variance, q = float(np.mean(np.sum((atoms - m) ** 2, axis=1))), 1 - eta * c
    distance = np.sum((known.start - m) ** 2)
    tree = exact.walk(known, exact.uniform(3), eta=eta, K=K)
    spread = (eta * c) ** 2 * variance * (1 - q ** (2 * np.arange(K))) / (1 - q**2)
    means = q ** np.arange(K)
    assert tree.objectives == pytest.approx(c / 2 * (variance + means**2 * distance + spread), rel=1e-13)
    for k in range(1, K + 1):
        j = np.arange(k)
        covariance = q ** np.abs(j[:, None] - j) * spread[np.minimum(j[:, None], j)]
        second = means[:k].mean() ** 2 * distance + covariance.sum() / k**2
        assert tree.averages[k - 1] == pytest.approx(c / 2 * (variance + second), rel=1e-13)


# --- Laws -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(1, 4))
def test_greedy_probabilities_are_shares_of_all_tuples(losses, R):
    # Ties are common among integers 0..3; the largest atoms of equal loss are equally likely.
    n = len(losses)
    counted = np.zeros(n)
    for candidates in itertools.product(range(n), repeat=R):
        largest = max(losses[i] for i in candidates)
        counted[next(i for i in candidates if losses[i] == largest)] += 1
    assert exact.greedy_probabilities(np.array(losses, float), R) == pytest.approx(counted / n**R, abs=1e-14)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.integers(1, 500))
def test_greedy_probabilities_add_up_and_give_the_expected_maximum(losses, R):
    losses = np.array(losses)
    probabilities = exact.greedy_probabilities(losses, R)
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert (probabilities >= 0).all()
    # The law's own sum against the order statistics of theory.formulas.rho.
    assert exact.greedy(len(losses), R).expected_loss(losses[None])[0] == pytest.approx(
        expected_max(losses, R), rel=1e-9
    )


@pytest.mark.parametrize(("B", "k"), [(1, 1), (2, 1), (3, 2), (4, 2), (4, 4), (5, 3)])
def test_top_k_law_gives_the_mean_of_order_statistics(B, k):
    rng = np.random.default_rng(0)
    losses = np.concatenate([rng.random((5, 3)), rng.integers(0, 2, (5, 3)).astype(float)])
    law = exact.top_k(3, B, k)
    assert law.probabilities(losses).sum(axis=1) == pytest.approx(np.ones(10))
    assert law.weights.sum(axis=1) == pytest.approx(np.ones(len(law.weights)))
    assert law.expected_loss(losses) == pytest.approx(expected_top_k(losses, B, k))


def test_outcomes_that_cannot_happen_are_dropped():
    # Atom 0 is the larger only if both draws show it.
    losses = np.array([[1.0, 2.0]])
    assert exact.top_k(2, 2, 1).probabilities(losses) == pytest.approx(np.array([[0.25, 0.75]]))
    known = convex.mean_estimation([[0.0], [4.0]], start=[0.0])
    impossible = exact.Law(np.eye(2), lambda losses: np.tile([1.0, 0.0], (len(losses), 1)))
    tree = exact.walk(known, impossible, eta=0.1, K=5)
    assert [len(w) for w in tree.points] == [1] * 5
    assert [len(w) for w in exact.walk(known, exact.uniform(2), eta=0.1, K=5).points] == [1, 2, 4, 8, 16]


# --- The tree itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", convex.compact_problems(), ids=lambda k: k.name)
def test_levels_of_the_tree_are_distributions(known):
    tree = exact.walk(known, exact.greedy(known.problem.n, 2), eta=0.3 / known.L, K=4)
    assert len(tree.points) == len(tree.probabilities) == len(tree.averages) == len(tree.objectives) == 4
    for w, probability in zip(tree.points, tree.probabilities, strict=True):
        assert w.shape == (len(probability), known.problem.dim)
        assert probability.sum() == pytest.approx(1, abs=1e-12)
    assert tree.averages[0] == tree.objectives[0] == pytest.approx(float(known.problem.objective(known.start)))
    # Jensen, and an average is no better than the best iterate can be.
    assert (tree.averages <= np.cumsum(tree.objectives) / np.arange(1, 5) + 1e-12).all()
    assert (tree.averages >= known.F_star - 1e-12).all()


def test_a_walk_needs_a_step_and_a_tree_that_fits():
    known = convex.witness_three_atoms()
    with pytest.raises(ValueError, match="K = 0 must be at least 1"):
        exact.walk(known, exact.uniform(3), eta=0.1, K=0)
    with pytest.raises(ValueError, match="3 outcomes over 15 steps exceed 2000000 leaves: take a smaller K"):
        exact.walk(known, exact.uniform(3), eta=0.1, K=15)


@given(st.integers(1, 40), st.integers(1, 5000), st.integers(1, 15))
def test_affordable_steps_are_the_most_that_fit(outcomes, leaves, most):
    K = exact.affordable_steps(None, exact.Law(np.eye(outcomes), np.asarray), leaves=leaves, most=most)
    assert 1 <= K <= most
    assert outcomes ** (K - 1) <= leaves
    assert most == K or outcomes**K > leaves


def test_affordable_steps_count_in_whole_numbers():
    # log(1000) / log(10) is 2.9999999999999996 in float64.
    assert exact.affordable_steps(None, exact.Law(np.eye(10), np.asarray), leaves=1000) == 4


# --- rho over what is visited -----------------------------------------------------------------------------------------


def test_rho_is_the_least_ratio_over_the_points_off_the_minimisers():
    known, law = convex.witness_three_atoms(), exact.greedy(3, 2)
    w = [np.array([[2.0], [1 / 3]]), np.array([[0.0]])]
    # At 2: losses 4, 4, 1, mean 3, maximum of two 4 (8/9) + 1/9 = 11/3. At 0: losses 0, 0, 1, mean 1/3, maximum 5/9.
    # At 1/3, the minimiser, Delta / F* = (8/27) / (2/9) = 4/3, which Equation 5 makes a bound on rho.
    assert exact.rho_over(known, law, w[1:], 1.0) == pytest.approx(5 / 3)
    assert exact.rho_over(known, law, w[1:], known.Delta(2)) == pytest.approx(4 / 3)
    assert exact.rho_over(known, law, w, known.Delta(2)) == pytest.approx(11 / 9)
    assert exact.rho_over(known, law, [np.array([[1 / 3]])], known.Delta(2)) == pytest.approx(4 / 3)


def test_definition_5_6_rho_of_minimisers_with_f_star_0_is_no_number():
    known = convex.separable_hinge(start=2.0)
    with pytest.raises(AssumptionViolated, match="starts at a minimiser with F\\* = 0: rho is 0/0") as caught:
        exact.rho_over(known, exact.greedy(2, 2), [known.start[None]], 0.0)
    assert caught.value.assumption == "Definition 5.6"
    # Off them it is defined, and points on them do not count.
    points = [np.array([[0.0], [2.0]])]
    assert exact.rho_over(known, exact.greedy(2, 2), points, 0.0) == pytest.approx(1.0)


def test_rho_of_equal_losses_is_one_and_not_an_ulp_less():
    known = convex.mean_estimation([[0.1], [0.1], [0.1]], start=[0.7])
    assert exact.rho_over(known, exact.greedy(3, 2), [np.linspace(0.2, 5, 1000)[:, None]], 0.0) == 1.0


def test_rho_below_one_is_passed_on_so_that_the_bound_rejects_it():
    known = convex.witness_three_atoms()
    smallest = exact.Law(
        np.eye(3), lambda f: (f == f.min(-1, keepdims=True)) / np.sum(f == f.min(-1, keepdims=True), -1)[:, None]
    )
    with pytest.raises(ValueError, match=r"rho = .* must be at least 1"):
        exact.bound_holds(known, smallest, gsgd_bound, eta=0.1, K=3, Delta=1.0, rng=RNG)


# --- A bound at the tree ----------------------------------------------------------------------------------------------


def test_a_bound_is_compared_at_every_number_of_steps():
    known, law = convex.witness_three_atoms(), exact.greedy(3, 2)
    tree = exact.walk(known, law, eta=0.1, K=5)
    seen = {}

    def bound(K, **arguments):
        seen.update(arguments, K=K)
        return tree.averages[1:] + np.where(K == 4, 0.001, 0.1)

    found = exact.bound_holds(known, law, bound, eta=0.1, K=5, Delta=known.Delta(2), rng=RNG)
    assert (found.status, found.value) == (Status.PROVED, tree.averages[3])
    assert found.slack == pytest.approx(0.001)
    assert list(seen.pop("K")) == [2, 3, 4, 5]
    assert seen == {
        "eta": 0.1,
        "L": 2.0,
        "D0": pytest.approx(5 / 3),
        "rho": pytest.approx(exact.rho_over(known, law, tree.points, known.Delta(2))),
        "Delta": pytest.approx(8 / 27),
    }

    def wrong(K, **arguments):
        return tree.averages[1:] - np.where(K == 2, 0.01, 0.0)

    found = exact.bound_holds(known, law, wrong, eta=0.1, K=5, Delta=known.Delta(2), rng=RNG)
    assert found.status is Status.REFUTED
    assert "problem = mean estimation, n = 3, d = 1, K = 2, eta L = 0.2" in found.witness


@pytest.mark.parametrize(
    ("wrong", "assumption"),
    [({"L": 0.5}, "Assumption 5.3"), ({"minimisers": point([0.6])}, "Phi_F as stated")],
)
def test_a_problem_that_is_not_what_it_says_is_found_before_its_bound(wrong, assumption):
    known = dataclasses.replace(convex.witness_three_atoms(), **wrong)
    with pytest.raises(AssumptionViolated, match=assumption):
        exact.bound_holds(known, exact.greedy(3, 2), gsgd_bound, eta=0.1, K=3, Delta=known.Delta(2), rng=RNG)


def test_theorem_5_7_is_loose_by_four_at_a_single_atom():
    # One atom, w_0 = its minimiser plus D0, K = 1: F(w_0) = L D0^2 / 2 against D0^2 / (2 eta (1 - eta L)), at best
    # 2 L D0^2, at eta = 1/(2L).
    known = KnownProblem("one atom", convex.MeanEstimation(np.zeros((1, 1)), 2.0), 2.0, point([0.0]), np.zeros((1, 1)),
                         np.array([3.0]))  # fmt: skip
    q = {"eta": 0.25, "K": 1, "first": 1, "Delta": 0.0, "rng": RNG}
    found = exact.bound_holds(known, exact.greedy(1, 2), gsgd_bound, **q)
    assert found.bound / found.value == pytest.approx(4)


def test_steps_may_change_and_weigh_the_average():
    known = convex.witness_quadratics()
    tree = exact.walk(known, exact.uniform(2), eta=[0.5, 0.25], K=2)
    # From 3 with slopes 3 and 1: 1.5 or 2.5; weights 2/3 and 1/3: 2.5 or 17/6. F(w) = ((w - 1)^2 + 1) / 2.
    assert tree.averages[1] == pytest.approx(np.mean([((w - 1) ** 2 + 1) / 2 for w in (2.5, 17 / 6)]))
    doubled = exact.walk(known, exact.uniform(2), eta=0.5, K=2, objective=lambda w: 2 * known.problem.objective(w))
    assert doubled.averages == pytest.approx(2 * exact.walk(known, exact.uniform(2), eta=0.5, K=2).averages)


def test_weights_of_a_multiple_are_repeated_atoms():
    losses = np.random.default_rng(1).integers(0, 4, (50, 3)).astype(float)
    repeated = exact.greedy_probabilities(losses[:, [0, 0, 0, 1, 2, 2]], 3)
    found = exact.greedy_probabilities(losses, 3, [1 / 2, 1 / 6, 1 / 3])
    expected = np.stack([repeated[:, :3].sum(1), repeated[:, 3], repeated[:, 4:].sum(1)], axis=1)
    assert found == pytest.approx(expected)
