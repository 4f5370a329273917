"""Files that are read only if they are what they should be; every complaint names the file and the field."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pandas as pd
from pydantic import (
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
    create_model,
)


class Missing(LookupError):
    """Nothing was recorded; unlike malformed results this is no error: what needs it is left out, with the reason."""


class Cell(Enum):
    """The kinds of values that a column of a CSV file may hold, None for an empty cell."""

    TEXT = TypeAdapter(list[str])
    WHOLE = TypeAdapter(list[int])
    NUMBER = TypeAdapter(list[FiniteFloat])
    OPTIONAL = TypeAdapter(list[FiniteFloat | None])
    ANY_NUMBER = TypeAdapter(list[float | None])


class Record(BaseModel):
    """What an object of a JSON file must have; it may have more."""

    model_config = ConfigDict(strict=True, frozen=True)


Number = Annotated[float, BeforeValidator(lambda value: float(value) if value in ("inf", "-inf", "nan") else value)]
"""A number of a JSON file, which has words for those that are not finite."""
Kind = TypeVar("Kind", bound=Record)


def read_table(path: Path, columns: Mapping[str, Cell], optional: Mapping[str, Cell] | None = None) -> pd.DataFrame:
    """The table in a CSV file, in which empty cells are NaN.

    Args:
        columns: name -> what its cells may be. Further columns of the file are left out.
        optional: likewise, of columns that older files lack; there they are NaN.

    Raises:
        Missing: if there is no such file.
        ValueError: if it cannot be read, lacks a column, has no rows, or a cell is not what its column holds; names
            the file, the line and the column.
    """
    if not path.exists():
        raise Missing(f"there is no {path}")
    try:
        with open(path, encoding="utf-8", newline="") as file:
            heading, *rows = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if lacking := [name for name in columns if name not in heading]:
        raise ValueError(f"{path} has no column {lacking[0]!r}; its columns are: {', '.join(heading) or 'none'}")
    if not rows:
        raise ValueError(f"{path} has no rows below its heading {', '.join(columns)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(heading):
            raise ValueError(f"{path}, line {number}: {len(row)} cells under {len(heading)} columns")
    table = pd.DataFrame(index=range(len(rows)))
    for name, cell in {**columns, **(optional or {})}.items():
        if name not in heading:
            table[name] = math.nan
            continue
        cells = [row[heading.index(name)] or None for row in rows]
        try:
            values = cell.value.validate_python(cells)
        except ValidationError as error:
            first = error.errors()[0]
            said = _said(first).replace("None must", "the cell is empty but must", 1)
            raise ValueError(f"{path}, line {int(first['loc'][0]) + 2}, column {name}: {said}") from None
        table[name] = pd.Series(values, dtype=float if cell in (Cell.OPTIONAL, Cell.ANY_NUMBER) else None)
    return table


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


def checked(content: Mapping[str, Any], kind: type[Kind], path: Path) -> Kind:
    """An object that was read from `path`, as a record.

    Raises:
        ValueError: if it is none, naming the file and the field, such as "checks[3].status".
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])[1:]
        if first["type"] == "missing":
            raise ValueError(f"{path} has no field {place!r}") from None
        raise ValueError(f"{path}, field {place!r}: {_said(first)}") from None


def fields(content: Mapping[str, Any], kinds: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Fields of an object that was read from `path`, by the last parts of their names.

    Args:
        kinds: name, such as "config.seed" -> its type.

    Raises:
        ValueError: as `checked`.
    """
    wanted: dict[str, Any] = {
        name.rpartition(".")[2]: (kind, Field(validation_alias=AliasPath(*name.split("."))))
        for name, kind in kinds.items()
    }
    return checked(content, create_model("Fields", __base__=Record, **wanted), path).model_dump()


def _said(refused: Any) -> str:
    """What pydantic refuses, in the words of this project."""
    if refused["type"] == "value_error":
        return str(refused["ctx"]["error"])
    return f"{refused['input']!r} {refused['msg'].replace('Input should', 'must', 1)}"
