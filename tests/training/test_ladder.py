"""`gsgd compare --ladder`: tuned alike by validation, frozen, trained on fresh seeds, tested once, measured."""

import csv
import dataclasses
import functools
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
from rich.console import Console

import training.comparison.opening as module
from gsgd.cli import main
from gsgd.locks import one_writer
from training.comparison.contenders import TUNING_SEED, parse_contender
from training.comparison.ladder import climb
from training.comparison.ladder_results import Claim
from training.comparison.ladder_tables import show, verdict
from training.comparison.plan import Plan, rungs_of
from training.comparison.speedup import ABOVE, FALLS, ON, PlainCurve, SpeedUp, claim, speed_up
from training.comparison.tuning import (
    Trial,
    at_an_edge,
    best,
    combinations,
    draw_trials,
    in_words,
    parse_grid,
    with_parts,
)

METHODS = ("baseline", "random")
GRID = {"max_lr": ("1e-2", "1e-3"), "keep": ("0.5", "0.25")}


@pytest.fixture
def go(tiny, accelerator, tmp_path):
    """`go(methods, **values)`: a ladder of three rungs in the folder "l"."""

    def run(methods=METHODS, seeds=2, grid=GRID, trials=None, tuning_seeds=1, jobs=1, inner_only=False, **values):
        contenders = [parse_contender(method) for method in methods]
        plan = Plan(contenders, 3, seeds, grid, trials, tuning_seeds, inner_only)
        config = tiny(**{"budget": "256samples", **values})
        return climb(config, plan, tmp_path / "l", accelerator=accelerator, jobs=jobs)

    return run


@pytest.fixture
def trained(note_runs):
    """One entry a run that trained, once measuring is over."""
    return note_runs("label", "seed", "budget", "max_lr", "keep")


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


# ---- What is tuned ----


def test_grids():
    assert parse_grid(["max-lr=1e-3, 2e-3", "keep=.5"]) == {"max_lr": ("1e-3", "2e-3"), "keep": (".5",)}
    with pytest.raises(ValueError, match=r"--tune 'keep' must be key=value"):
        parse_grid(["keep"])
    with pytest.raises(ValueError, match="--tune names keep twice"):
        parse_grid(["keep=.5", "keep=.25"])


def test_what_changes_nothing_for_plain_training_is_not_tried_for_it():
    assert combinations(GRID, parse_contender("baseline")) == [(("max_lr", "1e-2"),), (("max_lr", "1e-3"),)]
    assert len(combinations(GRID, parse_contender("loss@1"))) == 4
    assert combinations(GRID, parse_contender("loss@1:max_lr=1")) == [(("keep", "0.5"),), (("keep", "0.25"),)]


def test_every_method_has_as_many_trials_as_plain_training():
    contenders = [parse_contender(text) for text in ("baseline", "random", "loss@1", "loss@last:max_lr=1")]
    drawn = draw_trials(GRID, contenders, None)
    assert [len(found) for found in drawn.values()] == [2, 2, 2, 2]
    assert drawn == draw_trials(GRID, contenders, None)
    assert [len(found) for found in draw_trials(GRID, contenders, 1).values()] == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="--trials 3: plain training has 2 combinations"):
        draw_trials(GRID, contenders, 3)
    assert draw_trials({}, contenders, None) == {contender.label: [()] for contender in contenders}


def test_a_part_of_plain_trainings_batch_is_tried_with_each_that_plain_training_may_be_given():
    grid = {"max_lr": ("1", "2"), "batch_size": ("8", "16"), "keep": ("0.5",)}
    contender = parse_contender("baseline:batch_size=k/4")
    assert (contender.values, contender.part_of_plain) == ({"method": "baseline"}, 4)
    found = combinations(grid, contender)
    assert found == [(("max_lr", "1"),), (("max_lr", "2"),)]
    assert [in_words(values) for values in with_parts(found, contender, [16, 8, 16])] == [
        *("max_lr=1:batch_size=2", "max_lr=2:batch_size=2", "max_lr=1:batch_size=4", "max_lr=2:batch_size=4")
    ]
    with pytest.raises(ValueError, match="plain training may be given a batch of 6 rows, which leaves 2"):
        with_parts(found, contender, [8, 6])
    plain = parse_contender("baseline")
    assert with_parts(combinations(grid, plain), plain, [3]) == combinations(grid, plain)


