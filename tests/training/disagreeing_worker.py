"""Two processes of a run that disagree, for test_run_distributed.py: python disagreeing_worker.py FOLDER [TRY...].

Prints JSON: name of the try -> [(exit code, output) of each process]; the exit code is null of one that did not end.

Torch is imported once; the two processes of a try are forks of this one, which itself never computes anything. Each
goes through the whole command line and ends as a process does. As with torchrun, the store in which they find each
other outlives them; in every third try the first process keeps it, as where a cluster's own launcher starts them.
"""

import functools
import gc
import json
import os
import pathlib
import signal
import socket
import sys
import time

import tiny
import torch
from torch.distributed import TCPStore

from gsgd import cli
from training import precision  # noqa: F401 (which the command imports when it is called)
from training.run import loop
from training.run.resumption import Unfinished
from training.run_folder import checkpoint
from training.run_folder.records import Records
from training.training import Training

LIMIT_S = 10.0
FILE = """\
task = "tiny"
method = "loss@1"
batch_size = 4
rows = 32
budget = "20steps"
evaluations = 2
evaluation_batch_size = 5
tensorboard = false
"""
# Of 32 rows a step of both processes takes 16, so that an epoch is two steps.
ITS_BATCH, ITS_STEP = tiny.TinyTask.training_batch, Training.train_step


def raising(error):
    def fail(*arguments, **options):
        raise error

    return fail


def killed(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)


def after(calls, owner, name, action):
    """Once so many calls of `owner.name` are over, the action takes the place of each."""
    inner, seen = getattr(owner, name), []

    @functools.wraps(inner)
    def patched(*arguments, **options):
        seen.append(1)
        return (action if len(seen) > calls else inner)(*arguments, **options)

    return lambda: setattr(owner, name, patched)


def batches(change, first_epoch=1):
    """Batches that are changed from an epoch on."""

    def changed(self, rows, epoch):
        batch = ITS_BATCH(self, rows, epoch)
        return change(batch) if epoch >= first_epoch else batch

    return lambda: setattr(tiny.TinyTask, "training_batch", changed)


def without_labels(batch):
    return {"x": batch["x"]}


def times(number):
    return lambda batch: {**batch, "x": batch["x"] * number}


def fewer_rows(batch):
    return {name: value[:-1] for name, value in batch.items()}


def impossible_labels(batch):
    return {**batch, "labels": batch["labels"] + 100}


def wider_rows(batch):
    return {**batch, "x": torch.cat([batch["x"], batch["x"]], dim=1)}


def other_data():
    its_init = tiny.TinyTask.__init__

    def init(self, settings, seed):
        its_init(self, settings, seed)
        self.description = {"source": "another"}

    tiny.TinyTask.__init__ = init


def slow(batch):
    time.sleep(0.05)
    return batch


def interrupted(number):
    def step(self):
        if self.step == 3:
            os.kill(os.getpid(), number)
        ITS_STEP(self)

    return after(0, Training, "train_step", step)


DAMAGED, FULL = ValueError("a row is damaged"), OSError(28, "No space left on device", "checkpoint.pt")


TRIES = {}
"""Name -> (the process that differs, how: what it calls first, or more words of its command)."""


def differing(name, how, processes=(0, 1)):
    for process in processes:
        TRIES[f"{name}, {process}"] = process, how


