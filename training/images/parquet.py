"""Images in parquet files of the hub's layouts, read with pyarrow alone, a batch of rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label", "labels")
BATCH = 128
BUFFER = 1 << 20


class ParquetImages:
    """Images in the files of each split.

    Args:
        files: split -> its files, in order.
        label_column: whole numbers or strings; empty for "label", "fine_label" (CIFAR-100's 100 classes; the paper
            does not train on the 20 of its coarse_label) or "labels", whichever there is.
        image_column: {bytes, path} or binary; empty for "img" or "image".

    Raises:
        ValueError: if a file is no parquet, has no such columns or several that could be meant, or labels are missing
            or out of range.
    """

    def __init__(self, files: dict[str, list[Path]], *, label_column: str = "", image_column: str = ""):
        self._files = files
        self._chosen = {"label_column": label_column, "image_column": image_column}
        self._names: tuple[str, ...] | None = None
        self._labels: dict[str, np.ndarray] = {}

    def identity(self) -> dict[str, Any]:
        """See `training.images.sources.ImageSource`."""
        described = {
            split: [[str(path.resolve()), *stamp(path)] for path in paths] for split, paths in self._files.items()
        }
        return {"parquet": described, **self._chosen}

    def splits(self) -> tuple[str, ...]:
        """See `training.images.sources.ImageSource`."""
        return tuple(self._files)

    def class_names(self) -> tuple[str, ...]:
        """See `training.images.sources.ImageSource`: from the schema's metadata, else the labels themselves."""
        self._read_labels()
        assert self._names is not None
        return self._names

    def labels(self, split: str) -> np.ndarray:
        """See `training.images.sources.ImageSource`."""
        self._read_labels()
        return self._labels[split]

    def images(self, split: str) -> Iterator[tuple[str, bytes]]:
        """See `training.images.sources.ImageSource`."""
        for path in self._files[split]:
            with _open(path) as file:
                column = self._column(file, path, "image_column")
                row = 0
                for batch in file.iter_batches(BATCH, columns=[column]):
                    for encoded in encoded_images(batch.column(0), path.name, row):
                        yield f"{path.name}, row {row}", encoded
                        row += 1

    def _read_labels(self) -> None:
        if self._names is not None:
            return
        values: dict[str, list[Any]] = {}
        named: tuple[str, ...] = ()
        for split, paths in self._files.items():
            values[split] = []
            for path in paths:
                with _open(path) as file:
                    column = self._column(file, path, "label_column")
                    named = named or names_in_metadata(file.schema_arrow, column)
                    read = file.read([column]).column(column)
                    values[split] += whole_labels(read, f"{path.name}, column {column}")
        names, self._labels = number_classes(values, named, "the files of " + ", ".join(values))
        self._names = names

    def _column(self, file: pq.ParquetFile, path: Path, key: str) -> str:
        return choose_column(file.schema_arrow.names, self._chosen[key], key, path.name)


def stamp(path: Path) -> tuple[int, int]:
    """(size in bytes, time of the last change in ns) of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def choose_column(columns: Sequence[str], chosen: str, key: str, where: str) -> str:
    """The column that holds the images or labels: the one `chosen`, or the one of a usual name.

    Raises:
        ValueError: if there is none, or more than one.
    """
    usual = IMAGE_COLUMNS if key == "image_column" else LABEL_COLUMNS
    found = [name for name in ((chosen,) if chosen else usual) if name in columns]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{where} has the columns {' and '.join(found)}: say by {key} which one is meant")
    missing = f"{key} = {chosen!r} is not among" if chosen else f"none of {', '.join(usual)} is among"
    raise ValueError(f"{where}: {missing} its columns {', '.join(columns)}; {key} names another one")


def encoded_images(column: Any, where: str, first: int) -> Iterator[bytes]:
    """The files in a column of {bytes, path} or binary; a row with a path only is read from there.

    Args:
        column: an Arrow array.
        where: the file, for messages.
        first: number of the column's first row, for messages.

    Raises:
        ValueError: if the column is of another type, or a row is empty.
    """
    kind = column.type
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if not is_binary and not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise ValueError(f"{where}: images are of type {kind}, but must be {{bytes, path}} or binary")
    for row, value in enumerate(column.to_pylist(), start=first):
        encoded = value if is_binary or value is None else value["bytes"]
        if encoded is None and isinstance(value, dict) and value.get("path"):
            try:
                encoded = Path(value["path"]).read_bytes()
            except OSError as error:
                raise ValueError(f"{where}, row {row} holds no bytes, and its path cannot be read: {error}") from error
        if encoded is None:
            raise ValueError(f"{where}, row {row} holds no image")
        yield encoded


def whole_labels(column: Any, where: str) -> list[Any]:
    """The column's values, all of them whole numbers or all strings.

    Raises:
        ValueError: if they are of another type, or one is missing.
    """
    if not (
        pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ):
        raise ValueError(f"{where}: labels are of type {column.type}, but must be whole numbers or strings")
    if column.null_count:
        row = column.to_pylist().index(None)
        raise ValueError(f"{where}, row {row}: there is no label")
    return list(column.to_pylist())


def number_classes(
    values: dict[str, list[Any]], named: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """(names of the classes, split -> labels (N,) int64) of the values found in each split.

    Strings are numbered in alphabetical order; numbers without names are their own names.

    Args:
        named: the names that the data bring, or ().

    Raises:
        ValueError: for a label that is not in 0..classes - 1.
    """
    every = set().union(*values.values())
    if any(isinstance(value, str) for value in every):
        if not all(isinstance(value, str) for value in every):
            raise ValueError(f"{where}: some labels are strings, others numbers")
        names = named or tuple(sorted(every))
        place = {name: number for number, name in enumerate(names)}
        if unknown := sorted(every - set(names)):
            raise ValueError(f"{where}: label {unknown[0]!r} is not among the {len(names)} names of classes")
        return names, {split: np.array([place[name] for name in found], np.int64) for split, found in values.items()}
    names = named or tuple(str(number) for number in range(max(every, default=-1) + 1))
    if outside := [value for value in every if not 0 <= value < len(names)]:
        raise ValueError(f"{where}: label {outside[0]} must lie in 0..{len(names) - 1}, the classes that are named")
    return names, {split: np.array(found, dtype=np.int64) for split, found in values.items()}


def names_in_metadata(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """The names of the classes that `datasets` notes in a schema, or ()."""
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in noted["info"]["features"][column]["names"])
    except (KeyError, TypeError, ValueError):
        return ()  # written by another program, or no class labels: names are a convenience


def _open(path: Path) -> pq.ParquetFile:
    try:
        # Buffered, since otherwise a whole row group's images are held at once: on the hub, up to the whole file.
        return pq.ParquetFile(path, buffer_size=BUFFER)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error
