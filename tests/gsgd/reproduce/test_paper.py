"""The paper's scale: every run of Section 7, what it needs, and what has to happen before any of them starts."""

import csv
import re
import shlex
from pathlib import Path

import pytest

import figures.paper
from gsgd.reproduce.paper import PaperRun, best_gpus, describe, disk, paper_runs
from gsgd.reproduce.process import Interrupted
from training.config import load, presets

PAPER = Path(figures.paper.__file__).parent
FAMILIES = ("bert-base", "cifar100", "food101")


def numbers(name, column):
    """A column of the paper's own numbers, by method."""
    with open(PAPER / f"{name}.csv", newline="") as file:
        return {row["method"].replace("@", "-"): float(row[column]) for row in csv.DictReader(file)}


def refuse(question):
    raise AssertionError(f"asked {question!r}")


# ---- The runs ----


def test_every_preset_of_the_paper_is_a_run_but_what_they_have_in_common():
    wanted = {name for name in presets() if name.startswith(FAMILIES) and not name.endswith("/common")}
    found = [run.preset for run in paper_runs(8)]
    assert len(found) == len(set(found)) == 51
    assert set(found) == wanted


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16, 32])
def test_a_step_has_the_papers_rows_on_any_number_of_gpus(gpus):
    """256 of BERT (32 on each of 8), 125 of ResNet-50, read by the training's own parser."""
    for run in paper_runs(gpus):
        words = list(run.command)
        processes = 1
        if words[0] == "torchrun":
            assert words[1:5] == ["--nproc-per-node", str(gpus), "-m", "gsgd"]
            processes, words = gpus, words[4:]
        assert words[:3] == ["gsgd", "train", run.preset]
        assert words[-2:] == ["--name", f"paper/{run.preset}"]
        options = dict(zip(words[3:-2:2], words[4:-2:2], strict=True))
        settings = load(run.preset, {key.removeprefix("--"): value for key, value in options.items()}).training
        assert settings.batch_size <= 32 or run.family != "bert-base"
        rows = settings.batch_size * settings.accumulation_steps * processes
        assert rows == (256 if run.family == "bert-base" else 125)
        assert run.gpus == processes


@pytest.mark.parametrize("gpus", ["3", "6", "512", "-1"])
def test_gpus_that_the_papers_rows_cannot_be_dealt_out_to(reproduce, runner, gpus):
    code, _, err = reproduce("--scale", "paper", f"--gpus={gpus}", gpus=8, ask=refuse)
    assert (code, runner.lines) == (2, [])
    assert f"--gpus {gpus} must be" in err


@pytest.mark.parametrize(("there", "best"), [(0, 8), (1, 1), (2, 2), (3, 2), (7, 4), (8, 8), (15, 8), (16, 16)])
def test_the_default_number_of_gpus(there, best):
    assert best_gpus(there) == best


# ---- Hours and disk ----


def test_the_papers_hours_are_the_papers():
    given = {run.preset.removeprefix("bert-base/"): run.to_64_h for run in paper_runs(8) if run.to_64_h is not None}
    assert given == numbers("crossing", "hours") == {"baseline": 57, "loss-1": 43, "entropy-1": 40}


def test_scoring_adds_its_share_of_table_6():
    """Forward 3.8 h and backward 7.9 h (Table 6's caption) to scoring as 57 h to what it adds."""
    hours = {run.preset.removeprefix("bert-base/"): run.hours for run in paper_runs(8) if run.family == "bert-base"}
    assert hours.pop("baseline") == 57
    table = numbers("table_6", "selection_h")
    assert hours.keys() == table.keys()
    for name, selection in table.items():
        assert (hours[name] - 57) * (3.8 + 7.9) == pytest.approx(57 * selection)


def test_hours_on_fewer_gpus():
    eight, two = ({run.preset: run.hours for run in paper_runs(gpus)} for gpus in (8, 2))
    for preset, hours in eight.items():
        assert two[preset] == pytest.approx(hours * (4 if preset.startswith("bert-base") else 1))


def test_the_hours_of_resnet_by_hand():
    hours = {run.preset: run.hours for run in paper_runs(8)}
    # 68,175 images x 100 epochs x 3 passes of 8.2 GFLOP, at 14% of 312 TFLOP/s.
    assert hours["food101/same-samples/baseline-1e-2"] == pytest.approx(1.066, abs=2e-3)
    # 5 passes: the gross batch is twice as large.
    assert hours["food101/same-samples/last-1e-2"] == pytest.approx(1.066 * 5 / 3, abs=4e-3)
    # 36,000 steps of 0.03 s.
    assert hours["cifar100/same-samples/baseline-5e-2"] == pytest.approx(0.3)
    for preset, value in hours.items():
        if "/same-time/" in preset:
            assert value == hours[f"{preset.split('/')[0]}/same-samples/baseline-1e-2"]


def test_the_utilisation_is_what_57_hours_come_to():
    operations = 6 * 110e6 * 800_000 * 131_072
    assert operations / (57 * 3600 * 8 * 312e12) == pytest.approx(0.14, abs=0.006)


