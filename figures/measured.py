"""What training measured of its scores, beside the formulas: the files that `gsgd diagnose` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from figures.checked import Cell, choice, field, read_object, read_table

LIVE, DIAGNOSIS = "live.csv", "diagnosis.json"
VERDICTS = ("pays", "does not pay", "undecided")
_MEASURED = ("rho", "rho_approx", "rho_pairs", "rho_pairs_approx", "sigma", "independence", "margin_correlation")
_PREDICTED = ("overlap_finite", "overlap_limit", "agreement_predicted", "beta_from_agreement", "sigma_max")
_COLUMNS = {
    **dict.fromkeys(("run", "method"), Cell.TEXT),
    **dict.fromkeys(("seed", "step", "exit_layer", "rows", "kept"), Cell.WHOLE),
    **dict.fromkeys((*_MEASURED, "pairwise_agreement", "overlap", "rank_correlation"), Cell.ANY_NUMBER),
    **dict.fromkeys((*_PREDICTED, "sigma_max_sharp", "rho_pairs_guaranteed"), Cell.ANY_NUMBER),
}
_OF_AN_EXIT = ("overlap_half_width", "cost", "cost_low", "cost_high", "gain", "gain_low", "gain_high", "break_even")


def read_live(found: Mapping[str, Path]) -> pd.DataFrame:
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
    parts = [read_table(path, _COLUMNS).assign(group=group) for group, path in outer.items()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def read_diagnoses(found: Mapping[str, Path]) -> pd.DataFrame:
    """One row an exit at a point of a diagnosis, of all diagnoses (group -> its file).

    Returns:
        Columns group, score, step, level, verdict, recommended (NaN for none), exit_layer, overlap, overlap_finite
        (what the formula gives), and those of `_OF_AN_EXIT`.

    Raises:
        ValueError: if a file is malformed, naming the file and the field.
    """
    rows = []
    for group, path in found.items():
        content = read_object(path)
        of_all = {"group": group, "score": field(content, "score", str, path)}
        for number, point in enumerate(field(content, "points", list, path)):
            where = {"points": {str(number): point}}
            of_point = {
                "step": field(where, f"points.{number}.step", int, path),
                "level": _number(where, f"points.{number}.level", path),
                "verdict": field(where, f"points.{number}.verdict", str, path),
            }
            choice(of_point["verdict"], VERDICTS, f"{path}, field 'points.{number}.verdict'")
            recommended = field(where, f"points.{number}.recommended", (int, type(None)), path)
            of_point["recommended"] = math.nan if recommended is None else recommended
            exits = field(where, f"points.{number}.exits", list, path)
            rows += [{**of_all, **of_point, **_exit(each, f"{path}, point {number}", path)} for each in exits]
    return pd.DataFrame(rows)


def _exit(each: Any, where: str, path: Path) -> dict[str, Any]:
    if not isinstance(each, dict):
        raise ValueError(f"{where}: an exit is {each!r} but must be an object")
    return {
        "exit_layer": field(each, "exit_layer", int, path),
        "overlap": _number(each, "means.overlap", path),
        "overlap_finite": _number(each, "predicted.overlap_finite", path),
        **{name: _number(each, name, path) for name in _OF_AN_EXIT},
    }


def _number(content: Mapping[str, Any], name: str, path: Path) -> float:
    """A number, which JSON holds as a string where it is not finite."""
    value = field(content, name, (int, float, str), path)
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        raise ValueError(f"{path}, field {name!r}: {value!r} must be a number")
    return float(value)
