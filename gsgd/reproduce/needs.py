"""What must be there before anything starts: packages of the extras, and GPUs."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

TRAIN = ("torch", "transformers", "accelerate", "pyarrow", "PIL")
TRAIN_FROM_THE_HUB = (*TRAIN, "tensorboard", "datasets")
FIGURES = ("matplotlib", "pandas", "jinja2")


def installed(module: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def missing_extras(paper: bool, there: Callable[[str], bool] = installed) -> str | None:
    """What lacks, in a sentence with the line that helps; None if nothing does.

    Args:
        paper: whether the paper's runs are to be trained, whose data come from the hub.
    """
    wanted = {"figures": FIGURES, "train": TRAIN_FROM_THE_HUB if paper else TRAIN}
    absent = {extra: [name for name in names if not there(name)] for extra, names in wanted.items()}
    extras = ",".join(extra for extra, names in absent.items() if names)
    if not extras:
        return None
    names = ", ".join(name for found in absent.values() for name in found)
    return (
        f"not installed: {names}. Install: pip install 'gsgd[{extras}]' "
        f"(in a checkout: pip install -c constraints.txt '.[{extras}]')"
    )


def cuda_devices() -> int:
    """How many GPUs torch can use by CUDA; 0 without torch."""
    if not installed("torch"):
        return 0
    return int(importlib.import_module("torch").cuda.device_count())


def missing_gpus(needed: int, there: int) -> str | None:
    """What lacks, in a sentence; None if nothing does."""
    if there == 0:
        return f"no GPU that torch can use by CUDA: the paper's runs need {needed}"
    if needed > there:
        return f"{needed} GPUs are asked for, but {there} are there: give --gpus {there} or fewer"
    return None
