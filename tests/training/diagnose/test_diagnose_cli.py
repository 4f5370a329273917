"""`gsgd diagnose`: exit codes, messages, what it writes, and what it says of known numbers."""

import csv
import dataclasses
import io
import json
import math
import re

import pytest
from rich.console import Console

from gsgd.cli import main
from theory import readings
from training.diagnose import recorded_readings, words
from training.diagnose.tables import show_point

READING = {
    **{"step": 20, "exit_layer": 1, "rows": 16, "kept": 8, "rho": 1.6, "rho_approx": 1.3, "rho_pairs": 1.4},
    **{"rho_pairs_approx": 1.2, "sigma": 0.3, "independence": -0.2, "margin_correlation": 0.7},
    **{"pairwise_agreement": 0.75, "overlap": 0.75, "rank_correlation": 0.6},
}


def exit_of(layer, **changes):
    """An exit in plain numbers: a tenth more costly with each layer, and a gain of 1.2."""
    cost = 0.1 * layer
    entry = {
        "exit_layer": layer,
        "means": {**READING, "overlap": 0.6 + 0.1 * layer},
        "predicted": readings.compare(READING),
        "promise": {"printed": True, "corrected": True, "sharp": True},
        **{"overlap_half_width": 0.01, "rho_approx_half_width": 0.02},
        **{"cost": cost, "cost_low": cost - 0.05, "cost_high": cost + 0.05, "break_even": 1 + cost},
        **{"alignment": 0.24, "random_alignment": 0.2, "gain": 1.2, "gain_low": 1.1, "gain_high": 1.3},
        **{"worth": 1.2 / (1 + cost), "worth_low": 1.1 / (1.05 + cost), "worth_high": 1.3 / (0.95 + cost)},
    }
    return {**entry, **changes}


def point_of(*exits, **changes):
    entry = {
        **{"step": 300, "train_loss": 2.5, "seconds": 1.5, "batches": 32, "pairs": 16, "plain_s": 0.1, "level": 0.75},
        **{"cheapest": None, "recommended": None, "verdict": "undecided", "reason": "REASON."},
        "exits": list(exits),
    }
    return {**entry, **changes}


def said(point):
    return "\n".join(words.paragraphs(point, "loss"))


# ---- In words ----


def test_a_recommendation():
    text = said(point_of(exit_of(1), exit_of(2), recommended=1, verdict="pays", cheapest=2))
    assert text.startswith("Recommended: select by the loss at exit 1. REASON.")
    # A step takes 1.1 times as long: 1 - 1/1.1 = 9% fewer steps.
    assert "To break even, selection at exit 1 must get there in 9% fewer steps" in text
    assert "takes 1.10 (1.05 to 1.15) times as long" in text
    assert "The first exit that keeps at least 75% of the exact choice is 2, with 80%." in text


def test_none():
    text = said(point_of(exit_of(1), exit_of(2, worth=0.5), verdict="does not pay"))
    assert text.startswith("Recommended: no selection. REASON.")
    assert "selection at exit 1 must" in text  # the exit of the largest worth
    assert "keeps at least" not in text
    assert said(point_of(exit_of(1))).startswith("No recommendation. REASON.")


def test_what_costs_nothing_need_save_nothing():
    assert "need save nothing" in said(point_of(exit_of(1, cost=-0.1, break_even=0.9)))


def test_the_overlap_that_a_score_of_that_cost_needs():
    """rho 1.6 of the half kept leaves .4 for the other half; 1.1^(1 / .8) = 1.1265 = o 1.6 + (1 - o) .4 at o = .605."""
    text = said(point_of(exit_of(1)))
    assert "pay from an overlap of 61% with the exact choice on; exit 1 has 70% here" in text
    # 2^(1 / .8) = 2.38 times the mean loss would be needed, and the exact choice has 1.6.
    assert "not even the exact choice is expected to pay" in said(point_of(exit_of(1, break_even=2.0)))
    # What costs nothing pays wherever it does better than chance, which agrees in half.
    assert "from an overlap of 50% with" in said(point_of(exit_of(1, cost=-0.1, break_even=0.9)))
    # All of the loss in the rows kept, and a rounding error: 1.1265 = 2 o at o = .563.
    assert "from an overlap of 56% with" in said(point_of(exit_of(1, means={**READING, "rho": 2.0000001})))
    undefined = exit_of(1, means={**READING, "rho": math.nan})
    assert "overlap of" not in said(point_of(undefined))


