"""`gsgd train`: exit codes, messages and options; the presets on the data that come with the package."""

import argparse
import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from gsgd.cli import main
from gsgd.commands.arguments import add_keys, name_keys, take_keys
from gsgd.locks import one_writer
from gsgd.sift.options import SiftOptions
from training.config import load, presets
from training.run_folder.records import read_evaluations

BASE = 'task = "tiny"\nbatch_size = 8\nbudget = "12steps"\nevaluations = 3\ntensorboard = false\n'


@pytest.fixture
def train(gsgd, tmp_path):
    """`train(argument, ...)` in an empty folder with a configuration tiny.toml: (exit code, stdout, stderr)."""
    (tmp_path / "tiny.toml").write_text(BASE)
    return lambda *arguments, command="train": gsgd(command, *arguments)


def test_a_run(train, tmp_path):
    code, out, err = train("tiny.toml", "--method", "loss@1", "--seed=3", "--max-lr", "1e-2")
    assert code == 0
    folder = tmp_path / "results" / "tiny-loss@1-seed3"
    found = read_evaluations(folder)
    assert [row.step for row in found] == [4, 8, 12]
    last = found[-1]
    assert f"validation accuracy {last.val_accuracy:.4f}" in out
    out = " ".join(out.split())
    assert "after 12 steps, 96 backpropagated samples" in out
    assert re.search(r"\(\d+\.\d% selection\)", out)
    assert "finished; results in results/tiny-loss@1-seed3" in out
    # One line an evaluation, as it runs.
    assert len(re.findall(r"step +\d+ .* accuracy", err)) == 3
    assert train("tiny.toml", "--method", "loss@1", "--seed=3", "--max-lr", "1e-2")[0] == 0


def test_numbers_go_to_a_file_of_ones_own(train, tmp_path):
    assert train("tiny.toml", "--json", "found.json")[0] == 0
    found = json.loads((tmp_path / "found.json").read_text())
    last = read_evaluations(tmp_path / "results" / "tiny-baseline-seed0")[-1]
    assert (found["status"], found["config"]["budget"]) == ("finished", "12steps")
    assert found["evaluations"][-1]["val_accuracy"] == last.val_accuracy
    assert train("tiny.toml", "--json", ".")[0] == 2


def test_names_and_folders(train, tmp_path):
    assert train("tiny.toml", "--name", "mine", "--results", "elsewhere")[0] == 0
    assert (tmp_path / "elsewhere" / "mine" / "header.json").exists()


def test_a_loss_that_never_was_finite_is_not_laid_to_the_learning_rate(train, tiny_module, monkeypatch):
    inner = tiny_module.TinyTask.training_batch

    def without_numbers(self, rows, epoch):
        batch = inner(self, rows, epoch)
        return {**batch, "x": batch["x"] * float("nan")}

    monkeypatch.setattr(tiny_module.TinyTask, "training_batch", without_numbers)
    code, _, err = train("tiny.toml")
    assert code == 1
    assert "the loss was not finite from the first step on" in err
    assert "max_lr" not in err


