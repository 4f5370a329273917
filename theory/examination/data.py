"""A CSV file as the data of a linear model."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np


def read_csv(path: Path | str, *, target: str, raw: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Features X (n, d) and targets y (n,) of a CSV file: UTF-8, a heading, and commas, semicolons or tabs between.

    Columns are brought to mean 0 and standard deviation 1, those that are constant are left out, and one of ones is
    added for the intercept, unless `raw`.

    Args:
        target: the column of y: numbers, or words for classes. All others must hold numbers.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no UTF-8 text, has no such column, or two of them, fewer than two rows, a row of another
            length, no target in a row, or a feature that is no finite number, naming row and column.
    """
    heading, *rows = _cells(Path(path)) or [[]]
    if heading.count(target) != 1:
        has = "has no column" if target not in heading else "has more than one column"
        raise ValueError(f"{path} {has} {target!r}; its columns are {', '.join(heading) or 'none'}")
    if len(rows) < 2 or len(heading) < 2:
        raise ValueError(f"{path} has {len(rows)} rows and {len(heading)} columns, but must have at least 2 of each")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(heading):
            raise ValueError(f"{path}: row {number} has {len(row)} cells, but the heading has {len(heading)}")
    place = heading.index(target)
    names = heading[:place] + heading[place + 1 :]
    X = np.array([_numbers(path, number, names, row[:place] + row[place + 1 :]) for number, row in enumerate(rows, 1)])
    words = [row[place] for row in rows]
    for number, word in enumerate(words, start=1):
        if word.lower() in ("", "nan"):
            raise ValueError(f"{path}: row {number} has {word!r} in the column {target!r}: its target is missing")
    try:
        y = np.array([float(word) for word in words])
    except ValueError:
        y = np.array(words)
    if raw:
        return X, y
    X = X[:, np.ptp(X, axis=0) > 0]
    X = X / np.abs(X).max(axis=0)  # no square of a huge or tiny number is out of range
    return np.column_stack([(X - X.mean(axis=0)) / X.std(axis=0), np.ones(len(X))]), y


def _cells(path: Path) -> list[list[str]]:
    """The cells of all rows that have any, without blanks around them."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, but must be a CSV file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8: {error}") from error
    heading = text.partition("\n")[0]
    mark = max(",;\t", key=heading.count)
    rows = [
        [cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=mark, skipinitialspace=True)
    ]
    return [row for row in rows if any(row)]


def _numbers(path: Path | str, number: int, names: list[str], cells: list[str]) -> list[float]:
    values = []
    for name, cell in zip(names, cells, strict=True):
        try:
            value = float(cell)
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise ValueError(f"{path}: row {number} has {cell!r} in the column {name!r}, which must be a finite number")
        values.append(value)
    return values
