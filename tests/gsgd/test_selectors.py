"""Rules of `gsgd.selectors` against Python loops and exactly enumerated probabilities.

Stochastic checks draw DRAWS independent selections from a fixed seed and refuse at p < ALARM: for a true law that is
their false-alarm probability (chi-square approximation, every expected count > 50). Their power is shown, not claimed:
the same draws must refuse a near-miss law, the likeliest slip in the formula.
"""

import itertools
import math
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

import gsgd.selectors
from gsgd.selectors import (
    Selector,
    select_online_batch,
    select_random,
    select_selective_backprop,
    select_top_k,
    trim,
    unchecked,
)

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")
LIBRARIES = [np, pytest.param(torch, marks=needs_torch)]
both = pytest.mark.parametrize("lib", LIBRARIES, ids=["numpy", "torch"])
repeatable = settings(derandomize=True, deadline=None, max_examples=60)

ALARM = 1e-9
DRAWS = 40_000

RANDOM_RULES = {
    "random": select_random,
    "online_batch": select_online_batch,
    "selective_backprop": select_selective_backprop,
    "trim_random": partial(trim, share=0.1, select=select_random),
}
BY_SCORE = {
    "top_k": select_top_k,
    "online_batch": select_online_batch,
    "selective_backprop": select_selective_backprop,
    "trim": partial(trim, share=0.2),
    "trim_online_batch": partial(trim, share=0.2, select=select_online_batch),
}
random_rules = pytest.mark.parametrize("rule", RANDOM_RULES.values(), ids=RANDOM_RULES.keys())
rules_by_score = pytest.mark.parametrize("rule", BY_SCORE.values(), ids=BY_SCORE.keys())


def rng(seed=0):
    return np.random.default_rng(seed)


def descending(row):
    return sorted(range(len(row)), key=lambda i: (-row[i], i))


@st.composite
def tied_scores_and_k(draw):
    """Rows of few distinct values, so that ties are the rule, and a k."""
    rows, n = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    values = draw(st.lists(st.integers(-3, 3), min_size=rows * n, max_size=rows * n))
    return np.array(values).reshape(rows, n), draw(st.integers(1, n))


# --- top k ------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "int8", "uint8"])
@repeatable
@given(case=tied_scores_and_k())
def test_top_k_is_the_sorted_order_with_ties_to_the_earlier(lib, dtype, case):
    values, k = case
    values = values + 3 if dtype == "uint8" else values
    picked = select_top_k(lib.asarray(values.tolist(), dtype=getattr(lib, dtype)), k)
    assert picked.tolist() == [descending(row)[:k] for row in values.tolist()]


@needs_torch
@repeatable
@given(case=tied_scores_and_k())
def test_top_k_in_bfloat16(case):
    values, k = case
    picked = select_top_k(torch.tensor(values, dtype=torch.bfloat16), k)
    assert picked.tolist() == [descending(row)[:k] for row in values.tolist()]


@both
def test_greedy_choice_is_the_first_argmax_eq_3(lib):
    scores = lib.asarray([[0.5, 2.0, 2.0, -1.0], [-3.0, -2.0, -5.0, -2.0]])
    assert select_top_k(scores, 1).tolist() == [[1], [1]]


@both
def test_top_k_keeps_the_sign_and_the_smallest_difference(lib):
    largest, tiny = np.finfo(np.float32).max, np.finfo(np.float32).tiny
    scores = lib.asarray([-0.0, -largest.item(), largest.item(), tiny.item(), 0.0], dtype=lib.float32)
    assert select_top_k(scores, 5).tolist() == [2, 3, 0, 4, 1]


# --- what holds for every rule ----------------------------------------------------------------------------------------

ALL_RULES = {**RANDOM_RULES, **BY_SCORE}


