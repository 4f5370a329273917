"""Runs that are killed, for test_run.py: python run_worker.py FOLDER prints what became of each as JSON.

With "random" behind it a run and a comparison are killed at random moments, 20 times each, and then left to their end.

Torch is imported once; each run is a fork of this process, which itself never computes anything.
"""

import csv
import functools
import gc
import json
import os
import pathlib
import random
import signal
import sys
import time
import traceback

import tiny
import torch
from accelerate import Accelerator

from training import config
from training.comparison.compare import compare
from training.comparison.contenders import parse_contender
from training.run import loop as runs
from training.run_folder import checkpoint, records

VALUES = {
    "task": "tiny",
    "method": "loss@1",
    "select": "selective-backprop",
    "schedule": "one-cycle",
    "batch_size": 8,
    "budget": "12steps",
    "evaluations": 3,
    "meter_every": 3,
    "tensorboard": False,
    "test": True,
}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name, count=1, when=lambda *_: True):
    """Die before the count-th call of `owner.name` that is meant."""
    inner, calls = getattr(owner, name), []

    @functools.wraps(inner)
    def patched(*arguments, **options):
        if when(*arguments):
            calls.append(1)
            if len(calls) == count:
                die()
        return inner(*arguments, **options)

    setattr(owner, name, patched)


def replacing(name):
    return lambda source, target: pathlib.Path(target).name == name


POINTS = {
    "before the first evaluation": [lambda: before(runs._Run, "_evaluate")],
    "evaluated, no checkpoint yet": [lambda: before(checkpoint, "save")],
    "within the first checkpoint": [lambda: before(os, "replace", when=replacing("checkpoint.pt"))],
    "after the first checkpoint": [lambda: before(runs.Training, "train_step", 6)],
    "evaluated again": [lambda: before(checkpoint, "save", 2)],
    "within the second checkpoint": [lambda: before(os, "replace", 2, when=replacing("checkpoint.pt"))],
    "within the table": [lambda: before(os, "replace", 2, when=replacing("evaluations.csv"))],
    "within the readings": [lambda: before(os, "replace", 3, when=replacing("meters.csv"))],
    "evaluated at the end": [lambda: before(runs._Run, "_end")],
    "within the model": [lambda: before(tiny.TinyModel, "save_pretrained")],
    # Written when the run begins, and when it ends.
    "before the header": [lambda: before(records.Records, "update", 2)],
    "within the header": [lambda: before(os, "replace", 2, when=replacing("header.json"))],
    "twice": [lambda: before(checkpoint, "save", 2), lambda: before(runs.Training, "train_step", 3)],
}


def forked(action):
    """Whether the action came to its end, in a process of its own."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a run failed with {code}")
    return code == 0


def train(folder, prepare=None):
    """One run; beside it stand the steps whose evaluations were ever on disk (.seen) and what went missing (.lost)."""
    tiny.register()
    add = records.Records.add

    def checked(self, evaluation):
        add(self, evaluation)
        with open(folder.with_name(f"{folder.name}.seen"), "a") as file:
            file.write(f"{evaluation.step}\n")
        check(folder)

    records.Records.add = checked
    if prepare is not None:
        prepare()
    settings = config.build("tiny", VALUES)
    runs.train(settings, folder, accelerator=Accelerator(cpu=True))


def compare_methods(folder):
    """A comparison."""
    tiny.register()
    settings = config.build("tiny", {**VALUES, "method": "baseline", "test": False, "budget": "60steps"})
    contenders = [parse_contender(method) for method in ("baseline", "random", "loss@1")]
    compare(settings, contenders, folder, seeds=3, accelerator=Accelerator(cpu=True))


def long_run(folder):
    """A run with everything that it may write, and many checkpoints."""
    tiny.register()
    values = {**VALUES, "budget": "300steps", "evaluations": 12, "tensorboard": True, "checkpoint_every_s": 0.05}
    runs.train(config.build("tiny", values), folder, accelerator=Accelerator(cpu=True))


def killed_at_random(action, folder, mean_s, count=20):
    """Kill the action so often, and let it come to its end; where it does so before, it begins in another folder.

    Returns:
        The number of folders: `folder` with 1, 2 and so on behind it.
    """
    draw, kills, folders = random.Random(1), 0, 1
    while kills < count:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                action(folder.with_name(f"{folder.name} {folders}"))
                status = 0
            finally:
                os._exit(status)
        time.sleep(draw.expovariate(1 / mean_s))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL), code
        kills += code != 0
        folders += code == 0
    assert forked(lambda: action(folder.with_name(f"{folder.name} {folders}")))
    return folders


def at_random(folder):
    """Both actions, whole and killed."""
    found = {}
    for name, action in (("run", long_run), ("comparison", compare_methods)):
        begin = time.monotonic()
        assert forked(functools.partial(action, folder / f"{name}, whole"))
        found[name] = killed_at_random(action, folder / name, 0.3 * (time.monotonic() - begin))
    print(json.dumps(found))


def steps_in(path, column=None):
    if not path.exists():
        return set()
    with open(path, newline="") as file:
        return {int(row[column]) for row in csv.DictReader(file)} if column else {int(line) for line in file}


def check(folder):
    missing = steps_in(folder.with_name(f"{folder.name}.seen")) - steps_in(folder / "evaluations.csv", "step")
    if missing:
        with open(folder.with_name(f"{folder.name}.lost"), "a") as file:
            file.writelines(f"{step}\n" for step in sorted(missing))


def main(folder):
    found = {}
    assert forked(lambda: train(folder / "whole"))
    for point, preparations in POINTS.items():
        run = folder / point
        killed = True
        for prepare in preparations:
            killed &= not forked(functools.partial(train, run, prepare))
            check(run)
        forked(functools.partial(train, run))
        check(run)
        status = json.loads((run / "header.json").read_text())["status"]
        lost = sorted(steps_in(run.with_name(f"{run.name}.lost")))
        found[point] = {"killed": killed, "lost": lost, "status": status}
    print(json.dumps(found))


if __name__ == "__main__":
    gc.freeze()  # every run ends with a collection of garbage
    torch.set_num_threads(1)
    (at_random if sys.argv[2:] == ["random"] else main)(pathlib.Path(sys.argv[1]))
