"""Documents cut into passages of equal length, each of the class of its document."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from training.data.parquet import column_values, schema_of
from training.text.documents import LocalFiles, parse_source
from training.text.layouts import PEEK
from training.text.tokens import Tokens


@dataclass(frozen=True)
class LabelledDocuments:
    """Documents whose classes are known.

    Attributes:
        source: of their texts, in the order of `labels`.
        labels: (documents,) int64, of the documents that hold text.
        class_names: in alphabetical order.
    """

    source: LocalFiles
    labels: np.ndarray
    class_names: tuple[str, ...]


def labelled_documents(data: str, *, label_column: str, label_pattern: str = "") -> LabelledDocuments:
    """The documents of parquet files, a row each, with the classes that their names say.

    Args:
        data: "embedded", a parquet file, or a folder of them.
        label_column: the column of names.
        label_pattern: a regular expression; the class is what it finds first in a name. Empty for the whole name.

    Raises:
        ValueError: if the data cannot be read, have no such columns, a document has no name or none that the pattern
            finds, or there are fewer than two classes.
    """
    source = parse_source(data if data == "embedded" else f"{data}:documents")
    if not isinstance(source, LocalFiles) or any(path.suffix.lower() != ".parquet" for path in source.files):
        raise ValueError(f"data = {data!r} must be embedded, a parquet file, or a folder of parquet files")
    names = [name for path in source.files for name in _names(path, label_column)]
    classes = [_class_of(name, label_pattern, label_column) for name in names]
    class_names = tuple(sorted(set(classes)))
    if len(class_names) < 2:
        raise ValueError(f"data = {data!r} must have documents of at least 2 classes, but has {len(class_names)}")
    place = {name: number for number, name in enumerate(class_names)}
    return LabelledDocuments(source, np.array([place[each] for each in classes], dtype=np.int64), class_names)


def cut_into_passages(tokens: Tokens, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(first token of each passage in `tokens.ids`, number of its document), both (passages,) int64, in order.

    Passages have `length` tokens each and do not overlap; what is left at a document's end is left out.
    """
    ends = tokens.sentences[tokens.documents]
    counts = np.diff(ends) // length
    documents = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return ends[documents] + length * within, documents


def _names(path: Path, column: str) -> list[str]:
    """The names of a file's documents that hold text."""
    schema = schema_of(path)
    if column not in schema.names:
        raise ValueError(f"{path}: label_column = {column!r} is not among its columns {', '.join(schema.names)}")
    kind = schema.field(column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise ValueError(f"{path}, column {column}: names are of type {kind}, but must be strings or whole numbers")
    found = []
    pairs = zip(column_values(path, column, PEEK), column_values(path, "text", PEEK), strict=True)
    for names, texts in pairs:
        for name, text in zip(names, texts, strict=True):
            if not text or not text.strip():
                continue
            if name is None:
                raise ValueError(f"{path}, column {column}: a document has no name")
            found.append(str(name))
    return found


def _class_of(name: str, pattern: str, column: str) -> str:
    if not pattern:
        return name
    match = re.search(pattern, name)
    if match is None:
        raise ValueError(f"label_pattern = {pattern!r} finds nothing in the {column} {name!r}")
    return match.group()
