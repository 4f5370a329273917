"""Images in tables of the hub's layouts: parquet files, or a data set of the hub itself."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from training.data.hub import loading
from training.data.parquet import column_values, schema_of
from training.images.labelled import LabelledImages, Labels

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label", "labels")
BATCH = 128


@dataclass(frozen=True)
class Table:
    """A parquet file, or a split of a data set of the hub.

    Attributes:
        name: for messages.
        values: gives a column's values, some rows at a time.
    """

    name: str
    schema: pa.Schema
    values: Callable[[str], Iterator[list[Any]]]


class TableImages(LabelledImages):
    """Images in columns of tables.

    Args:
        made_from: what tells whether the data are still the same ones, besides the columns.
        tables: opens the tables of each split, when something of them is first asked for.
        label_column: whole numbers or strings; empty for "label", "fine_label" (CIFAR-100's 100 classes; the paper
            does not train on the 20 of its coarse_label) or "labels", whichever there is.
        image_column: {bytes, path} or binary; empty for "img" or "image".
    """

    def __init__(
        self,
        made_from: dict[str, Any],
        tables: Callable[[], dict[str, list[Table]]],
        *,
        label_column: str = "",
        image_column: str = "",
    ):
        self._chosen = {"label_column": label_column, "image_column": image_column}
        self._made_from = made_from
        self._tables = functools.cache(tables)

    def identity(self) -> dict[str, Any]:
        return {**self._made_from, **self._chosen}

    def read_labels(self) -> dict[str, list[Labels]]:
        return {split: [self._labels(table) for table in tables] for split, tables in self._tables().items()}

    def images(self, split: str) -> Iterator[tuple[str, bytes]]:
        for table in self._tables()[split]:
            column = self._column(table, "image_column")
            kind = table.schema.field(column).type
            binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
            if not binary and not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
                raise ValueError(f"{table.name}: images are of type {kind}, but must be {{bytes, path}} or binary")
            row = 0
            for values in table.values(column):
                for value in values:
                    where = f"{table.name}, row {row}"
                    yield where, _encoded(value, where)
                    row += 1

    def _labels(self, table: Table) -> Labels:
        column = self._column(table, "label_column")
        where, kind = f"{table.name}, column {column}", table.schema.field(column).type
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise ValueError(f"{where}: labels are of type {kind}, but must be whole numbers or strings")
        values = [value for some in table.values(column) for value in some]
        if None in values:
            raise ValueError(f"{where}, row {values.index(None)}: there is no label")
        return Labels(where, values, names_in_metadata(table.schema, column))

    def _column(self, table: Table, key: str) -> str:
        """The column that holds the images or labels: the one that was chosen, or the one of a usual name."""
        chosen, columns = self._chosen[key], table.schema.names
        usual = IMAGE_COLUMNS if key == "image_column" else LABEL_COLUMNS
        found = [name for name in ((chosen,) if chosen else usual) if name in columns]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{table.name} has the columns {' and '.join(found)}: say by {key} which one is meant")
        missing = f"{key} = {chosen!r} is not among" if chosen else f"none of {', '.join(usual)} is among"
        raise ValueError(f"{table.name}: {missing} its columns {', '.join(columns)}; {key} names another one")


def parquet_tables(files: Mapping[str, Sequence[Path]]) -> dict[str, list[Table]]:
    """The tables of each split's files."""

    def table(path: Path) -> Table:
        return Table(path.name, schema_of(path), lambda column: column_values(path, column, BATCH))

    return {split: [table(path) for path in paths] for split, paths in files.items()}


def hub_tables(name: str, config: str) -> dict[str, list[Table]]:
    """The tables of a data set of the hub, which is downloaded now.

    Args:
        name, config: such as "uoft-cs/cifar100" and "" for its only or default configuration.
    """
    with loading(name) as datasets:
        loaded = datasets.load_dataset(name, config or None)
    if unknown := [split for split in loaded if split not in ("train", "validation", "test")]:
        raise ValueError(f"{name} has the split {unknown[0]!r}, but must have train, validation or test")

    def values(data: Any, column: str) -> Iterator[list[Any]]:
        # As Arrow, the images stay encoded.
        for some in data.select_columns([column]).with_format("arrow").iter(BATCH):
            yield some.column(column).to_pylist()

    return {
        split: [Table(f"{name} {split}", data.features.arrow_schema, functools.partial(values, data))]
        for split, data in loaded.items()
    }


def names_in_metadata(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """The names of the classes that `datasets` notes in a schema, or ()."""
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in noted["info"]["features"][column]["names"])
    except (KeyError, TypeError, ValueError):
        return ()  # written by another program, or no class labels: names are a convenience


def _encoded(value: Any, where: str) -> bytes:
    """The file in a cell; one with a path only is read from there."""
    encoded = value["bytes"] if isinstance(value, dict) else value
    if encoded is None and isinstance(value, dict) and value.get("path"):
        try:
            return Path(value["path"]).read_bytes()
        except OSError as error:
            raise ValueError(f"{where} holds no bytes, and its path cannot be read: {error}") from error
    if encoded is None:
        raise ValueError(f"{where} holds no image")
    return encoded
