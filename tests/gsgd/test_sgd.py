import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsgd import linear, sgd
from gsgd.oracle import Noise, Oracle
from gsgd.selectors import select_online_batch, select_random, select_top_k

needs_kernel = pytest.mark.skipif(not sgd.compiled(), reason="needs the extra `fast`")
LOSSES = [
    linear.squared(),
    linear.squared_hinge(),
    linear.huber(0.5),
    linear.pseudo_huber(0.8),
    linear.smoothed_relu(0.5),
]


def problem(rng, *, n=30, d=5, loss=None):
    features = rng.standard_normal((n, d)) / np.sqrt(d)
    return linear.LinearProblem(features, rng.standard_normal(n), loss or linear.squared())


def by_hand(oracle, w0, eta, K, runs, seed, k=1, select=select_top_k):
    """The algorithm in plain Python, one run and one candidate at a time, over the same draws."""
    target, last, averages = oracle.problem, [], []
    for stream in np.random.default_rng(seed).spawn(runs):
        draws = oracle.draw(stream, (K,))
        kept = None if select is select_top_k else select_random(np.zeros((K, oracle.R)), k, stream)
        w, iterates = np.array(w0, float), []
        for step in range(K):
            iterates.append(w)
            atoms = draws.candidates[step]
            scores = [float(target.losses(w, np.array([i]))[0]) for i in atoms]
            if draws.factors is not None:
                scores = [s * f for s, f in zip(scores, draws.factors[step], strict=True)]
            order = sorted(range(oracle.R), key=lambda j: (-scores[j], j)) if kept is None else list(kept[step])
            gradients = [target.gradients(w, np.array([atoms[j]]))[0] for j in sorted(order[:k])]
            w = w - eta * sum(gradients) / k
        last.append(w)
        averages.append(np.mean(iterates, axis=0))
    return np.array(last), np.array(averages)


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=needs_kernel)])
@pytest.mark.parametrize(
    ("R", "k", "select", "noise"),
    [
        (1, 1, select_top_k, None),
        (5, 1, select_top_k, None),
        (6, 3, select_top_k, None),
        (4, 4, select_top_k, None),
        (5, 2, select_top_k, Noise(0.7)),
        (5, 1, select_random, None),
        (5, 3, select_random, None),
    ],
)
def test_equation_4_runs_follow_the_rule_step_by_step(fast, R, k, select, noise):
    target = problem(np.random.default_rng(1))
    oracle, w0 = Oracle(target, R, noise), np.ones(5)
    eta = 0.3 / target.smoothness
    result = sgd.run(oracle, w0, eta=eta, K=15, k=k, runs=4, select=select, rng=np.random.default_rng(9), fast=fast)
    last, averages = by_hand(oracle, w0, eta, 15, 4, 9, k, select)
    np.testing.assert_allclose(result.last, last, rtol=1e-11)
    np.testing.assert_allclose(result.average, averages, rtol=1e-11)


@needs_kernel
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    d=st.integers(1, 9),
    R=st.integers(1, 9),
    share=st.floats(0, 1),
    loss=st.sampled_from(LOSSES),
    sigma=st.sampled_from([None, 0.0, 1.0]),
)
def test_the_kernel_gives_the_bits_of_numpy(seed, d, R, share, loss, sigma):
    rng = np.random.default_rng(seed)
    # Small integers: losses tie all the time, and the earlier candidate must win in both.
    features, offsets = rng.integers(-2, 3, size=(6, d)).astype(float), rng.integers(-2, 3, size=6).astype(float)
    target = linear.LinearProblem(features, offsets, loss)
    oracle = Oracle(target, R, None if sigma is None else Noise(sigma))
    arguments = {"eta": 0.25 / max(target.smoothness, 1.0), "K": 40, "k": 1 + int(share * (R - 1)), "runs": 5}
    fast, slow = (
        sgd.run(oracle, np.ones(d), rng=np.random.default_rng(seed), record=[1, 7, 40], fast=flag, **arguments)
        for flag in (True, False)
    )
    np.testing.assert_array_equal(fast.last, slow.last)
    np.testing.assert_array_equal(fast.average, slow.average)
    np.testing.assert_array_equal(fast.objective, slow.objective)


@needs_kernel
def test_results_do_not_depend_on_threads():
    target = problem(np.random.default_rng(2))
    one, many = (
        sgd.run(Oracle(target, 4), np.ones(5), eta=0.1, K=50, runs=200, rng=np.random.default_rng(5), threads=threads)
        for threads in (1, 4)
    )
    np.testing.assert_array_equal(one.last, many.last)


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=needs_kernel)])
def test_what_is_recorded_of_a_run_does_not_depend_on_its_company(fast):
    """33 runs are one part of NumPy's, and two of the kernel's, the second of a single run."""
    target = problem(np.random.default_rng(3), n=50, d=20)
    arguments = {"eta": 0.1 / target.smoothness, "K": 20, "record": [3, 20]}
    crowd = sgd.run(Oracle(target, 3), np.ones(20), rng=np.random.default_rng(5), runs=33, fast=False, **arguments)
    for runs in (1, 2, 7, 33):
        few = sgd.run(Oracle(target, 3), np.ones(20), rng=np.random.default_rng(5), runs=runs, fast=fast, **arguments)
        np.testing.assert_array_equal(few.objective, crowd.objective[:, :runs])
        np.testing.assert_array_equal(few.objective_of_average, crowd.objective_of_average[:, :runs])