def test_the_best_trial():
    one, other = Trial((("a", "1"),), [0.5, 0.7], [2.0, 1.0]), Trial((("a", "2"),), [0.6, 0.6], [1.0, 1.0])
    assert best([one, other]) == other
    diverged = Trial((), (), (), diverged=True)
    assert best([diverged, one]) == one
    with pytest.raises(ValueError, match="every configuration that was tried diverged"):
        best([diverged])


def test_edges():
    grid = {"max_lr": ("1e-3", "2e-3", "4e-3"), "keep": (".5", ".25"), "select": ("top-k", "b", "c")}
    assert at_an_edge((("max_lr", "4e-3"), ("keep", ".5"), ("select", "top-k")), grid) == ["max_lr"]
    assert at_an_edge((("max_lr", "2e-3"),), grid) == []


def test_rungs():
    assert [str(rung) for rung in rungs_of("800work", 4)] == ["100work", "200work", "400work", "800work"]
    with pytest.raises(ValueError, match="--ladder 2 must be at least 3"):
        rungs_of("800work", 2)
    with pytest.raises(ValueError, match="budget = 3baseline-epochs: a ladder's is in work"):
        rungs_of("3baseline-epochs", 3)


# ---- The protocol ----


def test_tuned_by_validation_frozen_and_tested_once(go, trained, tmp_path, judged_by):
    judged = []

    def scripted(evaluate, training, split, *more):
        settings = training.settings
        judged.append((settings.seed, split))
        loss = evaluate(training, split, *more)[1]
        # On validation the larger rate is better, on the test split the smaller one would be.
        return (0.8 if (settings.max_lr == 1e-2) == (split == "validation") else 0.3), loss

    judged_by(scripted)
    found = go(tuning_seeds=2, grid={"max_lr": ("1e-2", "1e-3")})
    rungs = ["64samples", "128samples", "256samples"]
    tuning = [run for run in trained if run[1] >= TUNING_SEED]
    assert len(tuning) == 3 * 2 * 2 * 2
    assert {run[1] for run in tuning} == {TUNING_SEED, TUNING_SEED + 1}
    final = [run[:4] for run in trained if run[1] < TUNING_SEED]
    assert final == [(label, seed, rung, 1e-2) for seed in (0, 1) for rung in rungs for label in METHODS]
    assert trained[: len(tuning)] == tuning
    assert [seed for seed, split in judged if split == "test"] == [run[1] for run in final]
    header = json.loads((tmp_path / "l" / "ladder.json").read_text())
    assert header["frozen"] == {label: dict.fromkeys(rungs, "max_lr=1e-2") for label in METHODS}
    assert {row.accuracy.mean for row in found.rows} == {0.3}
    assert {(row.tried, row.values) for row in found.rows} == {(2, "max_lr=1e-2")}
    assert [row["chosen"] for row in table(tmp_path / "l" / "tuning.csv")] == ["1", "0"] * 6


def test_the_tables_hold_what_the_measure_makes_of_the_runs(go, tmp_path):
    """From `runs.csv` again, by the measure itself, whose own tests are elsewhere."""
    found = go(seeds=3, grid={})
    of_runs = table(tmp_path / "l" / "runs.csv")

    def values(method, measure):
        chosen = [float(row[measure]) for row in of_runs if row["method"] == method]
        return np.reshape(chosen, (3, 3))

    budgets = [64.0, 128.0, 256.0]
    rows = {(row["method"], float(row["budget"])): row for row in table(tmp_path / "l" / "ladder.csv")}
    for measure, higher in (("accuracy", True), ("loss", False)):
        curve = PlainCurve(budgets, values("baseline", measure), higher_is_better=higher)
        for rung, budget in enumerate(budgets):
            own = values("random", measure)[rung]
            by = speed_up(curve, budget, own)
            row = rows["random", budget]
            assert float(row[measure]) == pytest.approx(own.mean())
            assert [float(row[f"by_{measure}_{end}"]) for end in ("low", "high")] == [by.low, by.high]
            assert row[f"by_{measure}_place"] == by.place
        whole = claim(curve, [128.0], values("random", measure)[1:2])
        (of_claim,) = [row for row in table(tmp_path / "l" / "claims.csv") if row["measure"] == measure]
        assert [float(of_claim[end]) for end in ("low", "high")] == [whole.low, whole.high]
    assert rows["baseline", 64.0]["by_accuracy_factor"] == ""
    assert [each.method for each in found.claims] == ["random", "random"]
    assert 0 < float(rows["baseline", 64.0]["calibration_error"]) < 1


