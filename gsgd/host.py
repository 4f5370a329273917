"""Which arrays the host can read at once, and how numbers get to the others; without importing torch.

A program runs ahead of its GPU: it hands over operators and does not wait for their results. To read one number of a
tensor there, it must wait for everything before it. So what is computed of an array off the CPU is computed without a
look at its values: by `where` instead of masks that pick entries, at fixed shapes, without checks by value. In the
host's memory the look is free, and what picks entries is quicker. `holds` is where the two ways part.
"""

import platform
from typing import Any

Array = Any  # numpy.ndarray or torch.Tensor: torch may be absent, so neither can be named here


def holds(array: Array) -> bool:
    """Whether an array lies in the host's memory, where its values can be read without waiting for a device."""
    where = array.device
    return getattr(where, "type", where) == "cpu"


def sent(tensor: Array, where: Any) -> Array:
    """A tensor of the host on another torch device, without waiting until it is there.

    CUDA copies beside the program only out of pinned memory.
    """
    if where.type == "cuda" and holds(tensor):
        tensor = tensor.pin_memory()
    return tensor.to(where, non_blocking=True)


def finished(where: Any) -> None:
    """Wait until a torch device has done all that it was handed; the processor always has."""
    if where.type in ("cuda", "mps"):
        import torch

        getattr(torch, where.type).synchronize(*([where] if where.type == "cuda" else []))


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, "") or platform.processor() or platform.machine()
    except OSError:
        return platform.processor() or platform.machine()
