"""What the reader of results/ finds, what it tells apart, and what it refuses."""

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("pandas")

from figures.checked import Missing
from figures.results import THEORY, Results


def test_every_table_of_the_theory(theory):
    for name in THEORY:
        assert len(Results(theory).table(f"theory/{name}")) > 2
    rho = Results(theory).table("theory/gaussian_rho")
    assert rho[(rho["R"] == 100) & (rho["quantity"] == "bound")]["value"].tolist() == [4.0, 2.7]


def test_a_comparison(compared):
    results = Results(compared)
    evaluations = results.table("evaluations")
    assert len(evaluations) == 3 * 7
    assert set(evaluations["group"]) == {"compare-tiny-5s"}
    assert set(evaluations["keep"]) == {0.5}
    runs = results.table("runs").set_index("run")
    assert len(runs) == 8
    assert runs.loc["loss@1-keep=0.7-seed1", "status"] == "diverged"
    assert math.isnan(runs.loc["loss@1-keep=0.7-seed1", "val_accuracy"])
    assert runs.loc["loss@1-seed1", "val_accuracy"] == 0.8
    assert runs.loc["loss@1-seed1", "selection_s"] == pytest.approx(0.02 * 30)
    assert runs.loc["loss@1-keep=0.7-seed0", "base_method"] == "loss@1"
    summaries = results.table("summaries").set_index("method")
    assert summaries.loc["loss@1", "over_baseline"] == pytest.approx(0.2)
    assert set(summaries["target"]) == {0.45}
    costs = results.table("costs").set_index("method")
    assert costs.loc["loss@1", "selecting_s"] == 0.25


def test_a_method_of_which_a_run_diverged_is_marked_in_every_row(compared):
    evaluations = Results(compared).table("evaluations")
    assert set(evaluations[evaluations["diverged"]]["method"]) == {"loss@1:keep=0.7"}


@pytest.mark.parametrize(
    ("method", "values", "samples"),
    [
        ("baseline", {"batch_size": 10}, 80),
        ("loss@1", {"batch_size": 10}, 80),
        ("baseline", {"batch_size": 10, "draw": 16}, 128),
        ("focal", {"batch_size": 10, "draw": 16}, 128),
        ("loss@1", {"batch_size": 10, "draw": 16}, math.nan),  # 8 rows of 16 where it selects, else all
    ],
)
def test_rows_of_a_step(recorded, tmp_path, method, values, samples):
    """2 processes that accumulate 4 micro-batches."""
    header = {"processes": 2}
    recorded.write_run(tmp_path / "r", [0.1, 0.2], method=method, header=header, accumulation_steps=4, **values)
    (found,) = Results(tmp_path).table("runs")["samples_per_step"]
    assert found == pytest.approx(samples, nan_ok=True)


def test_runs_that_tuned_are_left_out(recorded, tmp_path):
    folder = recorded.write_comparison(tmp_path / "c", {"baseline": [[0.1, 0.2]]})
    recorded.write_run(folder / "tuning" / "baseline-max_lr0.1", [0.9], seed=1_000_000)
    assert Results(tmp_path).table("runs")["seed"].tolist() == [0]


def test_a_comparison_keeps_its_own_budget(recorded, tmp_path):
    """Within a budget of baseline epochs runs are given seconds; what was compared is still the epochs."""
    folder = recorded.write_comparison(tmp_path / "c", {"loss@1": [[0.1, 0.2]]}, budget="100baseline-epochs")
    header = folder / "loss@1-seed0" / "header.json"
    content = json.loads(header.read_text())
    content["config"]["budget"] = "123.4s"
    header.write_text(json.dumps(content))
    assert Results(tmp_path).table("runs")["budget"].tolist() == ["100baseline-epochs"]


def test_an_interrupted_comparison_has_runs_but_no_summary(recorded, tmp_path):
    recorded.write_comparison(tmp_path / "c", {"baseline": [[0.1, 0.2]]}, summary=False)
    assert len(Results(tmp_path).table("evaluations")) == 2
    with pytest.raises(Missing, match="no finished comparison"):
        Results(tmp_path).table("summaries")


def test_a_comparison_without_the_folders_of_its_runs(recorded, tmp_path):
    folder = recorded.write_comparison(tmp_path / "c", {})
    rows = [recorded.evaluation(10, 0.4, "loss@1", seed) for seed in (0, 1)]
    recorded.write_csv(folder / "evaluations.csv", recorded.COLUMNS, rows)
    found = Results(tmp_path).table("evaluations")
    assert found["run"].tolist() == ["loss@1-seed0", "loss@1-seed1"]


def test_single_runs_of_one_method_are_told_apart_by_what_differs(recorded, tmp_path):
    for lr in (0.1, 0.2):
        for seed in (0, 1):
            name = "cifar100/same-time/early-1e-2"
            recorded.write_run(tmp_path / f"{lr}-{seed}", [0.5], "loss@1", seed, name=name, max_lr=lr, label="")
    recorded.write_run(tmp_path / "again", [0.5], "loss@1", 0, name=name, max_lr=0.1, label="")
    runs = Results(tmp_path).table("runs").set_index("run")
    assert runs.loc["0.1-0", "method"] == runs.loc["0.1-1", "method"] == "loss@1:max_lr=0.1"
    assert runs.loc["0.2-1", "method"] == "loss@1:max_lr=0.2"
    assert runs.loc["again", "method"] == "loss@1:max_lr=0.1:run=again"
    assert set(runs["group"]) == {"cifar100/same-time"}
    assert set(Results(tmp_path).table("evaluations")["method"]) == set(runs["method"])


