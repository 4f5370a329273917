"""`gsgd bench gpu`: its cases and goals, what it writes, and that no failure loses any."""

import argparse
import dataclasses
import json
import signal

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from gsgd.cli import main  # noqa: E402
from training.bench import gpu as gpu_costs  # noqa: E402
from training.bench.steps import Cost  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def toy(path, *arguments):
    return main(["bench", "gpu", "--toy", "--device", "cpu", "--rounds", "1", "--out", str(path), *arguments])


def case_named(name):
    (found,) = (case for case in gpu_costs.CASES if case.name == name)
    return found


def test_a_case_is_written_below_where_it_comes_from(tmp_path, capsys):
    path = tmp_path / "new" / "costs.jsonl"
    assert toy(path, "--only", "resnet50, 32", "--eager") == 0
    first, case = lines(path)
    assert first["header"]["versions"]["torch"]
    assert first["header"]["toy"] is True
    assert case["case"] == "resnet50, 32"
    assert [(step["exit_layer"], step["way"]) for step in case["steps"]][:2] == [(1, "two passes"), (1, "shared")]
    for step in (case["plain"], *case["steps"]):
        assert step["operators"] > 0
        assert step["waits"] >= 0
    assert 0 < case["plain"]["matrix_share"] < 1
    # The goals are of the large models.
    assert {step["goal"] for step in case["steps"]} == {None}
    shown = capsys.readouterr().out
    assert first["header"]["device"] in shown
    assert shown.count("two passes") == 2
    assert "of the matrix rate" in shown


def test_a_second_run_leaves_the_first_ones_lines(tmp_path):
    path = tmp_path / "costs.jsonl"
    path.write_text('{"kept": true}\n')
    assert toy(path, "--limit", "0", "--only", "llama") == 0
    assert lines(path)[0] == {"kept": True}


def test_a_line_that_the_disk_has_no_room_for_is_an_error_and_leaves_the_others(tmp_path):
    """A limit on the size of files stands for the disk: both take a part of what is written."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "costs.jsonl"
    path.write_text('{"kept": true}\n')
    limits, reaction = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for room in (0, 7):
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, limits[1]))
        try:
            with pytest.raises(OSError, match=r"costs\.jsonl"):
                gpu_costs.append_line(path, {"case": "resnet"})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_text() == '{"kept": true}\n'
    signal.signal(signal.SIGXFSZ, reaction)


def test_a_place_that_cannot_be_written_to_is_found_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(gpu_costs, "_measure_all", lambda *_: pytest.fail("measured"))
    assert toy(tmp_path / "file" / "costs.jsonl", "--only", "llama") == 2
    assert f"{tmp_path}/file/costs.jsonl: Not a directory" in capsys.readouterr().err


def test_what_time_is_wanting_for_is_said(tmp_path, capsys):
    path = tmp_path / "costs.jsonl"
    assert toy(path, "--limit", "0", "--only", "llama", "--eager") == 0
    assert lines(path)[1] == {"left_out": ["llama"]}
    assert "not measured, for want of time: llama\n" in capsys.readouterr().out


def test_a_case_that_fails_takes_no_other_with_it(tmp_path, monkeypatch, capsys):
    good = case_named("resnet50, 32")
    bad = dataclasses.replace(good, name="bad", toy_exits=(9,))
    monkeypatch.setattr(gpu_costs, "CASES", [bad, good])
    path = tmp_path / "costs.jsonl"
    assert toy(path) == 1
    _, first, second = lines(path)
    assert first["error"].startswith("ValueError: exit_layer = 9")
    assert second["steps"]
    assert "bad: ValueError: exit_layer = 9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "tpu"], "--device 'tpu' must be"),
        (["--only", "mamba"], "--only 'mamba': no case has this in its name"),
    ],
)
def test_bad_usage_exits_with_2(arguments, said, tmp_path, capsys):
    assert toy(tmp_path / "costs.jsonl", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "costs.jsonl").exists()


def test_cases_are_listed_the_most_important_first(capsys):
    assert main(["bench", "gpu", "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "bert, dropout .1: 64 rows, exits 1, 6, 12"
    assert listed[2] == "bert, dropout .1, compiled, exit 1: 64 rows, exits 1"
    assert len(set(listed)) == len(listed) == len(gpu_costs.CASES)
    assert main(["bench", "gpu", "--list", "--eager"]) == 0
    assert "compiled" not in capsys.readouterr().out


def test_goals_are_those_of_the_case():
    cost = Cost(0.5, 0.2, 1.0, 1.0, 9, 0, {}, None, 0)
    eager, compiled = case_named("bert, dropout .1"), case_named("bert, dropout .1, compiled, exit 6")
    assert gpu_costs._goal(eager, 6, "two passes", cost, True) == 0.37
    assert gpu_costs._goal(eager, 6, "shared", cost, True) == 0.20
    assert gpu_costs._goal(compiled, 6, "two passes", cost, True) == 0.20
    assert gpu_costs._goal(case_named("resnet50, 224"), 2, "shared", cost, True) == pytest.approx(1.2 * 0.2)
    assert gpu_costs._goal(case_named("resnet50, 32"), 2, "shared", cost, True) is None
    assert gpu_costs._goal(case_named("llama"), 1, "shared", cost, True) is None


def test_of_a_full_case_the_goals_are_measured_against(monkeypatch):
    monkeypatch.setitem(gpu_costs.MODELS, "bert-base", gpu_costs.MODELS["bert-tiny"])
    shape = dataclasses.replace(case_named("bert, dropout .1").shape, gross=4, seq=8)
    case = dataclasses.replace(case_named("bert, dropout .1"), shape=shape, exits=(1,))
    options = argparse.Namespace(toy=False, rounds=1, device="cpu")
    result = gpu_costs._measure_one(case, options, until=0.0)
    assert [step["goal"] for step in result["steps"][:2]] == [0.10, 0.06]
    assert result["plain"]["goal_matrix_share"] is None  # it is of the compiled step
    assert result["row"] == "8 tokens"


@pytest.mark.slow
def test_all_eager_cases_run_at_toy_size(tmp_path, capsys):
    path = tmp_path / "costs.jsonl"
    toy(path, "--eager")
    _, *cases = lines(path)
    assert [case["case"] for case in cases] == [case.name for case in gpu_costs.CASES if not case.compile]
    assert all("steps" in case for case in cases)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inductor's own
def test_a_compiled_case_runs_at_toy_size(tmp_path, capsys):
    path = tmp_path / "costs.jsonl"
    toy(path, "--only", "bert, dropout .1, compiled, exit 1")
    _, case = [each for each in lines(path) if each.get("case") in (None, "bert, dropout .1, compiled, exit 1")]
    assert [step["way"] for step in case["steps"]] == ["two passes"]
