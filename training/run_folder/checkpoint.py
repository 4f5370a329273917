"""Checkpoints of training runs: one file, whole or not there at all, with a checksum behind what torch writes."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from gsgd.results import atomically
from training.data.files import checked

NAME = "checkpoint.pt"
_MARK = b"sha256 "
_TAIL = len(_MARK) + hashlib.sha256().digest_size


class _Summed:
    """A file for torch to write to: sums what is written, and keeps the error that torch replaces by one of its own."""

    def __init__(self, file: BinaryIO):
        self.file, self.sum = file, hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        try:
            self.file.write(data)
            self.sum.update(data)
        except BaseException as error:  # of a full disk, or of a signal that ends the process
            self.error = error
            raise
        return memoryview(data).nbytes

    def flush(self) -> None:
        self.file.flush()


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` so that a killed process leaves this checkpoint or the one before.

    Raises:
        OSError: if the disk is full, say.
    """
    with atomically(folder / NAME) as file:
        summed: Any = _Summed(file)
        try:
            torch.save(state, summed)
        except RuntimeError as error:
            # Torch ends its file whatever has happened, fails once more, and says that only.
            first = summed.error or _exit_before(error)
            if first is not None:
                raise first from None
            raise
        file.write(_MARK + summed.sum.digest())


def _exit_before(error: BaseException) -> BaseException | None:
    """What ended the process, as a signal's handler does, while the error was made of it."""
    before = error.__context__
    while before is not None and not isinstance(before, (SystemExit, KeyboardInterrupt)):
        before = before.__context__
    return before


def load(folder: Path) -> dict[str, Any] | None:
    """The checkpoint in `folder`, on the CPU; None if there is none.

    Raises:
        ValueError: if it cannot be read, or is not what was written.
    """
    path = folder / NAME
    if not path.exists():
        return None
    if not _is_as_written(checked(path)):
        raise ValueError(f"{path} cannot be read (it is not what was written): remove it to start the run anew")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what it likes, depending on what is broken
        # Not its words: they advise to unpickle whatever the file holds.
        raise ValueError(f"{path} cannot be read ({type(error).__name__}): remove it to start the run anew") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, no checkpoint: remove it to start the run anew")
    return state


def _is_as_written(path: Path) -> bool:
    with open(path, "rb") as file:
        size = path.stat().st_size
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        if not tail.startswith(_MARK):
            return _older_is_whole(path)
        file.seek(0)
        summed, left = hashlib.sha256(), size - _TAIL
        while left:
            part = file.read(min(left, 1 << 24))
            summed.update(part)
            left -= len(part)
        return _MARK + summed.digest() == tail


def _older_is_whole(path: Path) -> bool:
    """Whether a checkpoint of a version without checksums is what was written, by the sums of its parts."""
    try:
        with zipfile.ZipFile(path) as parts:
            return not parts.comment and parts.testzip() is None and path.read_bytes()[-22:-18] == b"PK\5\6"
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError):
        return False


def remove(folder: Path) -> None:
    """Remove the checkpoint, and what killed processes left of others."""
    for path in [folder / NAME, *folder.glob(f".{NAME}.*.tmp")]:
        if path.exists():  # a disk that cannot be written to refuses to remove what is not there
            path.unlink(missing_ok=True)
