"""What selection was forecast to be worth, beside what a ladder of the same setting measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from figures.checked import Number, Record, checked, read_object
from figures.ladders import read_rows

NEAR = 1.2
"""A forecast is near if it is off by no more than this factor."""


class OfScore(Record):
    """What selection by one score was forecast to be worth."""

    score: str
    progress: Number
    cost: Number
    factor: Number
    low: Number
    high: Number


class Configuration(Record):
    budget: str


class WithForecasts(Record):
    """A diagnosis with what it forecast."""

    name: str
    config: Configuration
    forecasts: list[OfScore]


def read_forecasts(diagnoses: Mapping[str, Path], ladders: Mapping[str, Path]) -> pd.DataFrame:
    """One row a score of a setting that was forecast and measured.

    A ladder and a diagnosis are of one setting if their folders have one name; the diagnosis' budget is then a rung.

    Args:
        diagnoses, ladders: group -> the file.

    Returns:
        Columns setting, method, budget, unit, progress, cost, factor, low, high (forecast), and measured, measured_low
        and measured_high, of the accuracy at that rung, the factor NaN where it is beyond the ladder.

    Raises:
        ValueError: if a file is malformed, naming it and the field or the line.
    """
    rows = read_rows(ladders)
    if rows.empty:
        return rows
    rows = rows.assign(setting=rows["group"].map(_last))
    found = []
    for group, path in diagnoses.items():
        content = read_object(path)
        if not content.get("forecasts"):
            continue  # older ones have none, and those of a model that was not trained
        diagnosis = checked(content, WithForecasts, path)
        for each in diagnosis.forecasts:
            here = rows["budget"].map(lambda budget: f"{budget:.15g}") + rows["unit"] == diagnosis.config.budget
            same = (rows["setting"] == _last(group)) & (rows["method"] == each.score) & here
            for _, row in rows[same].iterrows():
                if math.isnan(row["by_accuracy_low"]):
                    continue
                found.append(
                    {
                        **{"setting": _last(group), "method": each.score, "budget": row["budget"], "unit": row["unit"]},
                        **each.model_dump(exclude={"score"}),
                        **{f"measured{end}": row[f"by_accuracy_{name}"] for end, name in _ENDS.items()},
                    }
                )
    return pd.DataFrame(found)


_ENDS = {"": "factor", "_low": "low", "_high": "high"}


def errors(forecasts: pd.DataFrame) -> np.ndarray:
    """log2 of forecast over measured; where that is beyond the ladder, of the nearer end of its interval.

    0 where the forecast lies beyond the ladder, too.
    """
    factor = np.log2(forecasts["factor"].to_numpy(float))
    measured = np.log2(forecasts["measured"].to_numpy(float))
    with np.errstate(divide="ignore"):  # an end that the ladder does not bound may be 0
        low, high = (np.log2(forecasts[f"measured_{end}"].to_numpy(float)) for end in ("low", "high"))
    inside = np.clip(factor, low, high)
    return np.asarray(factor - np.where(np.isnan(measured), inside, measured))


def without_each_setting(forecasts: pd.DataFrame) -> np.ndarray:
    """The `errors` if the other settings alone choose the exponent of progress, by least squares of logarithms.

    A proxy has an exponent of its own.
    """
    found = np.full(len(forecasts), np.nan)
    of_proxy = (forecasts["method"] == "proxy").to_numpy()
    for setting, kind in itertools.product(forecasts["setting"].unique(), (False, True)):
        alike = of_proxy == kind
        own = (forecasts["setting"] == setting).to_numpy() & alike
        others = forecasts[~own & alike & forecasts["measured"].notna().to_numpy()]
        x = np.log2(others["progress"].clip(lower=1e-3).to_numpy(float))
        y = np.log2((others["measured"] * others["cost"]).to_numpy(float))
        if not len(x) or not x.any():
            continue
        exponent = float(x @ y / (x @ x))
        again = forecasts[own].assign(
            factor=forecasts[own]["progress"].clip(lower=1e-3) ** exponent / forecasts[own]["cost"]
        )
        found[own] = errors(again)
    return found


def _last(group: str) -> str:
    return group.rsplit("/", 1)[-1].removeprefix("diagnose-").removeprefix("ladder-")
