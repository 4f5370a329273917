"""Files of data below a folder, found without leaving any out by accident."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def files_below(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """All files below a folder that end in one of the suffixes, in the order of their paths.

    Capitals do not matter. Links are followed; what is hidden is passed over.

    Raises:
        ValueError: for a link to nothing or to a folder that it lies in, something that is no file, such as a named
            pipe, or a folder that cannot be read.
    """
    found = [entry for entry in _below(root, ()) if entry.name.lower().endswith(tuple(suffixes))]
    # Of a regular file the folder's own entry tells; millions of them are not asked once more.
    return sorted(Path(entry.path) if entry.is_file() else checked(Path(entry.path)) for entry in found)


def checked(path: Path) -> Path:
    """The path, of a regular file or of a link to one.

    Raises:
        ValueError: if it is something else.
    """
    if not path.exists():
        raise ValueError(f"{path} is a link to nothing" if path.is_symlink() else f"{path} does not exist")
    if not path.is_file():
        raise ValueError(f"{path} must be a file, not a {'folder' if path.is_dir() else 'pipe, socket or device'}")
    return path


def stamp(path: Path) -> tuple[int, int]:
    """(size in bytes, time of the last change in ns) of a file."""
    try:
        status = path.stat()
    except OSError:
        checked(path)
        raise
    return status.st_size, status.st_mtime_ns


def _below(folder: Path, above: tuple[Path, ...]) -> Iterator[os.DirEntry[str]]:
    """Every file below, whatever it is; folders that links lead to are taken for what they are."""
    resolved = folder.resolve()
    if resolved in above:
        raise ValueError(f"{folder} is a link to a folder that it lies in")
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _below(Path(entry.path), (*above, resolved))
        else:
            yield entry