def test_corollary_516_in_three_readings():
    """sigma_max(1.4) = 0.357, of which the printed proof lets 0.354 pass, and the sharp level is 0.734."""
    some = {"printed": False, "corrected": False, "sharp": True}
    text = said(point_of(exit_of(1, promise=some, means={**READING, "sigma": 0.5}), exit_of(2, worth=0.1)))
    assert "where sigma is 0.50 and rho_2 is 1.40? As printed no (noise up to 0.35), corrected no (noise up to" in text
    assert "corrected no (noise up to 0.36), sharp yes (noise up to 0.73)." in text
    assert "convex" in words.WHAT_516_IS
    assert "same step size" in words.WHAT_516_IS


def test_noise_that_depends_on_the_loss_is_said():
    assert "Assumption 5.12" not in said(point_of(exit_of(1)))
    changed = exit_of(1, predicted={**readings.compare(READING), "independence_level": 0.01})
    assert "(Assumption 5.12), but their rank correlation is -0.20" in said(point_of(changed))


def test_noise_that_is_not_defined():
    text = said(point_of(exit_of(1, promise=None)))
    assert "nothing can be said at exit 1" in text


def test_the_tables_hold_the_numbers():
    file = io.StringIO()
    nan = dict.fromkeys(readings.PREDICTED, math.nan)
    silent = exit_of(2, promise=None, predicted=nan, gain=math.nan, worth=math.nan)
    show_point(Console(width=80, file=file), point_of(exit_of(1), silent), "loss")
    text = file.getvalue()
    assert "after 300 steps, training loss 2.500 (32 batches in 1.5 s" in text
    assert "0.700 ±0.010" in text
    assert "+10% (+5% to +15%)" in text
    assert "1.20 (1.10 to 1.30)" in text
    assert "1.09 (0.96 to 1.24)" in text
    assert re.search(r"^1 +0\.70 +0\.70 +0\.74 +0\.75 +0\.75 +0\.30 +0\.36 +0\.73 +pcs +1\.20 +1\.20", text, re.M)
    assert all(len(line) <= 80 for line in text.splitlines())


# ---- A folder of recorded readings ----


def test_the_numbers_of_a_reading_are_the_meters():
    pytest.importorskip("torch")
    from gsgd.sift.measures.readings import Reading

    names = tuple(field.name for field in dataclasses.fields(Reading))
    assert names == (*readings.MEASURED, "delta_chosen", "delta_hardest")


