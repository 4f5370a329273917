"""bf16 on processors that lack its instructions, where it takes up to a hundred times as long as float32."""

from __future__ import annotations

import functools
import os
import sys
import time

import torch

from training.config import Config

SLOW = 3.0
"""bf16 that takes so many times as long as float32 is no choice that anybody makes."""


@functools.cache
def slowdown() -> float:
    """How many times as long a matrix product takes in bf16 as in float32 on this processor; measured once."""
    seconds = []
    for kind in (torch.float32, torch.bfloat16):
        left, right = torch.ones(256, 256, dtype=kind), torch.ones(256, 256, dtype=kind)
        took = []
        for _ in range(4):  # the first warms up
            begin = time.perf_counter()
            torch.mm(left, right)
            took.append(time.perf_counter() - begin)
        seconds.append(min(took))
    return seconds[1] / seconds[0]


def affordable(config: Config) -> Config:
    """The configuration, in float32 where a preset says bf16 and this machine is slow in it; the user is told.

    What the user chose stays, with a warning.
    """
    on_gpu = torch.accelerator.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true")
    if config.training.precision != "bf16" or on_gpu or (times := slowdown()) < SLOW:
        return config
    slow = f"a matrix product in bf16 takes {times:.0f} times as long as in float32 on this processor"
    if "precision" in config.chosen:
        _say(f"{slow}: precision = no is quicker")
        return config
    _say(f"{slow}: precision = no in place of the preset's bf16")
    return config.with_values({"precision": "no"})


def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)
