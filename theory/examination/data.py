"""A CSV file as the data of a linear model."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np


def read_csv(path: Path | str, *, target: str, raw: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Features X (n, d) and targets y (n,) of a CSV file with a heading.

    Columns are brought to mean 0 and standard deviation 1, those that are constant are left out, and one of ones is
    added for the intercept, unless `raw`.

    Args:
        target: the column of y: numbers, or words for classes. All others must hold numbers.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it has no such column, fewer than two rows, a row of another length, or a feature that is no
            finite number, naming row and column.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} must be a file, not a folder")
    with open(path, newline="", encoding="utf-8-sig") as file:
        heading, *rows = [row for row in csv.reader(file) if row] or [[]]
    if target not in heading:
        raise ValueError(f"{path} has no column {target!r}; its columns are {', '.join(heading) or 'none'}")
    if len(rows) < 2 or len(heading) < 2:
        raise ValueError(f"{path} has {len(rows)} rows and {len(heading)} columns, but must have at least 2 of each")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(heading):
            raise ValueError(f"{path}: row {number} has {len(row)} cells, but the heading has {len(heading)}")
    place = heading.index(target)
    names = heading[:place] + heading[place + 1 :]
    X = np.array([_numbers(path, number, names, row[:place] + row[place + 1 :]) for number, row in enumerate(rows, 1)])
    words = [row[place] for row in rows]
    try:
        y = np.array([float(word) for word in words])
    except ValueError:
        y = np.array(words)
    if raw:
        return X, y
    spread = X.std(axis=0)
    kept = spread > 0
    return np.column_stack([(X[:, kept] - X[:, kept].mean(axis=0)) / spread[kept], np.ones(len(X))]), y


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
