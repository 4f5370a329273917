"""The paper's tables against the printed numbers, and our runs beside them."""

import math

import pytest
import scipy.stats

pytest.importorskip("pandas")

from figures import paper, text
from figures.results import Results
from figures.tables import MAKERS, of_family

ACCURACIES = ("table_1", "table_2", "table_3", "table_4", "table_5")
BERT = {**paper.identity("bert-base"), "label": ""}
BERT["batch_size"], BERT["accumulation_steps"] = 32, 8
CIFAR = {**paper.identity("cifar100"), "label": "", "batch_size": 125, "budget": "100epochs", "max_lr": 0.01}
for values in (BERT, CIFAR):
    del values["samples_per_step"]


def none(tmp_path):
    return Results(tmp_path).runs_if_any()


# ---- The paper's numbers ----


def test_table_1_is_the_papers(tmp_path):
    made = MAKERS["table_1"](none(tmp_path))
    assert made["paper"].tolist() == [
        *(0.6466, 0.6599, 0.6597, 0.6604, 0.6607, 0.6640),
        *(0.6641, 0.6672, 0.6678, 0.6680, 0.6664),
    ]
    # "Loss-based and entropy-based SIFT with exit at the first layer are better by 1.33% and 1.75%" (Figure 1).
    by_method = dict(zip(made["method"], made["paper"], strict=True))
    assert by_method["loss at exit 1"] - by_method["baseline (all rows)"] == pytest.approx(0.0133)
    assert by_method["entropy at exit 1"] - by_method["baseline (all rows)"] == pytest.approx(0.0175)


def test_tables_2_to_5_are_the_papers(tmp_path):
    """Against what their captions claim of the best learning rates, and the sums of the printed cells."""
    best, sums = {}, {}
    for number in (2, 3, 4, 5):
        made = MAKERS[f"table_{number}"](none(tmp_path))
        assert made["max_lr"].tolist() == [lr for lr in ("0.05", "0.01", "0.005", "0.001") for _ in range(3)]
        best[number] = made.groupby("method", sort=False)["paper"].max().tolist()
        sums[number] = round(made["paper"].sum(), 2)
    assert best == {
        2: [69.04, 73.45, 72.91],
        3: [69.04, 75.41, 76.93],
        4: [59.52, 64.03, 66.47],
        5: [59.52, 64.04, 66.64],
    }
    assert sums == {2: 822.53, 3: 845.93, 4: 600.49, 5: 600.98}


def test_what_did_not_converge_in_the_paper_is_said(tmp_path):
    made = MAKERS["table_4"](none(tmp_path))
    missing = made[made["paper"].isna()]
    assert missing[["max_lr", "method"]].to_numpy().tolist() == [
        ["0.05", "loss at exit 1"],
        ["0.05", "loss at last exit"],
    ]
    assert set(missing["note"]) == {"the paper's did not converge; not run"}


def test_table_6_and_the_crossing_are_the_papers(tmp_path):
    made = MAKERS["table_6"](none(tmp_path))
    assert made["selection_paper"].tolist() == [
        *(0.8452, 1.1662, 1.4764, 2.5901, 4.5086),
        *(0.9121, 1.2181, 1.5398, 2.6195, 4.5148),
    ]
    assert set(made["forward_paper"]) == {3.8}
    assert set(made["backward_paper"]) == {7.9}
    hours = MAKERS["crossing"](none(tmp_path))
    assert hours[["method", "paper"]].to_numpy().tolist() == [
        ["baseline (all rows)", 57.0],
        ["loss at exit 1", 43.0],
        ["entropy at exit 1", 40.0],
    ]


def test_every_number_of_the_paper_has_its_source():
    for name in paper.TABLES:
        assert paper.table(name)["source"].str.len().min() > 5


# ---- Ours ----


def test_without_runs_there_are_dashes_and_no_numbers(tmp_path):
    for name in (*ACCURACIES, "crossing"):
        made = MAKERS[name](none(tmp_path))
        assert made["ours"].isna().all()
        assert made["note"].str.endswith("not run").all()
        (ours,) = (column for column in text.columns(made) if column.name == "ours")
        assert set(ours.cells) == {text.DASH}
    assert MAKERS["table_6"](none(tmp_path))["selection_ours"].isna().all()