@both
@pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES.keys())
@repeatable
@given(data=st.data())
def test_indices_are_k_distinct_rows_of_each_problem(lib, rule, data):
    lead = tuple(data.draw(st.lists(st.integers(1, 3), max_size=2)))
    n = data.draw(st.integers(5, 12))
    k = data.draw(st.integers(1, n - math.floor(n * 0.2)))
    scores = lib.asarray(rng(n).standard_normal((*lead, n)))
    picked = rule(scores, k, rng(k))
    assert isinstance(picked, np.ndarray if lib is np else torch.Tensor)
    assert picked.dtype == lib.int64
    assert tuple(picked.shape) == (*lead, k)
    for row in np.asarray(picked).reshape(-1, k):
        assert len(set(row.tolist()) & set(range(n))) == k


@needs_torch
@pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES.keys())
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_numpy_and_torch_select_the_same_rows(rule, dtype):
    scores = (rng(1).standard_normal((50, 16)) * 4).astype(dtype)  # half precision and integers: many ties
    in_numpy, in_torch = rule(scores, 6, rng(2)), rule(torch.from_numpy(scores), 6, rng(2))
    assert in_numpy.tolist() == in_torch.tolist()


@rules_by_score
@repeatable
@given(order=st.permutations(range(10)), k=st.integers(1, 8))
def test_selection_follows_the_samples_when_they_are_permuted(rule, order, k):
    scores = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0, 3.5, 8.0])
    order = np.array(order)
    assert order[rule(scores[order], k, rng(k))].tolist() == rule(scores, k, rng(k)).tolist()


@rules_by_score
@repeatable
@given(
    values=st.lists(st.integers(-1000, 1000), min_size=5, max_size=12),
    exponent=st.integers(-20, 20),
    shift=st.integers(-1000, 1000),
)
def test_selection_ignores_scale_and_shift(rule, values, exponent, shift):
    scores = np.array(values, dtype=np.float64)
    moved = (scores + shift) * 2.0**exponent  # exact, so that ties stay ties
    assert rule(moved, 4, rng()).tolist() == rule(scores, 4, rng()).tolist()


@both
@pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES.keys())
def test_scores_are_not_changed(lib, rule):
    scores = lib.asarray([2.0, 1.0, 3.0, 0.0, 5.0])
    rule(scores, 2, rng())
    assert scores.tolist() == [2.0, 1.0, 3.0, 0.0, 5.0]


@needs_torch
@pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES.keys())
def test_scores_that_carry_a_gradient_are_welcome(rule):
    scores = torch.tensor([2.0, 1.0, 3.0, 0.0, 5.0])
    assert rule(scores.clone().requires_grad_(), 2, rng()).tolist() == rule(scores, 2, rng()).tolist()


@pytest.mark.gpu
@pytest.mark.skipif(torch is None or not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES.keys())
def test_indices_lie_on_the_device_of_the_scores(rule):
    scores = torch.from_numpy(rng(1).integers(0, 5, (8, 200)).astype(np.float32))
    picked = rule(scores.cuda(), 50, rng())
    assert picked.device.type == "cuda"
    assert picked.tolist() == rule(scores, 50, rng()).tolist()
    generator = torch.Generator().manual_seed(0)
    assert rule(scores.cuda(), 50, generator).device.type == "cuda"


# --- randomness -------------------------------------------------------------------------------------------------------


def generators(kind):
    """Two generators in the same state."""
    return (rng(7), rng(7)) if kind == "numpy" else tuple(torch.Generator().manual_seed(7) for _ in range(2))


kinds = pytest.mark.parametrize("kind", ["numpy", pytest.param("torch", marks=needs_torch)])


@kinds
@random_rules
def test_equal_generators_select_alike_and_move_on(rule, kind):
    scores = rng(1).standard_normal(64)
    scores = torch.from_numpy(scores) if kind == "torch" else scores
    first, second = generators(kind)
    assert rule(scores, 32, first).tolist() == rule(scores, 32, second).tolist()
    # The next draw is the same with probability < 1 / C(57, 32) < 1e-15.
    assert rule(scores, 32, first).tolist() != rule(scores, 32, generators(kind)[0]).tolist()


