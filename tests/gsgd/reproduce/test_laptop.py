"""The laptop scale with a runner that runs nothing: order, what is skipped, what begins anew, what is said."""

import importlib.metadata
import json

import pytest

from gsgd.reproduce.process import Interrupted

ALL = ["verify", "bert-tiny", "resnet-tiny", "figures", "report"]
LAST = ["figures", "report"]


# ---- A run from nothing ----


def test_all_stages_in_order_and_the_path_of_the_report_as_the_last_line(reproduce, runner, tmp_path):
    code, out, err = reproduce()
    assert (code, err) == (0, "")
    assert runner.names == ALL
    assert out.splitlines()[-1] == "results/report.html"
    assert (tmp_path / out.splitlines()[-1]).exists()


def test_the_commands_are_those_of_the_readme(reproduce, runner):
    reproduce()
    assert runner.lines[0] == "gsgd verify"
    assert runner.lines[1].startswith("gsgd compare bert-tiny --methods baseline,random,loss@1 --seeds 3 --budget ")
    assert "--name laptop/bert-tiny" in runner.lines[1]
    assert runner.lines[2].startswith("gsgd compare resnet-tiny --methods baseline,random,loss@1,loss@last --seeds 3 ")
    assert runner.lines[3:] == ["gsgd figures", "gsgd report"]


def test_the_plan_is_shown_before_the_first_command(reproduce, runner):
    runner.answers["verify"] = 1
    _, out, _ = reproduce()
    plan = out[: out.index("[1/5]")]
    assert all(name in plan for name in ALL)
    assert plan.count("about") == 6  # each stage, and all together


def test_each_stage_says_its_number_command_and_seconds(reproduce):
    _, out, _ = reproduce()
    lines = out.splitlines()
    assert "[1/5] gsgd verify (about 50 seconds)" in lines
    assert "[5/5] gsgd report (about 10 seconds)" in lines
    assert [line for line in lines if line.endswith(": 0 s")] == [
        f"[{number}/5] {name}: 0 s" for number, name in enumerate(ALL, start=1)
    ]


def test_what_is_recorded_of_a_stage(reproduce, recorded):
    reproduce()
    record = recorded()["verify"]
    assert record["status"] == "finished"
    assert record["command"] == ["gsgd", "verify"]
    assert set(record) == {"status", "command", "version", "source", "commit", "seconds", "date"}
    assert record["commit"] == "0123456789abcdef+"
    assert record["version"] == importlib.metadata.version("gsgd")


def test_results_elsewhere(reproduce, runner, tmp_path):
    code, out, _ = reproduce("--results", "else where")
    assert code == 0
    assert all(line.endswith("--results 'else where'") for line in runner.lines)
    assert out.splitlines()[-1] == "else where/report.html"
    assert (tmp_path / "else where" / "laptop" / "reproduce.json").exists()
    assert not (tmp_path / "results").exists()


# ---- Again ----


def test_what_is_finished_is_not_run_again_but_for_figures_and_report(reproduce, runner):
    reproduce()
    runner.lines.clear()
    code, out, _ = reproduce()
    assert (code, runner.names) == (0, LAST)
    assert "[1/5] verify: finished " in out


@pytest.mark.parametrize("number", range(5))
def test_an_interrupted_stage_is_run_again_and_those_before_are_not(reproduce, runner, recorded, number):
    runner.answers[f"gsgd {ALL[number]}" if number in (0, 3, 4) else ALL[number]] = Interrupted(2)
    code, _, err = reproduce()
    assert code == 130
    assert err == "gsgd reproduce: interrupted; `gsgd reproduce` goes on from here\n"
    assert runner.names == ALL[: number + 1]
    assert recorded()[ALL[number]]["status"] == "begun"
    runner.answers.clear()
    runner.lines.clear()
    code, out, _ = reproduce()
    assert code == 0
    assert runner.names == ALL[min(number, 3) :]
    if number < 3:
        assert f"{ALL[number]}" in next(line for line in out.splitlines() if "goes on where it stopped" in line)


def test_what_an_interrupted_stage_left_is_there_when_it_goes_on(reproduce, runner, tmp_path):
    checkpoint = tmp_path / "results" / "laptop" / "bert-tiny" / "loss@1-seed0" / "checkpoint.pt"
    runner.write(checkpoint)
    runner.answers["bert-tiny"] = Interrupted(2)
    reproduce()
    runner.answers.clear()
    reproduce()
    assert checkpoint.exists()


def test_the_seconds_of_all_parts_of_a_stage_are_added(reproduce, runner, recorded):
    runner.answers["bert-tiny"] = Interrupted(2)
    reproduce()
    recorded(bert_tiny={"seconds": 1000.0})
    runner.answers.clear()
    reproduce()
    assert 1000 <= recorded()["bert-tiny"]["seconds"] < 1100


