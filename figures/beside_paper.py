"""Our runs beside the paper's numbers: which runs are the paper's, and what they came to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from figures import paper
from figures.curves import mean_and_half_width
from figures.methods import look

SAME_SAMPLES, SAME_TIME = "100epochs", "100baseline-epochs"
COLUMNS = ("paper", "ours", "ours_half_width", "runs", "note")


def of_family(runs: pd.DataFrame, family: str) -> pd.DataFrame:
    """The runs of a family of presets that are configured as the paper's: what they change is no more one of them.

    Args:
        runs: the table of that name.
        family: "bert-base", "cifar100" or "food101".
    """
    wanted = paper.identity(family)
    named = runs["preset"].map(lambda name: str(name).split("/")[0] == family)
    same = [
        bool(of_preset) and all(_is(row, key, value) for key, value in wanted.items())
        for of_preset, (_, row) in zip(named, runs.iterrows(), strict=True)
    ]
    return runs[pd.Series(same, index=runs.index, dtype=bool)]


def _is(row: pd.Series, key: str, wanted: Any) -> bool:
    if key in ("samples_per_step", "budget"):
        return bool(row[key] == wanted)
    # What an older record does not know was off.
    return bool(row["config"].get(key, None if wanted else wanted) == wanted)


def cells(runs: pd.DataFrame, column: str, scale: float = 1.0) -> tuple[float, float, int, str]:
    """(mean, half-width of its 95% interval, runs, note) of a column over runs of one method.

    The mean is NaN where nothing was run to its end, or a run diverged; the note says which.
    """
    finished = runs[runs["status"] == "finished"]
    values = finished[column].dropna()
    diverged = int((runs["status"] == "diverged").sum())
    if diverged:
        return math.nan, math.nan, len(runs), f"{diverged} of {len(runs)} runs diverged"
    if len(runs) == 0:
        return math.nan, math.nan, 0, "not run"
    if len(finished) == 0:
        return math.nan, math.nan, 0, "not finished"
    if len(values) == 0:
        return math.nan, math.nan, 0, f"{column} was not recorded"
    mean, half = mean_and_half_width(scale * values)
    return mean, half, len(values), "one seed, no interval" if len(values) == 1 else ""


def resnet_table(runs: pd.DataFrame, family: str, number: int, budget: str) -> pd.DataFrame:
    """Test accuracies in percent by learning rate and method (Tables 2 to 5).

    Args:
        runs: the table of that name.
        family: "cifar100" or "food101".
        number: of the table.
        budget: SAME_SAMPLES or SAME_TIME, of the runs that select; for the baseline both are the same.

    Returns:
        Columns max_lr, method, paper, ours, ours_half_width, runs, note.
    """
    ours = of_family(runs, family)
    rows = []
    for _, entry in paper.table(f"table_{number}").iterrows():
        allowed = (SAME_SAMPLES, SAME_TIME) if entry["method"] == "baseline" else (budget,)
        same = ours[
            (ours["base_method"] == entry["method"])
            & ours["max_lr"].map(lambda lr, wanted=entry["max_lr"]: math.isclose(lr, wanted, rel_tol=1e-9))
            & ours["budget"].isin(allowed)
        ]
        mean, half, count, note = cells(same, "test_accuracy", 100.0)
        if math.isnan(entry["test_accuracy_percent"]):
            note = "; ".join(filter(None, ["the paper's did not converge", note]))
        label = look(entry["method"]).label
        rows.append((f"{entry['max_lr']:g}", label, entry["test_accuracy_percent"], mean, half, count, note))
    return with_digits(pd.DataFrame(rows, columns=["max_lr", "method", *COLUMNS]), 2, ("paper", "ours"))


def with_digits(table: pd.DataFrame, digits: int, columns: Sequence[str]) -> pd.DataFrame:
    """The table, with how many decimals columns (and their half-widths) are shown with; see `figures.text`."""
    table.attrs.setdefault("digits", {}).update(dict.fromkeys(columns, digits))
    return table
