"""Readings and diagnoses of scores beside the formulas, from the files that `gsgd diagnose` writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from figures.checked import Cell, choice, field, number, read_object, read_table

READINGS, DIAGNOSIS = "live.csv", "diagnosis.json"
VERDICTS = ("pays", "does not pay", "undecided")
_READING = {
    **dict.fromkeys(("run", "method"), Cell.TEXT),
    **dict.fromkeys(("step", "rows", "kept"), Cell.WHOLE),
    **dict.fromkeys(
        ("rho", "rho_approx", "margin_correlation", "sigma", "sigma_max", "sigma_max_sharp"), Cell.ANY_NUMBER
    ),
    **dict.fromkeys(("overlap", "overlap_finite", "overlap_limit"), Cell.ANY_NUMBER),
    **dict.fromkeys(("pairwise_agreement", "agreement_predicted"), Cell.ANY_NUMBER),
}
_OF_AN_EXIT = ("overlap_half_width", "cost", "cost_low", "cost_high", "gain", "gain_low", "gain_high", "break_even")


def read_readings(folder: Path) -> pd.DataFrame:
    """One row a reading, of all runs and comparisons beneath `folder`, with the `group` that each is of.

    A comparison's table has the readings of its runs: theirs beneath it are left out.

    Raises:
        ValueError: if a table is malformed, naming the file, the line and the column.
    """
    paths = sorted(folder.rglob(READINGS))
    outer = [path for path in paths if not any(other.parent in path.parents for other in paths if other != path)]
    parts = [read_table(path, _READING).assign(group=_group(path, folder)) for path in outer]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def read_diagnoses(folder: Path) -> pd.DataFrame:
    """One row an exit at a point of a diagnosis, of all diagnoses beneath `folder`.

    Returns:
        Columns group, score, step, level, verdict, recommended (NaN for none), exit_layer, overlap, overlap_finite
        (what the formula gives), and those of `_OF_AN_EXIT`.

    Raises:
        ValueError: if a file is malformed, naming the file and the field.
    """
    rows = []
    for path in sorted(folder.rglob(DIAGNOSIS)):
        content = read_object(path)
        of_all = {"group": _group(path, folder), "score": field(content, "score", str, path)}
        for place, point in enumerate(field(content, "points", list, path)):
            where = {"points": {str(place): point}}
            of_point = {
                "step": field(where, f"points.{place}.step", int, path),
                "level": number(where, f"points.{place}.level", path),
                "verdict": field(where, f"points.{place}.verdict", str, path),
            }
            choice(of_point["verdict"], VERDICTS, f"{path}, field 'points.{place}.verdict'")
            recommended = field(where, f"points.{place}.recommended", (int, type(None)), path)
            of_point["recommended"] = math.nan if recommended is None else recommended
            exits = field(where, f"points.{place}.exits", list, path)
            rows += [{**of_all, **of_point, **_exit(each, f"{path}, point {place}", path)} for each in exits]
    return pd.DataFrame(rows)


def _exit(each: Any, where: str, path: Path) -> dict[str, Any]:
    if not isinstance(each, dict):
        raise ValueError(f"{where}: an exit is {each!r} but must be an object")
    return {
        "exit_layer": field(each, "exit_layer", int, path),
        "overlap": number(each, "means.overlap", path),
        "overlap_finite": number(each, "predicted.overlap_finite", path),
        **{name: number(each, name, path) for name in _OF_AN_EXIT},
    }


def _group(path: Path, folder: Path) -> str:
    return path.parent.relative_to(folder).as_posix()
