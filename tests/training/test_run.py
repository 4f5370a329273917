"""A run from its configuration to its results: what is written when, and that nothing is lost on the way."""

import csv
import io
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types
from collections import Counter

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

import training.run.loop as module
from training.budget import StepCosts
from training.run import train
from training.run.display import Display
from training.run.header import check_data
from training.run_folder import checkpoint
from training.run_folder.events import Events
from training.run_folder.metering import read_meters
from training.run_folder.records import COLUMNS, read_evaluations
from training.run_folder.schema import DIVERGED, FINISHED, INTERRUPTED

TIMES = {"wall_clock_s", "selection_s", "forward_s", "backward_s"}
WORKER = pathlib.Path(__file__).with_name("run_worker.py")


def rows(folder, table="evaluations.csv"):
    """The table without its times."""
    if not (folder / table).exists():
        return []
    with open(folder / table, newline="") as file:
        return [
            {name: cell for name, cell in row.items() if name not in {*TIMES, "meter_s"}}
            for row in csv.DictReader(file)
        ]


def weights(folder):
    return torch.load(folder / "model" / "pytorch_model.bin", weights_only=True)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def header(folder):
    return json.loads((folder / "header.json").read_text())


@pytest.fixture
def go(tiny, accelerator, tmp_path, monkeypatch):
    """`go(name, within={step: function}, **values)`: train in a folder of that name; steps count from 1."""
    steps, train_step = {}, module.Training.train_step

    def watched(self):
        steps.get(self.step + 1, lambda: None)()
        train_step(self)

    monkeypatch.setattr(module.Training, "train_step", watched)

    def run(name="run", within=None, costs=None, overwrite=False, display=None, **values):
        steps.clear()
        steps.update(within or {})
        config = tiny(**values)
        return train(
            config,
            tmp_path / name,
            accelerator=accelerator,
            task=config.build_task(),
            costs=costs,
            overwrite=overwrite,
            display=display,
        )

    return run


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


# ---- What is written ----


def test_the_table_of_a_finished_run(go, tmp_path):
    outcome = go(method="loss@1", seed=3, budget="25steps", start_step=10)
    assert outcome.status == FINISHED
    found = read_evaluations(tmp_path / "run")
    assert found == outcome.evaluations
    # A quarter of 25 is 6.25.
    assert [row.step for row in found] == [6, 12, 19, 25]
    assert [row.backprop_samples for row in found] == [48, 96, 152, 200]
    assert [row.gross_samples for row in found] == [48, 80 + 2 * 16, 80 + 9 * 16, 80 + 15 * 16]
    assert {(row.method, row.score, row.exit_layer, row.seed) for row in found} == {("loss@1", "loss", 1, 3)}
    for before, after in itertools.pairwise(found):
        for name in TIMES:
            assert getattr(after, name) >= getattr(before, name)
    last = found[-1]
    assert 0 < last.selection_s + last.forward_s + last.backward_s < last.wall_clock_s
    assert all(0 <= row.val_accuracy <= 1 and row.val_loss > 0 and row.train_loss > 0 for row in found)
    assert all(row.reference_s is row.overlap is row.rank_correlation is None for row in found)


@pytest.mark.parametrize(
    ("method", "named"),
    [
        ("baseline", (None, None)),
        ("random", ("random", None)),
        ("last-seen", ("last-seen", None)),
        ("entropy@last", ("entropy", 2)),
        ("margin@1", ("margin", 1)),
    ],
)
def test_score_and_exit_of_each_method(go, method, named):
    (row,) = go(method=method, budget="2steps", evaluations=1).evaluations
    assert (row.method, row.score, row.exit_layer) == (method, *named)


def test_a_label_stands_in_the_table(go):
    assert go(label="mine", budget="2steps", evaluations=1).evaluations[0].method == "mine"


@pytest.mark.parametrize(
    ("budget", "evaluations", "steps"),
    [
        ("10steps", 1, [10]),
        ("10steps", 3, [3, 7, 10]),
        ("3steps", 10, [1, 2, 3]),
        ("1steps", 4, [1]),
        ("2epochs", 2, [8, 16]),
    ],
)
def test_evaluations_are_spread_over_the_run_and_end_it(go, budget, evaluations, steps):
    assert [row.step for row in go(budget=budget, evaluations=evaluations).evaluations] == steps