def test_a_run_does_not_depend_on_its_company_nor_on_what_is_recorded():
    target = problem(np.random.default_rng(3))
    alone = sgd.run(Oracle(target, 3), np.ones(5), eta=0.1, K=30, runs=2, rng=np.random.default_rng(5))
    crowd = sgd.run(
        Oracle(target, 3), np.ones(5), eta=0.1, K=30, runs=100, rng=np.random.default_rng(5), record=[3, 17]
    )
    np.testing.assert_array_equal(alone.last, crowd.last[:2])
    np.testing.assert_array_equal(alone.average, crowd.average[:2])


def test_recorded_values_are_those_of_shorter_runs():
    target = problem(np.random.default_rng(4))
    whole = sgd.run(Oracle(target, 3), np.ones(5), eta=0.1, K=30, runs=3, rng=np.random.default_rng(5), record=[30, 8])
    np.testing.assert_array_equal(whole.steps, [8, 30])
    np.testing.assert_allclose(whole.objective[1], target.objective(whole.last))
    np.testing.assert_allclose(whole.objective_of_average[1], target.objective(whole.average))


def test_long_runs_are_drawn_in_chunks_alike_with_and_without_records():
    target = problem(np.random.default_rng(4), n=5, d=1)
    plain, recorded = (
        sgd.run(Oracle(target, 2), [1.0], eta=0.05, K=20_000, rng=np.random.default_rng(6), record=record, fast=False)
        for record in ((), (1, 8191, 8192, 8193, 20_000))
    )
    np.testing.assert_array_equal(plain.last, recorded.last)


def test_step_sizes_may_change_from_step_to_step():
    target = problem(np.random.default_rng(7))
    rates = np.array([0.5, 0.1, 0.02]) / target.smoothness
    result = sgd.run(Oracle(target, 1), np.ones(5), eta=rates, K=3, rng=np.random.default_rng(8))
    (stream,) = np.random.default_rng(8).spawn(1)
    w = np.ones(5)
    for rate, atom in zip(rates, target.draw(stream, (3, 1)), strict=True):
        w = w - rate * target.gradients(w, atom)[0]
    np.testing.assert_allclose(result.last[0], w, rtol=1e-12)


def test_other_rules_and_ones_own_can_select():
    target = problem(np.random.default_rng(7))
    oracle = Oracle(target, 6)

    def smallest(scores, k, rng=None):
        return np.argsort(scores, axis=-1, kind="stable")[..., :k]

    for rule in (select_online_batch, smallest):
        once, again = (
            sgd.run(oracle, np.ones(5), eta=0.1, K=20, k=2, runs=7, rng=np.random.default_rng(3), select=rule)
            for _ in range(2)
        )
        np.testing.assert_array_equal(once.last, again.last)
    hard = sgd.run(oracle, np.ones(5), eta=0.1, K=20, k=2, runs=7, rng=np.random.default_rng(3))
    assert not np.array_equal(once.last, hard.last)


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=needs_kernel)])
def test_a_run_that_diverges_is_an_error(fast):
    target = linear.LinearProblem(np.ones((2, 1)), np.array([0.0, 1.0]), linear.squared())
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(ValueError, match=r"finite|numbers"):
        sgd.run(Oracle(target, 2), [1.0], eta=1e9, K=100, rng=np.random.default_rng(0), fast=fast)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": 0}, "K = 0"),
        ({"K": 2.5}, "K = 2.5"),
        ({"runs": 0}, "runs = 0"),
        ({"k": 4}, "k = 4 .* at most 3"),
        ({"eta": 0.0}, "eta = 0.0 must be positive"),
        ({"eta": float("nan")}, "eta = nan"),
        ({"record": [6]}, "record = 6 .* at most 5"),
        ({"w0": [float("inf")] * 5}, "w0 must be finite"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"w0": np.ones(5), "eta": 0.1, "K": 5, "rng": np.random.default_rng(0)} | change
    with pytest.raises(ValueError, match=message):
        sgd.run(Oracle(problem(np.random.default_rng(0)), 3), arguments.pop("w0"), **arguments)


def test_the_kernel_is_refused_where_it_does_not_apply():
    noise = Noise(0.1, mu=lambda w: w[..., 0])
    with pytest.raises(ValueError, match="fast=True needs"):
        sgd.run(
            Oracle(problem(np.random.default_rng(0)), 3, noise),
            np.ones(5),
            eta=0.1,
            K=5,
            rng=np.random.default_rng(0),
            fast=True,
        )
