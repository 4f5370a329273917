"""The folder of a run: how it may be called, and which files in it are the run's own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from gsgd.locks import LOCK

ROWS = "rows"
"""Folder of the log of rows."""
_TABLES = ("header.json", "evaluations.csv", "meters.csv", "readings.csv", "live.csv", "checkpoint.pt")
_MODEL = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
KNOWN = (
    *_TABLES,
    *(f".{name}.*.tmp" for name in _TABLES),
    "tensorboard/events.out.tfevents.[0-9]*.*",
    *("rows/rank-*-part-*.parquet", "rows/.rank-*-part-*.parquet.*.tmp"),
    *("model/config.json", "model/generation_config.json"),
    *(f"model/{name}" for name in _MODEL),
)
"""Names of what runs write: all that older headers do not list, and what a killed run had no time to list."""


def named(results: Path, name: str, *, replaced: bool = False) -> Path:
    """The folder of this name under the results.

    Args:
        replaced: whether what is there is to be overwritten.

    Raises:
        ValueError: if that would be the results themselves, or outside of them, also by a link if it is replaced.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or not name.strip() or not name.isprintable():
        raise ValueError(f"--name {name!r} must be a folder under the results, such as mine or group/mine")
    folder = results / path
    for within in [folder, *folder.parents][: len(path.parts)] if replaced else ():
        if within.is_symlink():
            raise ValueError(f"{within} is a link: what is in it is not overwritten")
    return folder


def is_empty(folder: Path) -> bool:
    """Whether there is nothing in the folder, or no folder."""
    return not folder.is_dir() or all(path.name == LOCK for path in folder.iterdir())


def written_names(folder: Path) -> list[str]:
    """Names of the files in the folder that runs write."""
    return [name for name in _names(folder) if _is_known(name)]


def own_files(folder: Path, listed: Iterable[str]) -> list[Path]:
    """The files of the run in `folder`, of which its header lists some.

    Raises:
        ValueError: if there is anything else: other runs, strangers' files, links.
    """
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link: it is not overwritten")
    names, listed = _names(folder), set(listed)
    strange = [name for name in names if not (name in listed or _is_known(name)) or (folder / name).is_symlink()]
    if strange:
        named = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
        raise ValueError(f"{folder} holds what its run has not written ({named}): it is not overwritten")
    return [folder / name for name in names]


def remove(files: Iterable[Path]) -> None:
    """Remove the files, and the folders that this leaves empty, but for the run's own."""
    for path in files:
        path.unlink(missing_ok=True)
        ours = path.parent.name in ("model", "tensorboard", ROWS) and path.parent.is_dir()
        if ours and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _is_known(name: str) -> bool:
    # With a slash in front a pattern must match the whole path, not its end alone.
    return any(PurePosixPath(f"/{name}").match(f"/{pattern}") for pattern in KNOWN)


def _names(folder: Path) -> list[str]:
    """Paths below the folder of all files, and of links to folders."""
    found = []
    for where, inner, files in os.walk(folder):
        links = [name for name in inner if Path(where, name).is_symlink()]
        found += [Path(where, name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(name for name in found if name != LOCK)
