"""Checkpoints of training runs: one file, whole or not there at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gsgd.results import atomically

NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` so that a killed process leaves this checkpoint or the one before."""
    with atomically(folder / NAME) as file:
        torch.save(state, file)


def load(folder: Path) -> dict[str, Any] | None:
    """The checkpoint in `folder`, on the CPU; None if there is none.

    Raises:
        ValueError: if it cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what it likes, depending on what is broken
        # Not its words: they advise to unpickle whatever the file holds.
        raise ValueError(f"{path} cannot be read ({type(error).__name__}): remove it to start the run anew") from error


def remove(folder: Path) -> None:
    """Remove the checkpoint, and what killed processes left of others."""
    for path in [folder / NAME, *folder.glob(f".{NAME}.*.tmp")]:
        path.unlink(missing_ok=True)