def test_an_interrupted_ladder_goes_on_and_seeds_may_be_added(go, trained, tmp_path, monkeypatch, interrupting):
    with interrupting(lambda training: len(trained) == 14 and training.step == 3):
        assert go().status == "interrupted"
    assert len(trained) == 14
    trained.clear()
    monkeypatch.setattr(module, "measure_costs", lambda *_, **__: pytest.fail("measured again"))
    assert go().status == "finished"
    # Twelve that tuned and one that counted were finished.
    assert len(trained) == 12 - 1
    trained.clear()
    found = go(seeds=3)
    assert {seed for _, seed, *_ in trained} == {2}
    assert {row.runs for row in found.rows} == {3}
    with pytest.raises(ValueError, match="has another ladder: its tune, trials differ"):
        go(grid={"max_lr": ("1e-2", "1e-4")})


def test_how_many_ran_at_a_time_is_noted_when_something_runs(go, tmp_path):
    def noted():
        return json.loads((tmp_path / "l" / "ladder.json").read_text())["jobs"]

    go(grid={}, seeds=1)
    assert noted() == 1
    go(grid={}, seeds=1, jobs=2)  # there is nothing left to train
    assert noted() == 1
    header = json.loads((tmp_path / "l" / "ladder.json").read_text())
    del header["jobs"]  # as of older versions
    (tmp_path / "l" / "ladder.json").write_text(json.dumps(header))
    found = go(grid={}, seeds=2)
    assert noted() is None
    assert "by the clock nothing is claimed: it was not recorded how many runs" in shown(found)
    header = json.loads((tmp_path / "l" / "ladder.json").read_text())
    assert header["in_seconds"] == found.in_seconds.left_out


@pytest.mark.slow
def test_a_part_of_plain_trainings_batch_follows_what_was_chosen_for_it_at_the_rung(go, note_runs, tmp_path, judged_by):
    trained = note_runs("label", "seed", "budget", "max_lr", "batch_size")
    best_at = {"64samples": (1e-2, 16), "128samples": (1e-3, 8), "256samples": (1e-2, 8)}

    def scripted(evaluate, training, split, *more):
        settings = training.settings
        wins = (settings.max_lr, settings.batch_size) == best_at[settings.budget]
        # At the control's batch the rate that plain training was not given is better.
        wins = wins or (settings.batch_size == 4 and settings.max_lr == 1e-2)
        return 0.8 if wins else 0.3, evaluate(training, split, *more)[1]

    judged_by(scripted)
    half, grid = "baseline:batch_size=k/2", {"max_lr": ("1e-2", "1e-3"), "batch_size": ("16", "8", "32")}
    found = go((half, "baseline"), grid=grid, seeds=1)
    of_half = [run for run in trained if run[0] == half]
    rungs = list(best_at)
    halves = {"64samples": 8, "128samples": 4, "256samples": 4}
    tuning = [run[2:] for run in of_half if run[1] >= TUNING_SEED]
    assert tuning == [(rung, rate, halves[rung]) for rung in rungs for rate in (1e-2, 1e-3)]
    assert [run[2:] for run in of_half if run[1] < TUNING_SEED] == [(rung, 1e-2, halves[rung]) for rung in rungs]
    # Plain training is tuned before.
    last = max(place for place, run in enumerate(trained) if run[0] == "baseline" and run[1] >= TUNING_SEED)
    assert last < trained.index(of_half[0])
    rows = {(row.method, row.budget): row for row in found.rows}
    assert {rows[half, budget].tried for budget in (64, 128, 256)} == {2}
    assert rows[half, 128].values == "max_lr=1e-2:batch_size=4"
    assert (rows["baseline", 128].at_edge, rows[half, 64].at_edge) == ("batch_size", "")
    # What was frozen holds when the ladder goes on, and a control that is added follows it.
    trained.clear()
    quarter = "baseline:batch_size=k/4"
    go((half, "baseline", quarter), grid=grid, seeds=1)
    assert {run[0] for run in trained} == {quarter}
    assert {run[2]: run[4] for run in trained} == {"64samples": 4, "128samples": 2, "256samples": 2}


