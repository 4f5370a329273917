"""Selection while it promises to pay: the rule against scripts, then engines against measurements made by hand."""

import dataclasses
import functools
import logging
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import small_training  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from small_training import CLASSES, WIDTH, Classifier, OneLayer, assert_resumes, train_step  # noqa: E402

from gsgd.sift import AutoExit, LinearProbe, Proxy, Sift  # noqa: E402
from gsgd.sift.exit_choice.paying_exit import PayingExit  # noqa: E402

ROWS, GROSS, KEPT = 48, 16, 4


# ---- The rule ----


def run(rule, script, steps, *, shares, keep=0.5):
    """What a script of progress (step, exit) -> number makes: [(step, whether it measures, what selects), ...]."""
    paying, found = PayingExit(rule, list(shares)), []
    paying.tell_work(shares, 100.0)
    for step in range(steps):
        due = paying.begin(step)
        found.append((step, due, paying.present))
        assert not paying.begin(step)  # the other micro-batches of a step do not measure again
        if due:
            paying.tell({exit: script(step, exit) for exit in shares}, keep=keep, step=step)
    return paying, found


def progress_of(factor, share, keep=0.5):
    """The progress at which an exit promises this factor: solved for by hand."""
    return (factor * (1 + share / (3 * keep))) ** (1 / 0.8)


def test_it_begins_where_it_pays_with_a_margin_and_ends_where_it_does_not():
    """memory = 0: only the last measurement counts. The step after a measurement is the first that heeds it."""
    script = {0: 1.04, 1: 1.04, 4: 1.06, 7: 1.01, 10: 0.99, 13: 1.04, 16: 1.2, 19: 1.2}
    rule = AutoExit(every=3, first=2, memory=0.0, margin=0.05)
    paying, found = run(rule, lambda step, _: progress_of(script[step], 0.3), 20, shares={1: 0.3})
    assert [step for step, due, _ in found if due] == list(script)
    assert [step for step, _, present in found if present == 1] == [*range(5, 11), *range(17, 20)]
    assert [(step, exit, round(factor, 6)) for step, exit, factor in paying.history] == [
        (1, None, 1.04),
        (4, 1, 1.06),
        (10, None, 0.99),
        (16, 1, 1.2),
    ]
    assert paying.last == 1


def test_the_exit_of_the_largest_factor_selects_and_another_must_be_better_by_the_margin():
    """Of dear exits more progress is asked; of equal ones the first selects."""
    shares = {1: 0.1, 2: 0.5, 3: 1.0}
    script = [(1.1, 1.1, 1.0), (1.1, 1.15, 1.0), (1.1, 1.17, 1.0), (0.9, 0.95, 1.06), (0.9, 0.95, 0.99)]
    rule = AutoExit(every=1, first=1, memory=0.0, margin=0.05)
    paying, found = run(
        rule, lambda step, exit: progress_of(script[step][exit - 1], shares[exit]), len(script), shares=shares
    )
    assert [present for _, _, present in found] == [None, 1, 1, 2, 3]
    assert paying.next is None
    assert [exit for _, exit, _ in paying.history] == [1, 2, 3, None]


def test_what_a_step_costs_is_counted_or_as_the_rule_says():
    paying = PayingExit(AutoExit(costs={2: 1.5}), [1, 2])
    assert paying.counts_scoring
    assert not paying.counts_training  # there is nothing to hold it against yet
    paying.tell_work({1: 0.25, 2: 1.0}, 50.0)
    assert paying.counts_training
    paying.tell_training(10.0)
    assert not paying.counts_training
    assert paying.cost(1, 0.25) == pytest.approx(1 + 0.25 / 0.75 + 0.2 / 3)
    assert paying.cost(2, 0.25) == 1.5
    assert not PayingExit(AutoExit(costs={1: 1.1, 2: 1.5}), [1, 2]).counts_scoring


