"""Where labelled images come from: parquet in the hub's layouts, image folders, the hub itself, what is shipped."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from training.images.tables import TableImages, hub_tables, parquet_tables

EMBEDDED = Path(__file__).parent / "embedded"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
WORDS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
ALL = "all"
"""The split of data whose names tell none."""


class ImageSource(Protocol):
    """Encoded images with classes, in splits. Making one reads no image."""

    def identity(self) -> dict[str, Any]:
        """What tells whether the data are still the same ones, as JSON: paths, sizes, times of change, or the name."""
        ...

    def splits(self) -> tuple[str, ...]:
        """Some of "train", "validation" and "test", or "all" alone, if nothing tells which."""
        ...

    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        ...

    def labels(self, split: str) -> np.ndarray:
        """Classes (N,) int64 of the split's images, each in 0..len(class_names()) - 1."""
        ...

    def images(self, split: str) -> Iterator[tuple[str, bytes]]:
        """(where it stands, for messages; the encoded image) of each, in the order of `labels`."""
        ...


def find_source(data: str, *, label_column: str = "", image_column: str = "") -> ImageSource:
    """The images that `data` names.

    Args:
        data: one of
            "embedded": Fashion-MNIST's subset that comes with the package;
            a parquet file, a pattern such as "cifar10-*.parquet", or a folder of parquet files, of the hub's layouts;
            a folder split/class/image or class/image;
            a data set on the hub, NAME or NAME:CONFIG, such as "uoft-cs/cifar100".
            Files and folders tell their split by the words train, test, validation (or training, testing, valid, val,
            dev) in their names.
        label_column, image_column: of a table; empty for the one with a usual name.

    Raises:
        ValueError: if there is nothing of that name, or its files and folders do not tell what is what.
    """
    if data == "embedded":
        data = str(EMBEDDED)
    path = Path(data).expanduser()
    columns = {"label_column": label_column, "image_column": image_column}
    if path.is_file():
        if path.suffix != ".parquet":
            raise ValueError(f"data = {data!r} is no parquet file: give one, a folder or a name on the hub")
        return _of_files([path], path.parent, columns)
    if path.is_dir():
        tables = sorted(path.rglob("*.parquet"))
        if tables:
            return _of_files(tables, path, columns)
        if given := next((key for key, value in columns.items() if value), None):
            raise ValueError(
                f"{given} = {columns[given]!r} is of tables, but {data!r} is a folder without parquet files"
            )
        return FolderImages(path)
    if any(sign in data for sign in "*?["):
        tables = sorted(Path(found) for found in glob.glob(str(path)) if found.endswith(".parquet"))
        if not tables:
            raise ValueError(f"data = {data!r} matches no parquet file")
        return _of_files(tables, path.parent, columns)
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?", data) and path.suffix != ".parquet":
        name, _, config = data.partition(":")
        # Nothing is asked of the network for the identity, so a cache serves offline.
        return TableImages({"hub": name, "config": config}, lambda: hub_tables(name, config), **columns)
    raise ValueError(f"data = {data!r}: there is no such file or folder, and it cannot be a name on the hub")


class FolderImages:
    """Implements `ImageSource`: folders split/class/image, or class/image, whose split nothing tells.

    Args:
        root: the folder. Hidden files and files that are no images by their suffix are passed over.

    Raises:
        ValueError: if some folders name splits and others do not, or there are no images.
    """

    def __init__(self, root: Path):
        self.root = root
        folders = _folders(root)
        named = {folder: WORDS.get(folder.name.lower()) for folder in folders}
        strangers = [folder.name for folder, split in named.items() if split is None]
        if strangers and len(strangers) < len(folders):
            others = sorted(set(WORDS.values()) & {split for split in named.values() if split})
            raise ValueError(f"{root} holds {', '.join(others)} beside {strangers[0]!r}, which names no split: move it")
        roots: dict[str, list[Path]] = {}
        for folder, split in named.items():
            roots.setdefault(split or ALL, []).extend(_folders(folder) if split else [folder])
        self._files: dict[str, list[tuple[str, Path]]] = {
            split: [
                (folder.name, path)
                for folder in kinds
                for path in sorted(folder.iterdir())
                if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
            ]
            for split, kinds in sorted(roots.items())
        }
        empty = [split for split, found in self._files.items() if not found] or ([] if self._files else [ALL])
        if empty:
            raise ValueError(
                f"{root} holds no images{'' if empty == [ALL] else f' in {empty[0]}'}: there must be folders "
                f"class/image or split/class/image with files {', '.join(SUFFIXES)}, or parquet files"
            )
        first = "train" if "train" in self._files else next(iter(self._files))
        self._names = tuple(sorted({name for name, _ in self._files[first]}))
        for split, found in self._files.items():
            unknown = sorted({name for name, _ in found} - set(self._names))
            if unknown:
                raise ValueError(f"{root}: {split} has the class {unknown[0]!r}, which {first} has not")

    def identity(self) -> dict[str, Any]:
        files = {
            split: [_stamped(path, path.relative_to(self.root)) for _, path in found]
            for split, found in self._files.items()
        }
        return {"folder": str(self.root.resolve()), "files": files}

    def splits(self) -> tuple[str, ...]:
        return tuple(self._files)

    def class_names(self) -> tuple[str, ...]:
        return self._names

    def labels(self, split: str) -> np.ndarray:
        place = {name: number for number, name in enumerate(self._names)}
        return np.array([place[name] for name, _ in self._files[split]], dtype=np.int64)

    def images(self, split: str) -> Iterator[tuple[str, bytes]]:
        for _, path in self._files[split]:
            try:
                encoded = path.read_bytes()
            except OSError as error:
                raise ValueError(f"{path} cannot be read: {error}") from error
            yield str(path), encoded


def _of_files(paths: list[Path], root: Path, columns: dict[str, str]) -> TableImages:
    files = _files_of_splits(paths, root)
    stamped = {split: [_stamped(path, path.resolve()) for path in found] for split, found in files.items()}
    return TableImages({"parquet": stamped}, lambda: parquet_tables(files), **columns)


def _stamped(path: Path, name: Path) -> list[Any]:
    """[name, size in bytes, time of the last change in ns] of a file."""
    status = path.stat()
    return [str(name), status.st_size, status.st_mtime_ns]


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files_of_splits(paths: list[Path], root: Path) -> dict[str, list[Path]]:
    """Split -> files, by the words in their names, or else in those of their folders."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        parts = path.relative_to(root).parts if path.is_relative_to(root) else (path.name,)
        split = next((split for part in reversed(parts) if (split := _split_named(part, path))), ALL)
        found.setdefault(split, []).append(path)
    if ALL in found and len(found) > 1:
        raise ValueError(
            f"{found[ALL][0]} tells no split, but others beside it do: name it train, test or validation, or move it"
        )
    return dict(sorted(found.items()))


def _split_named(name: str, path: Path) -> str | None:
    splits = {WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in WORDS}
    if len(splits) > 1:
        raise ValueError(f"{path} names {' and '.join(sorted(splits))}: a file can be of one split only")
    return next(iter(splits), None)