def test_without_tuning_a_part_is_of_the_batch_that_all_have(go, note_runs):
    trained = note_runs("label", "batch_size")
    go(("baseline", "baseline:batch_size=k/4"), grid={}, seeds=1)
    assert set(trained) == {("baseline", 8), ("baseline:batch_size=k/4", 2)}


@pytest.mark.slow
def test_a_method_may_be_added(go, trained, tmp_path):
    before = go(("baseline", "random")).rows
    shutil.rmtree(tmp_path / "l" / "tuning")  # what is frozen needs no more of it
    tuning = table(tmp_path / "l" / "tuning.csv")
    header = json.loads((tmp_path / "l" / "ladder.json").read_text())
    trained.clear()
    found = go(("baseline", "random", "loss@last"))
    assert {label for label, *_ in trained} == {"loss@last"}
    assert len(trained) == 3 * (2 + 2)
    assert [row for row in found.rows if row.method != "loss@last"] == before
    after = json.loads((tmp_path / "l" / "ladder.json").read_text())
    for entry in ("frozen", "step_costs", "trials"):
        assert after[entry].items() > header[entry].items()
    assert table(tmp_path / "l" / "tuning.csv")[: len(tuning)] == tuning
    assert len(table(tmp_path / "l" / "tuning.csv")) == 3 * 3 * 2
    with pytest.raises(ValueError, match="has another ladder: its methods differ"):
        go(("baseline", "random"))


@pytest.mark.slow
def test_at_the_inner_rungs_only(go, trained, tmp_path):
    whole = go(("baseline", "random"))
    shutil.rmtree(tmp_path / "l")
    trained.clear()
    found = go(("baseline", "random"), inner_only=True)
    runs = {(label, budget) for label, _, budget, *_ in trained}
    inner = ("random", "128samples")
    assert runs == {("baseline", budget) for budget in ("64samples", "128samples", "256samples")} | {inner}
    assert len(trained) == (3 + 1) * (2 + 2)
    # The same runs, so that the same is claimed.
    assert found.claims == whole.claims
    untimed = [dataclasses.replace(row, reference_s=0.0, wall_clock_s=0.0) for row in whole.rows]
    kept = [row for row in untimed if row.method == "baseline" or row.budget == 128]
    assert [dataclasses.replace(row, reference_s=0.0, wall_clock_s=0.0) for row in found.rows] == kept
    # What is there stays at its rungs, and what is added may run at all.
    trained.clear()
    assert len(go(("baseline", "random", "loss@last")).rows) == 3 + 1 + 3
    assert len(trained) == 3 * (2 + 2)
    assert {label for label, *_ in trained} == {"loss@last"}
    trained.clear()
    go(("baseline", "random", "loss@last", "entropy@last"), inner_only=True)
    assert {(label, budget) for label, _, budget, *_ in trained} == {("entropy@last", "128samples")}


@pytest.mark.slow
def test_a_ladder_that_does_not_say_at_which_rungs_a_method_is_has_it_at_all(go, trained, tmp_path):
    before = go(("baseline", "random")).rows
    path = tmp_path / "l" / "ladder.json"
    header = json.loads(path.read_text())
    del header["at"]
    path.write_text(json.dumps(header))
    trained.clear()
    found = go(("baseline", "random", "loss@last"), inner_only=True)
    assert [row for row in found.rows if row.method != "loss@last"] == before
    assert {(label, budget) for label, _, budget, *_ in trained} == {("loss@last", "128samples")}