def test_sigterm_has_its_own_exit_code(reproduce, runner):
    runner.answers["verify"] = Interrupted(15)
    assert reproduce()[0] == 143


def test_a_stage_whose_results_are_gone_is_run_again(reproduce, runner, tmp_path):
    reproduce()
    (tmp_path / "results" / "laptop" / "resnet-tiny" / "summary.csv").unlink()
    runner.lines.clear()
    _, out, _ = reproduce()
    assert runner.names == ["resnet-tiny", *LAST]
    assert "again: results/laptop/resnet-tiny/summary.csv is gone" in out


@pytest.mark.parametrize(
    "changed", [{"version": "0.0.9"}, {"source": "0123"}, {"command": ["gsgd", "compare", "other"]}]
)
@pytest.mark.parametrize("status", ["finished", "begun"])
def test_other_code_or_another_command_begins_anew(reproduce, runner, recorded, tmp_path, changed, status):
    reproduce()
    recorded(bert_tiny={**changed, "status": status})
    old = tmp_path / "results" / "laptop" / "bert-tiny" / "old.csv"
    other = tmp_path / "results" / "laptop" / "resnet-tiny" / "old.csv"
    old.write_text("old")
    other.write_text("old")
    runner.lines.clear()
    _, out, _ = reproduce()
    assert runner.names == ["bert-tiny", *LAST]
    assert "begins anew: made by other code or another command" in out
    assert "removing results/laptop/bert-tiny\n" in out
    assert not old.exists()
    assert other.exists()
    assert recorded()["bert-tiny"]["status"] == "finished"


def test_the_commit_alone_changes_nothing(reproduce, runner, recorded):
    """Recording results in a checkout changes it, and an installed package has none."""
    reproduce()
    recorded(verify={"commit": "0123+"})
    runner.lines.clear()
    reproduce()
    assert runner.names == LAST


def test_a_folder_of_that_name_without_a_record_is_not_removed(reproduce, tmp_path, runner):
    mine = tmp_path / "results" / "laptop" / "bert-tiny" / "mine.csv"
    runner.write(mine)
    assert reproduce()[0] == 0
    assert mine.exists()


# ---- A budget ----


def test_another_budget_has_folders_of_its_own(reproduce, runner, tmp_path):
    reproduce()
    runner.lines.clear()
    _, out, _ = reproduce("--budget", "40s")
    assert runner.names == ["bert-tiny-40s", "resnet-tiny-40s", *LAST]
    assert "--budget 40s --name laptop/bert-tiny-40s " in runner.lines[0]
    assert "about 6 minutes" in out  # 9 runs of 40 s
    assert (tmp_path / "results" / "laptop" / "bert-tiny" / "summary.csv").exists()
    runner.lines.clear()
    reproduce()
    assert runner.names == LAST


@pytest.mark.parametrize("budget", ["40", "0s", "-1s", "2epochs", "s", "1e9s", "nan s"])
def test_a_budget_that_is_none_is_refused_before_anything_starts(reproduce, runner, budget):
    code, _, err = reproduce(f"--budget={budget}")
    assert (code, runner.lines) == (2, [])
    assert f"{budget!r}" in err
    assert "such as 40s" in err


# ---- Anew ----


def test_fresh_removes_the_record_and_the_stages_folders_and_nothing_else(reproduce, runner, tmp_path, recorded):
    reproduce()
    reproduce("--budget", "2s")
    results = tmp_path / "results"
    kept = [results / "books" / "compare.json", results / "theory" / "noise.csv", results / "laptop" / "mine" / "a.csv"]
    gone = [results / "laptop" / name / "old.csv" for name in ("bert-tiny", "resnet-tiny")]
    for path in kept + gone:
        runner.write(path)
    runner.answers["verify"] = Interrupted(2)
    code, out, err = reproduce("--fresh")
    assert code == 130
    assert "`gsgd reproduce` goes on from here" in err  # without --fresh
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)
    assert "removing results/laptop/bert-tiny\n" in out
    assert (results / "laptop" / "bert-tiny-2s" / "summary.csv").exists()
    assert set(recorded()) == {"verify", "bert-tiny-2s", "resnet-tiny-2s"}
    runner.answers.clear()
    runner.lines.clear()
    reproduce()
    assert runner.names == ALL


def test_fresh_where_there_is_nothing_yet(reproduce, runner):
    assert reproduce("--fresh")[0] == 0
    assert runner.names == ALL


# ---- Failure ----


