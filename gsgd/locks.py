"""One writer a folder: a lock that the system releases when its process dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from gsgd.results import check_writable, sweep

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".writer.lock"
TRIES = 1000
"""A thousandth of a second each, to make a folder that others remove."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def one_writer(folder: Path, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """While the block runs, no other block of this kind runs for `folder`, in this process or another.

    Creates the folder, and removes it again if it is left empty. What killed processes left half written goes first.
    Where the file system has no locks there is a warning, and the block runs.

    Args:
        wait: told who writes there, before the wait for it; None refuses to wait.

    Raises:
        ValueError: if another one runs, naming its host and process and since when; or if the lock is no file.
        OSError: if the folder cannot be written to.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        file = _locked(folder, wait)
    except OSError as error:
        error.filename = str(folder)
        raise
    try:
        sweep(folder)
        yield
    finally:
        with contextlib.suppress(OSError):  # on a disk that has become read-only, say
            (folder / LOCK).unlink(missing_ok=True)
        file.close()
        with contextlib.suppress(OSError):  # what is not empty stays
            for each in made:
                each.rmdir()


def _locked(folder: Path, wait: Callable[[str], object] | None) -> TextIOWrapper:
    """The lock file, locked, with who holds it written in it."""
    vanished = 0
    while True:
        try:
            check_writable(folder / LOCK)
            folder.mkdir(parents=True, exist_ok=True)
            _check_own(folder / LOCK)
            file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 (closing it releases the lock)
        except (FileNotFoundError, FileExistsError):
            # Whoever held it may have just removed the folder, which it left empty; else this will not change.
            vanished += 1
            if vanished > TRIES:
                raise
            time.sleep(0.001)
            continue
        try:
            _lock(file, folder, wait)
            # Who had it before may have removed the file while we waited: then another one counts.
            if _same(file, folder / LOCK):
                file.truncate(0)
                now = datetime.now(UTC).isoformat(timespec="seconds")
                json.dump({"host": platform.node(), "process": os.getpid(), "since": now}, file)
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _check_own(path: Path) -> None:
    """Whether what is in the place of a lock file may be written: not what a link leads to, nor a pipe."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError(f"{path} must be a file that commands of gsgd make there, no link, folder or pipe: remove it")


def _lock(file: TextIOWrapper, folder: Path, wait: Callable[[str], object] | None) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        busy = f"{folder} is being written to by {_holder(file)}"
        if wait is None:
            raise ValueError(f"{busy}: wait for its end (--wait does), or choose another folder") from None
        wait(f"{busy}: waiting for its end")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s cannot be locked (%s): see that no other command writes there", folder, error.strerror)


def _holder(file: TextIOWrapper) -> str:
    file.seek(0)
    try:
        held: dict[str, Any] = json.loads(file.read())
        return f"process {held['process']} on {held['host']} since {held['since']}"
    except (ValueError, TypeError, KeyError):
        return "another process"  # which has not said yet


def _same(file: TextIOWrapper, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