def test_disk_by_hand():
    of = {what: size for what, size, _ in disk([run for run in paper_runs(8) if run.family == "food101"])}
    assert of == {
        "food101": pytest.approx(101_000 * 256 * 256 * 3 / 1e9 + 5),
        "ResNet-50, 20 trained": pytest.approx(1.92),
    }
    of = {what: size for what, size, _ in disk([run for run in paper_runs(8) if run.preset == "bert-base/loss-1"])}
    assert of == {
        # 4.85 / 4.2 + 20.2 / 4.7 billion tokens of 2 bytes, and 0.25 billion sentences of 8.
        "text": pytest.approx(12.9, abs=0.05),
        "BERT, while it runs": pytest.approx(1.32),
        "BERT, 1 trained": pytest.approx(0.44),
    }


def test_the_cached_images_are_as_large_as_the_training_makes_them():
    from gsgd.reproduce.paper import IMAGES

    for family, data in IMAGES.items():
        assert load(f"{family}/common").data.cached_size == data.side


def test_what_is_shown_sums_what_it_lists():
    runs = paper_runs(8)
    text = describe(runs)
    together = float(re.search(r"together +([\d.]+) GB", text)[1])
    assert together == pytest.approx(sum(size for _, size, _ in disk(runs)), abs=0.05)
    assert f"51 runs, one after another: {sum(run.hours for run in runs):.0f} hours" in text
    assert "the paper gives ~57 h" in text.lower()
    assert "Our estimate" in text
    assert sum(int(count) for count in re.findall(r"^  \S+/\S+ +(\d+) +\d+  ", text, re.MULTILINE)) == 51


def test_numbers_of_a_run_are_shown_as_they_are():
    assert re.search(r"mine/a +1 +4  12 *$", describe([PaperRun("mine/a", 4, 12.3)]), re.MULTILINE)


# ---- Before anything starts ----


def test_without_a_terminal_the_plan_is_all_there_is(reproduce, runner, tmp_path):
    code, out, err = reproduce("--scale", "paper", gpus=8)
    assert (code, err, runner.lines) == (0, "", [])
    assert not (tmp_path / "results").exists()
    assert "Nothing was started. --yes starts it" in out
    commands = {line for line in out.splitlines() if line.startswith(("gsgd ", "torchrun "))}
    for preset in presets():
        if preset.startswith(FAMILIES) and not preset.endswith("/common"):
            assert any(f" train {preset} " in line for line in commands)


@pytest.mark.parametrize("answer", ["", "n", "no", "x"])
def test_anything_but_yes_starts_nothing(reproduce, runner, answer):
    code, out, _ = reproduce("--scale", "paper", gpus=8, ask=lambda question: answer)
    assert (code, runner.lines) == (0, [])
    assert out.endswith("Nothing was started.\n")


@pytest.mark.parametrize("answer", ["y", " Yes "])
def test_yes_starts_after_the_plan(reproduce, runner, answer):
    asked = []

    def ask(question):
        asked.append((question, list(runner.lines)))
        return answer

    code, out, _ = reproduce("--scale", "paper", "--gpus", "4", gpus=8, ask=ask)
    assert code == 0
    assert asked == [("\nstart? [y/N] ", [])]
    assert len(runner.lines) == 1 + 51 + 2
    assert runner.names[:2] == ["verify", "bert-base/baseline"]
    assert runner.names[-2:] == ["figures", "report"]
    assert runner.lines[1] == (
        "torchrun --nproc-per-node 4 -m gsgd train bert-base/baseline --accumulation_steps 2 "
        "--name paper/bert-base/baseline"
    )
    assert out.splitlines()[-1] == "results/report.html"


def test_the_option_yes_does_not_ask(reproduce, runner):
    assert reproduce("--scale", "paper", "--yes", gpus=8, ask=refuse)[0] == 0
    assert len(runner.lines) == 54


@pytest.mark.parametrize(
    ("gpus", "lacks", "message"),
    [
        (0, [], "no GPU that torch can use by CUDA: the paper's runs need 8"),
        (4, [], "8 GPUs are asked for, but 4 are there: give --gpus 4 or fewer"),
        (8, ["datasets"], "not installed: datasets. Install: pip install 'gsgd[train]'"),
    ],
)
def test_what_is_missing_is_told_before_anything_starts(reproduce, runner, gpus, lacks, message, tmp_path):
    arguments = ("--scale", "paper", "--gpus", "8")
    code, out, err = reproduce(*arguments, "--yes", gpus=gpus, lacks=lacks)
    assert code == 2
    assert message in err
    assert "bert-base/loss-12" in out  # the plan is shown all the same
    # Nobody is asked what cannot be.
    code, out, err = reproduce(*arguments, gpus=gpus, lacks=lacks, ask=refuse)
    assert (code, err) == (0, "")
    assert message in out
    assert runner.lines == []
    assert not (tmp_path / "results").exists()