def test_divergence_is_1(train):
    code, out, err = train("tiny.toml", "--max_lr", "1e30", "--batch_normalised", "false", "--budget", "40steps")
    assert code == 1
    assert "diverged" in out
    assert "the loss is not finite any more" in err
    assert "max_lr" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which CONFIG"),
        (["nowhere"], "no configuration 'nowhere'"),
        (["tiny.toml", "--name", ""], "--name '' must be a folder under the results"),
        (["resnet-tny"], "presets: resnet-tiny"),
        (["tiny.toml", "--batchsize", "3"], "no key 'batchsize' for task = tiny; did you mean batch_size?"),
        (["tiny.toml", "--max_lr", "quick"], "max_lr = 'quick' must be a valid number"),
        (["tiny.toml", "--budget", "600"], "budget = '600' must be a number above 0 and a unit"),
        (
            ["tiny.toml", "--method", "loss"],
            "method = 'loss' must be baseline, random, last-seen, infobatch, importance, focal, loss-power, "
            "class-balanced, proxy, or SCORE",
        ),
        (["tiny.toml", "--method", "loss@7"], "exit_layer = 7 must be a whole number in 1..2"),
        (["tiny.toml", "--batch_size", "100"], "a gross batch has 100 rows, but the training set 64"),
        (["tiny.toml", "--batch_size", "-8"], "batch_size = '-8' must be greater than or equal to 1"),
        (["tiny.toml", "--trim", "0.6", "--method", "loss@1"], "trim = 0.6 and keep = 0.5"),
        (["--keys", "vit"], "the tasks are bert, passages, resnet"),
        # Not short for --overwrite: options are not abbreviated.
        (["tiny.toml", "--over", "true"], "no key 'over'"),
        (["tiny.toml", "--nam", "x"], "no key 'nam'"),
        (["tiny.toml", "--KEY", "3"], "no key 'KEY'"),
    ],
)
def test_bad_usage_is_2_and_named(train, arguments, message, tmp_path):
    code, out, err = train(*arguments)
    assert code == 2
    assert err.startswith("gsgd train: ")
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", [".", "..", "a/../..", "/elsewhere", "./", " ", "a\nb", "a\0"])
@pytest.mark.parametrize("command", [["train"], ["train", "--overwrite"], ["compare", "--methods", "baseline"]])
def test_a_name_is_of_a_folder_under_the_results(train, tmp_path, name, command):
    before = sorted(tmp_path.rglob("*"))
    code, _, err = train("tiny.toml", "--name", name, *command[1:], command=command[0])
    assert code == 2
    assert f"--name {name!r} must be a folder under the results" in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["group/link/run", "group/link/new", "link/run", "group/link", "group/link/"])
def test_what_is_in_a_link_is_not_overwritten(train, tmp_path, name):
    assert train("tiny.toml", "--name", "elsewhere/run")[0] == 0
    results = tmp_path / "results"
    (results / "group").mkdir()
    (results / "group" / "link").symlink_to(results / "elsewhere")
    (results / "link").symlink_to(results / "elsewhere")
    before = {path: path.is_file() and path.read_bytes() for path in results.rglob("*")}
    code, _, err = train("tiny.toml", "--name", name, "--overwrite", "--seed", "1")
    assert code == 2
    assert "link is a link: what is in it is not overwritten" in err
    assert {path: path.is_file() and path.read_bytes() for path in results.rglob("*")} == before


def test_a_run_that_had_ended_before_says_so(train):
    assert "nothing was trained now" not in train("tiny.toml")[1]
    code, out, _ = train("tiny.toml")
    assert (code, "finished; results in" in out, "nothing was trained now" in out) == (0, True, True)


def test_a_finished_run_is_told_of_on_a_disk_that_cannot_be_written_to(train, monkeypatch):
    assert train("tiny.toml")[0] == 0
    monkeypatch.setattr(pathlib.Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EROFS, "no")))
    code, out, _ = train("tiny.toml")
    assert (code, "finished; results in" in out) == (0, True)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of this system")