def law_of_successive_draws(weights, k):
    """Probability of every ordered selection when each draw is proportional to the weights of those still there."""
    law = {}
    for chosen in itertools.permutations(range(len(weights)), k):
        left, probability = sum(weights), Fraction(1)
        for i in chosen:
            probability, left = probability * weights[i] / left, left - weights[i]
        law[chosen] = probability
    assert sum(law.values()) == 1
    return law


def p_value(picked, law):
    counts = Counter(map(tuple, np.asarray(picked).tolist()))
    assert set(counts) <= set(law)
    expected = [float(p) * len(picked) for p in law.values()]
    assert min(expected) > 50
    return chisquare([counts[chosen] for chosen in law], expected).pvalue


# The rank of each candidate, 0 = hardest, of scores in no particular order.
SCORES, RANKS = [0.3, 2.0, -1.0, 0.7], [2, 0, 3, 1]


def by_rank(weight):
    return [Fraction(weight(rank)) for rank in RANKS]


# B = 4: 1/exp(log(16)/4)^i = 2^-i, and percentiles are 7/8, 5/8, 3/8, 1/8; k = 2 makes Composer's exponent B/k - 1 = 1.
# Near misses: ratio s_e from first to last, rather than s_e^((B-1)/B); percentiles i/B; the neighbouring exponent.
LAWS = {
    "random": (select_random, lambda i: 1, lambda i: 1 if i else Fraction(11, 10)),
    "online_batch": (
        partial(select_online_batch, selection_pressure=16),
        lambda i: Fraction(1, 2**i),
        lambda i: 16 ** (-i / 3),
    ),
    "online_batch_without_pressure": (
        partial(select_online_batch, selection_pressure=1),
        lambda i: 1,
        lambda i: 1 if i else Fraction(11, 10),
    ),
    "selective_backprop": (
        select_selective_backprop,
        lambda i: Fraction(7 - 2 * i, 8),
        lambda i: Fraction(4 - i, 4),
    ),
    "selective_backprop_beta": (
        partial(select_selective_backprop, beta=2),
        lambda i: Fraction(7 - 2 * i, 8) ** 2,
        lambda i: Fraction(7 - 2 * i, 8) ** Fraction(3, 2),
    ),
}


@kinds
@pytest.mark.parametrize(("rule", "weight", "near_miss"), LAWS.values(), ids=LAWS.keys())
def test_frequencies_are_the_enumerated_law(rule, weight, near_miss, kind):
    scores = np.tile(SCORES, (DRAWS, 1))  # the rows of one call must be independent, too
    scores = torch.from_numpy(scores) if kind == "torch" else scores
    picked = rule(scores, 2, generators(kind)[0])
    assert p_value(picked, law_of_successive_draws(by_rank(weight), 2)) > ALARM
    assert p_value(picked, law_of_successive_draws(by_rank(near_miss), 2)) < ALARM


