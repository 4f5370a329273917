"""Files that are read only if they are what they should be; every complaint names the file and the field."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import pandas as pd


class Missing(LookupError):
    """Nothing was recorded; unlike malformed results this is no error: what needs it is left out, with the reason."""


class Cell(Enum):
    """The kinds of values that a column of a CSV file may hold."""

    TEXT = "text"
    WHOLE = "a whole number"
    NUMBER = "a finite number"
    OPTIONAL = "a finite number, or nothing"
    ANY_NUMBER = "a number, nan and inf among them, or nothing"


def read_table(path: Path, columns: Mapping[str, Cell]) -> pd.DataFrame:
    """The table in a CSV file, in which empty cells are NaN.

    Args:
        columns: name -> what its cells may be. Further columns of the file are left out.

    Raises:
        Missing: if there is no such file.
        ValueError: if it cannot be read, lacks a column, has no rows, or a cell is not what its column holds; names
            the file, the line and the column.
    """
    if not path.exists():
        raise Missing(f"there is no {path}")
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    heading, rows = (lines[0], lines[1:]) if lines else ([], [])
    if lacking := [name for name in columns if name not in heading]:
        raise ValueError(f"{path} has no column {lacking[0]!r}; its columns are: {', '.join(heading) or 'none'}")
    if not rows:
        raise ValueError(f"{path} has no rows below its heading {', '.join(columns)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(heading):
            raise ValueError(f"{path}, line {number}: {len(row)} cells under {len(heading)} columns")
    return pd.DataFrame(
        {
            name: [
                _cell(row[heading.index(name)], kind, f"{path}, line {number}, column {name}")
                for number, row in enumerate(rows, start=2)
            ]
            for name, kind in columns.items()
        }
    )


def _cell(text: str, kind: Cell, where: str) -> Any:
    if text == "":
        if kind in (Cell.OPTIONAL, Cell.ANY_NUMBER):
            return math.nan
        raise ValueError(f"{where}: the cell is empty but must be {kind.value}")
    if kind is Cell.TEXT:
        return text
    try:
        number = float(int(text)) if kind is Cell.WHOLE else float(text)
    except ValueError:
        raise ValueError(f"{where}: {text!r} must be {kind.value}") from None
    if kind is not Cell.ANY_NUMBER and not math.isfinite(number):
        raise ValueError(f"{where}: {text!r} must be {kind.value}")
    return int(number) if kind is Cell.WHOLE else number


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        Missing: if there is no such file.
        ValueError: if it cannot be read or is no object, naming the file.
    """
    if not path.exists():
        raise Missing(f"there is no {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} but must hold an object")
    return content


def field(content: Mapping[str, Any], name: str, kinds: type | tuple[type, ...], path: Path) -> Any:
    """The value of a field, such as "config.seed", of an object that was read from `path`.

    Raises:
        ValueError: if it is not there or of another type, naming the file and the field.
    """
    value: Any = content
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"{path} has no field {name!r}")
        value = value[part]
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    # bool is an int to Python, but not to a reader of results.
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        words = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
        raise ValueError(f"{path}, field {name!r}: {value!r} must be {words}")
    return value


def number(content: Mapping[str, Any], name: str, path: Path) -> float:
    """The number in a field; one that is not finite is "inf", "-inf" or "nan" in JSON.

    Raises:
        ValueError: as `field`.
    """
    value = field(content, name, (int, float, str), path)
    if value not in ("inf", "-inf", "nan") and isinstance(value, str):
        raise ValueError(f"{path}, field {name!r}: {value!r} must be a number")
    return float(value)


def choice(value: str, allowed: Sequence[str], where: str) -> str:
    """`value`, if it is one of `allowed`.

    Raises:
        ValueError: if not, naming where it stands.
    """
    if value not in allowed:
        raise ValueError(f"{where}: {value!r} must be one of: {', '.join(allowed)}")
    return value
