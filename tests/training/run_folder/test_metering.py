"""The table of readings: written, read back, cut where a run goes on; in a run and in a comparison."""

import csv
import dataclasses
import io
import math

import pytest
import torch
from rich.console import Console

from gsgd.sift.measures.readings import Reading
from training.comparison.compare import compare
from training.comparison.contenders import parse_contender
from training.run import train
from training.run.display import Display
from training.run_folder.metering import MeterLog, read_meters, write_meters
from training.run_folder.schema import FINISHED
from training.settings import TrainingSettings
from training.training import Training

READING = Reading(
    step=12,
    exit_layer=1,
    rows=63,
    kept=32,
    rho=1.0 + 2 / 3,
    rho_approx=1e-300,
    rho_pairs=math.pi,
    rho_pairs_approx=0.1 + 0.2,
    sigma=0.5,
    independence=-0.25,
    margin_correlation=0.7,
    pairwise_agreement=0.75,
    overlap=0.625,
    rank_correlation=-1.0,
    delta_chosen=0.125,
    delta_hardest=0.3,
)
ROW = {"method": "loss@1:keep=0.7", "seed": 3, **dataclasses.asdict(READING), "meter_s": 1 / 3}
UNDEFINED = {**ROW, "step": 24, "sigma": math.nan, "independence": math.nan}


@pytest.fixture
def go(tiny, accelerator, tmp_path):
    """`go(name, **values)`: train a run that is metered, in a folder of that name."""

    def run(name="run", display=None, **values):
        config = tiny(**{"method": "loss@1", "meter_every": 5, **values})
        return train(config, tmp_path / name, accelerator=accelerator, task=config.build_task(), display=display)

    return run


def of(row):
    """The reading in a row."""
    return Reading(**{name: value for name, value in row.items() if name not in ("method", "seed", "meter_s")})


def table(folder):
    with open(folder / "meters.csv", newline="") as file:
        return list(csv.DictReader(file))


# ---- The table ----


def test_readings_are_read_back_exactly(tmp_path):
    write_meters(tmp_path, [ROW, UNDEFINED])
    first, second = read_meters(tmp_path)
    assert first == ROW
    assert repr(second) == repr(UNDEFINED)
    assert (tmp_path / "meters.csv").read_text().splitlines()[0] == (
        "method,seed,step,exit_layer,rows,kept,rho,rho_approx,rho_pairs,rho_pairs_approx,sigma,independence,"
        "margin_correlation,pairwise_agreement,overlap,rank_correlation,delta_chosen,delta_hardest,meter_s"
    )
    assert table(tmp_path)[1]["sigma"] == "nan"


def test_a_table_of_before_deltas_were_measured_can_be_read(tmp_path):
    old = {name: value for name, value in ROW.items() if not name.startswith("delta")}
    (tmp_path / "meters.csv").write_text(",".join(old) + "\n" + ",".join(map(str, old.values())) + "\n")
    assert read_meters(tmp_path) == [{**ROW, "delta_chosen": None, "delta_hardest": None}]


