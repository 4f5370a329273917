"""One of the ranks of test_run_distributed.py: `gsgd train` of the tiny task, slowly enough to be interrupted.

torchrun rank_worker.py SECONDS_A_STEP ARGUMENTS...
"""

import sys
import time

import tiny
import torch

from gsgd import cli
from training.training import Training


def main(seconds, arguments):
    torch.set_num_threads(1)
    tiny.register()
    step = Training.train_step

    def slow(self):
        step(self)
        time.sleep(seconds)

    Training.train_step = slow
    return cli.main(["train", *arguments])


if __name__ == "__main__":
    raise SystemExit(main(float(sys.argv[1]), sys.argv[2:]))
