"""torchrun disagreeing_worker.py DISAGREEMENT ARGUMENTS...: `gsgd train` of the tiny task, in which process 1 differs.

For test_run_distributed.py.
"""

import os
import sys

import tiny
import torch

from gsgd import cli

RANK = int(os.environ["RANK"])


def data_that_cannot_be_read(task, settings, seed):
    raise ValueError("the file is damaged")


def a_model_that_cannot_be_built(self):
    raise ValueError("no such model")


def rows_that_cannot_be_read(self, rows, epoch):
    if epoch > 0:
        raise ValueError("a row is damaged")
    return batch(self, rows, epoch)


def no_labels(self, rows, epoch):
    found = batch(self, rows, epoch)
    return {"x": found["x"]} if epoch > 0 else found


def numbers_that_are_none(self, rows, epoch):
    found = batch(self, rows, epoch)
    return {**found, "x": found["x"] * float("nan")} if epoch > 0 else found


batch = tiny.TinyTask.training_batch
DISAGREEMENTS = {
    "data": ("__init__", data_that_cannot_be_read),
    "model": ("build_model", a_model_that_cannot_be_built),
    "rows": ("training_batch", rows_that_cannot_be_read),
    "labels": ("training_batch", no_labels),
    "nan": ("training_batch", numbers_that_are_none),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    tiny.register()
    what, *arguments = sys.argv[1:]
    if RANK == 1 and what in DISAGREEMENTS:
        setattr(tiny.TinyTask, *DISAGREEMENTS[what])
    code = cli.main(["train", *arguments])
    print(f"process {RANK} ends with {code}", flush=True)
    raise SystemExit(code)