def test_one_gpu_is_enough_for_the_images(reproduce, runner):
    assert reproduce("--scale", "paper", "--only", "cifar100", "--yes", gpus=1)[0] == 0
    assert len(runner.lines) == 20 + 2


def test_dry_run_prints_the_commands_and_nothing_else(reproduce, runner):
    code, out, _ = reproduce("--scale", "paper", "--dry-run", "--results", "a b", lacks=["torch"])
    assert (code, runner.lines) == (0, [])
    lines = out.splitlines()
    assert len(lines) == 54
    assert all(shlex.split(line)[-2:] == ["--results", "a b"] for line in lines)


def test_options_of_the_other_scale(reproduce, runner):
    code, _, err = reproduce("--scale", "paper", "--budget", "40s", gpus=8)
    assert (code, runner.lines) == (2, [])
    assert "--budget is not for the paper scale" in err


# ---- A part of the runs ----


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("bert-base", 11), ("bert-base/loss-*", 5), ("*/same-time", 16), ("food101/*/early-1e-2", 2), ("*", 51)],
)
def test_only_some(reproduce, runner, pattern, count):
    code, _, _ = reproduce("--scale", "paper", "--only", pattern, "--yes", gpus=8)
    assert code == 0
    assert len(runner.names) == count + 2
    assert runner.names[-2:] == ["figures", "report"]


def test_only_what_is_there(reproduce, runner):
    code, _, err = reproduce("--scale", "paper", "--only", "imagenet", "--yes", gpus=8)
    assert (code, runner.lines) == (2, [])
    assert "'imagenet' matches no run" in err
    assert "cifar100/same-time" in err


# ---- Carrying it out ----

ONE = ("--scale", "paper", "--only", "food101/same-time/last-5e-2", "--yes")
NAME = "food101/same-time/last-5e-2"


def test_an_interrupted_run_goes_on_and_a_finished_one_is_done(reproduce, runner, recorded):
    runner.answers["loss-2"] = Interrupted(2)
    arguments = ("--scale", "paper", "--only", "bert-base/loss-*", "--yes")
    code, _, err = reproduce(*arguments, gpus=8)
    assert code == 130
    assert f"`gsgd reproduce {shlex.join(arguments)}` goes on from here" in err
    assert recorded("paper")["bert-base/loss-1"]["status"] == "finished"
    runner.answers.clear()
    runner.lines.clear()
    _, out, _ = reproduce(*arguments, gpus=8)
    assert runner.names == [*(f"bert-base/loss-{layer}" for layer in (2, 3, 6, 12)), "figures", "report"]
    assert "done before: 1 of 7" in out


def test_a_run_that_diverged_is_a_result(reproduce, runner, recorded, tmp_path):
    """As the paper's own two on Food-101 did at 5e-2."""
    runner.answers["train"] = 1
    runner.write(tmp_path / "results" / "paper" / NAME / "header.json", '{"status": "diverged"}')
    assert reproduce(*ONE, gpus=1)[0] == 0
    assert recorded("paper")[NAME]["status"] == "diverged"
    runner.lines.clear()
    _, out, _ = reproduce(*ONE, gpus=1)
    assert runner.names == ["figures", "report"]
    assert f"{NAME}: diverged " in out


@pytest.mark.parametrize("header", ['{"status": "running"}', "{", None])
def test_any_other_failure_is_one(reproduce, runner, tmp_path, header):
    runner.answers["train"] = 1
    if header is not None:
        runner.write(tmp_path / "results" / "paper" / NAME / "header.json", header)
    assert reproduce(*ONE, gpus=1)[0] == 1
    assert len(runner.lines) == 1


def test_days_of_work_are_kept_whatever_the_code(reproduce, runner, tmp_path):
    reproduce(*ONE, gpus=1)
    path = tmp_path / "results" / "paper" / "reproduce.json"
    path.write_text(re.sub(r'"source": "\w+"', '"source": "other"', path.read_text()))
    runner.lines.clear()
    _, out, _ = reproduce(*ONE, gpus=1)
    assert runner.names == ["figures", "report"]
    assert "by gsgd" in out
    assert "kept" in out


def test_fresh_trains_the_chosen_ones_anew_and_keeps_the_others(reproduce, runner, tmp_path, recorded):
    others = ("--scale", "paper", "--only", "food101/same-time/early-5e-2", "--yes")
    reproduce(*ONE, gpus=1)
    reproduce(*others, gpus=1)
    runner.lines.clear()
    assert reproduce(*ONE, "--fresh", gpus=1)[0] == 0
    assert runner.names == [NAME, "figures", "report"]
    assert recorded("paper")["food101/same-time/early-5e-2"]["status"] == "finished"
    asked = []
    reproduce(*ONE[:-1], "--fresh", gpus=1, ask=lambda question: asked.append(question) or "n")
    assert "removing" in asked[0]
    assert (tmp_path / "results" / "paper" / NAME / "header.json").exists()
