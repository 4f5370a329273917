"""One of two ranks of test_moving_exit.py: python auto_worker.py RANK RENDEZVOUS_FILE

The exits' overlaps differ between the ranks, and on some steps one of them has a batch that says nothing.
"""

import datetime
import importlib.util
import os
import pathlib
import sys

import torch
import torch.distributed as dist

from gsgd.sift import AutoExit

RULE = AutoExit(level=0.7, every=2, first=2, memory=0.0)


def overlaps(rank, step):
    """Exit 1: 0.7 on average, 0.6 from step 8 on, and good again on both ranks from step 20 on."""
    if step >= 20:
        return (1.0, 1.0)
    return ((0.5, 0.9) if step < 8 else (0.3, 0.9))[rank], 0.8


def main(rank):
    path = pathlib.Path(__file__).with_name("test_moving_exit.py")
    spec = importlib.util.spec_from_file_location("gsgd_tests_moving_exit", path)
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    for scope in ("rank", "global"):
        sift = tests.scripted(exit_layer="auto", auto=RULE, keep=0.5, scope=scope)
        exits = []
        for step in range(30):
            # On step 1 rank 0 keeps the one row that it has.
            rows = 1 if scope == "rank" and (rank, step) == (0, 1) else tests.ROWS
            sift.choose(tests.scripted_batch(overlaps(rank, step), seed=10 * step + rank, rows=rows))
            exits.append(sift.exit_layer)

        def mean(step, layer, scope=scope):
            values = [(*overlaps(each, step), 1.0)[layer - 1] for each in range(2)]
            return values[1] if scope == "rank" and step == 1 else sum(values) / 2

        # By either scope the overlap of a rank is that of its own batch.
        moving, expected = tests.run(RULE, mean, 30)
        assert exits == [exit for _, _, exit in expected], (rank, scope, exits)
        assert [move[:2] for move in sift.auto.history] == [move[:2] for move in moving.history]
        assert len(moving.history) >= 3
        histories = [None, None]
        dist.all_gather_object(histories, sift.auto.history)
        assert histories[0] == histories[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{sys.argv[2]}",
        rank=int(sys.argv[1]),
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    main(int(sys.argv[1]))
    dist.barrier()
    # Taking gloo's threads down now and then aborts the process, which is not what is tested.
    print("ok", flush=True)
    os._exit(0)
