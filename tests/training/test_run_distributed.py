"""`gsgd train` on two processes (gloo, on the CPU), interrupted and gone on with, against one process.

Every wait is bounded, so that a hang fails the test; torchrun ends its workers when it is ended.
"""

import json
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import cross_entropy

from training.data.order import Order
from training.run_folder.metering import read_meters
from training.run_folder.records import read_evaluations
from training.sampled import SampledOrder
from training.settings import TrainingSettings

if not torch.distributed.is_available():
    pytest.skip("torch is built without torch.distributed", allow_module_level=True)

WORKER = pathlib.Path(__file__).with_name("rank_worker.py")
INTERFACE = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
STEPS, LR, ROWS = 45, 0.01, 64
CONFIG = f"""\
task = "tiny"
method = "loss@1"
batch_size = 8
rows = {ROWS}
dropout = 0.0
batch_normalised = false
budget = "{STEPS}steps"
evaluations = 9
evaluation_batch_size = 3
meter_every = 7
max_lr = {LR}
weight_decay = 0.1
schedule = "linear"
tensorboard = false
test = true
"""


class Launched:
    """torchrun with two workers; its output goes to a file, so that nobody waits for a pipe."""

    def __init__(self, folder, *arguments):
        # Without ACCELERATE_USE_CPU, as a user starts it: on a machine without a GPU the processes must still find
        # each other.
        environment = {**os.environ, **INTERFACE, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("ACCELERATE_USE_CPU", None)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(WORKER)]
        command += [*map(str, arguments), "tiny.toml", "--results", "results", "--name", "run"]
        self.output = folder / "output.txt"
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()  # torchrun ends its workers then
            try:
                self.process.wait(timeout=45)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=10)

    def text(self):
        return self.output.read_text()


def reference(tiny_module):
    """One process that averages the gradients of the two ranks' shares."""
    settings = tiny_module.TinySettings(rows=ROWS, dropout=0.0, batch_normalised=False)
    task = tiny_module.TinyTask(settings, 0)
    torch.manual_seed(0)
    model = task.build_model()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}])
    order, losses = Order(ROWS, 0), []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * (STEPS - step) / STEPS
        rows, epoch = order.take(32)
        for share in (rows[:16], rows[16:]):
            batch = task.training_batch(share, epoch)
            with torch.no_grad():
                scores = cross_entropy(model.early_logits(1, batch["x"]), batch["labels"], reduction="none")
            kept = np.argsort(-scores.numpy(), kind="stable")[:8]
            loss = model(batch["x"][kept], batch["labels"][kept]).loss
            (loss / 2).backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    accuracies = {}
    model.eval()
    for split in ("validation", "test"):
        with torch.no_grad():
            (batch,) = task.held_out(split, 20)
            logits = model(batch["x"]).logits
        accuracies[split] = float((logits.argmax(1) == batch["labels"]).double().mean())
        if split == "validation":
            val_loss = float(cross_entropy(logits, batch["labels"]))
    return model, losses, accuracies, val_loss


@pytest.mark.slow
def test_two_ranks_interrupted_equal_one_process(tiny_module, tmp_path):
    (tmp_path / "tiny.toml").write_text(CONFIG)
    folder = tmp_path / "results" / "run"
    with Launched(tmp_path, 0.1) as launched:
        deadline = time.monotonic() + 120
        while not (folder / "evaluations.csv").exists() and time.monotonic() < deadline:
            assert launched.process.poll() is None, launched.text()
            time.sleep(0.02)
        launched.process.send_signal(signal.SIGINT)
        launched.process.wait(timeout=60)
        text = launched.text()
    header = json.loads((folder / "header.json").read_text())
    assert (header["status"], header["processes"]) == ("interrupted", 2), text
    assert 0 < header["steps_done"] < STEPS
    assert (folder / "checkpoint.pt").exists()
    assert text.count("interrupted; results in") == 1
    seen = read_evaluations(folder)

    with Launched(tmp_path, 0.0) as launched:
        assert launched.process.wait(timeout=120) == 0, launched.text()
        text = launched.text()
    assert f"going on from step {header['steps_done']} of {STEPS}" in text
    assert text.count("finished; results in") == 1
    found = read_evaluations(folder)
    assert found[: len(seen)] == seen
    assert [row.step for row in found] == [5, 10, 15, 20, 25, 30, 35, 40, 45]
    readings = read_meters(folder)
    assert [(row["step"], row["rows"]) for row in readings] == [(step, 16) for step in range(0, 45, 7)]
    assert (found[-1].backprop_samples, found[-1].gross_samples) == (STEPS * 16, STEPS * 32)

    model, losses, accuracies, val_loss = reference(tiny_module)
    weights = torch.load(folder / "model" / "pytorch_model.bin", weights_only=True)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)
    header = json.loads((folder / "header.json").read_text())
    assert found[-1].val_accuracy == pytest.approx(accuracies["validation"], abs=1e-12)
    assert found[-1].val_loss == pytest.approx(val_loss, rel=1e-3)
    assert header["test_accuracy"] == pytest.approx(accuracies["test"], abs=1e-12)
    # Ten losses, of two ranks and five steps, since the evaluation before.
    for row in found:
        assert row.train_loss == pytest.approx(math.fsum(losses[2 * (row.step - 5) : 2 * row.step]) / 10, rel=1e-3)


