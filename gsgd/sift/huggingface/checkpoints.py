"""Checkpoints that are whole or not there: written beside their place, listed, then renamed."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)

STAGING = "tmp-checkpoint-"
"""Prefix of the folder a checkpoint is written to before it gets its name; no tool takes it for a checkpoint."""
MANIFEST = "files.json"
"""In every checkpoint: its files and their sizes in bytes."""


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

    A plain Trainer's has no list of files; of it is only known that it writes `trainer_state.json` last.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return "there is no such folder"
    if folder.name.startswith(STAGING) or folder.parent.name.startswith(STAGING):
        return "it was still being written"
    for name in (MANIFEST, "trainer_state.json"):
        path = folder / name
        if name == MANIFEST and not path.exists():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return f"{name} cannot be read ({error})"
        for file, size in content.items() if name == MANIFEST else ():
            if not (folder / file).is_file():
                return f"{file} is missing"
            if (folder / file).stat().st_size != size:
                return f"{file} has {(folder / file).stat().st_size} bytes instead of {size}"
    return None


def publish(written: str, final: str) -> None:
    """Give the folder `written` its name `final`, in one step, once all it holds is on the disk.

    The folder that `written` lies in is removed; what was at `final` before, too.
    """
    files = [path for path in sorted(Path(written).rglob("*")) if path.is_file()]
    sizes = {path.relative_to(written).as_posix(): path.stat().st_size for path in files}
    manifest = Path(written, MANIFEST)
    manifest.write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
    for path in [*files, manifest]:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    if os.path.isdir(final):
        os.rename(final, os.path.join(os.path.dirname(written), "replaced"))
    os.rename(written, final)
    shutil.rmtree(os.path.dirname(written))