def test_nothing_recorded(tmp_path):
    results = Results(tmp_path)
    for name in ("evaluations", "runs", "summaries", "costs", *(f"theory/{name}" for name in THEORY)):
        with pytest.raises(Missing, match="gsgd"):
            results.table(name)
    assert len(results.runs_if_any()) == 0
    assert "preset" in results.runs_if_any().columns
    with pytest.raises(ValueError, match="no table 'nonsense'"):
        results.table("nonsense")


def test_what_was_made_here_hides_what_the_project_recorded_of_the_same_name(recorded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorded.write_theory(Path("recorded"))
    recorded.write_comparison(Path("recorded/a"), {"baseline": [[0.5]], "loss@1": [[0.5]]})
    recorded.write_comparison(Path("recorded/b"), {"baseline": [[0.5]]})
    results = Results.of(None)  # of which there are none yet
    assert set(results.origins.values()) == {"recorded by the project"}
    assert len(results.table("theory/noise")) > 2

    recorded.write_comparison(Path("results/a"), {"baseline": [[0.6], [0.7]]})
    spoil(Path("results/a/compare.json"), date="2026-01-02T03:04:05+00:00")
    recorded.write_run(Path("results/one"), [0.4])
    results = Results.of(None)
    assert results.origins == {
        "theory": "recorded by the project",
        "one": "made here",
        "a": "made here on 2026-01-02",
        "b": "recorded by the project",
    }
    runs = results.table("runs")
    assert sorted(zip(runs["group"], runs["method"], runs["seed"], strict=True)) == [
        ("a", "baseline", 0),
        ("a", "baseline", 1),
        ("b", "baseline", 0),
        ("tiny", "baseline", 0),
    ]
    assert sorted(results.table("summaries")["group"]) == ["a", "b"]
    # A folder that is named is read alone.
    assert set(Results.of(Path("recorded")).table("runs")["method"]) == {"baseline", "loss@1"}


def test_a_run_made_here_in_a_folder_of_a_recorded_comparison_is_a_single_run(recorded, tmp_path, monkeypatch):
    """It neither takes the place of the comparison's run of that name nor is mistaken for it."""
    monkeypatch.chdir(tmp_path)
    recorded.write_comparison(Path("recorded/x"), {"baseline": [[0.5]], "loss@1": [[0.6]]})
    recorded.write_run(Path("results/x/loss@1-seed0"), [0.1], "loss@1")
    recorded.write_run(Path("results/x/other"), [0.2], "loss@1", seed=1)
    results = Results.of(None)
    assert results.origins == {
        "x/loss@1-seed0 (made here)": "made here",
        "x/other": "made here",
        "x": "recorded by the project",
    }
    runs = results.table("runs")
    assert runs[["group", "place", "val_accuracy"]].to_numpy().tolist() == [
        ["x", "x/baseline-seed0", 0.5],
        ["x", "x/loss@1-seed0", 0.6],
        ["tiny", "x/loss@1-seed0 (made here)", 0.1],
        ["tiny", "x/other", 0.2],
    ]


def test_the_theory_is_taken_from_one_place(recorded, tmp_path):
    recorded.write_theory(tmp_path / "recorded")
    recorded.write_theory(tmp_path / "results")
    (tmp_path / "results" / "theory" / "noise.csv").unlink()
    with pytest.raises(Missing, match=r"results/theory/noise\.csv"):
        Results(tmp_path / "results", tmp_path / "recorded").table("theory/noise")


def spoil(path, **changes):
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "gone"}, r"header\.json, field 'status': 'gone' must be 'finished'"),
        ({"status": None}, r"header\.json has no field 'status'"),
        ({"config": {}}, r"header\.json has no field 'config\.method'"),
        ({"name": 3}, r"header\.json, field 'name': 3 must be a valid string"),
        ({"test_accuracy": "high"}, r"header\.json, field 'test_accuracy'"),
    ],
)
def test_a_malformed_header(recorded, tmp_path, changes, message):
    folder = recorded.write_run(tmp_path / "run", [0.5])
    spoil(folder / "header.json", **changes)
    with pytest.raises(ValueError, match=message):
        Results(tmp_path).table("runs")


def test_a_malformed_comparison(recorded, tmp_path):
    folder = recorded.write_comparison(tmp_path / "c", {"baseline": [[0.5]]})
    spoil(folder / "compare.json", target=None)
    with pytest.raises(ValueError, match=r"compare\.json has no field 'target'"):
        Results(tmp_path).table("summaries")
    spoil(folder / "compare.json", step_costs={"baseline": {"plain_s": 0.1}})
    with pytest.raises(ValueError, match=r"compare\.json has no field 'selecting_s'"):
        Results(tmp_path).table("costs")
    (folder / "summary.csv").write_text("method,runs\nbaseline,1\n")
    spoil(folder / "compare.json", target=0.5)
    with pytest.raises(ValueError, match=r"summary\.csv has no column"):
        Results(tmp_path).table("summaries")


def test_a_malformed_evaluation(recorded, tmp_path):
    folder = recorded.write_run(tmp_path / "run", [0.5, 0.6])
    path = folder / "evaluations.csv"
    path.write_text(path.read_text().replace("0.6", "high"))
    with pytest.raises(ValueError, match=r"evaluations\.csv, line 3, column val_accuracy: 'high'"):
        Results(tmp_path).table("evaluations")


def test_a_table_of_the_theory_without_one_of_its_quantities(recorded, tmp_path):
    path = recorded.write_theory(tmp_path) / "theory" / "noise.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if ",p_sharp," not in line) + "\n")
    with pytest.raises(ValueError, match=r"noise\.csv, column quantity: no row has 'p_sharp'"):
        Results(tmp_path).table("theory/noise")
    # What is malformed concerns only who asks for it.
    assert len(Results(tmp_path).table("theory/top_k")) == 8
