"""`gsgd compare`: exit codes, messages, and what it says of what came out."""

import functools
import io
import json
import pathlib
import re

import pytest
from rich.console import Console

from training.comparison.cli import show, verdict
from training.comparison.compare import Comparison
from training.comparison.summary import Interval, MethodSummary

BASE = 'task = "tiny"\nbatch_size = 8\nbudget = "12steps"\nevaluations = 2\n'


@pytest.fixture
def compare(gsgd, tmp_path):
    (tmp_path / "tiny.toml").write_text(BASE)
    return functools.partial(gsgd, "compare")


def test_a_comparison(compare, tmp_path):
    arguments = ["tiny.toml", "--methods", "baseline, random,loss@1:keep=0.25", "--seeds", "2", "--budget", "8steps"]
    code, out, err = compare(*arguments, "--max_lr", "1e-2")
    assert code == 0
    folder = tmp_path / "results" / "compare-tiny-8steps"
    header = json.loads((folder / "compare.json").read_text())
    assert header["methods"] == ["baseline", "random", "loss@1:keep=0.25"]
    assert (header["config"]["max_lr"], header["config"]["budget"], header["seeds"]) == (0.01, "8steps", 2)
    for method in header["methods"]:
        assert method in out
    assert "random: " in out
    assert "the baseline" in out
    assert "results in results/compare-tiny-8steps" in out
    assert re.search(r"6 runs, about \d+ s of training", err)
    assert "[6/6] loss@1-keep=0.25-seed1" in err


def test_numbers_go_to_a_file_of_ones_own(compare, tmp_path):
    arguments = ["tiny.toml", "--methods", "baseline,random", "--seeds", "1", "--budget", "8steps"]
    assert compare(*arguments, "--json", "found.json")[0] == 0
    recorded = tmp_path / "results" / "compare-tiny-8steps" / "compare.json"
    assert json.loads((tmp_path / "found.json").read_text()) == json.loads(recorded.read_text())
    ladder = ["tiny.toml", "--methods", "baseline,random", "--seeds", "2", "--budget", "16steps", "--ladder", "3"]
    assert compare(*ladder, "--json", "ladder.json")[0] == 0
    rows = json.loads((tmp_path / "ladder.json").read_text())["rows"]
    assert [(row["method"], row["budget"]) for row in rows] == [
        (method, budget) for budget in (4.0, 8.0, 16.0) for method in ("baseline", "random")
    ]


