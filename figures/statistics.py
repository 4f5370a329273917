"""Tables by group and quantity; means over seeds with 95% intervals, along a run and of differences of methods."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from figures.methods import in_order, look
from gsgd.intervals import mean_half_width

MOST_CURVES = 8
"""More curves in one picture would not be told apart."""


def groups_of(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Group -> its rows, in the order of the table."""
    return {str(group): rows for group, rows in table.groupby("group", sort=False)}


def curves_of(table: pd.DataFrame, x: str) -> dict[str, pd.Series]:
    """Quantity -> its values by `x`, ascending."""
    return {str(name): rows.set_index(x)["value"].sort_index() for name, rows in table.groupby("quantity")}


def mean_and_half_width(values: Sequence[float] | np.ndarray | pd.Series) -> tuple[float, float]:
    """Mean and half-width of its 95% interval; the half-width is NaN for a single value, both are for none."""
    array = np.asarray(values, float)
    return float(array.mean()) if len(array) else math.nan, mean_half_width(array)


def band(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Mean of `y` over a method's runs, with its interval, at every `x` that all of them span.

    Runs are linear between their evaluations: on a real clock no two are evaluated at the same second.

    Args:
        rows: evaluations of one method of one group, with the column `run`.

    Returns:
        Columns x, mean, half_width, runs.
    """
    runs = [run.sort_values(x)[[x, y]].dropna().to_numpy(float) for _, run in rows.groupby("run")]
    runs = [run for run in runs if len(run)]
    low, high = max(run[0, 0] for run in runs), min(run[-1, 0] for run in runs)
    places = np.unique(np.concatenate([run[:, 0] for run in runs]))
    places = places[(places >= low) & (places <= high)]
    values = np.array([np.interp(places, run[:, 0], run[:, 1]) for run in runs])
    found = [(place, *mean_and_half_width(values[:, i]), len(runs)) for i, place in enumerate(places)]
    return pd.DataFrame(found, columns=["x", "mean", "half_width", "runs"])


def differences(rows: pd.DataFrame, x: str, other: str = "baseline") -> pd.DataFrame:
    """Validation accuracy minus that of the method `other`, seed by seed, at the largest `x` that all runs reach.

    Args:
        rows: evaluations of one group.

    Returns:
        Columns method, mean, half_width, runs; no rows for methods that share no seed with `other`.
    """
    ends = rows.groupby("run")[x].max()
    end = float(ends.min())
    at_end: dict[str, dict[int, float]] = {}
    for (method, seed), run in rows.groupby(["method", "seed"]):
        run = run.sort_values(x)
        at_end.setdefault(str(method), {})[int(seed)] = float(np.interp(end, run[x], run["val_accuracy"]))
    found = []
    for method in in_order(at_end):
        pairs = [value - at_end[other][seed] for seed, value in at_end[method].items() if seed in at_end.get(other, {})]
        if method != other and pairs:
            found.append((method, *mean_and_half_width(pairs), len(pairs)))
    return pd.DataFrame(found, columns=["method", "mean", "half_width", "runs"])


OTHERS = (("over_baseline", "baseline", "the baseline"), ("over_random", "random", "random rows"))
"""Column of a difference in summaries, the method that others are compared with, and what it is called."""
LUCK = "one seed each, so luck may be all there is to see"


def sentence(found: pd.DataFrame, where: str) -> str:
    """A sentence on differences to the baseline.

    Args:
        found: of `differences`.
        where: at what the methods are compared, such as "at equal samples".
    """
    if found.empty:
        return "there is no baseline to compare with"
    sure = found[found["mean"].abs() > found["half_width"]]
    above, below = ([look(str(method)).brief for method in sure[sign * sure["mean"] > 0]["method"]] for sign in (1, -1))
    if above or below:
        parts = [f"{_few(names)} {word} the baseline" for names, word in ((above, "above"), (below, "below")) if names]
        return f"{', '.join(parts)} {where}"
    if found["half_width"].isna().all():
        return LUCK
    return f"no difference from the baseline shown {where}"


def to_draw(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """(methods to draw, remarks on those that are not) of one group.

    A method of which a run diverged has no mean. Of too many, baseline, control and plain methods come first, then
    variants by their last accuracy.
    """
    diverged = in_order(rows[rows["diverged"]]["method"])
    methods = [method for method in in_order(rows["method"]) if method not in diverged]
    remarks = [f"{look(method).brief}: diverged" for method in diverged]
    if len(methods) > MOST_CURVES:
        last = {method: float(rows[rows["method"] == method]["val_accuracy"].iloc[-1]) for method in methods}
        ranked = sorted(methods, key=lambda method: (":" in method, -last[method] if ":" in method else 0.0))
        remarks.append(f"{MOST_CURVES} of {len(methods)} methods")
        methods = in_order(ranked[:MOST_CURVES])
    return methods, remarks


def _few(names: list[str]) -> str:
    if len(names) <= 2:
        return " and ".join(names)
    return f"{names[0]} and {len(names) - 1} more"