def test_means_decide_and_what_cannot_be_measured_waits():
    """Plain means of the first four; a NaN is none, and does not ask again before `every` steps have gone by."""
    values = {0: 1.5, 1: math.nan, 4: 1.0, 5: 2.0, 6: 1.5, 9: 0.2}
    rule = AutoExit(every=3, first=4, memory=0.75)
    paying, found = run(rule, lambda step, _: values[step], 10, shares={0: 0.0})
    assert [step for step, due, _ in found if due] == list(values)
    assert paying.history == [(6, 0, pytest.approx(((1.5 + 1.0 + 2.0 + 1.5) / 4) ** 0.8))]
    assert [present for _, _, present in found] == 7 * [None] + 3 * [0]


def test_changes_are_logged(caplog):
    script = [1.5, 0.5]
    with caplog.at_level(logging.INFO, logger="gsgd.sift.exit_choice.paying_exit"):
        run(AutoExit(every=1, first=1, memory=0.0), lambda step, _: script[step], 2, shares={2: 0.0})
    assert [record.getMessage() for record in caplog.records] == [
        f"step 0: from the next step on exit 2 selects, as the expected factor is {1.5**0.8:.3f}",
        f"step 1: from the next step on nothing is selected, as the expected factor is {0.5**0.8:.3f}",
    ]


# ---- The engine ----


class Net(Classifier):
    """Implements `gsgd.sift.EarlyExit`: exit 1 reads the first layer through a head of its own."""

    exit_layers = 2

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.early = torch.nn.Linear(5, WIDTH), torch.nn.Linear(WIDTH, CLASSES)
        self.second, self.last = torch.nn.Linear(WIDTH, 40), torch.nn.Linear(40, CLASSES)
        self.double()

    def early_logits(self, exit_layer, x):
        hidden = torch.tanh(self.first(x))
        return self.early(hidden) if exit_layer == 1 else self.last(torch.tanh(self.second(hidden)))

    def logits(self, x):
        return self.early_logits(2, x)


EXIT, FULL = 5 * WIDTH + WIDTH * CLASSES, 5 * WIDTH + WIDTH * 40 + 40 * CLASSES
COSTS = {1: 1 + 4 * EXIT / FULL / 3, 2: 1 + 4 / 3}
"""Of a quarter of the rows: a step over a plain one."""
RULE = AutoExit(every=3, first=2, memory=0.5, margin=0.02)


batches = functools.partial(small_training.batches, rows=ROWS, gross=GROSS, dtype=torch.float64)


def losses_of(net, batch, exit_layer):
    with torch.no_grad():
        z = net.early_logits(exit_layer, batch["x"]).numpy()
    return np.log(np.exp(z).sum(axis=1)) - z[range(len(z)), batch["labels"].numpy()]


class ByHand:
    """Measures and decides by itself, on the model as it is before each step."""

    def __init__(self, candidates, costs, rule):
        self.candidates, self.costs, self.rule = candidates, costs, rule
        self.present, self.means, self.since, self.measured = None, {}, 0, 0

    def step(self, net, batch):
        """(what selects, rows) of a step; what is measured on its batch decides the next one."""
        selects, rows = self.present, list(range(GROSS))
        kept_by = {each: np.argsort(-losses_of(net, batch, each), kind="stable")[:KEPT] for each in (1, 2)}
        self.since += 1
        if self.measured < self.rule.first or self.since >= self.rule.every:
            self.since, self.measured = 0, self.measured + 1
            self.measure(losses_of(net, batch, 2), kept_by)
        return selects, rows if selects is None else sorted(kept_by[selects].tolist())

    def measure(self, exact, kept_by):
        weight, factors = max(1 / self.measured, 1 - self.rule.memory), {}
        for each in self.candidates:
            progress = exact[kept_by[each]].mean() / exact.mean()
            self.means[each] = self.means.get(each, 0.0) + weight * (progress - self.means.get(each, 0.0))
            factors[each] = self.means[each] ** 0.8 / self.costs[each]
        if self.measured < self.rule.first:
            return
        best = max(self.candidates, key=factors.get)
        if self.present is None or factors[self.present] < 1:
            self.present = best if factors[best] >= 1 + self.rule.margin else None
        elif factors[best] >= (1 + self.rule.margin) * factors[self.present]:
            self.present = best


