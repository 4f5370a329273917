"""Where labelled images come from: parquet in the hub's layouts, image folders, the hub itself, what is shipped."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.data.files import checked, files_below, stamp
from training.images.idx import IdxImages, idx_pairs
from training.images.labelled import LabelledImages, Labels
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


def find_source(data: str, *, label_column: str = "", image_column: str = "") -> LabelledImages:
    """The images that `data` names.

    Args:
        data: one of
            "embedded": Fashion-MNIST's subset that comes with the package;
            a parquet file, a pattern such as "cifar10-*.parquet", or a folder of parquet files, of the hub's layouts;
            a folder of idx files, the four of MNIST and its kin, compressed or not;
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
    if path.exists() and not path.is_dir():
        if not checked(path).name.lower().endswith(".parquet"):
            raise ValueError(f"data = {data!r} is no parquet file: give one, a folder or a name on the hub")
        return _of_files([path], path.parent, columns)
    if path.is_dir():
        if pairs := idx_pairs(path):
            return IdxImages(path, pairs)
        if tables := files_below(path, (".parquet",)):
            return _of_files(tables, path, columns)
        if given := next((key for key, value in columns.items() if value), None):
            raise ValueError(
                f"{given} = {columns[given]!r} is of tables, but {data!r} is a folder without parquet files"
            )
        return FolderImages(path)
    if any(sign in data for sign in "*?["):
        tables = sorted(Path(found) for found in glob.glob(str(path)) if found.lower().endswith(".parquet"))
        if not tables:
            raise ValueError(f"data = {data!r} matches no parquet file")
        return _of_files(tables, path.parent, columns)
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?", data) and path.suffix.lower() != ".parquet":
        name, _, config = data.partition(":")
        # Nothing is asked of the network for the identity, so a cache serves offline.
        return TableImages({"hub": name, "config": config}, lambda: hub_tables(name, config), **columns)
    raise ValueError(f"data = {data!r}: there is no such file or folder, and it cannot be a name on the hub")


class FolderImages(LabelledImages):
    """Images in folders split/class/image, or class/image, whose split nothing tells.

    Args:
        root: the folder. Hidden files and files that are no images by their suffix are passed over.

    Raises:
        ValueError: if some folders name splits and others do not, there are no images, or some lie elsewhere.
    """

    def __init__(self, root: Path):
        self.root = root
        self._files: dict[str, list[Path]] = {}
        astray = []
        for path in files_below(root, SUFFIXES):
            folders = path.relative_to(root).parts[:-1]
            split = WORDS.get(folders[0].lower()) if folders else None
            if len(folders) == (2 if split else 1):
                self._files.setdefault(split or ALL, []).append(path)
            else:
                astray.append(path)
        if astray:
            raise ValueError(
                f"{root}: {len(astray)} images, such as {astray[0]}, are not in folders class/image or "
                "split/class/image: move them"
            )
        named = {WORDS[path.name.lower()] for path in root.iterdir() if path.is_dir() and path.name.lower() in WORDS}
        empty = sorted(named - set(self._files))
        if empty or not self._files:
            raise ValueError(
                f"{root} holds no images{f' in {empty[0]}' if empty else ''}: there must be folders "
                f"class/image or split/class/image with files {', '.join(SUFFIXES)}, parquet files, or idx files"
            )
        if ALL in self._files and len(self._files) > 1:
            others, stranger = sorted(set(self._files) - {ALL}), self._files[ALL][0].parent.name
            raise ValueError(f"{root} holds {', '.join(others)} beside {stranger!r}, which names no split: move it")

    def identity(self) -> dict[str, Any]:
        files = {
            split: [[str(path.relative_to(self.root)), *stamp(path)] for path in found]
            for split, found in self._files.items()
        }
        return {"folder": str(self.root.resolve()), "files": files}

    def read_labels(self) -> dict[str, list[Labels]]:
        first = self._files.get("train") or next(iter(self._files.values()))
        names = sorted({path.parent.name for path in first})
        return {
            split: [Labels(f"{self.root}, {split}", [path.parent.name for path in found], names)]
            for split, found in sorted(self._files.items())
        }

    def images(self, split: str) -> Iterator[tuple[str, bytes]]:
        for path in self._files[split]:
            try:
                encoded = path.read_bytes()
            except OSError as error:
                raise ValueError(f"{path} cannot be read: {error}") from error
            yield str(path), encoded


def _of_files(paths: list[Path], root: Path, columns: dict[str, str]) -> TableImages:
    files = _files_of_splits(paths, root)
    stamped = {split: [[str(path.resolve()), *stamp(path)] for path in found] for split, found in files.items()}
    return TableImages({"parquet": stamped}, lambda: parquet_tables(files), **columns)


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