@kinds
def test_random_selection_from_a_number_of_candidates(kind):
    generator = generators(kind)[0]
    picked = [select_random(4, 2, generator) for _ in range(DRAWS // 10)]
    assert isinstance(picked[0], np.ndarray if kind == "numpy" else torch.Tensor)
    law = law_of_successive_draws([1] * 4, 2)
    assert p_value(np.array([p.tolist() for p in picked]), law) > ALARM
    shape_of_a_number, of_scores = select_random(4, 2, generators(kind)[0]), select_random(np.zeros(4), 2, rng(7))
    assert tuple(shape_of_a_number.shape) == of_scores.shape == (2,)


def test_extreme_weights_neither_overflow_nor_select_twice():
    scores = np.arange(4096.0)
    with np.errstate(all="raise"):
        picked = select_selective_backprop(scores, 1, rng())  # exponent 4095: smallest weight about e^-36900
        ordered = select_online_batch(np.arange(4.0), 4, rng(), selection_pressure=1e300)
    assert picked[0] > 4000  # false alarm: P(rank >= 95) < e^-94
    assert ordered.tolist() == [3, 2, 1, 0]  # neighbours are 1e75 apart in weight
    assert sorted(select_selective_backprop(scores, 4096, rng()).tolist()) == list(range(4096))


@random_rules
def test_a_random_rule_without_rng_says_so(rule):
    with pytest.raises(ValueError, match="rng is None but this rule is random"):
        rule(np.zeros(16), 2)


@random_rules
@pytest.mark.parametrize("wrong", [0, np.random.RandomState(0), np.random], ids=["seed", "RandomState", "module"])
def test_wrong_rng(rule, wrong):
    with pytest.raises(ValueError, match=r"rng is a \w+ but must be a numpy.random.Generator or a torch.Generator"):
        rule(np.zeros(16), 2, wrong)


@needs_torch
@random_rules
def test_torch_generator_for_numpy_scores(rule):
    with pytest.raises(ValueError, match=r"rng is a torch\.Generator"):
        rule(np.zeros(16), 2, torch.Generator())


# --- trim -------------------------------------------------------------------------------------------------------------


@both
@repeatable
@given(case=tied_scores_and_k(), hundredths=st.integers(0, 99))
def test_trim_is_top_k_after_the_highest_are_gone(lib, case, hundredths):
    values, k = case
    n = values.shape[1]
    dropped = n * hundredths // 100  # in integers: the floating product 0.29 * 100 falls just short of 29
    k = min(k, n - dropped)
    picked = trim(lib.asarray(values.tolist(), dtype=lib.float32), k, share=hundredths / 100)
    assert picked.tolist() == [descending(row)[dropped : dropped + k] for row in values.tolist()]


def test_trim_share_is_meant_in_decimals():
    assert trim(np.arange(100.0), 1, share=0.29).tolist() == [70]


def test_trim_hands_the_rest_to_the_rule_in_original_order_with_the_rng():
    seen = []

    def rule(scores, k, rng=None):
        seen.append((scores.tolist(), k, rng))
        return np.array([[2, 0]])

    generator = rng()
    picked = trim(np.array([[5.0, 9.0, 1.0, 7.0, 3.0]]), 2, generator, share=0.2, select=rule)
    assert seen == [([[5.0, 1.0, 7.0, 3.0]], 2, generator)]
    assert picked.tolist() == [[3, 0]]


def test_trim_nests_as_a_rule_of_its_own():
    rule: Selector = partial(trim, share=0.5, select=partial(trim, share=0.5))
    assert rule(np.arange(8.0), 2).tolist() == [1, 0]


def test_trim_refuses_when_too_few_remain():
    assert trim(np.arange(6.0), 4, share=0.4).tolist() == [3, 2, 1, 0]
    with pytest.raises(ValueError, match=r"k = 5 but only 4 of 6 candidates remain after trimming share = 0\.4"):
        trim(np.arange(6.0), 5, share=0.4)


@both
@pytest.mark.parametrize("rule", [*RANDOM_RULES.values(), *BY_SCORE.values()], ids=[*RANDOM_RULES, *BY_SCORE])
def test_unchecked_rules_select_the_same_and_look_at_no_value(lib, rule):
    scores = lib.asarray(np.random.default_rng(3).standard_normal((2, 12)))
    inner = unchecked(rule)
    assert inner is not rule
    assert inner(scores, 5, rng()).tolist() == rule(scores, 5, rng()).tolist()
    scores[0, 1] = math.nan
    assert inner(scores, 5, rng()).shape == (2, 5)
    assert unchecked(inner) is inner or isinstance(inner, partial)


def test_rules_of_ones_own_are_left_as_they_are():
    def own(scores, k, rng=None):
        return scores[:k]

    class Unhashable:
        __hash__ = None

        def __call__(self, scores, k, rng=None):
            return scores[:k]

    for rule in (own, partial(own, rng=1), Unhashable(), partial(Unhashable())):
        assert unchecked(rule) is rule
    assert unchecked(partial(trim, share=0.1, select=own)).keywords["select"] is own


# --- bad input --------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES.keys())
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_named(lib, rule, value):
    scores = np.ones((4, 8))
    scores[2, 5] = scores[3, 0] = value
    with pytest.raises(ValueError, match=rf"scores\[2, 5\] is {value}: scores must be finite"):
        rule(lib.asarray(scores), 1, rng())


@both
@pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES.keys())
@pytest.mark.parametrize(
    ("k", "message"),
    [
        (9, "k = 9 but must be between 1 and the number of candidates, 8"),
        (0, "k = 0 but must be between 1 and the number of candidates, 8"),
        (-1, "k = -1 but must be between"),
        (2.0, "k = 2.0 but must be an integer"),
        (True, "k = True but must be an integer"),
        (None, "k = None but must be an integer"),
    ],
)
def test_bad_k(lib, rule, k, message):
    with pytest.raises(ValueError, match=message):
        rule(lib.zeros((3, 8)), k, rng())


@pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES.keys())
def test_k_may_be_a_numpy_integer(rule):
    assert rule(np.arange(8.0), np.int32(3), rng()).tolist() == rule(np.arange(8.0), 3, rng()).tolist()


@pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES.keys())
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((3, 0)), "the number of candidates is 0 but must be at least 1"),
        (np.array(1.0), "has no axis"),
        (np.float64(1.0), "has no axis"),
        ([1.0, 2.0], "scores is a list but must be a NumPy array or a torch tensor"),
        (None, "scores is a NoneType"),
        (np.array([1j, 2]), "scores has dtype complex128 but must be real"),
        (np.array([True, False]), "scores has dtype bool but must be real"),
        (np.array(["a", "b"]), "scores has dtype <U1 but must be real"),
    ],
)
def test_bad_scores(rule, scores, message):
    with pytest.raises(ValueError, match=message):
        rule(scores, 1, rng())


@pytest.mark.parametrize(("n", "message"), [(0, "number of candidates is 0"), (3, "k = 4 but must be between")])
def test_bad_number_of_candidates(n, message):
    with pytest.raises(ValueError, match=message):
        select_random(n, 4, rng())


@pytest.mark.parametrize(
    ("rule", "name", "values"),
    [
        (select_online_batch, "selection_pressure", [0.99, 0, -1.0, math.inf, math.nan, "100", True, None]),
        (select_selective_backprop, "beta", [-0.01, math.inf, math.nan, "1", True]),
        (trim, "share", [-0.01, 1.0, 1.5, math.nan, "0.1", False, None]),
    ],
)
def test_bad_hyperparameters(rule, name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"{name} = {value!r} must be a number in \["):
            rule(np.zeros(8), 1, rng(), **{name: value})


def test_works_without_torch():
    """Neither the import nor any rule may need torch: in a process where importing it fails."""
    program = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is not installed")
sys.meta_path.insert(0, NoTorch())
import numpy as np
import gsgd.scores, gsgd.selectors as s
scores, rng = np.array([1.0, 3.0, 2.0]), np.random.default_rng(0)
for rule in (s.select_top_k, s.select_random, s.select_online_batch, s.select_selective_backprop):
    assert sorted(rule(scores, 3, rng).tolist()) == [0, 1, 2]
assert s.trim(scores, 1, share=0.4).tolist() == [2]
assert gsgd.scores.cross_entropy(np.zeros((1, 2)), np.array([0])).shape == (1,)
assert "torch" not in sys.modules
print("fine")
"""
    root = Path(gsgd.selectors.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr
