"""Recorded results: where they came from, and files that are whole or not there at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import platform
import subprocess
import sys
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
    """A file that takes the place of `path` when the block is done: whole, or not at all. Creates the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write text (as UTF-8) or bytes so that a reader, or a crash, never meets half a file. Creates the folder."""
    with atomically(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
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
