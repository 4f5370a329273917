"""The price of a step: each method's own median, on a clock that the test turns."""

import dataclasses

import pytest

import training.costs as module
from training.batches import Batches
from training.costs import FREE, ONLY_SELECTING, kind_of_step, measure_costs
from training.settings import TrainingSettings


@pytest.fixture
def prices(tiny, accelerator, monkeypatch):
    """`prices(*values, cost=function)`: measured where a step takes cost(settings, data, number) seconds."""

    def measure(*values, cost, rounds=5, **options):
        now, steps = [0.0], []
        step = module.Training.train_step

        def timed(self):
            step(self)
            steps.append((self.settings.method, self.step))
            now[0] += cost(self.settings, self.task.settings, self.step)

        with monkeypatch.context() as patch:
            patch.setattr(module.Training, "train_step", timed)
            patch.setattr(module.time, "perf_counter", lambda: now[0])
            configs = [tiny(**each) for each in values]
            tasks = [config.build_task() for config in configs]
            found = measure_costs(configs, tasks, accelerator, rounds=rounds, **options)
        return found, steps

    return measure


def cost(settings, data, number):
    of_selection = {"baseline": 1.0, "random": 1.1, "loss@1": 1.25, "loss@last": 1.5}
    seconds = {**of_selection, "focal": 1.05, "infobatch": 1.2}[settings.method]
    return seconds * settings.batch_size * settings.accumulation_steps * (2 if data.rows > 64 else 1)


def test_each_method_at_its_own_price(prices):
    found, _ = prices(*({"method": method} for method in ("baseline", "random", "loss@1", "loss@last")), cost=cost)
    assert [costs.plain_s for costs in found] == [8.0] * 4
    assert [costs.selecting_s for costs in found] == pytest.approx([8.0, 8.8, 10.0, 12.0])


def test_weights_and_samplers_are_charged_at_every_step(prices):
    """In the time of 30 plain steps of 8 s 28 with weights at 8.4 s, and 25 of InfoBatch at 9.6 s."""
    methods = ("baseline", "focal", "infobatch")
    found, _ = prices(*({"method": method} for method in methods), cost=cost)
    assert [costs.plain_s for costs in found] == [8.0] * 3
    assert [costs.selecting_s for costs in found] == pytest.approx([8.0, 8.4, 9.6])
    steps = []
    for budget in ("240s", "30baseline-epochs"):
        settings = [TrainingSettings(method=method, batch_size=8, budget=budget) for method in methods]
        steps += [each.steps_within_budget(8, 1, costs) for each, costs in zip(settings, found, strict=True)]
    assert steps == [30, 28, 25] * 2
    assert [each.dearer_steps(100, 40) for each in settings] == [0, 40, 40]


def test_the_median_of_interleaved_steps_after_two_that_warm_up(prices):
    """One slow step in three changes nothing, and the steps of the methods take turns."""
    slow = {1: 100.0, 2: 50.0, 4: 30.0}
    found, steps = prices({"method": "baseline"}, {"method": "loss@1"}, cost=lambda s, d, n: slow.get(n, 1.0), rounds=3)
    assert [(costs.plain_s, costs.selecting_s) for costs in found] == [(1.0, 1.0)] * 2
    assert steps == [(method, number) for number in range(1, 6) for method in ("baseline", "loss@1")]


def test_selection_is_priced_where_it_begins_late(prices):
    """A contender that starts in the middle still has the price of its selecting steps measured."""
    found, steps = prices({"method": "loss@1", "start_share": 0.5}, {"method": "loss@1", "start_step": 999}, cost=cost)
    assert [(costs.plain_s, costs.selecting_s) for costs in found] == [(8.0, 10.0)] * 2
    # Of one price: measured once, beside the plain steps.
    assert {method for method, _ in steps} == {"baseline", "loss@1"}
    assert len(steps) == 2 * 7


@pytest.mark.parametrize("values", [{"start_step": 999}, {"start_share": 0.9}, {"end_step": 1}, {"end_share": 0.1}])
def test_what_is_reference_selects(prices, monkeypatch, values):
    """Wherever in the run selection begins and ends."""
    gross = []
    draw = Batches.next
    monkeypatch.setattr(Batches, "next", lambda self, rows: gross.append(rows) or draw(self, rows))
    prices({"method": "loss@1", **values}, cost=cost)
    assert gross == [8, 16] * 7