def test_a_failing_stage_stops_with_its_exit_code(reproduce, runner, recorded):
    runner.answers["resnet-tiny"] = 3
    code, out, err = reproduce("--results", "results")
    assert code == 3
    assert runner.names == ALL[:3]
    assert "`gsgd compare resnet-tiny" in err
    assert "failed with exit code 3" in err
    assert "`gsgd reproduce --results results` goes on from here" in err
    assert "report.html" not in out
    runner.answers.clear()
    runner.lines.clear()
    reproduce()
    assert runner.names == ALL[2:]


def test_a_stage_that_was_killed(reproduce, runner):
    runner.answers["bert-tiny"] = -9
    code, _, err = reproduce()
    assert code == 137
    assert "was killed by signal 9" in err


def test_verify_that_finds_what_it_should_not_stops_all(reproduce, runner):
    runner.answers["verify"] = 1
    assert reproduce()[0] == 1
    assert runner.names == ["verify"]


def test_a_stage_that_leaves_nothing_behind_has_failed(reproduce, runner, recorded):
    runner.answers["bert-tiny"] = 0
    code, _, err = reproduce()
    assert code == 1
    assert "there is no results/laptop/bert-tiny/summary.csv" in err
    assert recorded()["bert-tiny"]["status"] == "begun"


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"stages": {"verify": {}}}', '{"stages": {"verify": 1}}', "{}"],
)
def test_a_record_that_cannot_be_read_is_named_with_the_remedy(reproduce, runner, tmp_path, content):
    runner.write(tmp_path / "results" / "laptop" / "reproduce.json", content)
    code, _, err = reproduce()
    assert (code, runner.lines) == (2, [])
    assert "results/laptop/reproduce.json" in err
    assert "remove it" in err


def test_a_record_of_an_unknown_status(reproduce, runner, recorded):
    reproduce()
    recorded(verify={"status": "fnished"})
    code, _, err = reproduce()
    assert code == 2
    assert "fnished" in err


def test_results_that_cannot_be_written(reproduce, runner, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = reproduce("--results", "file/results")
    assert (code, runner.lines) == (2, [])
    assert "file/results" in err


# ---- What must be there ----


@pytest.mark.parametrize(
    ("lacks", "extras"),
    [
        (["torch"], "train"),
        (["matplotlib"], "figures"),
        (["pandas", "torch", "PIL"], "figures,train"),
    ],
)
def test_missing_extras_are_told_before_anything_starts(reproduce, runner, lacks, extras, tmp_path):
    code, out, err = reproduce(lacks=lacks)
    assert (code, runner.lines, out) == (2, [], "")
    assert all(name in err for name in lacks)
    assert f"pip install 'gsgd[{extras}]'" in err
    assert f"pip install -c constraints.txt '.[{extras}]'" in err
    assert not (tmp_path / "results").exists()


def test_fresh_removes_nothing_if_it_cannot_start(reproduce, runner, tmp_path):
    reproduce()
    assert reproduce("--fresh", lacks=["torch"])[0] == 2
    assert (tmp_path / "results" / "laptop" / "bert-tiny" / "summary.csv").exists()
    runner.lines.clear()
    reproduce()
    assert runner.names == LAST


def test_what_only_the_papers_data_need_is_not_asked_for(reproduce):
    assert reproduce(lacks=["datasets", "tensorboard"])[0] == 0


# ---- Without running ----


def test_dry_run_prints_the_commands_and_nothing_else(reproduce, runner, tmp_path):
    code, out, _ = reproduce("--dry-run", lacks=["torch"])
    assert code == 0
    dry = out.splitlines()
    assert runner.lines == []
    assert not (tmp_path / "results").exists()
    reproduce()
    assert dry == runner.lines


@pytest.mark.parametrize("arguments", [["--only", "bert-base"], ["--gpus", "8"], ["--yes"]])
def test_options_of_the_other_scale(reproduce, runner, arguments):
    code, _, err = reproduce(*arguments)
    assert (code, runner.lines) == (2, [])
    assert f"{arguments[0]} is not for the laptop scale" in err


@pytest.mark.parametrize("arguments", [["--scale", "desk"], ["--nonsense"], ["laptop"]])
def test_bad_usage(reproduce, runner, arguments):
    with pytest.raises(SystemExit) as stop:
        reproduce(*arguments)
    assert (stop.value.code, runner.lines) == (2, [])


def test_help_has_examples(reproduce, capsys):
    with pytest.raises(SystemExit) as stop:
        reproduce("--help")
    assert stop.value.code == 0
    assert "gsgd reproduce --budget 40s" in capsys.readouterr().out


def test_the_record_is_json_a_person_can_read(reproduce, tmp_path):
    reproduce()
    text = (tmp_path / "results" / "laptop" / "reproduce.json").read_text()
    assert json.loads(text)["stages"].keys() == set(ALL)
    assert len(text.splitlines()) > 20
