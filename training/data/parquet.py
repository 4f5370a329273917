"""Columns of parquet files, some rows at a time; whatever is wrong with a file, the message names it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BUFFER = 1 << 20


def schema_of(path: Path) -> pa.Schema:
    """Names and types of the file's columns.

    Raises:
        ValueError: if the file cannot be read, or two of its columns have one name.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise ValueError(f"{path} has two columns of the name {twice[0]!r}")
    return schema


def column_values(path: Path, column: str, rows: int) -> Iterator[list[Any]]:
    """The values of a column, so many rows at a time.

    Raises:
        ValueError: if the file cannot be read.
    """
    with _opened(path) as file:
        for batch in file.iter_batches(rows, columns=[column]):
            yield batch.column(0).to_pylist()


def column_size(path: Path, column: str) -> int:
    """Bytes of a column that is not nested, before it was compressed.

    Raises:
        ValueError: if the file cannot be read.
    """
    with _opened(path) as file:
        about = file.metadata
        groups = [about.row_group(number) for number in range(about.num_row_groups)]
        columns = [group.column(number) for group in groups for number in range(group.num_columns)]
        return sum(each.total_uncompressed_size for each in columns if each.path_in_schema == column)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        # Buffered, since otherwise a whole row group's images are held at once: on the hub, up to the whole file.
        with pq.ParquetFile(path, buffer_size=BUFFER, page_checksum_verification=True) as file:
            yield file
    except Exception as error:  # Arrow raises kinds of its own, OSError, and more, depending on what is damaged
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error
