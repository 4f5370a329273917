"""Methods whose exit moves: the engine they build, what a run records, how it goes on, and what a budget charges."""

import csv
import json

import pytest
import torch

import training.comparison.opening as comparing
from gsgd.sift import AutoExit
from training.budget import StepCosts
from training.comparison.compare import compare
from training.comparison.contenders import parse_contender
from training.run import train
from training.training import Training, build_sift


@pytest.fixture
def go(tiny, accelerator, tmp_path):
    """`go(name, **values)`: a run of 24 steps with four evaluations, whose exit is measured often."""

    def run(name="run", **values):
        config = tiny(**{"method": "loss@auto", "auto_level": 0.7, "auto_every": 3, **values})
        return train(config, tmp_path / name, accelerator=accelerator)

    return run


def weights(folder):
    return torch.load(folder / "model" / "pytorch_model.bin", weights_only=True)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_engine_has_the_runs_settings(tiny, tiny_module):
    model = tiny_module.TinyModel(tiny_module.TinySettings())
    sift = build_sift(model, tiny(method="entropy@auto", auto_level=0.6, auto_every=50).training, 24, 100)
    assert sift.auto.rule == AutoExit(level=0.6, every=50)
    assert sift.exit_layer == 2
    assert build_sift(model, tiny(method="entropy@1", auto_level=0.6).training, 24, 100).auto is None


@pytest.mark.parametrize("score", ["loss", "entropy", "margin"])
@pytest.mark.parametrize(("level", "exit"), [(0.01, 1), (1.0, 2)])
def test_it_trains_as_at_the_exit_that_it_takes(go, tmp_path, score, level, exit):
    """Selection from step 6 on; until step 9 exits are measured, and rows selected by the last."""
    found = go(method=f"{score}@auto", auto_level=level, start_step=6, evaluations=24)
    assert found.status == "finished"
    exits = [evaluation.exit_layer for evaluation in found.evaluations]
    assert exits == 9 * [2] + 15 * [exit]
    assert {evaluation.score for evaluation in found.evaluations} == {score}
    if exit == 2:
        # The last exit from beginning to end, and nothing of what was measured shows.
        go("fixed", method=f"{score}@last", start_step=6)
        assert same(weights(tmp_path / "run"), weights(tmp_path / "fixed"))


def test_evaluations_have_the_present_exit(go, monkeypatch, tmp_path):
    """An exit 1 that agrees, then does not, then does again: the run's table follows."""
    agrees = {step: step < 8 or step >= 16 for step in range(24)}
    measure = "gsgd.sift.exit_choice.moving_exit.read_batch"
    reading = type("Reading", (), {"kept": 8, "rows": 16})

    def scripted(sift, batch, *, exits, step):
        found = [reading() for _ in exits]
        for layer, each in zip(exits, found, strict=True):
            each.overlap = 1.0 if layer == 2 or agrees[step] else 0.5
        return found

    monkeypatch.setattr(measure, scripted)
    found = go(auto_every=1, evaluations=24)
    exits = [evaluation.exit_layer for evaluation in found.evaluations]
    # Chosen on step 3. The mean, of which a quarter is new: 1, 0.875, 0.78, 0.71, 0.66 on step 11, which moves up. Then
    # four measurements in a row: it falls to 0.55 by step 15, and then rises to 0.66, 0.74, and 0.81 on step 18.
    assert exits == 3 * [2] + 8 * [1] + 7 * [2] + 6 * [1]
    with open(tmp_path / "run" / "evaluations.csv", newline="") as file:
        assert [int(row["exit_layer"]) for row in csv.DictReader(file)] == exits


def test_the_meters_and_the_quality_follow(go, tmp_path):
    found = go(auto_level=0.01, meter_every=1, quality_batches=1, evaluations=24)
    with open(tmp_path / "run" / "meters.csv", newline="") as file:
        assert [int(row["exit_layer"]) for row in csv.DictReader(file)] == 3 * [2] + 21 * [1]
    # Exact losses agree with themselves.
    assert [row.overlap for row in found.evaluations[:3]] == [1.0] * 3
    assert min(row.overlap for row in found.evaluations[3:]) < 1


@pytest.mark.parametrize("at", [2, 5, 13])
def test_an_interrupted_run_goes_on_exactly(go, tmp_path, interrupting, at):
    """In the first measurements, and later."""
    whole = go("whole", evaluations=24)
    with interrupting(lambda training: training.step == at):
        assert go("parts", evaluations=24).status == "interrupted"
    parts = go("parts", evaluations=24)
    assert parts.status == "finished"
    exits = [[evaluation.exit_layer for evaluation in found.evaluations] for found in (whole, parts)]
    assert exits[0] == exits[1]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_another_level_is_another_run(go):
    go()
    with pytest.raises(ValueError, match="has the results of another configuration: auto_level"):
        go(auto_level=0.8)


