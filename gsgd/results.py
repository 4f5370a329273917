"""Recorded results: where they came from, and files that are whole or not there at all."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

PACKAGES = ("gsgd", "numpy", "scipy", "numba", "python-flint", "PEPit", "clarabel", "torch", "transformers")


def provenance() -> dict[str, Any]:
    """Date (UTC), machine, versions of what is installed, and the commit of a source checkout (None elsewhere)."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "versions": versions,
    }


def _commit() -> str | None:
    """The commit that this package was imported from; with '+' if tracked files differ from it."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git on this machine: a result without a commit is still a result
    return head.stdout.strip() + ("+" if dirty.returncode else "") if head.returncode == 0 else None


@contextlib.contextmanager
def atomically(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block is done: whole, or not at all. Creates the folder.

    What killed processes of this host left of such files in the folder is removed.

    Raises:
        OSError: if it cannot be written; its `filename` is `path`.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        try:
            with open(temporary, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise


def temporary_beside(path: Path) -> Path:
    """Where a file is written that is to take the place of `path`: its name holds host and process."""
    return path.with_name(f".{path.name[:60]}.{platform.node()[:40]}.{os.getpid()}.tmp")


def sweep(folder: Path) -> None:
    """Remove the temporary files in `folder` of processes of this host that are not there any more."""
    ours = re.compile(rf"\..+\.{re.escape(platform.node()[:40])}\.(\d+)\.tmp")
    for path in folder.iterdir():
        if (name := ours.fullmatch(path.name)) and not _lives(int(name[1])):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    if os.name != "posix":
        return True  # to ask would be to end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def check_writable(path: Path, room: int = 0) -> None:
    """Find out, before there is work to lose, whether a file `path` could be written. Leaves nothing behind.

    Args:
        room: bytes that must be free on its disk.

    Raises:
        OSError: if not; its `filename` is `path`.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = path.absolute().parent
        missing = [temporary_beside(path).name]
        while not os.path.lexists(folder):
            missing.append(folder.name)
            folder = folder.parent
        for name in missing:
            with contextlib.suppress(FileNotFoundError):
                os.lstat(folder / name)  # a name that is too long is refused
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
        if shutil.disk_usage(folder).free < room:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, {in_bytes(room)} are needed")
    except OSError as error:
        error.filename = str(path)
        raise


def in_bytes(count: float) -> str:
    """A number of bytes in words, such as "1.3 GB"."""
    power = min(int(math.log10(max(count, 1)) / 3), 4)
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def disk_trouble(error: OSError) -> str:
    """An error of the file system in words: the path, what is wrong, and how much is free there."""
    folder = Path(error.filename).absolute()
    while not os.path.exists(folder):
        folder = folder.parent
    what = "" if isinstance(error, (FileNotFoundError, PermissionError)) else "cannot write to "
    gone = isinstance(error, FileNotFoundError) and os.path.islink(error.filename)
    why = "a link to nothing" if gone else error.strerror
    return f"{what}{error.filename}: {why} ({in_bytes(shutil.disk_usage(folder).free)} free there)"


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write text (as UTF-8) or bytes so that a reader, or a crash, never meets half a file. Creates the folder."""
    with atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


def write_json(path: str | Path, content: Any) -> Path:
    """Write JSON that any reader accepts: a number that is not finite becomes the string 'inf', '-inf' or 'nan'."""
    return write_atomic(path, json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a tidy table as CSV, one row an observation; None becomes an empty cell.

    Raises:
        ValueError: if a row has not as many cells as there are columns.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"row {row!r} has {len(row)} cells, but there are {len(columns)} columns")
        writer.writerow(
            ["" if cell is None else repr(float(cell)) if isinstance(cell, float) else cell for cell in row]
        )
    return write_atomic(path, text.getvalue())


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return repr(float(content))
    return content


def command_line() -> str:
    """The command that is running, as a user would type it."""
    return " ".join(["gsgd", *sys.argv[1:]])
