"""Each example as a user runs it, in its own process: the loss it prints falls, and it trains on half the rows."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def run(*command):
    """(the losses printed, rows trained on, rows that came in)."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, env=OFFLINE)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = re.search(r"trained on (\d+) of (\d+) rows", done.stdout)
    return [float(loss) for loss in re.findall(r" loss .*?([\d.]+)$", done.stdout, re.M)], int(rows[1]), int(rows[2])


@pytest.mark.parametrize(
    ("name", "needs", "steps", "rows", "more"),
    [
        pytest.param("loop", "torch", 100, 64, [], marks=pytest.mark.slow),
        pytest.param("last_seen", "torch", 150, 64, [], marks=pytest.mark.slow),
        pytest.param("accelerate_loop", "accelerate", 20, 4 * 32, [], marks=pytest.mark.slow),
        pytest.param(
            "accelerate_loop", "accelerate", 20, 4 * 32, ["--mixed-precision", "bf16"], marks=pytest.mark.slow
        ),
        pytest.param("peft_lora", "peft", 75, 64, [], marks=pytest.mark.slow),
        pytest.param("gradient_checkpointing", "torch", 40, 64, [], marks=pytest.mark.slow),
        pytest.param("trl_sft", "trl", 30, 64, ["--padded"], marks=pytest.mark.slow),
        pytest.param("lightning_fit", "lightning", 60, 64, [], marks=pytest.mark.slow),
        pytest.param("sentence_pairs", "sentence_transformers", 60, 32, [], marks=pytest.mark.slow),
    ],
)
def test_loss_falls(name, needs, steps, rows, more):
    pytest.importorskip(needs)
    losses, trained, gross = run(str(EXAMPLES / f"{name}.py"), "--steps", str(steps), "--seed", "1", *more)
    assert losses[-1] < 0.85 * losses[0]
    assert gross == steps * rows
    assert trained == gross // 2


@pytest.mark.slow
def test_accelerate_example_in_two_processes():
    pytest.importorskip("accelerate")
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    losses, trained, gross = run(*launch, str(EXAMPLES / "accelerate_loop.py"), "--steps", "20")
    assert losses[-1] < 0.85 * losses[0]
    assert (trained, gross) == (20 * 4 * 16, 20 * 4 * 32)


@pytest.mark.slow
def test_the_trl_example_keeps_half_of_the_tokens(tmp_path):
    pytest.importorskip("trl")
    command = [sys.executable, str(EXAMPLES / "trl_sft.py"), "--steps", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=OFFLINE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(loss) for loss in re.findall(r" loss .*?([\d.]+)$", done.stdout, re.M)]
    kept, gross = map(int, re.search(r"trained on (\d+) of (\d+) tokens", done.stdout).groups())
    assert losses[-1] < 0.85 * losses[0]
    assert 0.45 * gross < kept <= 0.5 * gross


@pytest.mark.slow
def test_the_example_of_tokens_leaves_noise_out():
    command = [sys.executable, str(EXAMPLES / "token_level.py"), "--steps", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=OFFLINE)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(loss) for loss in re.findall(r" loss .*?([\d.]+)$", done.stdout, re.M)]
    kept, gross = map(int, re.search(r"trained on (\d+) of (\d+) tokens", done.stdout).groups())
    assert losses[-1] < 0.85 * losses[0]
    assert kept == pytest.approx(gross / 2, rel=0.01)
    assert int(re.search(r"(\d+)% of the tokens that count can be learnt", done.stdout)[1]) > 70


def test_examples_are_short():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 80, path.name


@pytest.mark.slow
def test_a_problem_of_ones_own_is_examined(tmp_path):
    """Its bounds hold on real data, and it leaves the data and the picture."""
    pytest.importorskip("sklearn")
    command = [sys.executable, str(EXAMPLES / "examine.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=OFFLINE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    bounds = [line.split()[-1] for line in done.stdout.splitlines() if re.match(r"S?GSGD|SGD", line) and "0." in line]
    assert bounds.count("yes") >= 8
    assert "no" not in bounds
    assert {path.name for path in tmp_path.iterdir()} == {"breast_cancer.csv", "breast_cancer.svg"}