@pytest.mark.parametrize(
    ("options", "candidates", "costs"),
    [
        ({"exit_layer": 1, "start_step": "auto"}, [1], None),
        ({"exit_layer": 2, "start_step": "auto"}, [2], {2: 1.6}),
        ({"exit_layer": "auto"}, [1, 2], None),
        ({"exit_layer": "auto", "start_step": "auto"}, [1, 2], {2: 1.6}),
    ],
)
def test_an_engine_selects_as_a_loop_that_measures_by_hand(options, candidates, costs):
    rule, net = dataclasses.replace(RULE, costs=costs), Net()
    sift = Sift(net, keep=0.25, auto=rule, **options)
    optimizer, hand = torch.optim.SGD(net.parameters(), lr=2.0), ByHand(candidates, COSTS | (costs or {}), rule)
    seen = set()
    for number, batch in enumerate(batches(60)):
        selects, rows = hand.step(net, batch)
        assert sift.next_selects == (selects is not None), number
        train_step(sift, batch, optimizer)
        assert sift.last.selected == (selects is not None), number
        assert sift.last.indices.tolist() == rows, number
        if selects is not None:
            assert sift.exit_layer == selects
        seen.add(selects)
    if costs is None:
        shares = {1: EXIT / FULL, 2: 1.0}
        assert sift.auto.scoring == pytest.approx({exit: shares[exit] for exit in candidates})
    assert seen > {None}
    assert len(sift.auto.history) > 1


def test_losses_last_seen_begin_once_rows_are_seen_and_cost_nothing():
    net = Net()
    rule = AutoExit(every=2, first=1, memory=0.0, margin=0.0)
    sift = Sift(net, score="last-seen", data_rows=ROWS, keep=0.5, start_step="auto", auto=rule, random_share=0.25)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    seen, expected, present = {}, [], None
    for number, batch in enumerate(batches(40, ids=True)):
        names, exact = batch["id"].tolist(), losses_of(net, batch, 2)
        known = [row for row, name in enumerate(names) if name in seen]
        selects = present
        if number % 2 == 0 and known:
            kept = max(1, round(0.5 * len(known)))
            drawn = math.floor(0.25 * kept)
            order = sorted(known, key=lambda row: -seen[names[row]])
            top, others = order[: kept - drawn], order[kept - drawn :]
            total = exact[top].sum() + (drawn * exact[others].mean() if drawn else 0.0)
            progress = total / kept / exact[known].mean()
            present = 0 if progress**0.8 >= 1 else None
        train_step(sift, batch, optimizer)
        assert sift.last.selected == (selects is not None), number
        seen |= dict(zip(sift.last.ids.tolist(), sift.last.losses.tolist(), strict=True))
        expected.append(selects)
    assert set(expected) == {None, 0}
    assert expected[0] is None
    assert sift.auto.cost(0, 0.5) == 1


def test_a_proxy_is_charged_what_it_scores_and_trains_and_learns_while_nothing_selects():
    net = Net()
    rule = AutoExit(every=4, first=1, memory=0.0, margin=0.0)
    sift = Sift(net, score=Proxy(OneLayer(seed=3).double(), lr=0.05), keep=0.5, start_step="auto", auto=rule)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    before = sift.source.network.layer.weight.detach().clone()
    for batch in batches(6):
        train_step(sift, batch, optimizer)
    share = 5 * CLASSES / FULL
    assert sift.auto.scoring == {0: pytest.approx(share)}
    # Forward, and backward without the gradient of its input.
    assert sift.auto.training == pytest.approx(2 * share)
    assert sift.auto.cost(0, 0.5) == pytest.approx(1 + 2 * share / 3 + 2 * share / 3)
    assert not torch.equal(sift.source.network.layer.weight, before)


@pytest.mark.parametrize("at", [0, 1, 23])
def test_a_resumed_run_is_the_run_bit_for_bit(at):
    def begin():
        net = Net()
        sift = Sift(net, exit_layer="auto", keep=0.25, auto=RULE, meter_every=2)
        return net, sift, torch.optim.SGD(net.parameters(), lr=2.0)

    resumed, whole = assert_resumes(begin, lambda: batches(40), at)
    assert resumed.auto.state_dict() == whole.auto.state_dict()
    assert len(whole.auto.history) > 1
    assert (resumed.exit_layer, resumed.next_selects) == (whole.exit_layer, whole.next_selects)


