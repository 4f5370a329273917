"""What is computed once: folders named by a fingerprint of everything they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gsgd.results import disk_trouble, write_json

try:
    import fcntl
except ModuleNotFoundError:  # Windows: processes that race build twice, and one result is thrown away
    fcntl = None  # type: ignore[assignment]

CHECKSUMS = "checksums.json"
READ_WHOLE = 2**28
"""Bytes of the largest file whose content is checked; of larger ones, which take long to read, the size is."""


def default_cache() -> Path:
    """$XDG_CACHE_HOME/gsgd, or ~/.cache/gsgd."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsgd"


def cached_folder(root: Path, kind: str, inputs: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder that `build` fills from `inputs`: made now, or found because it was made from equal ones.

    It appears whole or not at all: `build` gets a folder beside it, which is renamed. Processes that ask at the same
    time wait for the one that builds; where files cannot be locked they all build, and the first one's folder stays.
    What a killed process had begun goes when the same folder is built again; nothing else is ever deleted, so what
    nobody asks for again may be removed by hand.

    Args:
        root: where the folders are; created if missing.
        kind: the first part of the folder's name.
        inputs: JSON; kept in the folder as inputs.json.
        build: writes files into the folder it is given.

    Raises:
        ValueError: if `root` cannot be written to or its disk is full, or a file of the folder is not what was written.
    """
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    target = root / f"{kind}-{digest[:20]}"
    if target.is_dir():
        return _unharmed(target)
    with _writing_to(root), _alone(root / f".{target.name}.lock") as alone:
        if target.is_dir():
            return _unharmed(target)
        for left in root.glob(f".{target.name}.*.tmp") if alone else ():
            shutil.rmtree(left, ignore_errors=True)
        unfinished = root / f".{target.name}.{uuid.uuid4().hex}.tmp"
        unfinished.mkdir()
        try:
            build(unfinished)
            write_json(unfinished / "inputs.json", inputs)
            write_json(unfinished / CHECKSUMS, {path.name: _size_and_sum(path) for path in unfinished.iterdir()})
            for path in unfinished.iterdir():
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())
            try:
                unfinished.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


def read_array(path: Path, *, mapped: bool = True) -> np.ndarray:
    """The array in a .npy file of a cached folder, as a read-only memory map unless told.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        return np.load(path, mmap_mode="r" if mapped else None)
    except Exception as error:  # not its words: they advise to unpickle whatever the file holds
        raise _damaged(path, type(error).__name__) from error


def _unharmed(folder: Path) -> Path:
    """The folder, if its files are as they were written; without checksums, as older versions left it, as it is."""
    try:
        written = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        for name, expected in written.items():
            if _size_and_sum(folder / name) != expected:
                raise _damaged(folder / name, "it is not what was written")
    except FileNotFoundError as error:
        if Path(error.filename).name != CHECKSUMS:
            raise _damaged(Path(error.filename), "it is gone") from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise _damaged(folder / CHECKSUMS, type(error).__name__) from error
    return folder


def _size_and_sum(path: Path) -> list[int]:
    size, checksum = path.stat().st_size, 0
    if size <= READ_WHOLE:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                checksum = zlib.crc32(block, checksum)
    return [size, checksum]


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} cannot be read ({why}): remove its folder, and what it held is made anew")


@contextlib.contextmanager
def _writing_to(root: Path) -> Iterator[None]:
    """An error of the cache's disk names the cache and the remedy; those of the data that are read name a file."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        named = Path(error.filename or root)
        if not (named.is_relative_to(root) or root.is_relative_to(named)):
            raise
        why = disk_trouble(OSError(error.errno, error.strerror or str(error), str(root)))
        raise ValueError(f"{why}; name another folder for the cache by cache_dir") from error


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Yields whether no other process is in the block."""
    lock.touch()
    if fcntl is None:
        yield False
        return
    with open(lock, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False  # no reason to stop: the rename keeps the folder whole in any case
        yield locked