def test_table_1_takes_the_papers_runs_alone(recorded, tmp_path):
    bert = {**BERT, "every": 400_000}
    for seed, last in ((0, 0.65), (1, 0.67)):
        name = "bert-base/loss-1"
        recorded.write_run(tmp_path / f"good{seed}", [0.5, last], "loss@1", seed, name=name, **bert)
    wrong = {
        "short": {"budget": "100steps"},
        "more": {"keep": 0.7},
        "small": {"layers": 2},
        "fewer": {"batch_size": 16},
        "trimmed": {"trim": 0.1},
        "other-data": {"data": ["embedded"]},
    }
    for run, changes in wrong.items():
        recorded.write_run(tmp_path / run, [0.9, 0.9], "loss@1", 5, name="bert-base/loss-1", **{**bert, **changes})
    recorded.write_run(tmp_path / "renamed", [0.9, 0.9], "loss@1", 6, name="my", **bert)
    runs = Results(tmp_path).table("runs")
    assert sorted(of_family(runs, "bert-base")["run"]) == ["good0", "good1"]
    made = MAKERS["table_1"](runs).set_index("method")
    low, high = scipy.stats.t.interval(0.95, 1, loc=0.66, scale=0.01)
    assert made.loc["loss at exit 1", "ours"] == pytest.approx(0.66)
    assert made.loc["loss at exit 1", "ours_half_width"] == pytest.approx((high - low) / 2)
    assert made.loc["loss at exit 1", "runs"] == 2
    assert made["ours"].notna().sum() == 1


def test_other_shapes_of_the_same_step_are_the_papers_too(recorded, tmp_path):
    """16 rows on 16 devices are 256, as 32 rows in 8 micro-batches are."""
    values = {**BERT, "batch_size": 16, "accumulation_steps": 1, "header": {"processes": 16}}
    recorded.write_run(tmp_path / "run", [0.65], name="bert-base/baseline", **values)
    made = MAKERS["table_1"](Results(tmp_path).table("runs")).set_index("method")
    assert made.loc["baseline (all rows)", "ours"] == 0.65
    assert made.loc["baseline (all rows)", "note"] == "one seed, no interval"
    assert math.isnan(made.loc["baseline (all rows)", "ours_half_width"])


def test_tables_2_and_3_tell_time_from_samples(recorded, tmp_path):
    name = "cifar100/common"
    recorded.write_run(tmp_path / "a", [0.5], "loss@1", name=name, test=0.75, **CIFAR)
    values = {**CIFAR, "budget": "100baseline-epochs"}
    recorded.write_comparison(tmp_path / "b", {"loss@1": [[0.5]], "baseline": [[0.4]]}, name=name, test=0.73, **values)
    runs = Results(tmp_path).table("runs")
    samples, time = MAKERS["table_3"](runs), MAKERS["table_2"](runs)
    at = 3 + 1  # the second learning rate, loss@1
    assert (samples["ours"][at], time["ours"][at]) == (75.0, 73.0)
    # The baseline's 100 epochs are the same run in both.
    assert samples["ours"][3] == time["ours"][3] == 73.0
    assert samples["ours"].notna().sum() == time["ours"].notna().sum() == 2


def test_unfinished_and_diverged_runs_make_no_number(recorded, tmp_path):
    name = "cifar100/same-samples/last-1e-2"
    recorded.write_run(tmp_path / "a", [0.5], "loss@last", 0, "diverged", name, **CIFAR)
    recorded.write_run(tmp_path / "b", [0.5], "loss@last", 1, name=name, test=0.7, **CIFAR)
    recorded.write_run(tmp_path / "c", [0.5], "loss@1", 0, "interrupted", name, **CIFAR)
    recorded.write_run(tmp_path / "d", [0.5], "baseline", 0, name=name, **CIFAR)
    made = MAKERS["table_3"](Results(tmp_path).table("runs"))
    assert made["ours"].isna().all()
    assert made["note"][3:6].tolist() == ["test_accuracy was not recorded", "not finished", "1 of 2 runs diverged"]


