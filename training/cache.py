"""What is computed once: folders named by a fingerprint of everything they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gsgd.results import write_json

try:
    import fcntl
except ModuleNotFoundError:  # Windows: processes that race build twice, and one result is thrown away
    fcntl = None  # type: ignore[assignment]


def default_cache() -> Path:
    """$XDG_CACHE_HOME/gsgd, or ~/.cache/gsgd."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsgd"


def cached_folder(root: Path, kind: str, inputs: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder that `build` fills from `inputs`: made now, or found because it was made from equal ones.

    It appears whole or not at all: `build` gets a folder beside it, which is renamed. Processes that ask at the same
    time wait for the one that builds; where files cannot be locked they all build, and the first one's folder stays.
    Nothing is ever deleted: what nobody asks for again may be removed by hand, and so may the hidden folders, ending in
    .tmp, of processes that were killed.

    Args:
        root: where the folders are; created if missing.
        kind: the first part of the folder's name.
        inputs: JSON; kept in the folder as inputs.json.
        build: writes files into the folder it is given.

    Raises:
        ValueError: if `root` cannot be written to.
    """
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    target = root / f"{kind}-{digest[:20]}"
    if target.is_dir():
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / f".{target.name}.lock").touch()
    except OSError as error:
        raise ValueError(
            f"the cache {str(root)!r} cannot be written: {error}; name another one by cache_dir"
        ) from error
    with _alone(root / f".{target.name}.lock"):
        if target.is_dir():
            return target
        unfinished = root / f".{target.name}.{uuid.uuid4().hex}.tmp"
        unfinished.mkdir()
        try:
            build(unfinished)
            write_json(unfinished / "inputs.json", inputs)
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


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    with open(lock, "w") as file:
        # A file system without locks is no reason to stop: the rename keeps the folder whole in any case.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
