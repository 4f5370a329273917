"""Tables of numbers with a column of classes: files, or the made-up one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from training.data.files import checked
from training.tabular.synthetic import SEED, rare_positives

SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class NumberTable:
    """Rows of numbers, each of a class.

    Attributes:
        values: (N, columns) float64, NaN where there is none.
        labels: (N,) int64.
        columns, class_names: what they are called; classes in the order of their numbers, or of the alphabet.
    """

    values: np.ndarray
    labels: np.ndarray
    columns: tuple[str, ...]
    class_names: tuple[str, ...]

    @property
    def content(self) -> str:
        """A digest of all of it."""
        digest = hashlib.sha256(repr((self.columns, self.class_names)).encode())
        digest.update(self.values.astype("<f8").tobytes())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def read_table(data: str, target: str, columns: Sequence[str] = ()) -> NumberTable:
    """The table that `data` names.

    Args:
        data: "synthetic", or a parquet or CSV file.
        target: the column of classes, whole numbers or strings.
        columns: those to read; empty for all others.

    Raises:
        ValueError: if it cannot be read, a column is missing or holds no numbers, a row has no class, or there are
            fewer than two classes.
    """
    if data == SYNTHETIC:
        values, labels = rare_positives(np.random.default_rng(SEED))
        names = tuple(f"x{number}" for number in range(values.shape[1]))
        table = pa.table({**dict(zip(names, values.T, strict=True)), target: labels})
    else:
        table = _read(checked(Path(data).expanduser()), data)
    if twice := sorted({name for name in table.column_names if table.column_names.count(name) > 1}):
        raise ValueError(f"data = {data!r} has two columns of the name {twice[0]!r}")
    if target not in table.column_names:
        raise ValueError(f"target = {target!r} is not among the columns of {data!r}: {', '.join(table.column_names)}")
    chosen = tuple(columns) or tuple(name for name in table.column_names if name != target)
    if not chosen:
        raise ValueError(f"data = {data!r} has no column beside the target {target!r}")
    for name in chosen:
        if name not in table.column_names or name == target:
            raise ValueError(f"columns: {name!r} is not among those of {data!r} beside the target")
    values = np.stack([_numbers(table.column(name), name, data) for name in chosen], axis=1)
    labels, class_names = _classes(table.column(target), target, data)
    return NumberTable(values, labels, chosen, class_names)


def _read(path: Path, data: str) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return pyarrow.parquet.read_table(path)
        if path.suffix.lower() == ".csv":
            return pyarrow.csv.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    raise ValueError(f"data = {data!r} must be synthetic, or a file that ends in .parquet or .csv")


def _numbers(column: pa.ChunkedArray, name: str, data: str) -> np.ndarray:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(
            f"{data}, column {name}: values are of type {kind}, but must be numbers; name by `columns` those to read"
        )
    found = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if np.isinf(found).any():
        raise ValueError(f"{data}, column {name}: row {int(np.flatnonzero(np.isinf(found))[0])} is not finite")
    return np.asarray(found, dtype=np.float64)


def _classes(column: pa.ChunkedArray, name: str, data: str) -> tuple[np.ndarray, tuple[str, ...]]:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind)):
        raise ValueError(f"{data}, column {name}: classes are of type {kind}, but must be whole numbers or strings")
    values = column.to_pylist()
    if None in values:
        raise ValueError(f"{data}, column {name}: row {values.index(None)} has no class")
    every = sorted(set(values))
    if len(every) < 2:
        raise ValueError(f"{data}, column {name}: there must be at least 2 classes, but there are {len(every)}")
    place = {value: number for number, value in enumerate(every)}
    return np.array([place[value] for value in values], dtype=np.int64), tuple(str(value) for value in every)