DAMAGED, NO_LABELS, GONE = "a row is damaged", "scoring needs `labels` in the batch", "another process has ended"
DISAGREEMENTS = {
    # What differs: exit code of the process that differs, of the other one, and what is said.
    **dict.fromkeys(("data", "model", "first row", "row", "forward pass"), (2, 2, DAMAGED)),
    **dict.fromkeys(("held-out rows", "judgement", "table"), (2, 2, DAMAGED)),
    "full disk": (2, 2, "cannot write to checkpoint.pt: No space left on device"),
    "memory": (1, 2, "MemoryError: none left"),
    "programming error": (1, 2, "KeyError: 'x'"),
    **dict.fromkeys(("no labels", "no labels from the start"), (2, 2, NO_LABELS)),
    "impossible labels": (2, 2, "must be in 0..2"),
    "wider rows": (1, 2, "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    "fewer rows": (0, 0, "finished; results in"),
    **dict.fromkeys(("nan", "inf"), (1, 1, "the loss is not finite any more")),
    "nan from the start": (1, 1, "the loss was not finite from the first step on"),
    **dict.fromkeys(("slow", "results"), (0, 0, "finished; results in")),
    **dict.fromkeys(("killed before it reads data", "killed in a step"), (-signal.SIGKILL, 2, GONE)),
    **dict.fromkeys(("killed in an evaluation", "killed while it saves"), (-signal.SIGKILL, 2, GONE)),
    "ended": (3, 2, GONE),
    **dict.fromkeys(("Ctrl-C", "terminated"), (130, 130, "interrupted; results in")),
    "seed": (2, 2, "all processes must have the same configuration: seed is "),
    "selection": (2, 2, "all processes must have the same configuration: method is "),
    "budget": (2, 2, "configuration: budget is '20steps' for process 0, but '10steps' for process 1"),
    "batch": (2, 2, "all processes must have the same configuration: batch_size is 2 for process 0"),
    "evaluations": (2, 2, "configuration: evaluations is 2 for process 0, but 5 for process 1"),
    "rows": (2, 2, "all processes must have the same configuration: rows is 48 for process 0"),
    "run that is there": (2, 2, "run in results/run: status is None for process 0, but 'interrupted' for process 1"),
    "content of the data": (2, 2, "the same data: source is 'tiny' for process 0, but 'another' for process 1"),
    "value": (2, 2, "max_lr = 'fast' must be a valid number"),
    "key": (2, 2, "no key 'max_rl'"),
    "too few rows": (2, 2, "a gross batch has 80 rows, but the training set 32"),
}


@pytest.mark.slow
def test_processes_that_disagree_end_alike_or_go_on(tmp_path):
    """Each try has 10 seconds, 1 of which it needs; all share the imports of one process."""
    worker = WORKER.with_name("disagreeing_worker.py")
    environment = {**os.environ, **INTERFACE, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("ACCELERATE_USE_CPU", None)
    done = subprocess.run([sys.executable, worker, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tries = json.loads(done.stdout)
    assert len(tries) >= 50
    assert {name.rpartition(", ")[0] for name in tries} == set(DISAGREEMENTS)
    for name, ends in tries.items():
        what, _, differs = name.rpartition(", ")
        its, others, words = DISAGREEMENTS[what]
        codes = [end["code"] for end in ends]
        assert codes == ([others, its] if differs == "1" else [its, others]), (name, ends)
        speaks = 1 if differs == "0" and words == GONE else 0
        # A fault of the program is shown as one where it is, and in words where it is not.
        fault = ends[int(differs)]["said"] if its == 1 and others == 2 else ""
        said = [line for end in ends for line in end["said"].splitlines() if line.startswith("gsgd train: ")]
        if others == 2:
            assert len(said) == (0 if fault and differs == "0" else 1), (name, ends)
        assert words in (fault if fault and differs == "0" else ends[speaks]["said"]), (name, ends)
        shown = [int(differs)] if fault else []
        assert [n for n, end in enumerate(ends) if "Traceback" in end["said"]] == shown, (name, ends)


@pytest.mark.slow
def test_without_a_launcher_the_others_say_in_one_sentence_that_the_keeper_of_the_store_was_killed(tmp_path):
    """Process 0 keeps torch's store; without gsgd's own word torch would show the stack of its C++."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    shared |= {**INTERFACE, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gsgd", "train", "resnet-tiny", "--batch_size", "8", "--budget", "9000steps"]
    command += [
        "--tensorboard",
        "false",
        "--name",
        "run",
        "--train_limit",
        "512",
        "--cache_dir",
        str(tmp_path / "cache"),
    ]
    keeper, other = (
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    )
    while not (tmp_path / "results" / "run" / "header.json").exists():
        assert keeper.poll() is None
        time.sleep(0.1)
    time.sleep(2.0)  # in its steps
    keeper.kill()
    said = other.communicate(timeout=60)[1]
    keeper.communicate()
    assert other.returncode == 2
    assert said == f"gsgd train: {GONE}; the same command goes on from the last checkpoint\n"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["infobatch", "importance"])
def test_a_sampler_over_two_processes_chooses_and_weighs_as_over_one(tmp_path, tiny_module, method):
    """Row by row of the log: ids, weights and losses of one process that averages both ranks' gradients."""
    changed = {"method": f'"{method}"', "budget": '"30steps"', "schedule": '"constant"', "weight_decay": "0.0"}
    lines = [line for line in CONFIG.splitlines() if line.split(" =")[0] not in {*changed, "meter_every"}]
    lines += [f"{name} = {value}" for name, value in {**changed, "log_rows": "true"}.items()]
    (tmp_path / "tiny.toml").write_text("\n".join(lines) + "\n")
    with Launched(tmp_path, 0.0) as launched:
        assert launched.process.wait(timeout=120) == 0, launched.text()
    folder = tmp_path / "results" / "run" / "rows"
    logged = [pq.read_table(folder / f"rank-{rank}-part-000000.parquet").to_pylist() for rank in range(2)]

    settings = tiny_module.TinySettings(rows=ROWS, dropout=0.0, batch_normalised=False)
    task = tiny_module.TinyTask(settings, 0)
    torch.manual_seed(0)
    model = task.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    order = SampledOrder(TrainingSettings(method=method, batch_size=8), ROWS, 30, ranks=2, rank=0)
    for step in range(30):
        parts = []
        order.take()
        for ids, weights in list(order.sampler._handed)[-2:]:
            batch = task.training_batch(np.array(ids), order.sampler.epoch)
            each = cross_entropy(model(x=batch["x"]).logits, batch["labels"], reduction="none")
            parts.append((ids, weights, each))
        for rank, (ids, weights, each) in enumerate(parts):
            rows = logged[rank][8 * step : 8 * (step + 1)]
            assert [row["id"] for row in rows] == ids, (step, rank)
            assert [row["weight"] for row in rows] == pytest.approx(weights, rel=1e-4)
            assert [row["loss"] for row in rows] == pytest.approx(each.tolist(), rel=1e-3, abs=1e-5)
        loss = sum((torch.tensor(weights) * each).mean() for _, weights, each in parts) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for ids, _, each in parts:
            order.sampler.note(torch.tensor(ids), each)
        order.sampler.step = step + 1  # two notes of one process are one of each of two