def test_records_that_are_none_of_this_ladder(go, trained, tmp_path):
    go(grid={}, seeds=1)
    trained.clear()
    path = tmp_path / "l" / "ladder.json"
    whole = path.read_text()
    rungs = ("64samples", "128samples", "256samples")
    for changes, message in (
        ({"rungs": "three"}, "rungs = 'three' must be a valid list"),
        ({"step_costs": {"baseline -": {"plain_s": -1.0, "selecting_s": 1.0}}}, "plain_s = -1.0 must be greater"),
        ({"frozen": {"baseline": {"64samples": "-"}}}, "must have 64samples, 128samples, 256samples"),
        ({"at": {"baseline": ["32samples"]}}, "at has the rung 32samples of baseline"),
        ({"frozen": {"baseline": dict.fromkeys(rungs, "max_lr=7")}}, "has 'max_lr=7' of baseline"),
        ({"data": {"content": "another"}}, "the data are not those that"),
        ({"tuning_seeds": 5}, "has another ladder: its tuning_seeds differ"),
    ):
        path.write_text(json.dumps(json.loads(whole) | changes))
        with pytest.raises(ValueError, match=message):
            go(grid={}, seeds=1)
    for content, message in (("{}", "is not the record of a ladder: it lacks config"), ("{", "ladder.json")):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            go(grid={}, seeds=1)
    path.rename(path.with_name("header.json"))
    with pytest.raises(ValueError, match=r"is of something else, which has a header\.json"):
        go(grid={}, seeds=1)
    assert trained == []


def test_one_ladder_a_folder(go, trained, tmp_path):
    with one_writer(tmp_path / "l"), pytest.raises(ValueError, match="is being written to by process"):
        go()
    assert trained == []


def test_a_method_that_diverges_has_no_factor(go):
    found = go(("baseline", "random:max_lr=1e30:batch_normalised=false"), grid={}, budget="400samples", seeds=1)
    rows = {row.method: row for row in found.rows if row.budget == 400}
    assert rows["baseline"].accuracy is not None
    assert [row.diverged for row in found.rows if row.method != "baseline"][-1] == 1
    assert rows["random:max_lr=1e30:batch_normalised=false"].by_accuracy is None
    text = shown(found)
    assert "1 of 1 diverged" in text


def test_work_is_the_same_for_all(go):
    found = go(("baseline", "random", "loss@last"), grid={}, seeds=1, budget="4000work")
    steps = {row.method: row.steps for row in found.rows if row.budget == 4000}
    assert steps == {"baseline": 4000 // 24, "random": 4000 // 24, "loss@last": 4000 // 40}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ("random", "loss@1")}, "--methods must name baseline"),
        ({"methods": ("baseline", "baseline")}, "the method 'baseline' is named twice"),
        ({"grid": {"seed": ("1", "2")}}, "--tune sets seed, but that is the comparison's"),
        ({"grid": {"method": ("random",)}}, "--tune sets method"),
        ({"grid": {"batch_size": ("8", "128")}}, "a gross batch has 128 rows, the training set 64"),
    ],
)
def test_plans_that_cannot_be(go, trained, values, message):
    with pytest.raises(ValueError, match=message):
        go(**values)
    assert trained == []


# ---- The command ----


@pytest.fixture
def compare(gsgd, tmp_path):
    (tmp_path / "tiny.toml").write_text('task = "tiny"\nbatch_size = 8\nbudget = "2000work"\n')
    return functools.partial(gsgd, "compare", "tiny.toml")


def test_the_command(compare, tmp_path):
    arguments = ["--methods", "baseline,loss@last", "--ladder", "3", "--seeds", "2"]
    grid = ["--tune", "max_lr=1e-2,1e-3", "--tune", "keep=0.5,0.25", "--trials", "2"]
    code, out, err = compare(*arguments, *grid)
    assert code == 0, err
    assert "ladder of 3 rungs, 2 methods:" in err
    assert len(re.findall(r": accuracy 0\.\d+; about [\d.]+ (?:s|minutes) left", " ".join(err.split()))) == 24
    assert "24 runs, about" in err
    assert err.index("24 runs, about") < err.index("tuning [1/12]") < err.index("measuring [1/12]")
    for said in ("500 work, test split", "2,000 work", "budget that plain training needs", "inner rungs", "ECE"):
        assert said in out
    assert "results in results/ladder-tiny-2000work" in out
    assert (tmp_path / "results" / "ladder-tiny-2000work" / "ladder.csv").exists()
    # What is tuned is not planned again: of a third method two trials at each rung, and the runs of all.
    arguments[1] += ",random"
    plan = " ".join(compare(*arguments, *grid, "--dry-run")[2].split())
    assert plan.count("2 runs to tune, 6 to measure") == 3, plan
    assert f"{3 * (2 + 6)} runs, about" in plan