@pytest.mark.parametrize("limit", [0, 100, 2500, 6000])
def test_a_disk_that_takes_no_more_is_a_sentence(train, tmp_path, capsys, limit):
    """The system refuses to write past so many bytes of any file, header, table, checkpoint or model."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[0][1]))
    try:
        code = main(["train", "tiny.toml", "--method", "loss@1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])
    assert code == 2
    err = capsys.readouterr().err
    said = [
        line for line in err.splitlines() if line.startswith("gsgd train: cannot write to results/tiny-loss@1-seed0")
    ]
    assert len(said) == 1, err
    assert "File too large (" in said[0]
    assert said[0].endswith(" free there)")
    assert not list(tmp_path.rglob("*.tmp"))


def test_wait_is_for_the_command_that_writes_there(train, tmp_path):
    held = threading.Event()

    def hold():
        with one_writer(tmp_path / "results" / "run"):
            held.set()
            time.sleep(0.5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    code, _, err = train("tiny.toml", "--name", "run")
    assert code == 2
    assert f"run is being written to by process {os.getpid()} on " in err
    code, _, err = train("tiny.toml", "--name", "run", "--wait")
    thread.join()
    assert code == 0
    assert "waiting for its end" in err


def test_another_configuration_in_the_folder_is_2(train):
    assert train("tiny.toml")[0] == 0
    code, _, err = train("tiny.toml", "--max_lr", "0.5")
    assert code == 2
    assert "max_lr (0.001 there, 0.5 here)" in err
    assert train("tiny.toml", "--max_lr", "0.5", "--overwrite")[0] == 0


def test_interrupted_is_130_and_the_same_command_goes_on(train, interrupting, tmp_path):
    with interrupting(lambda training: training.step == 5):
        code, out, _ = train("tiny.toml")
    assert code == 130
    assert "interrupted; results in" in out
    assert "the same command goes on from here" in out
    code, out, err = train("tiny.toml")
    assert code == 0
    assert "going on from step 5 of 12" in err
    assert [row.step for row in read_evaluations(tmp_path / "results" / "tiny-baseline-seed0")] == [4, 8, 12]


def test_help_shows_examples_and_launch_lines(train, capsys):
    with pytest.raises(SystemExit) as caught:
        train("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "gsgd train bert-tiny" in text
    for launch in ("--nproc-per-node 8", "--nnodes 2 --nproc-per-node 8", "accelerate launch --num_processes 8"):
        assert launch in text
    said = " ".join(text.split())
    assert "exit code: 0 when the run is finished, 1 if it diverged, 2 for bad usage, 130 if it was interrupted" in said
    # What it names exists.
    for name in re.findall(r"gsgd train ([a-z][\w/-]+)(?= )", text):
        assert name in presets()


def test_the_list_of_presets(train):
    code, out, _ = train("--list")
    assert code == 0
    # What a preset is stands behind its name, or below it.
    names = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    assert names == list(presets())
    assert "bert-base/loss-1 BERT-base, loss-based SIFT" in " ".join(out.split())
    food = "food101/same-time/last-5e-3 ResNet-50 on Food-101, SIFT with the last layer as exit, max_lr"
    assert food in " ".join(out.split())


@pytest.mark.parametrize("task", ["bert", "resnet"])
def test_the_list_of_keys_has_every_key(train, task):
    code, out, _ = train("--keys", task)
    assert code == 0
    listed = set(re.findall(r"^  (\w+) = ", out, flags=re.MULTILINE))
    preset = {"bert": "bert-tiny", "resnet": "resnet-tiny"}[task]
    assert listed == set(load(preset).values()) - {"task"}
    said = " ".join(out.split())
    assert f"check = True {SiftOptions.help()['check']}" in said
    assert "early_loss = 0.0 what the early classifier's own loss counts" in said or task == "bert"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny.toml", "--max_lr"], "--max_lr: expected one argument"),
        (["tiny.toml", "--max_lr", "--seed", "3"], "--max_lr: expected one argument"),
        (["tiny.toml", "extra"], "unrecognized arguments: extra"),
        (["tiny.toml", "-x", "3"], "unrecognized arguments: -x 3"),
    ],
)
def test_what_is_no_key_with_a_value_is_2(train, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        train(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_keys_are_read_beside_a_commands_own_options():
    def parse(*arguments):
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("config")
        parser.add_argument("--seeds", type=int, default=3)
        add_keys(parser, "another value of a key")
        name_keys(parser, arguments)
        options = parser.parse_args(arguments)
        take_keys(options)
        return vars(options)

    keys = {"a": "2", "b_c": "2=3", "d": "-4", "seed": "5", "config": "y"}
    found = parse("--a", "1", "x.toml", "--b-c=2=3", "--d", "-4", "--seed", "5", "--a", "2", "--config", "y")
    assert found == {"config": "x.toml", "seeds": 3, "key_values": keys}
    assert parse("x") == {"config": "x", "seeds": 3, "key_values": {}}
    assert parse("x", "--KEY", "1")["key_values"] == {"KEY": "1"}


# ---- The presets, on what comes with the package ----


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


SHORT = ["--budget", "2steps", "--evaluations", "1", "--batch_size", "4", "--tensorboard", "false"]


@pytest.mark.parametrize("method", ["baseline", "loss@1"])
def test_resnet_tiny_runs(train, cache, tmp_path, method):
    code, out, err = train("resnet-tiny", *SHORT, "--method", method, "--test", "true", "--cache_dir", cache)
    assert code == 0, err
    assert "test accuracy 0." in out
    (row,) = read_evaluations(tmp_path / "results" / f"resnet-tiny-{method}-seed0")
    assert (row.step, row.backprop_samples) == (2, 8)


@pytest.mark.parametrize("method", ["entropy@2"])
def test_bert_tiny_runs(train, cache, tmp_path, method):
    small = ["--layers", "2", "--hidden_size", "16", "--intermediate_size", "16", "--max_validation_rows", "64"]
    code, _, err = train(
        "bert-tiny", *SHORT, *small, "--method", method, "--cache_dir", cache, "--quality_batches", "1"
    )
    assert code == 0, err
    (row,) = read_evaluations(tmp_path / "results" / f"bert-tiny-{method}-seed0")
    assert (row.step, row.gross_samples, row.exit_layer) == (2, 16, 2)
    assert 0 <= row.overlap <= 1


@pytest.mark.slow
def test_ctrl_c_of_a_process_of_its_own(cache, tmp_path):
    """As a user does it: SIGINT while it trains; then the same command again."""
    command = [sys.executable, "-m", "gsgd", "train", "resnet-tiny", "--results", str(tmp_path), "--name", "run"]
    command += ["--cache_dir", cache, "--budget", "60steps", "--evaluations", "30", "--batch_size", "4"]
    command += ["--tensorboard", "false", "--save_model", "false", "--validation_share", "0.01"]
    options = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, **options)
    try:
        deadline = time.monotonic() + 90
        while not (tmp_path / "run" / "evaluations.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(timeout=10)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted; results in" in out
    seen = len(read_evaluations(tmp_path / "run"))
    assert 1 <= seen < 30
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [row.step for row in read_evaluations(tmp_path / "run")] == list(range(2, 61, 2))


# ---- They learn ----


@pytest.mark.slow
def test_resnet_tiny_learns_in_under_three_minutes(train, cache, tmp_path):
    """Ten classes, as many images of each: guessing has .1. A linear classifier on the pixels comes to about .8."""
    begin = time.process_time()
    code, _, err = train("resnet-tiny", "--cache_dir", cache)
    assert code == 0, err
    # Seconds of two cores, so that others on the machine do not count.
    assert time.process_time() - begin < 2 * 180
    task = load("resnet-tiny", {"cache_dir": cache}).build_task()
    labels = torch.cat([batch["labels"] for batch in task.held_out("validation", 1000)])
    majority = float(torch.bincount(labels).max()) / len(labels)
    assert majority < 0.11
    accuracies = [row.val_accuracy for row in read_evaluations(tmp_path / "results" / "resnet-tiny-baseline-seed0")]
    assert accuracies[-1] > majority + 0.6


@pytest.mark.slow
def test_bert_tiny_learns_in_under_three_minutes(train, cache, tmp_path):
    """Masked tokens: guessing the most frequent one is the best a model does that looks at nothing."""
    begin = time.process_time()
    code, _, err = train("bert-tiny", "--cache_dir", cache)
    assert code == 0, err
    # Seconds of two cores, so that others on the machine do not count.
    assert time.process_time() - begin < 2 * 180
    task = load("bert-tiny", {"cache_dir": cache}).build_task()
    labels = torch.cat([batch["labels"].flatten() for batch in task.held_out("validation", 256)])
    labels = labels[labels >= 0]
    most_frequent = float(torch.bincount(labels).max()) / len(labels)
    accuracies = [row.val_accuracy for row in read_evaluations(tmp_path / "results" / "bert-tiny-baseline-seed0")]
    # Four standard deviations of that guess's accuracy above it: by luck once in 30,000 runs.
    assert accuracies[-1] > most_frequent + 4 * (most_frequent * (1 - most_frequent) / len(labels)) ** 0.5
    assert accuracies[-1] > accuracies[0]