def test_the_header(go, tmp_path):
    outcome = go(seed=2, save_model=False)
    found = header(tmp_path / "run")
    assert found == json.loads(json.dumps(outcome.header))
    assert {"date", "commit", "python", "machine", "versions", "command", "device", "threads"} <= set(found)
    assert found["config"]["batch_size"] == 8
    assert found["config"]["task"] == "tiny"
    assert (found["status"], found["seed"], found["total_steps"], found["steps_done"]) == ("finished", 2, 24, 24)
    assert (found["processes"], found["data"], found["step_costs"]) == (1, {"source": "tiny"}, None)
    # 6 x 8, two of the norm each, 8 x 3 + 3 twice, 8 x 8 + 8.
    assert found["parameters"] == 48 + 16 + 2 * 27 + 72
    assert found["wall_clock_s"] >= outcome.evaluations[-1].wall_clock_s
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["evaluations.csv", "header.json"]
    with open(tmp_path / "run" / "evaluations.csv") as file:
        assert next(csv.reader(file)) == list(COLUMNS)


def test_the_test_split_is_judged_once_at_the_end(go, judged_by):
    judged = []

    def noted(evaluate, training, split, *more):
        judged.append((training.step, split))
        return evaluate(training, split, *more)

    judged_by(noted)
    outcome = go(test=True, evaluations=2)
    assert judged == [(12, "validation"), (24, "validation"), (24, "test")]
    assert 0 <= outcome.header["test_accuracy"] <= 1
    assert outcome.header["test_loss"] > 0
    assert 0 < outcome.header["test_calibration_error"] < 1
    assert "test_accuracy" not in go("other", test=False).header


def test_quality_is_recorded_and_changes_nothing(go, tmp_path):
    measured = go("measured", method="loss@1", quality_batches=2)
    assert all(0 <= row.overlap <= 1 and -1 <= row.rank_correlation <= 1 for row in measured.evaluations)
    go("plain", method="loss@1")
    assert same(weights(tmp_path / "measured"), weights(tmp_path / "plain"))
    assert [row["val_loss"] for row in rows(tmp_path / "measured")] == [
        row["val_loss"] for row in rows(tmp_path / "plain")
    ]


def test_how_often_it_is_evaluated_changes_nothing(go, tmp_path):
    go("often", evaluations=24, method="loss@1")
    go("once", evaluations=1, method="loss@1")
    assert same(weights(tmp_path / "often"), weights(tmp_path / "once"))
    assert rows(tmp_path / "often")[-1]["val_loss"] == rows(tmp_path / "once")[-1]["val_loss"]


