"""What a training loop on a CPU gains from an allocator that keeps freed memory for the next step."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_NEVER = -1
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep memory that is freed, instead of giving it back to the system.

    A training step allocates what the step before has freed. By default glibc hands large blocks back and gets them
    anew as pages that the kernel must clear on first use, which costs about as much as ten passes over them: 5 to 10%
    of a step of BERT-base, nothing to speak of in one of ResNet-50.
    Recorded activations of `gsgd.sift` make a step need more of them. The process keeps the memory of its largest
    step to its end. It holds for the whole process, so that this is the program's choice, not the library's:
    `gsgd train`, `gsgd compare` and `gsgd bench step` make it where they run on a CPU.

    Returns:
        Whether it took effect; False with another C library.
    """
    if os.name != "posix":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
