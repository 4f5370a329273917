"""Which checkpoints of a Trainer are complete: those whose last file is there, and all others in the size they had."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from gsgd.results import write_atomic

logger = logging.getLogger(__name__)

FILES = "files.json"
"""In every checkpoint: its files and their sizes in bytes."""
LAST = "trainer_state.json"
"""What a Trainer writes last."""


def last_complete_checkpoint(folder: str) -> str | None:
    """The complete `checkpoint-<step>` of the highest step in `folder`, or None; incomplete ones are logged."""
    found = [path for path in Path(folder).glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    for path in sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        problem = what_is_missing(str(path))
        if problem is None:
            return str(path)
        logger.warning("passing over the checkpoint %s: %s", path, problem)
    return None


def what_is_missing(checkpoint: str) -> str | None:
    """Why a checkpoint is not complete, in words; None if it is.

    A plain Trainer's has no list of files.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return "there is no such folder"
    for name in (FILES, LAST):
        path = folder / name
        if name == FILES and not path.exists():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return f"{name} cannot be read ({error})"
        for file, size in content.items() if name == FILES else ():
            if not (folder / file).is_file():
                return f"{file} is missing"
            if (folder / file).stat().st_size != size:
                return f"{file} has {(folder / file).stat().st_size} bytes instead of {size}"
    return None


def list_files(checkpoint: str) -> None:
    """Have all files of a checkpoint on the disk, and list them with their sizes."""
    folder = Path(checkpoint)
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (FILES, LAST):
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    write_atomic(folder / FILES, json.dumps(sizes, indent=1) + "\n")


def outdate(checkpoint: str) -> None:
    """What is in the folder is no complete checkpoint any more: it is about to be written to."""
    for name in (LAST, FILES):
        Path(checkpoint, name).unlink(missing_ok=True)