def test_seeds_differ_and_repeat(go, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        go(name, seed=seed, method="loss@1")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_events_for_tensorboard(go, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = go(tensorboard=True, budget="6steps", evaluations=2)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    accuracies = [(event.step, event.value) for event in events.Scalars("validation/val_accuracy")]
    assert accuracies == [(row.step, pytest.approx(row.val_accuracy)) for row in outcome.evaluations]


def scalars(folder):
    """All points that TensorBoard shows, tag -> [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture
def quick_clock(monkeypatch):
    """Seconds go by at once where events wait for them; their files are named by the same clock."""
    waited = []
    clock = types.SimpleNamespace(time=lambda: time.time() + sum(waited), sleep=waited.append)
    monkeypatch.setattr("training.run_folder.events.time", clock)
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.time", clock)
    return waited


def test_tensorboard_agrees_with_the_tables_after_interruptions_and_failures(go, tmp_path, quick_clock):
    """Stopped at an evaluation, between two, after steps that the checkpoint does not have, and once before any."""
    pytest.importorskip("tensorboard")
    values = {"tensorboard": True, "method": "loss@1", "meter_every": 2}
    go("whole", **values)

    def fail():
        raise KeyboardInterrupt

    for at in (4, 6, 11, 15, 16, 20):
        with pytest.raises(KeyboardInterrupt):
            go("cut", within={at: fail}, **values)
        if at == 11:
            assert go("cut", within={9: interrupt}, **values).status == INTERRUPTED
    outcome = go("cut", **values)
    found = scalars(tmp_path / "cut")
    for name in ("val_accuracy", "val_loss"):
        expected = [(row.step, pytest.approx(getattr(row, name))) for row in outcome.evaluations]
        assert found[f"validation/{name}"] == expected
    read = [(row["step"], pytest.approx(row["rho"])) for row in read_meters(tmp_path / "cut")]
    assert found["meters/rho"] == read
    assert found == scalars(tmp_path / "whole")
    assert quick_clock


def test_event_files_of_one_second_stand_in_the_order_of_their_making(tmp_path, quick_clock):
    """TensorBoard reads them by name, of which the second is the first part and a counter, 9 before 10, the last."""
    pytest.importorskip("tensorboard")
    for step in range(3):
        events = Events(tmp_path, step, {})
        events.add("loss", float(step), step)
        events.close()
    names = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
    assert len({name.split(".")[3] for name in names}) == 3
    assert scalars(tmp_path)["loss"] == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_events_ahead_of_the_clock_are_told_of(tmp_path, caplog):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.4102444800.host.2.0").touch()
    (tmp_path / "tensorboard" / "events.out.tfevents.of.a.stranger").touch()
    Events(tmp_path, 0, {}).close()
    assert "ahead of this machine's clock" in caplog.text


def test_a_run_that_lost_its_checkpoint_says_that_it_begins_anew(go, tmp_path):
    said = io.StringIO()
    display = Display(Console(file=said, width=1000))
    assert go(within={9: interrupt}).status == INTERRUPTED
    (tmp_path / "run" / "checkpoint.pt").unlink()
    assert go(display=display).status == FINISHED
    assert "run was interrupted, but its checkpoint.pt is gone: it begins anew" in said.getvalue()


# ---- Budgets of time ----


def test_the_time_of_a_run_is_its_reference_time(go, tmp_path):
    """At .5 and .6 s a step, half of them selecting: within 2% of the budget, whatever the clock says."""
    costs = StepCosts(0.5, 0.6)
    outcome = go(method="loss@1", budget="60s", costs=costs, start_share=0.25, end_share=0.75, evaluations=3)
    last = outcome.evaluations[-1]
    assert 0.98 * 60 <= last.reference_s <= 60 * (1 + 1e-6)
    for row in outcome.evaluations:
        first, end = round(0.25 * last.step), round(0.75 * last.step)
        by_hand = sum(0.6 if first <= step < end else 0.5 for step in range(row.step))
        assert row.reference_s == pytest.approx(by_hand)
    of_a_step = {"plain_s": 0.5, "selecting_s": 0.6, "scoring_work": None, "training_work": 0.0}
    assert header(tmp_path / "run")["step_costs"] == of_a_step


@pytest.mark.parametrize("method", ["baseline", "random", "last-seen", "loss@1"])
def test_measured_prices_are_recorded_and_kept_to(go, method):
    outcome = go(method=method, budget="0.2s", evaluations=2)
    last, costs = outcome.evaluations[-1], outcome.header["step_costs"]
    dearest = max(costs["plain_s"], costs["selecting_s"])
    assert 0.2 - dearest < last.reference_s <= 0.2 * (1 + 1e-6)
    assert last.reference_s == pytest.approx(last.step * costs["plain_s" if method == "baseline" else "selecting_s"])


def test_prices_are_kept_when_a_run_goes_on(go, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure_costs", lambda *_, **__: [StepCosts(0.001, 0.002)])
    go("run", budget="0.1s", within={20: interrupt}, method="loss@1")
    before = header(tmp_path / "run")
    assert (before["status"], before["total_steps"]) == (INTERRUPTED, 50)

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "measure_costs", never)
    after = go("run", budget="0.1s", method="loss@1").header
    assert (after["step_costs"], after["total_steps"]) == (before["step_costs"], before["total_steps"])
    assert (after["status"], after["steps_done"]) == (FINISHED, before["total_steps"])
    last = read_evaluations(tmp_path / "run")[-1]
    assert last.reference_s == pytest.approx(last.step * before["step_costs"]["selecting_s"])


# ---- Budgets of work ----


@pytest.mark.parametrize(
    ("method", "of_a_step"),
    # 8 rows trained on; 16 drawn, of which exact losses take a forward pass each.
    [("baseline", 24), ("random", 24), ("loss@last", 24 + 16)],
)
def test_work_pays_for_trained_and_scored_rows(go, method, of_a_step):
    outcome = go(method=method, budget="1000work", evaluations=1)
    assert outcome.header["total_steps"] == 1000 // of_a_step
    assert outcome.header["step_costs"]["scoring_work"] == (1.0 if method == "loss@last" else 0.0)


def test_an_early_exit_pays_for_what_it_computes(go):
    """Exit 1 has the first layer and its head: 6 x 8 + 8 x 3 of 6 x 8 + 8 x 3 + 8 x 8 + 8 x 3 products a row."""
    outcome = go(method="loss@1", budget="1000work", evaluations=1)
    share = 72 / 160
    assert outcome.header["step_costs"]["scoring_work"] == pytest.approx(share)
    assert outcome.header["total_steps"] == int(1000 / (24 + 16 * share))


def test_a_proxy_pays_for_its_scores_and_its_training(go):
    """6 x 3 products of 160 a row; backwards as many, since its input has no gradient."""
    outcome = go(method="proxy", budget="1000work", evaluations=1, start_share=0.5)
    costs = outcome.header["step_costs"]
    assert costs["scoring_work"] == pytest.approx(18 / 160)
    assert costs["training_work"] == pytest.approx(36 / 160)
    # Before it selects it is charged alike.
    assert outcome.header["total_steps"] == int(1000 / (8 * (3 + 36 / 160) + 16 * 18 / 160))


@pytest.mark.parametrize(("method", "rows"), [("probe@1", 16), ("predicted@1", 8)])
def test_a_head_pays_for_the_exit_its_scores_and_its_training(go, method, rows):
    """8 x 3 products of 160 a row that is scored; as many forward and backward of each that it learns from."""
    costs = go(method=method, budget="1000work", evaluations=1).header["step_costs"]
    assert costs["scoring_work"] == pytest.approx((72 + 24) / 160)
    assert costs["training_work"] == pytest.approx(rows / 8 * 48 / 160)


def test_a_corrected_exit_pays_for_the_exit_and_fewer_bits_for_all(go):
    corrected = go("corrected", method="corrected@1", budget="1000work", evaluations=1).header["step_costs"]
    assert corrected["scoring_work"] == pytest.approx(72 / 160)
    assert corrected["training_work"] == 0
    lower = go("lower", method="loss@last", cheaper="bf16", budget="1000work", evaluations=1).header["step_costs"]
    assert lower["scoring_work"] == pytest.approx(1.0)


def test_measuring_first_changes_nothing_that_is_trained(go, tmp_path):
    measured = go("measured", budget="0.3s", method="loss@1", evaluations=1)
    go("given", budget=f"{measured.header['total_steps']}steps", method="loss@1", evaluations=1)
    assert same(weights(tmp_path / "measured"), weights(tmp_path / "given"))


# ---- Folders ----


def test_a_finished_run_is_not_trained_again(go, tmp_path):
    first = go(method="loss@1")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    again = go(method="loss@1", within={1: lambda: pytest.fail("trained again")})
    assert (again.status, again.evaluations) == (FINISHED, first.evaluations)
    assert again.header == header(tmp_path / "run")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}


def test_what_is_not_part_of_a_run_may_change(go):
    go(label="a")
    again = go(label="b", checkpoint_every_s=5.0, save_model=False, within={1: lambda: pytest.fail("trained")})
    assert again.status == FINISHED


@pytest.mark.parametrize(
    ("values", "key"), [({"max_lr": 0.5}, "max_lr"), ({"rows": 48}, "rows"), ({"seed": 1}, "seed")]
)
def test_another_configuration_in_the_folder_is_an_error_that_names_the_key(go, tmp_path, values, key):
    go()
    before = rows(tmp_path / "run")
    with pytest.raises(
        ValueError, match=rf"run has the results of another configuration: {key} \(.* there, .* here\).*--overwrite"
    ):
        go(**values)
    assert rows(tmp_path / "run") == before


def test_overwrite_begins_anew_and_removes_what_the_run_wrote(go, tmp_path):
    first = go(seed=1, method="loss@1", meter_every=2).header
    assert first["files"] == ["evaluations.csv", "header.json", "meters.csv", "model/pytorch_model.bin"]
    go(seed=2, overwrite=True, save_model=False)
    assert header(tmp_path / "run")["config"]["seed"] == 2
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["evaluations.csv", "header.json"]
    assert go(seed=2, overwrite=True, within={1: lambda: None}).status == FINISHED


def test_overwrite_knows_what_older_versions_wrote(go, tmp_path):
    go(seed=1)
    folder = tmp_path / "run"
    old = {name: value for name, value in header(folder).items() if name != "files"}
    (folder / "header.json").write_text(json.dumps(old))
    (folder / "model" / "pytorch_model.bin").rename(folder / "model" / "model.safetensors")
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events.out.tfevents.1.host.2.0").touch()
    go(seed=2, overwrite=True, save_model=False)
    assert sorted(path.name for path in folder.iterdir()) == ["evaluations.csv", "header.json"]


def strange(folder):
    (folder / "left.txt").write_text("years of work")


def strange_within(folder):
    (folder / "model" / "left.txt").write_text("years of work")


def another_run(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "header.json").write_text("{}")


def link_to_a_file(folder):
    (folder / "meters.csv").symlink_to("/etc/hostname")


def link_to_a_folder(folder):
    (folder / "tensorboard").symlink_to(folder.parent)


def weights_of_another(folder):
    (folder / "model" / "thesis.bin").write_bytes(b"years of work")


def temporary_of_another(folder):
    (folder / ".thesis.tmp").write_text("years of work")


def events_of_another(folder):
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events.out.tfevents.thesis").touch()


STRANGE = [strange, strange_within, another_run, link_to_a_file, link_to_a_folder]
STRANGE += [weights_of_another, temporary_of_another, events_of_another]


@pytest.mark.parametrize("add", STRANGE)
def test_overwrite_refuses_what_the_run_did_not_write(go, tmp_path, add):
    go(seed=1)
    add(tmp_path / "run")
    before = {path: path.is_file() and path.read_bytes() for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(ValueError, match=r"holds what its run has not written .*: it is not overwritten"):
        go(seed=2, overwrite=True)
    assert before == {path: path.is_file() and path.read_bytes() for path in (tmp_path / "run").rglob("*")}


def test_overwrite_refuses_a_link(go, tmp_path):
    go("other")
    (tmp_path / "run").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match="run is a link: it is not overwritten"):
        go(overwrite=True)
    assert header(tmp_path / "other")["status"] == FINISHED


def test_overwrite_removes_nothing_of_a_run_if_the_new_one_cannot_start(go, tmp_path, monkeypatch):
    go(seed=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(ValueError, match="exit_layer = 7"):
        go(method="loss@7", overwrite=True)
    monkeypatch.setattr(module.checkpoint, "load", pytest.fail)  # nor is what is replaced read
    monkeypatch.setattr(
        module.Training, "__init__", lambda *_, **__: (_ for _ in ()).throw(ValueError("no such model"))
    )
    with pytest.raises(ValueError, match="no such model"):
        go(seed=2, overwrite=True)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}


def test_overwrite_removes_no_folder_that_is_not_a_runs(go, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("important")
    with pytest.raises(ValueError, match=r"thesis is not the folder of a run.*header\.json"):
        go("thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "important"
    assert go("nothing-there", overwrite=True).status == FINISHED


@pytest.mark.parametrize("name", ["evaluations.csv", "checkpoint.pt", "model", "compare.json"])
def test_a_run_replaces_nothing_that_no_run_of_its_name_wrote(go, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("important")
    with pytest.raises(ValueError, match=rf"run has {name}, but no header\.json"):
        go()
    assert [path.read_text() for path in (tmp_path / "run").iterdir()] == ["important"]


# ---- One writer ----


def test_a_second_run_in_a_folder_is_refused_while_the_first_trains(go, tmp_path):
    seen = []

    def second():
        with pytest.raises(ValueError, match=rf"run is being written to by process {os.getpid()} on .* since 20"):
            train(first.config, tmp_path / "run", accelerator=first.accelerator)
        seen.append(True)

    class first:
        config, accelerator = None, None

    init = module.Training.__init__

    def noted(self, config, task, accelerator, *others, **named):
        first.config, first.accelerator = config, accelerator
        init(self, config, task, accelerator, *others, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Training, "__init__", noted)
        assert go(within={5: second}).status == FINISHED
    assert seen == [True]
    assert not (tmp_path / "run" / ".writer.lock").exists()


def test_a_run_at_other_prices_is_refused(go):
    go(budget="1s", costs=StepCosts(0.1, 0.2))
    assert go(budget="1s", costs=StepCosts(0.1, 0.2)).status == FINISHED
    with pytest.raises(ValueError, match=r"costs of .*0\.1.*, but they are .*0\.3"):
        go(budget="1s", costs=StepCosts(0.3, 0.4))


# ---- Data, tables and disks ----


def test_other_data_are_refused_and_both_fingerprints_named(go, tmp_path, tiny_module, monkeypatch):
    def described(**description):
        init = tiny_module.TinyTask.__init__

        def with_description(self, settings, seed):
            init(self, settings, seed)
            self.description = description

        return with_description

    with monkeypatch.context() as patch:
        patch.setattr(tiny_module.TinyTask, "__init__", described(content="abc", code=1))
        go(within={9: interrupt})
    before = (tmp_path / "run" / "header.json").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(tiny_module.TinyTask, "__init__", described(content="xyz", code=1))
        with pytest.raises(ValueError, match=r"data are not those .*'abc'.* there, .*'xyz'.* here"):
            go()
    assert (tmp_path / "run" / "header.json").read_text() == before
    with monkeypatch.context() as patch:
        patch.setattr(tiny_module.TinyTask, "__init__", described(content="abc", code=2))
        assert go().status == FINISHED


def test_data_that_other_code_prepared_are_warned_of(go, tmp_path, caplog):
    go(within={9: interrupt})
    path = tmp_path / "run" / "header.json"
    path.write_text(json.dumps({**header(tmp_path / "run"), "data": {"source": "tiny", "content": "a", "code": 1}}))
    with pytest.raises(ValueError, match="data are not those"):
        go()
    check_data(tmp_path, {"content": "a", "code": 1}, {"content": "a", "code": 2})
    assert "other code has prepared them: code differs" in caplog.text


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda lines: lines[:-1], "line 5: the table ends where the header tells of step 24"),
        (lambda lines: lines[:1], "line 2: the table ends where"),
        (lambda lines: [*lines[:3], *lines[4:]], "line 4: there is step 24 where the header tells of step 18"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "line 4: there is step 12 where"),
        (lambda lines: [lines[0], *reversed(lines[1:])], "line 2: there is step 24 where"),
        (lambda lines: [*lines, lines[-1]], "line 6: there is step 24 where the header tells of no row"),
        (lambda lines: [*lines[:-1], lines[-1].replace(",0.", ",inf,0.", 1)], "line 5: not an evaluation"),
    ],
)
def test_a_finished_run_whose_table_was_damaged_is_not_finished(go, tmp_path, damage, line):
    go()
    path = tmp_path / "run" / "evaluations.csv"
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match=rf"evaluations\.csv, {line}"):
        go()


@pytest.mark.parametrize("name", ["val_accuracy", "val_loss", "wall_clock_s"])
def test_a_number_that_is_not_finite_names_the_line(go, tmp_path, name):
    go()
    path = tmp_path / "run" / "evaluations.csv"
    found = list(csv.DictReader(path.read_text().splitlines()))
    found[2][name] = "nan"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerows(found)
    with pytest.raises(ValueError, match=rf"evaluations\.csv, line 4: {name} = nan must be finite"):
        go()


def test_a_table_of_readings_that_lost_one_is_named_when_the_run_goes_on(go, tmp_path):
    values = {"method": "loss@1", "meter_every": 3}
    go(within={14: interrupt}, **values)
    path = tmp_path / "run" / "meters.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], *lines[4:]]) + "\n")
    before = (tmp_path / "run" / "header.json").read_bytes()
    with pytest.raises(ValueError, match=r"meters\.csv, line 4: there is step 9 where the header tells of step 6"):
        go(**values)
    assert (tmp_path / "run" / "header.json").read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda lines: lines[:-1], "3 rows are there, but the header tells of 4"),
        (lambda lines: [*lines, lines[-1]], "line 6: step 18 is not after the one before"),
        (lambda lines: [*lines[:2], lines[3], lines[2], lines[4]], "line 4: step 6 is not after the one before"),
        (lambda lines: [*lines[:4], lines[4] + "x"], "line 5: not a reading"),
    ],
)
def test_a_finished_run_whose_readings_were_damaged_is_not_finished(go, tmp_path, damage, what):
    go(method="loss@1", meter_every=6)
    path = tmp_path / "run" / "meters.csv"
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match=rf"meters\.csv.*{what}"):
        go(method="loss@1", meter_every=6)


@pytest.mark.parametrize("name", ["header.json", "evaluations.csv", "meters.csv"])
def test_a_pipe_in_the_place_of_a_record_is_named_and_not_waited_for(go, tmp_path, name):
    go(method="loss@1", meter_every=6)
    (tmp_path / "run" / name).unlink()
    os.mkfifo(tmp_path / "run" / name)
    with pytest.raises(ValueError, match=rf"{name} must be a file, not a pipe"):
        go(method="loss@1", meter_every=6)


def test_a_checkpoint_of_another_run_is_named(go, tmp_path):
    go("other", within={9: interrupt}, widths=(3,), batch_normalised=False)
    go(within={9: interrupt})
    (tmp_path / "run" / "checkpoint.pt").write_bytes((tmp_path / "other" / "checkpoint.pt").read_bytes())
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not of this run"):
        go()


def test_a_disk_without_room_for_a_checkpoint_is_told_before_anything_is_measured(go, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2000))
    monkeypatch.setattr(module, "measure_costs", pytest.fail)
    with pytest.raises(OSError, match=r"No space left on device, .* are needed"):
        go(budget="1s")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_where_it_is_validated_is_divergence(go, judged_by):
    judged_by(
        lambda evaluate, training, split: evaluate(training, split) if training.step < 18 else (0.5, float("inf"))
    )
    outcome = go()
    assert (outcome.status, outcome.header["steps_done"]) == (DIVERGED, 18)
    assert [row.step for row in outcome.evaluations] == [6, 12]
    assert go().evaluations == outcome.evaluations


# ---- Divergence ----


@pytest.mark.parametrize("evaluations", [2, 40])
def test_divergence(go, tmp_path, evaluations):
    """At a step that is evaluated, and at one that is not: what is not finite is no evaluation."""
    values = {
        "method": "loss@1",
        "max_lr": 1e30,
        "evaluations": evaluations,
        "budget": "40steps",
        "batch_normalised": False,
    }
    outcome = go(**values)
    assert outcome.status == header(tmp_path / "run")["status"] == DIVERGED
    assert outcome.header["steps_done"] < 40
    steps = range(1, outcome.header["steps_done"]) if evaluations == 40 else []
    assert [row.step for row in outcome.evaluations] == list(steps)
    assert [row["step"] for row in rows(tmp_path / "run")] == [str(step) for step in steps]
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert not (tmp_path / "run" / "model").exists()
    assert go(**values, within={1: lambda: pytest.fail("trained again")}).status == DIVERGED


# ---- Interruption ----


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 6, 7, 23])
def test_an_interrupted_run_goes_on_bitwise(go, tmp_path, at, number):
    values = {
        "method": "loss@1",
        "select": "selective-backprop",
        "schedule": "one-cycle",
        "max_lr": 0.1,
        "quality_batches": 1,
        "meter_every": 4,
    }
    go("whole", **values)
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    stopped = go("cut", within={at: lambda: os.kill(os.getpid(), number)}, **values)
    assert handlers == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    # The step that was interrupted is done; an evaluation of that step, too.
    assert (stopped.status, stopped.header["steps_done"]) == (INTERRUPTED, at)
    assert [row.step for row in stopped.evaluations] == [step for step in (6, 12, 18, 24) if step <= at]
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    assert not (tmp_path / "cut" / "model").exists()
    outcome = go("cut", **values)
    assert outcome.status == FINISHED
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert rows(tmp_path / "cut", "meters.csv") == rows(tmp_path / "whole", "meters.csv") != []
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()
    # Time goes on from where it stood.
    assert outcome.evaluations[-1].wall_clock_s > stopped.header["wall_clock_s"]
    seconds = [row["meter_s"] for row in read_meters(tmp_path / "cut")]
    assert seconds == sorted(seconds)


def logged(folder):
    """The log of rows, in the order of step and row."""
    rows = [row for path in sorted((folder / "rows").iterdir()) for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: (row["step"], row["id"]))


@pytest.mark.parametrize("method", ["baseline", "last-seen", "loss@1"])
def test_rows_are_logged_once_and_change_nothing(go, tmp_path, method):
    values = {"method": method, "batch_size": 8, "budget": "12steps", "start_step": 3}
    go("plain", **values)
    go("whole", log_rows=True, **values)
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "whole"))
    assert not (tmp_path / "plain" / "rows").exists()
    go("cut", within={5: interrupt}, log_rows=True, **values)
    go("cut", log_rows=True, **values)
    found = logged(tmp_path / "whole")
    assert logged(tmp_path / "cut") == found
    drawn = Counter(row["step"] for row in found)
    assert drawn == {step: 16 if method != "baseline" and step >= 3 else 8 for step in range(12)}
    assert set(Counter(row["step"] for row in found if row["kept"]).values()) == {8}
    assert all((row["loss"] is None) != row["kept"] for row in found)
    assert "rows/rank-0-part-000000.parquet" in header(tmp_path / "whole")["files"]
    go("whole", overwrite=True, log_rows=False, **values)
    assert not (tmp_path / "whole" / "rows").exists()


def test_what_a_run_logged_that_was_killed_before_its_first_checkpoint_is_logged_anew(go, tmp_path):
    values = {"method": "random", "budget": "6steps", "log_rows": True}
    go("whole", **values)
    with pytest.raises(OSError, match="as if killed"):
        go("killed", within={3: as_if_killed}, **values)
    go("killed", **values)
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")


def as_if_killed():
    raise OSError("as if killed")


def test_interrupted_at_its_last_step_it_is_finished(go):
    assert go(within={24: interrupt}).status == FINISHED


def test_a_long_run_interrupted_between_two_logs(go, tmp_path, monkeypatch):
    """With more steps than logs the loss is not looked at at every one, and the cut falls between two."""
    monkeypatch.setattr(module, "LOGS", 20)
    values = {"budget": "83steps", "evaluations": 2, "dropout": 0.0}
    go("whole", **values)
    assert go("cut", within={14: interrupt}, **values).header["steps_done"] == 14  # of logs at 12 and 16
    go("cut", **values)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_second_interrupt_is_as_usual(go, tmp_path):
    def twice():
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        go(within={9: twice})
    # The checkpoint of the evaluation at step 6.
    assert checkpoint.load(tmp_path / "run")["step"] == 6
    assert go().status == FINISHED


def test_checkpoints_in_between(go, tmp_path):
    seen = []
    outcome = go(
        checkpoint_every_s=1e-9, evaluations=1, within={5: lambda: seen.append(checkpoint.load(tmp_path / "run"))}
    )
    assert outcome.status == FINISHED
    assert seen[0]["step"] == 4


def test_a_corrupt_checkpoint_says_so(go, tmp_path):
    go(within={9: interrupt})
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read .*: remove it to start the run anew"):
        go()
    path.unlink()
    assert go().status == FINISHED
    (tmp_path / "run" / "header.json").write_text("{")
    with pytest.raises(ValueError, match=r"header\.json cannot be read"):
        go()
    assert go(overwrite=True).status == FINISHED


# ---- SIGKILL ----


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Runs killed at many points, each resumed: point -> what the worker saw."""
    if not hasattr(os, "fork"):
        pytest.skip("the worker forks")
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout)


POINTS = [
    "before the first evaluation",
    "evaluated, no checkpoint yet",
    "within the first checkpoint",
    "after the first checkpoint",
    "evaluated again",
    "within the second checkpoint",
    "within the table",
    "within the readings",
    "evaluated at the end",
    "within the model",
    "before the header",
    "within the header",
    "twice",
]


def test_all_points_are_tried(killed):
    assert sorted(killed[1]) == sorted(POINTS)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_loses_no_evaluation_and_ends_as_if_nothing_had_been(killed, point):
    folder, found = killed
    assert found[point]["killed"], "the process came through"
    assert found[point]["lost"] == []
    assert found[point]["status"] == FINISHED
    assert rows(folder / point) == rows(folder / "whole")
    assert rows(folder / point, "meters.csv") == rows(folder / "whole", "meters.csv") != []
    assert same(weights(folder / point), weights(folder / "whole"))
    left = {path.name for path in (folder / point).iterdir() if not path.name.startswith(".")}
    assert left == {"header.json", "evaluations.csv", "meters.csv", "model"}


def without_times(content):
    """A record without what differs from one time to the next."""
    if isinstance(content, list):
        return [without_times(entry) for entry in content]
    if not isinstance(content, dict):
        return content
    varies = ("date", "command", "files", "step_costs", "scoring_share", "seconds_to_target", "commit")
    return {
        name: without_times(value) for name, value in content.items() if not (name.endswith("_s") or name in varies)
    }


@pytest.mark.slow
def test_runs_and_comparisons_killed_at_random_end_as_if_nothing_had_been(tmp_path):
    """20 times each: every table, header, weight and point of TensorBoard is that of one that was left alone."""
    if not hasattr(os, "fork"):
        pytest.skip("the worker forks")
    done = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path), "random"],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pairs = [
        (tmp_path / f"{name} {number}", tmp_path / f"{name}, whole")
        for name, folders in json.loads(done.stdout.splitlines()[-1]).items()
        for number in range(1, folders + 1)
    ]
    for killed, whole in pairs:
        tables = sorted(path.relative_to(whole) for path in whole.rglob("*.csv") if path.name != "summary.csv")
        assert tables
        for table in tables:
            found, expected = (
                [{key: cell for key, cell in row.items() if key != "reference_s"} for row in rows(folder, table)]
                for folder in (killed, whole)
            )
            assert found == expected != [], table
        for path in sorted(whole.rglob("*.json")):
            one, two = (json.loads((folder / path.relative_to(whole)).read_text()) for folder in (killed, whole))
            assert without_times(one) == without_times(two), path
        assert [path for path in killed.rglob(".*") if path.name != ".writer.lock"] == []
        assert not list(killed.rglob("checkpoint.pt"))
        if (whole / "model").exists():
            assert same(weights(killed), weights(whole))
            assert scalars(killed) == scalars(whole)
