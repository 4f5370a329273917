"""The files of a trained model, and whether a disk has room for what a run writes of its weights."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from gsgd.results import check_writable
from training.task import Task


def save_model(model: Any, folder: Path) -> set[str]:
    """Write the trained model to `model` in a run's folder; returns the names of its files there.

    Raises:
        OSError: if its disk is too small, or cannot be written to.
    """
    path = folder / "model"
    check_writable(path / "config.json", room=weights_on_disk(model))  # its libraries have errors of their own
    begun = time.time_ns()
    with _no_bars():
        model.save_pretrained(path)
    return {f"model/{file.name}" for file in path.iterdir() if file.stat().st_mtime_ns >= begun}


def check_room(path: Path, tasks: Iterable[Task]) -> None:
    """Whether the disk of a run's file has room for a checkpoint: weights, and AdamW's two moments of each.

    Raises:
        OSError: if not, or if the file cannot be written.
    """
    with torch.device("meta"):
        weights = max(weights_on_disk(task.build_model()) for task in tasks)
    check_writable(path, room=3 * weights)


def weights_on_disk(model: torch.nn.Module) -> int:
    """Bytes of the model's parameters."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' own progress bars, which last a moment and get into the output."""
    if not is_progress_bar_enabled():
        yield
        return
    disable_progress_bar()
    try:
        yield
    finally:
        enable_progress_bar()