def test_the_meters_have_no_part_in_the_price(prices, monkeypatch):
    read = []
    monkeypatch.setattr("gsgd.sift.gross_scores.columns_of_batch", lambda *_, **__: read.append(1) or [])
    prices({"method": "loss@1", "meter_every": 1}, cost=cost)
    assert read == []


def test_a_moving_exit_has_the_price_of_the_last(prices):
    """Whatever it measures, and wherever it would move; together with the last exit it is measured once."""
    found, steps = prices(
        {"method": "loss@auto", "auto_level": 0.0, "auto_every": 1}, {"method": "loss@last"}, cost=cost
    )
    assert [(costs.plain_s, costs.selecting_s) for costs in found] == [(8.0, 12.0)] * 2
    assert [method for method, _ in steps] == ["baseline", "loss@last"] * 7


def test_a_contender_with_another_batch_has_a_plain_price_of_its_own(prices):
    found, _ = prices(
        {"method": "baseline"},
        {"method": "baseline", "batch_size": 4},
        {"method": "loss@1", "batch_size": 4},
        {"method": "loss@1", "accumulation_steps": 2},
        cost=cost,
    )
    assert [(costs.plain_s, costs.selecting_s) for costs in found] == [(8, 8), (4, 4), (4, 5), (16, 20)]


def test_a_contender_with_another_model_has_a_price_of_its_own(prices):
    found, _ = prices({"method": "loss@1"}, {"method": "loss@1", "rows": 100}, cost=cost)
    assert [(costs.plain_s, costs.selecting_s) for costs in found] == [(8, 10), (16, 20)]


def test_what_only_selection_depends_on_is_not_measured_again_without_it(prices):
    _, steps = prices({"method": "loss@1"}, {"method": "loss@1", "keep": 0.25}, cost=lambda s, d, n: 1.0)
    assert len(steps) == 3 * 7


def test_progress(prices):
    seen = []
    prices({"method": "baseline"}, cost=cost, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 7) for number in range(1, 8)]


def test_what_a_price_depends_on(tiny):
    """Every key is one of these, or known to be free."""
    of_any_step = {"batch_size": 4, "accumulation_steps": 2, "precision": "bf16", "channels_last": True}
    of_any_step |= {"draw": 6, "compile": True, "clip_norm": 1.0, "labelled_head": True}
    names = {field.name for field in dataclasses.fields(TrainingSettings)}
    assert names == set(of_any_step) | ONLY_SELECTING | FREE - {"cache_dir"}
    for name, value in of_any_step.items():
        for method in ("baseline", "loss@1"):
            assert kind_of_step(tiny(method=method)) != kind_of_step(tiny(**{"method": method, name: value}))
    assert kind_of_step(tiny(keep=0.25)) == kind_of_step(tiny())
    assert kind_of_step(tiny(method="loss@1", keep=0.25)) != kind_of_step(tiny(method="loss@1"))
    assert kind_of_step(tiny(method="loss@1", seed=3, start_step=5)) == kind_of_step(tiny(method="loss@1"))


@pytest.fixture
def masked_language():
    """The work of a method in a small BERT, whose head sees labelled positions only."""
    from accelerate import Accelerator

    from training.config import build
    from training.run.rehearsal import MadeUpRows

    def count(method):
        sizes = {"layers": "2", "hidden_size": "16", "heads": "2", "intermediate_size": "32", "vocab_limit": "500"}
        values = {"task": "bert", "sequence_length": "16", "batch_size": "8", "labelled_head": "true"}
        config = build("x", {**values, **sizes, "method": method})
        return module.counted_work(config, MadeUpRows(config), Accelerator(cpu=True))

    return count


def test_work_is_counted_where_training_runs_the_head_on_labelled_positions(masked_language):
    """Exact losses of all rows are a forward pass of theirs, but for the number of labels, which rows differ in."""
    assert masked_language("loss@last").scoring == pytest.approx(1, abs=0.15)
    exit_1, corrected = masked_language("loss@1"), masked_language("corrected@1")
    assert 0.5 < exit_1.scoring < 1
    assert (corrected.scoring, corrected.training) == pytest.approx((exit_1.scoring, 0), abs=0.05)