differing("data", after(0, tiny.TinyTask, "__init__", raising(DAMAGED)))
differing("model", after(0, tiny.TinyTask, "build_model", raising(DAMAGED)))
differing("first row", after(0, tiny.TinyTask, "training_batch", raising(DAMAGED)))
differing("row", after(3, tiny.TinyTask, "training_batch", raising(DAMAGED)))
differing("forward pass", after(3, tiny.TinyModel, "forward", raising(DAMAGED)))
differing("held-out rows", after(0, tiny.TinyTask, "held_out", raising(DAMAGED)))
differing("judgement", after(1, tiny.TinyTask, "judge", raising(DAMAGED)))
differing("table", after(0, Records, "add", raising(DAMAGED)), [0])
differing("full disk", after(0, checkpoint, "save", raising(FULL)), [0])
differing("memory", after(3, tiny.TinyTask, "training_batch", raising(MemoryError("none left"))))
differing("programming error", after(3, tiny.TinyTask, "training_batch", raising(KeyError("x"))))
differing("no labels", batches(without_labels))
differing("no labels from the start", batches(without_labels, 0))
differing("impossible labels", batches(impossible_labels))
differing("wider rows", batches(wider_rows))
differing("fewer rows", batches(fewer_rows))
differing("nan", batches(times(float("nan"))))
differing("nan from the start", batches(times(float("nan")), 0))
differing("inf", batches(times(float("inf"))))
differing("slow", batches(slow))
differing("killed before it reads data", after(0, tiny.TinyTask, "__init__", killed))
differing("killed in a step", after(3, tiny.TinyTask, "training_batch", killed))
differing("killed in an evaluation", after(0, tiny.TinyTask, "judge", killed))
differing("killed while it saves", after(0, checkpoint, "save", killed), [0])
differing("ended", after(3, tiny.TinyTask, "training_batch", raising(SystemExit(3))))
differing("Ctrl-C", interrupted(signal.SIGINT))
differing("terminated", interrupted(signal.SIGTERM))
differing("seed", ["--seed", "1"])
differing("selection", ["--method", "baseline"])
differing("budget", ["--budget", "10steps"], [1])
differing("batch", ["--batch_size", "2"], [0])
differing("evaluations", ["--evaluations", "5"], [1])
differing("rows", ["--rows", "48"], [0])
differing("value", ["--max_lr", "fast"])
differing("key", ["--max_rl", "1"])
differing("results", ["--results", "elsewhere"], [1])
differing(
    "run that is there", after(0, loop, "what_is_there", lambda *_: Unfinished({"status": "interrupted"}, [])), [1]
)
differing("content of the data", other_data, [1])
differing("too few rows", ["--batch_size", "20"], [None])


def one_process(process, how, address, folder):
    """`gsgd train` in a process of its own, to its end."""
    os.chdir(folder)
    output = os.open(f"process-{process}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    here = {"RANK": str(process), "LOCAL_RANK": str(process), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(here | address)
    arguments = ["train", "tiny.toml", "--results", "results", "--name", "run"]
    if callable(how):
        how()
    elif how is not None:
        arguments += how
    raise SystemExit(cli.main(arguments))


def kept_by_another():
    """(process that keeps a store, its port)."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(write, str(store.port).encode())
        signal.pause()
    return child, os.read(read, 10).decode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def ended(children):
    """Exit codes of the processes; None of one that had to be killed at the limit."""
    codes, until = [None for _ in children], time.monotonic() + LIMIT_S
    while None in codes and time.monotonic() < until:
        time.sleep(0.01)
        for place, child in enumerate(children):
            if codes[place] is None and (found := os.waitpid(child, os.WNOHANG))[0]:
                codes[place] = os.waitstatus_to_exitcode(found[1])
    for code, child in zip(codes, children, strict=True):
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return codes


def attempt(name, folder, by_another):
    """{exit code, output} of each of the two processes."""
    differs, how = TRIES[name]
    folder.mkdir()
    (folder / "tiny.toml").write_text(FILE)
    keeper, port = kept_by_another() if by_another else (None, free_port())
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": str(by_another)}
    children = []
    for process in (0, 1):
        if (child := os.fork()) == 0:
            one_process(process, how if differs in (process, None) else None, address, folder)
        children.append(child)
    begin = time.monotonic()
    codes = ended(children)
    if keeper is not None:
        os.kill(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)
    print(f"{name}: {codes} after {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
    return [{"code": code, "said": (folder / f"process-{n}.txt").read_text()} for n, code in enumerate(codes)]


if __name__ == "__main__":
    gc.freeze()  # every run begins and ends with a collection of garbage
    torch.set_num_threads(1)
    tiny.register()
    root, names = pathlib.Path(sys.argv[1]), sys.argv[2:] or list(TRIES)
    print(json.dumps({name: attempt(name, root / str(n), n % 3 > 0) for n, name in enumerate(names)}))
