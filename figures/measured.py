"""Readings and diagnoses of scores beside the formulas, from the files that `gsgd diagnose` writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import AliasPath, Field

from figures.checked import Cell, Number, Record, checked, read_object, read_table

READINGS, DIAGNOSIS = "readings.csv", "diagnosis.json"
OLD_READINGS = "live.csv"
"""What the table of readings was called; older ones are still read."""
_READING = {
    **dict.fromkeys(("run", "method"), Cell.TEXT),
    **dict.fromkeys(("step", "rows", "kept"), Cell.WHOLE),
    **dict.fromkeys(("rho", "rho_approx", "margin_correlation", "pairwise_agreement"), Cell.ANY_NUMBER),
    **dict.fromkeys(("sigma", "sigma_max", "sigma_max_sharp", "agreement_predicted"), Cell.ANY_NUMBER),
    **dict.fromkeys(("overlap", "overlap_finite", "overlap_limit"), Cell.ANY_NUMBER),
}
_SINCE = dict.fromkeys(("delta_chosen", "delta_hardest"), Cell.ANY_NUMBER)
"""What older tables lack."""


class Exit(Record):
    """What a diagnosis found at an exit: measured, and predicted by the formulas."""

    exit_layer: int
    overlap: Number = Field(validation_alias=AliasPath("means", "overlap"))
    overlap_finite: Number = Field(validation_alias=AliasPath("predicted", "overlap_finite"))
    overlap_half_width: Number
    cost: Number
    cost_low: Number
    cost_high: Number
    gain: Number
    gain_low: Number
    gain_high: Number
    break_even: Number


class Point(Record):
    """What a diagnosis found after so many steps, with its recommended exit, if any."""

    step: int
    level: Number
    verdict: Literal["pays", "does not pay", "undecided"]
    recommended: int | None
    exits: list[Exit]


class Diagnosis(Record):
    score: str
    points: list[Point]


def read_readings(found: Mapping[str, Path]) -> pd.DataFrame:
    """One row a reading, of all runs and comparisons, with the `group` that each is of.

    A comparison's table has the readings of its runs: theirs beneath it are left out.

    Args:
        found: group -> its table.

    Raises:
        ValueError: if a table is malformed, naming the file, the line and the column.
    """
    outer = {
        group: path
        for group, path in found.items()
        if not any(other.parent in path.parents for other in found.values() if other != path)
    }
    parts = [read_table(path, _READING, _SINCE).assign(group=group) for group, path in outer.items()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def read_diagnoses(found: Mapping[str, Path]) -> pd.DataFrame:
    """One row an exit at a point of a diagnosis, of all diagnoses (group -> its file).

    Returns:
        Columns group, score, those of a point (recommended: NaN for none) and those of an exit.

    Raises:
        ValueError: if a file is malformed, naming the file and the field.
    """
    diagnoses = {group: checked(read_object(path), Diagnosis, path) for group, path in found.items()}
    rows = [
        {"group": group, "score": diagnosis.score, **point.model_dump(exclude={"exits"}), **each.model_dump()}
        for group, diagnosis in diagnoses.items()
        for point in diagnosis.points
        for each in point.exits
    ]
    return pd.DataFrame(rows).astype({"recommended": float}) if rows else pd.DataFrame()