def test_table_6_has_hours(recorded, tmp_path):
    recorded.write_run(tmp_path / "run", [0.65], "loss@1", name="bert-base/loss-1", every=360_000, **BERT)
    made = MAKERS["table_6"](Results(tmp_path).table("runs")).iloc[0]
    assert (made["selection_ours"], made["forward_ours"], made["backward_ours"]) == pytest.approx((2.0, 2.0, 5.0))


def test_the_crossing_is_linear_between_evaluations(recorded, tmp_path):
    """0.60 after 10 hours, 0.68 after 20: 0.64 after 15. The other run never gets there."""
    recorded.write_run(tmp_path / "a", [0.60, 0.68], "loss@1", 0, name="bert-base/loss-1", every=360_000, **BERT)
    recorded.write_run(tmp_path / "b", [0.60, 0.63], "entropy@1", 0, name="bert-base/entropy-1", every=360_000, **BERT)
    results = Results(tmp_path)
    made = MAKERS["crossing"](results.table("runs"), results.table("evaluations")).set_index("method")
    assert made.loc["loss at exit 1", "ours"] == pytest.approx(15.0)
    assert made.loc["entropy at exit 1", "note"] == "reached by 0 of 1 runs"
    assert math.isnan(made.loc["entropy at exit 1", "ours"])


def test_the_presets_of_training_are_the_papers_runs(recorded, tmp_path):
    """Every preset of the paper's fills exactly its cell, and all cells are filled."""
    for package in ("torch", "transformers", "accelerate"):
        pytest.importorskip(package)
    from training import config

    names = [name for name in config.presets() if "/" in name and not name.endswith("/common")]
    for name in names:
        values = config.load(name).values()
        method = values.pop("method")
        header = {"processes": 8 if values["task"] == "bert" else 1}
        folder = tmp_path / name.replace("/", "-")
        values["test"] = 0.5  # of the run, not whether there is one
        recorded.write_run(folder, [0.65], method, name=name, header=header, **values)
    runs = Results(tmp_path).table("runs")
    filled = {name: int(MAKERS[name](runs)["ours"].notna().sum()) for name in ACCURACIES}
    assert list(filled.values()) == [11, 12, 12, 12, 12]
    assert MAKERS["table_6"](runs)["selection_ours"].notna().all()


# ---- Comparisons, and tables as text ----


def test_comparisons(compared):
    made = MAKERS["comparisons"](Results(compared).table("summaries"))
    assert made["method"].tolist()[:3] == ["baseline (all rows)", "random rows", "loss at exit 1"]
    row = made.set_index("method").loc["loss at exit 1"]
    assert row["val_accuracy"] == pytest.approx(0.75)
    assert row["over_baseline"] == pytest.approx(0.2)
    assert row["over_random"] == pytest.approx(0.3)
    assert (row["seconds_to_target"], row["samples_to_target"]) == pytest.approx((4.0, 200.0))
    shown = {column.heading: column.cells[3] for column in text.columns(made)}
    assert shown["diverged"] == "1"
    assert shown["val accuracy"] == text.DASH


def test_cells_are_read_with_their_intervals():
    import pandas as pd

    table = pd.DataFrame(
        {
            "a|b": ["x_y", None],
            "paper": [1.5, 2.0],
            "ours": [0.123456, math.nan],
            "ours_half_width": [0.01, 0.02],
            "n": [3, 4],
        }
    )
    table.attrs["digits"] = {"ours": 3, "paper": 1}
    assert [(column.heading, column.cells) for column in text.columns(table)] == [
        ("a|b", ["x_y", text.DASH]),
        ("the paper's", ["1.5", "2.0"]),
        ("ours", ["0.123 ± 0.010", text.DASH]),
        ("n", ["3", "4"]),
    ]
    lines = text.markdown(table, "Title").splitlines()
    assert lines[0] == "# Title"
    assert lines[2] == r"| a\|b | the paper's | ours | n |"
    assert lines[3] == "| --- | ---: | ---: | ---: |"
    assert lines[4] == r"| x\_y | 1.5 | 0.123 ± 0.010 | 3 |"