def test_seed_is_the_key_and_no_abbreviation_of_seeds(compare, tmp_path):
    code, _, err = compare("tiny.toml", "--methods", "baseline", "--seed", "7", "--seeds", "1", "--name", "x")
    assert code == 0, err
    assert (tmp_path / "results" / "x" / "baseline-seed7").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--methods", "baseline"], "no configuration 'nowhere'"),
        (["tiny.toml", "--methods", "baseline,los@1"], "method = 'los@1' must be"),
        (["tiny.toml", "--methods", ","], "--methods names no method"),
        (["tiny.toml", "--methods", "baseline,baseline"], "the method 'baseline' is named twice"),
        (["tiny.toml", "--methods", "baseline", "--budget", "soon"], "budget = 'soon' must be"),
        (["tiny.toml", "--methods", "baseline", "--sweep", "max_lr"], "--sweep 'max_lr' must be key=value,value"),
        (["tiny.toml", "--methods", "baseline", "--sweep", "lr=1,2"], "no key 'lr'"),
        (["tiny.toml", "--methods", "baseline", "--batchsize", "3"], "no key 'batchsize'"),
        (["tiny.toml", "--methods", "loss@1:keep=2"], "keep = 2.0 must lie in (0, 1]"),
        (["tiny.toml", "--methods", "baseline", "--method", "loss@1"], "--method loss@1: methods are compared, so"),
        (["tiny.toml", "--methods", "baseline", "--KEY", "3"], "no key 'KEY'"),
    ],
)
def test_bad_usage_is_2_and_named(compare, arguments, message, tmp_path):
    code, out, err = compare(*arguments)
    assert code == 2
    assert err.startswith("gsgd compare: ")
    assert message in err
    assert out == ""
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--methods"),
        (["tiny.toml"], "--methods"),
        (["tiny.toml", "--methods", "baseline", "--seeds", "many"], "'many' must be a whole number of at least 1"),
        (["tiny.toml", "--methods", "baseline", "--seeds", "0"], "'0' must be a whole number of at least 1"),
        (["tiny.toml", "--methods", "baseline", "--target", "1.5"], "'1.5' must be a number in (0, 1]"),
        (["tiny.toml", "--methods", "baseline", "--max_lr"], "--max_lr: expected one argument"),
    ],
)
def test_what_argparse_refuses_is_2(compare, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        compare(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_another_comparison_is_2(compare):
    assert compare("tiny.toml", "--methods", "baseline", "--seeds", "1")[0] == 0
    code, _, err = compare("tiny.toml", "--methods", "baseline,random", "--seeds", "1")
    assert code == 2
    assert "has another comparison: its methods differ" in err


def test_interrupted_is_130(compare, interrupting):
    random = ("random", 12, 5)
    with interrupting(lambda training: (training.settings.label, training.total_steps, training.step) == random):
        code, out, _ = compare("tiny.toml", "--methods", "baseline,random", "--seeds", "1")
    assert code == 130
    assert "interrupted; the same command goes on from here" in out
    assert compare("tiny.toml", "--methods", "baseline,random", "--seeds", "1")[0] == 0


def test_help_shows_examples(compare, capsys):
    with pytest.raises(SystemExit) as caught:
        compare("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--methods baseline,random,loss@1" in text
    assert "--sweep max_lr=5e-2,1e-2,5e-3,1e-3" in text
    assert "exit code: 0 when finished, 2 for bad usage, 130 if it was interrupted" in text


# ---- In words ----


def summary(method, over=None, **values):
    some = Interval(0.5, 0.1, 3)
    entries = {
        "method": method,
        "runs": 3,
        "diverged": 0,
        "val_accuracy": some,
        "val_loss": some,
        "test_accuracy": None,
        "steps": 100.0,
        "backprop_samples": 800.0,
        "wall_clock_s": 10.0,
        "reference_s": None,
        "scoring_share": 0.125,
        "over_baseline": over,
        "over_random": None,
        "seconds_to_target": Interval(7.4, 0.1, 3),
        "samples_to_target": Interval(640.0, 1.0, 3),
        "reached": 3,
    }
    return MethodSummary(**{**entries, **values})


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (None, None),
        (Interval(0.02, 0.01, 3), "m: above the baseline by 0.0200 ±0.0100 (95%)"),
        (Interval(-0.02, 0.01, 3), "m: below the baseline by 0.0200 ±0.0100 (95%)"),
        (Interval(0.02, 0.03, 3), "m: no difference from the baseline shown (+0.0200 ±0.0300, 95%)"),
        (
            Interval(0.02, float("nan"), 1),
            "m: one seed shows no difference from the baseline that could be told from luck",
        ),
    ],
)
def test_verdicts(over, words):
    assert verdict(summary("m", over)) == words


def shown(*summaries, tuned=None, width=100):
    file = io.StringIO()
    found = Comparison("finished", pathlib.Path("folder"), 0.4567, list(summaries), [], {}, tuned or {})
    show(Console(width=width, file=file), found)
    return file.getvalue()


def test_the_tables():
    text = shown(
        summary("baseline"),
        summary("loss@1", Interval(0.02, 0.01, 3), test_accuracy=Interval(0.61, 0.01, 3)),
        summary("loss@last", diverged=1, val_accuracy=None, seconds_to_target=None, samples_to_target=None, reached=2),
        tuned={"loss@1": "1e-2"},
    )
    assert "0.5000 ±0.1000" in text
    assert "0.6100 ±0.0100" in text
    assert "+0.0200 ±0.0100" in text
    assert "12.5%" in text
    assert "0.4567" in text
    assert "640" in text
    assert "- (1 diverged)" in text
    assert "2 of 3 runs" in text
    assert "loss@1: tuned to 1e-2" in text
    assert "loss@1: above the baseline by 0.0200 ±0.0100 (95%)" in text


def test_narrow_terminals_fold_and_cut_nothing_off():
    text = shown(summary("baseline"), summary("loss@1:start_share=0.5", Interval(0.02, 0.01, 3)), width=60)
    assert "…" not in text