def test_a_dry_run_says_the_plan_and_writes_nothing(compare, tmp_path):
    arguments = ["--methods", "baseline,loss@last", "--ladder", "3", "--seeds", "1"]
    code, out, err = compare(*arguments, "--dry-run")
    assert code == 0, err
    assert "6 runs, about" in err
    assert "trained before" not in err
    assert "nothing was trained or written" in out
    assert not (tmp_path / "results").exists()
    assert compare(*arguments)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*")}
    code, _, err = compare(*arguments, "--dry-run")
    assert (code, "6 of them were trained before" in " ".join(err.split())) == (0, True), err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*")} == before
    assert "measuring [" not in compare(*arguments)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run"], "--dry-run are of a ladder"),
        (["--tune", "max_lr=1,2"], "--tune, --trials, --jobs, --inner-only and --dry-run are of a ladder"),
        (["--ladder", "3", "--sweep", "max_lr=1,2"], "--sweep and --target are of a comparison at one budget"),
        (["--ladder", "3", "--tune", "max_lr"], "--tune 'max_lr' must be"),
        (["--ladder", "3", "--tune", "lr=1,2"], "no key 'lr'"),
        (["--methods", "baseline,random:batch_size=k/2"], "k is what a ladder chooses for plain training"),
        (["--ladder", "3", "--methods", "baseline,random:batch_size=k/3"], "a batch of 8 rows, which leaves 2"),
        (["--methods", "baseline,random:batch_size=k/1"], "must be a number or k/N, N a whole number above 1"),
        (["--methods", "baseline,random:batch_size=k"], "must be a number or k/N, N a whole number above 1"),
    ],
)
def test_bad_usage_is_2(compare, arguments, message, tmp_path):
    code, _, err = compare("--methods", "baseline,random", *arguments)
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_several_processes_find_what_one_finds(tmp_path, monkeypatch, capsys):
    """A preset on what comes with the package: the processes know no other task."""
    monkeypatch.chdir(tmp_path)
    small = ["--hidden_sizes", "4,4,4,4", "--embedding_size", "4", "--batch_size", "16", "--budget", "1600work"]
    arguments = ["compare", "resnet-tiny", "--methods", "baseline,random", "--ladder", "3", "--seeds", "1", *small]
    tables = []
    for jobs in ("1", "2"):
        assert main([*arguments, "--jobs", jobs, "--name", jobs]) == 0
        tables.append(table(tmp_path / "results" / jobs / "runs.csv"))
    for one, other in zip(*tables, strict=True):
        assert (one["method"], one["budget"], one["seed"]) == (other["method"], other["budget"], other["seed"])
        # Threads are divided, so that sums differ in their last digits.
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=0.02)


# ---- In words ----


def shown(found, width=100):
    file = io.StringIO()
    show(Console(width=width, file=file), found)
    return file.getvalue()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (SpeedUp(1.43, 1.2, 1.7, ON), r"faster than plain training, 1.43 \[1.20, 1.70]"),
        (SpeedUp(0.5, 0.4, 0.7, ON), r"slower than plain training, 0.50 \[0.40, 0.70]"),
        (SpeedUp(1.43, 0.9, math.inf, ON), r"no speed-up shown, 1.43 \[0.90, -]"),
        (SpeedUp(2.0, 1.5, math.inf, ABOVE), r"faster than plain training, at least 2.00 \[1.50, -]"),
        (SpeedUp(math.nan, 0.0, math.inf, "x"), "no factor, it is x"),
    ],
)
def test_claims_in_words(found, words):
    end = " (geometric mean over the inner rungs, 3 of them; 95%)"
    assert verdict(Claim("m", "accuracy", 3, found)) == f"m, by accuracy: {words}{end}"


def test_a_measure_without_a_factor_in_words():
    found = Claim("m", "loss", 3, SpeedUp(math.nan, 0.0, math.inf, FALLS))
    assert verdict(found) == "m, by loss: no factor, since plain training gets worse with the budget"