def write_meters(folder, rows):
    folder.mkdir(parents=True)
    columns = ("method", "seed", *readings.MEASURED, "meter_s")
    with open(folder / "meters.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows([{"method": "loss@1", "seed": 0, **READING, "meter_s": 0.5, **row} for row in rows])


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_runs_readings(tmp_path, capsys):
    folder = tmp_path / "my-run"
    write_meters(folder, [{}, {"step": 40, "sigma": "nan", "independence": "nan"}])
    (folder / "header.json").write_text("{}")
    assert main(["diagnose", str(folder)]) == 0
    first, second = read(folder / "readings.csv")
    assert tuple(first) == (
        *("run", "method", "seed", *readings.MEASURED, *readings.PREDICTED),
        *("delta_chosen", "delta_hardest"),
    )
    assert (first["run"], first["method"], first["step"], second["step"]) == ("my-run", "loss@1", "20", "40")
    assert {name: float(first[name]) for name in readings.MEASURED} == pytest.approx(READING)
    assert {name: float(first[name]) for name in readings.PREDICTED} == pytest.approx(readings.compare(READING))
    assert second["rho_pairs_guaranteed"] == "nan"
    out = capsys.readouterr().out
    assert "Theorem 6.2" in out
    assert f"results in {folder / 'readings.csv'}" in out
    assert "of 1 readings, Theorem 5.15's guarantee holds in 100%" in " ".join(out.split())


def test_a_comparisons_readings(tmp_path):
    """Of all runs while it has a table of them all, else of the runs that there are."""
    write_meters(tmp_path / "c" / "loss@1-seed0", [{}])
    (tmp_path / "c" / "loss@1-seed0" / "header.json").write_text("{}")
    (tmp_path / "c" / "compare.json").write_text("{}")
    assert [row["run"] for row in recorded_readings.read_readings(tmp_path / "c")] == ["loss@1-seed0"]
    write_meters(tmp_path / "d", [{}, {"seed": 1}, {"method": "loss@last"}])
    write_meters(tmp_path / "d" / "loss@1-seed0", [{"seed": 9}])
    runs = [row["run"] for row in recorded_readings.read_readings(tmp_path / "d")]
    assert runs == ["loss@1-seed0", "loss@1-seed1", "loss@last-seed0"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sigma": "much"}, "meters.csv, line 2: not a reading"),
        ({"sigma": ""}, "meters.csv, line 2: not a reading (sigma: "),
        ({"overlap": 0.5, "margin_correlation": 2.0}, "margin_correlation = 2.0 must lie in [-1, 1]"),
    ],
)
def test_malformed_readings_are_2_and_named(tmp_path, capsys, row, message):
    write_meters(tmp_path / "run", [row])
    assert main(["diagnose", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gsgd diagnose: ")
    assert message in err
    assert not (tmp_path / "run" / "readings.csv").exists()


def test_a_folder_without_readings_is_2_and_says_what_to_do(tmp_path, capsys):
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "no readings in a meters.csv: train with --meter_every" in capsys.readouterr().err


def test_a_folder_that_is_called_as_a_preset(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert-tiny").mkdir()
    assert main(["diagnose", "bert-tiny", "--batches", "1"]) == 2
    assert "batches = 1 must be at least 2" in capsys.readouterr().err
    write_meters(tmp_path / "resnet-tiny", [{}])
    assert main(["diagnose", "resnet-tiny"]) == 0
    assert (tmp_path / "resnet-tiny" / "readings.csv").exists()


@pytest.mark.parametrize("more", [["--after", "3"], ["--batch_size", "8"]])
def test_a_folder_takes_nothing_of_a_configuration(tmp_path, capsys, more):
    write_meters(tmp_path / "run", [{}])
    assert main(["diagnose", str(tmp_path / "run"), *more]) == 2
    assert f"{more[0]} is for a configuration" in capsys.readouterr().err


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["diagnose", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "gsgd diagnose bert-tiny" in text
    assert "exit code: 0 when finished, 2 for bad usage" in text


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["bert-tiny", "--batches", "many"], ["bert-tiny", "--after", "soon"], ["bert-tiny", "--exits", ","]),
        *(["bert-tiny", "--max_lr"], ["bert-tiny", "--exits", "0"]),
    ],
)
def test_what_argparse_refuses_is_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(["diagnose", *arguments])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no configuration 'nowhere'"),
        (["bert-tiny", "--batchsize", "3"], "no key 'batchsize'"),
        (["bert-tiny", "--KEY", "3"], "no key 'KEY'"),
    ],
)
def test_bad_usage_is_2_and_named(tmp_path, monkeypatch, capsys, arguments, message):
    for package in ("torch", "transformers", "accelerate"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    assert main(["diagnose", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert not (tmp_path / "results").exists()


# ---- A configuration, from the data to the words ----


@pytest.fixture
def diagnosed(one_thread, tmp_path, monkeypatch, capsys):
    """A small ResNet on images that come with the package, diagnosed before training and after two steps."""
    for package in ("torch", "transformers", "accelerate"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    small = ["--depths", "1,1", "--hidden_sizes", "8,16", "--embedding_size", "8", "--exit_stage", "1"]
    of_run = ["--batch_size", "16", "--train_limit", "300", "--cache_dir", str(tmp_path / "cache")]
    of_run += ["--name", "d", "--json", "mine.json"]
    code = main(["diagnose", "resnet-tiny", "--after", "0,2", "--batches", "4", *small, *of_run])
    return code, capsys.readouterr(), json.loads((tmp_path / "results" / "d" / "diagnosis.json").read_text())


def test_a_configuration(diagnosed, tmp_path):
    code, (out, err), content = diagnosed
    assert code == 0
    assert json.loads((tmp_path / "mine.json").read_text()) == content
    assert (content["name"], content["score"], content["rows"], content["kept"]) == ("resnet-tiny", "loss", 32, 16)
    assert content["config"]["batch_size"] == 16
    assert {"date", "commit", "versions", "device", "command"} <= set(content)
    assert [point["step"] for point in content["points"]] == [0, 2]
    assert content["points"][0]["train_loss"] is None
    assert content["points"][1]["train_loss"] > 0
    for point in content["points"]:
        assert [each["exit_layer"] for each in point["exits"]] == [1, 2]
        assert point["exits"][1]["means"]["overlap"] == 1.0
        assert set(point["exits"][0]["predicted"]) == set(readings.PREDICTED)
        assert point["reason"] in " ".join(out.split())
    text = " ".join(out.split())
    assert words.WHAT_516_IS in text
    assert "To break even" in text
    assert "gsgd compare resnet-tiny --methods baseline,random,loss@" in text
    assert "results in results/d/diagnosis.json" in text
    assert "training to step 2" in err
    assert "measuring after 2 steps" in err
    assert [each["score"] for each in content["forecasts"]] == ["last-seen", "loss@1", "loss@last", "proxy"]
    assert "over these 2 steps: expected factor in plain training's budget" in text
    best = max(content["forecasts"], key=lambda each: each["factor"])
    assert (
        f"Selection by {best['score']} {best['verdict']}: plain training is expected to need {best['factor']:.2f}"
        in text
    )
