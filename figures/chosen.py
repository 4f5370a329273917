"""How often each row of the data was drawn and chosen, counted from the logs of rows that runs write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from figures.checked import Missing

FOLDER, PARTS = "rows", "rank-*-part-*.parquet"
"""The folder within a run's, and its files."""
FEWEST_DRAWS = 2
"""A row that was drawn once and chosen once was not chosen *always*."""


def read_chosen(runs: Mapping[Path, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a run and row of its data.

    Args:
        runs: folder of a run -> its row of the table "runs".

    Returns:
        Columns group, run, method, id, drawn, chosen (times); no rows if no run kept a log.

    Raises:
        Missing: if there are logs, but nothing that reads parquet.
        ValueError: if a file cannot be read, or has other columns, naming it.
    """
    parts = []
    for folder, run in runs.items():
        paths = sorted((folder / FOLDER).glob(PARTS))
        if not paths:
            continue
        # Part by part: a log may have more rows than a report should hold at once.
        counts = pd.concat([_counts(path) for path in paths]).groupby(level="id").sum()
        named = {name: run[name] for name in ("group", "run", "method")}
        parts.append(counts.reset_index().assign(**named))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _counts(path: Path) -> pd.DataFrame:
    try:
        rows = pd.read_parquet(path, columns=["id", "kept"])
    except ImportError as error:
        raise Missing("logs of rows, but nothing that reads parquet: install pyarrow (the extra train)") from error
    except Exception as error:  # readers of parquet raise kinds of their own
        raise ValueError(f"{path} cannot be read as the log of a run's rows: {error}") from error
    of_id = rows.groupby("id")["kept"]
    return pd.DataFrame({"drawn": of_id.size(), "chosen": of_id.sum().astype(int)})


def never_and_always(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of one run that were never chosen and those that always were, most drawn first.

    Of what was drawn less than `FEWEST_DRAWS` times nothing is said.
    """
    known = rows[rows["drawn"] >= FEWEST_DRAWS].sort_values(["drawn", "id"], ascending=[False, True])
    return known[known["chosen"] == 0], known[known["chosen"] == known["drawn"]]
