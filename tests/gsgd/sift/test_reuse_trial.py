"""`reuse="auto"`: the turns, the decision by times that are known, its state, and the engine's steps under it."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from gsgd.sift import Sift  # noqa: E402
from gsgd.sift.ranks import Ranks  # noqa: E402
from gsgd.sift.reuse_trial import STEPS, STRETCH, ReuseTrial  # noqa: E402

CPU = torch.device("cpu")
ALONE = Ranks.here("rank")


class Clock:
    """Stands for the time; a step takes what is set for its way, and the first ones of a turn ten times that."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("gsgd.sift.timing.time.perf_counter", lambda: self.now)


def run(trial, clock, shared, plain, steps):
    ways = []
    for _ in range(steps):
        trial.begin(CPU, ALONE)
        way = trial.shares
        slow = 10 if trial.decision is None and (len(ways) % STRETCH) < 2 else 1
        clock.now += slow * (shared if way else plain)
        ways.append(way)
    return ways


@pytest.mark.parametrize(("shared", "plain"), [(1.0, 1.1), (1.1, 1.0)])
def test_both_ways_have_two_turns_and_the_quicker_one_stays(shared, plain, monkeypatch):
    trial = ReuseTrial()
    ways = run(trial, Clock(monkeypatch), shared, plain, STEPS + 5)
    assert ways[:STEPS] == ([True] * STRETCH + [False] * STRETCH) * 2
    assert ways[STEPS:] == [shared < plain] * 5
    assert trial.decision is (shared < plain)
    assert {len(trial.seconds[way]) for way in (True, False)} == {2 * (STRETCH - 2)}
    assert trial.seconds[True] == pytest.approx([shared] * 8)
    assert trial.seconds[False] == pytest.approx([plain] * 8)


@pytest.mark.parametrize("at", [0, 3, STRETCH, STEPS - 1, STEPS, STEPS + 3])
def test_a_resumed_trial_takes_the_same_turns(at, monkeypatch):
    """And decides by its own times; where it has none of one way, for sharing."""
    clock = Clock(monkeypatch)
    whole = run(ReuseTrial(), clock, 1.0, 2.0, STEPS + 5)
    first = ReuseTrial()
    ways = run(first, clock, 1.0, 2.0, at)
    second = ReuseTrial()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert ways + run(second, clock, 1.0, 2.0, STEPS + 5 - at) == whole


def test_a_used_trial_can_be_pickled():
    trial = ReuseTrial()
    trial.begin(CPU, ALONE)
    assert pickle.loads(pickle.dumps(trial)).state_dict() == {"decision": None, "begun": 1}


def test_the_engine_shares_in_turns_and_says_so(build, make_batch):
    pytest.importorskip("transformers")
    model, batch = build("bert-mlm"), make_batch("bert-mlm")
    sift = Sift(model, exit_layer=2, reuse="auto")
    shared = []
    for _ in range(STEPS + 2):
        rows = sift.choose(batch)
        shared.append(sift.captured_bytes > 0)
        assert sift.totals.sharing.startswith("shared" if shared[-1] else "two passes")
        sift.forward_kept(rows).loss.backward()
    assert shared[:STEPS] == ([True] * STRETCH + [False] * STRETCH) * 2
    assert shared[STEPS] == shared[STEPS + 1] == sift.reuse_trial.decision
    assert "it was timed" in sift.totals.sharing
    resumed = Sift(model, exit_layer=2, reuse="auto")
    resumed.load_state_dict(sift.state_dict())
    resumed.choose(batch)
    assert (resumed.captured_bytes > 0) == sift.reuse_trial.decision


def test_a_step_that_cannot_select_counts_all_the_same(build, make_batch):
    """On another rank it may select: the ranks must decide at the same step, or they wait for each other for ever."""
    pytest.importorskip("transformers")
    sift = Sift(build("bert-mlm"), exit_layer=2, reuse="auto")
    for number in range(6):
        sift.choose(make_batch("bert-mlm", rows=1 if number % 2 else 8))
    assert sift.totals.idle_steps == 3
    assert sift.reuse_trial.state_dict()["begun"] == 6


class Pair:
    """Stands for two ranks, of which the first says `first`."""

    size = 2

    def __init__(self, first):
        self.first = first

    def gather_objects(self, value):
        return [self.first, value]


@pytest.mark.parametrize("first", [True, False])
def test_all_ranks_do_what_the_first_one_finds_quicker(first, monkeypatch):
    trial, clock = ReuseTrial(), Clock(monkeypatch)
    for _ in range(STEPS + 1):
        trial.begin(CPU, Pair(first))
        clock.now += 1.0 if trial.shares == first else 0.5  # here it is the other way that is quicker
    assert trial.decision is first


def test_a_diagnosis_does_not_measure_turns(build, make_batch):
    pytest.importorskip("transformers")
    sift = Sift(build("bert-mlm"), reuse="auto")
    assert sift._always_at(2).options.reuse == "cpu"
    sift.reuse_trial.decision = False
    assert sift._always_at(2).options.reuse is False


def test_totals_say_which_share_was_reused(build, make_batch):
    """Of a layer of BERT: six products and one fused attention, of which the exit layer's three behind attention are
    not kept where few positions are labelled; the heads' products come on top."""
    pytest.importorskip("transformers")
    model, batch = build("bert-mlm"), make_batch("bert-mlm")
    for reuse in (False, True):
        sift = Sift(model, exit_layer=2, reuse=reuse, score=lambda logits, labels: logits.float().mean((1, 2)))
        for _ in range(3):
            sift(**batch).loss.backward()
        if not reuse:
            assert sift.totals.reused_share == 0
            assert sift.totals.sharing == "two passes: reuse is False"
    assert sift.totals.sharing == "shared: reuse is True"
    # A callable scores all positions: both layers, six products and attention each, are taken in every step.
    assert sift.totals.reused_operations == 3 * 2 * 7
    assert sift.totals.scored_operations == 3 * 2 * 7
