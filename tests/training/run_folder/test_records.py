"""What a run leaves behind can be read back, and says so when it cannot."""

import dataclasses
import json
import math

import pytest

from training.run_folder.records import COLUMNS, Evaluation, Records, read_evaluations, read_header

EVALUATION = Evaluation(
    step=12,
    method="loss@1:keep=0.7",
    score="loss",
    exit_layer=1,
    seed=3,
    backprop_samples=96,
    gross_samples=192,
    wall_clock_s=1 / 3,
    selection_s=0.1,
    forward_s=1e-7,
    backward_s=12.5,
    val_accuracy=0.1 + 0.2,
    val_loss=math.pi,
)


def test_the_columns_of_the_issue_come_first():
    assert ",".join(list(COLUMNS)[:13]) == (
        "step,method,score,exit_layer,seed,backprop_samples,gross_samples,wall_clock_s,selection_s,forward_s,"
        "backward_s,val_accuracy,val_loss"
    )


def test_evaluations_are_read_back_exactly(tmp_path):
    nothing = dataclasses.replace(EVALUATION, step=24, method="baseline", score=None, exit_layer=None)
    whole = dataclasses.replace(
        EVALUATION, step=36, train_loss=2 / 3, reference_s=1e9 / 7, overlap=0.5, val_loss=1e-300
    )
    records = Records(tmp_path)
    for number, evaluation in enumerate([EVALUATION, nothing, whole], start=1):
        records.add(evaluation)
        assert read_evaluations(tmp_path) == [EVALUATION, nothing, whole][:number]
    assert (tmp_path / "evaluations.csv").read_text().splitlines()[0] == ",".join(COLUMNS)


def test_a_loss_that_is_no_number_is_read_back(tmp_path):
    Records(tmp_path).add(dataclasses.replace(EVALUATION, val_loss=float("nan")))
    assert math.isnan(read_evaluations(tmp_path)[0].val_loss)


def test_nothing_there(tmp_path):
    assert read_evaluations(tmp_path) == []
    assert read_header(tmp_path) is None


@pytest.mark.parametrize("bad", ["12,baseline", "x" + ",1" * (len(COLUMNS) - 1)])
def test_a_broken_table_names_the_line(tmp_path, bad):
    Records(tmp_path).add(EVALUATION)
    with open(tmp_path / "evaluations.csv", "a") as file:
        file.write(bad + "\n")
    with pytest.raises(ValueError, match=r"evaluations\.csv, line 3: not an evaluation"):
        read_evaluations(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "holds a list but must hold an object"),
        ('{"config": {}}', "is not the header of a run: it lacks status, step_costs, total_steps"),
    ],
)
def test_a_broken_header_names_the_file(tmp_path, text, message):
    (tmp_path / "header.json").write_text(text)
    with pytest.raises(ValueError, match=rf"header\.json .*{message}"):
        read_header(tmp_path)


def test_the_header_is_whole_json(tmp_path):
    records = Records(tmp_path)
    records.update(status="running", config={"data": ("a", "b")}, total_steps=3, step_costs=None)
    records.update(status="finished", test_loss=float("inf"))
    content = json.loads((tmp_path / "header.json").read_text())
    assert content == {
        "status": "finished",
        "config": {"data": ["a", "b"]},
        "total_steps": 3,
        "step_costs": None,
        "test_loss": "inf",
    }
