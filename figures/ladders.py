"""Speed-ups over a ladder of budgets, from the files that `gsgd compare --ladder` writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from figures.checked import Cell, fields, read_object, read_table

LADDER, ROWS = "ladder.json", "ladder.csv"
CLAIMS, CLAIMS_IN_SECONDS = "claims.csv", "claims_in_seconds.csv"
_SPEED_UP = dict.fromkeys(("factor", "low", "high"), Cell.ANY_NUMBER)
_ROW = {
    "method": Cell.TEXT,
    "budget": Cell.NUMBER,
    **dict.fromkeys(("runs", "diverged", "tried"), Cell.WHOLE),
    **dict.fromkeys(("accuracy", "accuracy_half_width", "loss", "loss_half_width"), Cell.OPTIONAL),
    **{f"by_{measure}_{name}": kind for measure in ("accuracy", "loss") for name, kind in _SPEED_UP.items()},
}
_CLAIM = {**dict.fromkeys(("method", "measure", "place"), Cell.TEXT), "rungs": Cell.WHOLE, **_SPEED_UP}


def read_rows(found: Mapping[str, Path]) -> pd.DataFrame:
    """One row a method and rung of every finished ladder.

    Args:
        found: group -> its ladder.json.

    Returns:
        Columns group, unit (of the budgets), split (that the values are of), and those of `_ROW`.

    Raises:
        ValueError: if a file is malformed, naming it and the field or the line.
    """
    parts = []
    for group, path in found.items():
        content = read_object(path)
        of_ladder = fields(content, {"rungs": list[str], "split": str}, path)
        rungs, split = of_ladder["rungs"], of_ladder["split"]
        if (path.parent / ROWS).exists():
            unit = str(rungs[-1]).lstrip("0123456789.e+-")
            parts.append(read_table(path.parent / ROWS, _ROW).assign(group=group, unit=unit, split=split))
    return _joined(parts)


def read_claims(found: Mapping[str, Path], name: str = CLAIMS) -> pd.DataFrame:
    """One row a method and measure: the geometric mean over the inner rungs, of every finished ladder.

    Args:
        name: of the table: of factors in the ladder's budget, or in seconds, where they are claimed.

    Raises:
        ValueError: as `read_rows`.
    """
    tables = {group: path.parent / name for group, path in found.items()}
    return _joined([read_table(path, _CLAIM).assign(group=group) for group, path in tables.items() if path.exists()])


def _joined(parts: list[Any]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