def test_all_micro_batches_of_a_step_are_treated_alike():
    """The decision of a step's first micro-batch holds from the next step on."""
    rule = AutoExit(every=1, first=1, memory=0.0, margin=0.0, costs={2: 1.0})
    sift = Sift(Net(), exit_layer=2, keep=0.5, start_step="auto", auto=rule, accumulation_steps=3)
    selected = []
    for batch in batches(9):
        said = sift.next_selects
        sift(**batch)
        assert said == sift.last.selected
        selected.append(sift.last.selected)
    assert selected == 3 * [False] + 6 * [True]  # exact losses that cost nothing
    assert sift.auto.scoring == {}


def test_measuring_changes_nothing_that_is_trained_and_is_charged_to_selection():
    """Where nothing ever pays, the run is the plain one."""
    rule = AutoExit(every=2, first=2, costs={1: 100.0, 2: 100.0})
    weights = []
    for options in ({"exit_layer": "auto", "auto": rule}, {"end_step": 0}):
        net = Net()
        sift = Sift(net, keep=0.5, **options)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
        drawn = torch.get_rng_state()
        seconds = []
        for batch in batches(8):
            train_step(sift, batch, optimizer)
            seconds.append(sift.last.selection_s > 0)
        assert torch.equal(torch.get_rng_state(), drawn)
        weights.append(net.state_dict())
        if "auto" in options:
            assert seconds == [True, True, False, True, False, True, False, True]
            assert sift.auto.history == [(1, None, pytest.approx(0.0, abs=0.02))]
        assert sift.totals.selected_steps == 0
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class NothingCounted(torch.nn.Module):
    exit_layers = 1

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(5))

    def early_logits(self, exit_layer, x):
        return (x * self.weight)[:, :CLASSES]

    def forward(self, x, labels=None):
        logits = self.early_logits(1, x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_a_model_without_countable_operations_must_be_told_its_costs():
    (batch,) = batches(1)
    with pytest.raises(ValueError, match=r"NothingCounted does nothing that is counted .* AutoExit\(costs=\.\.\.\)"):
        Sift(NothingCounted(), start_step="auto", exit_layer=1)(**batch)
    Sift(NothingCounted(), start_step="auto", exit_layer=1, auto=AutoExit(costs={1: 1.1}))(**batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_step": "auto", "score": "random"}, 'start_step = "auto" needs scores'),
        ({"start_step": "auto", "score": LinearProbe()}, "learns at steps that select alone"),
        ({"start_step": "auto", "auto": AutoExit(level=0.7)}, "but auto has level = 0.7"),
        ({"start_step": "soon"}, "start_step = 'soon' must be a whole number"),
        ({"start_step": "auto", "level": "token", "exit_layer": 2}, 'does not go with start_step = "auto"'),
        ({"start_step": 3, "auto": AutoExit()}, 'auto is for exit_layer = "auto" or start_step = "auto"'),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sift(Net(), **options)


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ({1: 0.0}, r"a cost = 0\.0 must be above 0"),
        ({-1: 1.0}, "an exit of costs = -1 must be a whole number of at least 0"),
        ([1.0], "costs is a list but must map exits to costs"),
    ],
)
def test_costs_out_of_range(costs, message):
    with pytest.raises(ValueError, match=message):
        AutoExit(costs=costs)


def test_states_of_another_rule_are_refused():
    by_level = Sift(Net(), exit_layer="auto", auto=AutoExit(level=0.7))
    by_factor = Sift(Net(), exit_layer="auto")
    with pytest.raises(ValueError, match="it is of an exit that moves by its overlap"):
        by_factor.load_state_dict(by_level.state_dict())
    state = by_factor.state_dict()
    state["auto"]["present"] = 3
    with pytest.raises(ValueError, match=r"the state selects by exit 3, but there are \[1, 2\]"):
        by_factor.load_state_dict(state)
    fixed = Sift(Net(), exit_layer=1)
    with pytest.raises(ValueError, match='the state lacks auto: it is not of a Sift with start_step = "auto"'):
        Sift(Net(), exit_layer=1, start_step="auto").load_state_dict(fixed.state_dict())