def test_a_budget_of_time_charges_the_price_of_the_last_exit(tiny, accelerator, tmp_path, monkeypatch):
    """4 s at .1 s a plain step and .25 s a selecting one of the last exit."""
    asked = []

    def prices(configs, *_, **__):
        asked.extend(config.training.method for config in configs)
        costs = {"baseline": 0.1, "loss@auto": 0.25}
        return [StepCosts(0.1, costs[config.training.method]) for config in configs]

    monkeypatch.setattr(comparing, "measure_costs", prices)
    found = compare(
        tiny(evaluations=2, budget="4s"),
        [parse_contender(method) for method in ("baseline", "loss@auto:auto_level=0.01:auto_every=2")],
        tmp_path / "c",
        seeds=1,
        accelerator=accelerator,
    )
    assert asked == ["baseline", "loss@auto"]
    assert [summary.steps for summary in found.summaries] == [40, 16]
    assert all(summary.reference_s <= 4 * (1 + 1e-9) for summary in found.summaries)
    moving = found.results[1].evaluations
    assert [row.exit_layer for row in moving] == [1, 1]
    header = json.loads((tmp_path / "c" / "loss@auto-auto_level=0.01-auto_every=2-seed0" / "header.json").read_text())
    assert (header["total_steps"], header["config"]["auto_every"]) == (16, 2)


def test_compare_measures_its_price(tiny, accelerator, tmp_path):
    """On the real clock: the same number for the exit that moves and for the last."""
    found = compare(
        tiny(evaluations=1, budget="0.1s"),
        [parse_contender(method) for method in ("baseline", "loss@last", "loss@auto")],
        tmp_path / "c",
        seeds=1,
        accelerator=accelerator,
    )
    assert found.status == "finished"
    assert found.costs["loss@auto"] == found.costs["loss@last"]
    assert found.summaries[1].steps == found.summaries[2].steps


# ---- By what selection promises ----


def test_the_engine_of_a_run_that_selects_while_it_pays(tiny, tiny_module):
    model = tiny_module.TinyModel(tiny_module.TinySettings())
    for values, candidates in (
        ({"method": "loss@auto"}, [1, 2]),
        ({"method": "loss@1", "start_step": "auto"}, [1]),
        ({"method": "loss@last", "start_step": "auto"}, [2]),
        ({"method": "last-seen", "start_step": "auto"}, [0]),
    ):
        sift = build_sift(model, tiny(**values, auto_every=7).training, 24, 100)
        assert (sift.auto.rule, sift.auto.candidates) == (AutoExit(every=7), candidates)
        assert not sift.next_selects
    assert build_sift(model, tiny(method="baseline", start_step="auto").training, 24, 100).auto is None


@pytest.fixture
def scripted_progress(monkeypatch):
    """Selection pays on steps whose last measurement was in the middle of a run; losses are what they are."""

    def progress(self, keep, *, random_share=0.0):
        return 3.0 if 6 <= scripted_progress.step() < 15 else 0.5

    monkeypatch.setattr("gsgd.sift.measures.readings.Columns.progress", progress)
    return lambda training: setattr(scripted_progress, "step", lambda: training.step)


@pytest.mark.parametrize("values", [{"method": "loss@1", "start_step": "auto"}, {"method": "loss@auto"}])
def test_steps_draw_gross_batches_while_it_pays_alone(tiny, tiny_module, accelerator, scripted_progress, values):
    """Measured at steps 0 to 3, by the mean, then at every third, of which a quarter is new."""
    config = tiny(**values, auto_every=3, auto_level=0, batch_size=8, keep=0.5)
    training = Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 24)
    scripted_progress(training)
    found = []
    for _ in range(24):
        training.train_step()
        last = training.sift.last
        found.append((last.selected, last.gross, last.kept))
    # Means of .5: 1.125 at step 6, 1.59 at 9, 1.95 at 12, then .5 again: 1.58 at 15, 1.31 at 18, 1.11 at 21. A step by
    # exit 1 costs 1 + 2 * 72 / 160 / 3 = 1.3, which progress of 1.39 makes up, and of 1.48 with the margin.
    expected = [9 < step <= 18 for step in range(24)]
    assert [selected for selected, _, _ in found] == expected
    assert [(gross, kept) for _, gross, kept in found] == [(16, 8) if selects else (8, 8) for selects in expected]
    assert training.sift.totals.selected_steps == 9


@pytest.mark.parametrize("values", [{"method": "loss@last", "start_step": "auto"}, {"method": "loss@auto"}])
@pytest.mark.parametrize("at", [2, 9])
def test_an_interrupted_run_that_may_pause_goes_on_exactly(go, tmp_path, interrupting, values, at):
    values = {**values, "auto_level": 0.0, "auto_every": 2, "evaluations": 4, "keep": 0.25, "meter_every": 1}
    values |= {"max_lr": 0.05, "quality_batches": 1, "budget": "60steps"}
    whole = go("whole", **values)
    with interrupting(lambda training: training.step == at):
        assert go("parts", **values).status == "interrupted"
    parts = go("parts", **values)
    assert (whole.status, parts.status) == ("finished", "finished")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for one, other in zip(whole.evaluations, parts.evaluations, strict=True):
        assert (one.exit_layer, one.overlap, one.backprop_samples) == (
            other.exit_layer,
            other.overlap,
            other.backprop_samples,
        )


def test_a_start_by_itself_does_not_go_with_a_share(tiny):
    with pytest.raises(ValueError, match=r"start_step = auto and start_share = 0\.5: give one of them"):
        tiny(method="loss@1", start_step="auto", start_share=0.5)
    with pytest.raises(ValueError, match="start_step = 'soon' must"):
        tiny(method="loss@1", start_step="soon")