def test_losses_last_seen_are_metered_and_it_changes_nothing(go, tmp_path):
    values = {"method": "last-seen", "dropout": 0.2, "budget": "20steps"}
    go("plain", meter_every=0, **values)
    go(**values)
    found = read_meters(tmp_path / "run")
    assert [row["step"] for row in found] == [0, 5, 10, 15]
    assert {row["exit_layer"] for row in found} == {0}
    assert found[0]["rows"] == 0
    assert math.isnan(found[0]["overlap"])
    assert all(row["rows"] > 4 and row["delta_chosen"] > 0 and row["delta_hardest"] > 0 for row in found[2:])
    one, two = (torch.load(tmp_path / name / "model" / "pytorch_model.bin") for name in ("plain", "run"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_nothing_there(tmp_path):
    assert read_meters(tmp_path) == []


@pytest.mark.parametrize("bad", ["loss@1,0,12", "loss@1,0,1.5" + ",1" * 14])
def test_a_broken_table_names_the_line(tmp_path, bad):
    write_meters(tmp_path, [ROW])
    with open(tmp_path / "meters.csv", "a") as file:
        file.write(bad + "\n")
    with pytest.raises(ValueError, match=r"meters\.csv, line 3: not a reading"):
        read_meters(tmp_path)


def test_a_run_that_goes_on_takes_the_readings_of_the_steps_it_has_done(tmp_path):
    """The reading of step 12, counted from 0, is part of the state once 13 steps are done."""
    write_meters(tmp_path, [ROW, UNDEFINED])
    steps = {
        done: [row["step"] for row in MeterLog(tmp_path, TrainingSettings(), done).rows] for done in (0, 12, 13, 24, 25)
    }
    assert steps == {0: [], 12: [], 13: [12], 24: [12], 25: [12, 24]}


# ---- In a run ----


def test_the_table_of_a_run(go, tiny, accelerator, tmp_path):
    """What the engine of the same training, stepped by hand, reads."""
    outcome = go(seed=3, start_step=2, label="mine")
    config = tiny(method="loss@1", meter_every=5, seed=3, start_step=2)
    training = Training(config, config.build_task(), accelerator, 24)
    for _ in range(24):
        training.train_step()
    rows = read_meters(tmp_path / "run")
    assert [of(row) for row in rows] == training.sift.readings
    assert [row["step"] for row in rows] == [2, 7, 12, 17, 22]
    assert {(row["method"], row["seed"]) for row in rows} == {("mine", 3)}
    seconds = [row["meter_s"] for row in rows]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] == outcome.header["meter_s"]
    assert outcome.header["meter_s"] + outcome.header["selection_s"] < outcome.header["wall_clock_s"]


def test_metering_changes_nothing(go, tmp_path):
    """Weights and evaluations to the last bit: dropout, BatchNorm and a rule that draws."""
    values = {"select": "selective-backprop", "max_lr": 0.1}
    metered, plain = go("metered", **values), go("plain", meter_every=0, **values)
    one, two = (torch.load(tmp_path / name / "model" / "pytorch_model.bin") for name in ("metered", "plain"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert [row.val_loss for row in metered.evaluations] == [row.val_loss for row in plain.evaluations]
    assert not (tmp_path / "plain" / "meters.csv").exists()
    assert "meter_s" not in plain.header


@pytest.mark.parametrize("method", ["baseline", "random"])
def test_without_scores_there_is_nothing_to_read(go, tmp_path, method):
    assert go(method=method).status == FINISHED
    assert not (tmp_path / "run" / "meters.csv").exists()


def test_the_user_is_told_what_it_cost(go):
    output = io.StringIO()
    outcome = go(display=Display(Console(file=output, width=200)))
    share = 100 * outcome.header["meter_s"] / outcome.header["wall_clock_s"]
    said = f"5 readings of the scores took {outcome.header['meter_s']:.1f} s, {share:.1f}% of training"
    assert output.getvalue().count(said) == 1


def test_the_table_is_there_while_the_run_goes_on(go, tmp_path, monkeypatch):
    """It is written with each checkpoint: after 12 of 24 steps those of steps 0, 5 and 10."""
    seen = []
    step = Training.train_step

    def looking(self):
        if self.step == 12:
            seen.extend(row["step"] for row in read_meters(tmp_path / "run"))
        step(self)

    monkeypatch.setattr(Training, "train_step", looking)
    go()
    assert seen == [0, 5, 10]


def test_a_run_begun_anew_has_no_readings_of_the_one_before(go, tmp_path):
    """Of a run that was killed before its first checkpoint the table may be left."""
    write_meters(tmp_path / "run", [ROW])
    go()
    assert [row["step"] for row in read_meters(tmp_path / "run")] == [0, 5, 10, 15, 20]


def test_a_table_that_cannot_be_read_stops_only_a_run_that_goes_on(go, tmp_path, monkeypatch):
    write_meters(tmp_path / "run", [ROW])
    whole = (tmp_path / "run" / "meters.csv").read_text()
    (tmp_path / "run" / "meters.csv").write_text(whole[:-20])
    assert go().status == FINISHED
    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", interrupted_at(9))
        with pytest.raises(KeyboardInterrupt):
            go("cut")
    (tmp_path / "cut" / "meters.csv").write_text(whole[:-20])
    with pytest.raises(ValueError, match=r"meters\.csv, line 2: not a reading"):
        go("cut")


def test_every_checkpoint_has_its_readings_beside_it(go, tmp_path, monkeypatch):
    """Killed after step 9, which no evaluation comes near, and gone on with: the table of the whole run."""
    values = {"evaluations": 1, "checkpoint_every_s": 1e-9, "meter_every": 2}
    go("whole", **values)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", interrupted_at(9))
        with pytest.raises(KeyboardInterrupt):
            go("cut", **values)
    assert len(read_meters(tmp_path / "cut")) == 5
    go("cut", **values)
    one, two = ([of(row) for row in read_meters(tmp_path / name)] for name in ("whole", "cut"))
    assert one == two
    assert len(one) == 12


def interrupted_at(steps, step=Training.train_step):
    """A training step that raises, as a second Ctrl-C does, once so many are done."""

    def train_step(self):
        if self.step == steps:
            raise KeyboardInterrupt
        step(self)

    return train_step


def test_events_for_tensorboard(go, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    go(tensorboard=True, method="loss@last")  # of equal scores and losses, `independence` is not defined
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    names = {field.name for field in dataclasses.fields(Reading)} - {"step", "exit_layer", "rows", "kept"}
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("meters/")}
    assert tags == {f"meters/{name}" for name in names - {"independence"}}
    rows = read_meters(tmp_path / "run")
    found = [(event.step, event.value) for event in events.Scalars("meters/rho")]
    assert found == [(row["step"], pytest.approx(row["rho"])) for row in rows]


# ---- In a comparison ----


def test_a_comparison_has_the_readings_of_all_its_runs(tiny, accelerator, tmp_path):
    methods = ("baseline", "loss@1", "loss@last:meter_every=2")
    compare(
        tiny(budget="8steps", meter_every=3),
        [parse_contender(method) for method in methods],
        tmp_path,
        seeds=2,
        accelerator=accelerator,
    )
    whole = table(tmp_path)
    assert [(row["method"], row["seed"], row["step"]) for row in whole] == [
        (method, seed, step)
        for seed in ("0", "1")
        for method, steps in ((methods[1], "036"), (methods[2], "0246"))
        for step in steps
    ]
    folders = [f"{name}-seed{seed}" for seed in (0, 1) for name in ("loss@1", "loss@last-meter_every=2")]
    assert whole == [row for name in folders for row in table(tmp_path / name)]


def test_a_comparison_without_meters_has_no_such_table(tiny, accelerator, tmp_path):
    compare(tiny(budget="4steps"), [parse_contender("loss@1")], tmp_path, seeds=1, accelerator=accelerator)
    assert not list(tmp_path.rglob("meters.csv"))
