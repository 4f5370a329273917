"""The paper's numbers beside those of our runs, and the methods of each comparison, as tables.

Arguments are the tables of `Results` of these names; `runs` may have no rows. A column NAME that has intervals has a
column NAME_half_width behind it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from figures import paper
from figures.chosen import FEWEST_DRAWS, never_and_always
from figures.methods import in_order, look
from figures.statistics import groups_of, mean_and_half_width

SAME_SAMPLES, SAME_TIME = "100epochs", "100baseline-epochs"
FAMILIES = {
    **dict.fromkeys(("table_1", "table_6", "crossing"), "bert-base"),
    **dict.fromkeys(("table_2", "table_3"), "cifar100"),
    **dict.fromkeys(("table_4", "table_5"), "food101"),
}
"""Table beside the paper's -> the family of presets that ours are taken from."""
MOST_LISTED = 12
"""Ids of rows that a table names."""
_BESIDE = ["paper", "ours", "ours_half_width", "runs", "note"]


def table_1(runs: pd.DataFrame) -> pd.DataFrame:
    """Validation accuracy at the last step of pretraining BERT base (Table 1)."""
    ours = of_family(runs, "bert-base")
    rows = [
        (look(method).label, accuracy, *cells(ours[ours["base_method"] == method], "val_accuracy"))
        for method, accuracy in paper.table("table_1")[["method", "val_accuracy"]].itertuples(index=False)
    ]
    return _with_digits(pd.DataFrame(rows, columns=["method", *_BESIDE]), 4, ("paper", "ours"))


def resnet_table(name: str, budget: str, runs: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of ResNet-50 in percent, by learning rate and method (Tables 2 to 5).

    Args:
        name: "table_2" and so on.
        budget: SAME_SAMPLES or SAME_TIME, of the runs that select; for the baseline both are the same.
    """
    ours = of_family(runs, FAMILIES[name])
    rows = []
    for _, entry in paper.table(name).iterrows():
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
    return _with_digits(pd.DataFrame(rows, columns=["max_lr", "method", *_BESIDE]), 2, ("paper", "ours"))


def table_6(runs: pd.DataFrame) -> pd.DataFrame:
    """Hours of scoring, and of forward and backward passes, in pretraining BERT base (Table 6)."""
    ours = of_family(runs, "bert-base")
    parts = ("selection", "forward", "backward")
    rows = []
    for _, entry in paper.table("table_6").iterrows():
        same = ours[ours["base_method"] == entry["method"]]
        row: dict[str, object] = {"method": look(entry["method"]).label}
        for part in parts:
            mean, half, count, note = cells(same, f"{part}_s", 1 / 3600)
            row |= {f"{part}_paper": entry[f"{part}_h"], f"{part}_ours": mean, f"{part}_ours_half_width": half}
        rows.append({**row, "runs": count, "note": note})
    found = _with_digits(pd.DataFrame(rows), 4, ("selection_paper", *(f"{part}_ours" for part in parts)))
    return _with_digits(found, 1, ("forward_paper", "backward_paper"))


def crossing(runs: pd.DataFrame, evaluations: pd.DataFrame | None = None) -> pd.DataFrame:
    """Hours on the real clock until BERT base reaches 64% validation accuracy (abstract, Section 1, Figure 2)."""
    ours = of_family(runs, "bert-base")
    rows = []
    for _, entry in paper.table("crossing").iterrows():
        same = ours[ours["base_method"] == entry["method"]]
        hours = [
            _reach(
                evaluations[(evaluations["group"] == run["group"]) & (evaluations["run"] == run["run"])],
                entry["target"],
            )
            for _, run in same.iterrows()
            if evaluations is not None
        ]
        mean, half, count, note = cells(same.assign(hours=hours or math.nan), "hours")
        if np.isnan(hours).any():
            mean, half, note = math.nan, math.nan, f"reached by {np.isfinite(hours).sum()} of {len(hours)} runs"
        rows.append((look(entry["method"]).label, f"{entry['target']:.0%}", entry["hours"], mean, half, count, note))
    found = pd.DataFrame(rows, columns=["method", "target", *_BESIDE])
    return _with_digits(_with_digits(found, 0, ("paper",)), 1, ("ours",))


def _reach(evaluations: pd.DataFrame, target: float) -> float:
    """Hours at which the accuracy first reached `target`, linear between evaluations; NaN if it never did."""
    rows = evaluations.sort_values("step")
    accuracy = np.concatenate([[0.0], rows["val_accuracy"]])
    hours = np.concatenate([[0.0], rows["wall_clock_s"] / 3600])
    reached = np.flatnonzero(accuracy >= target)
    if len(reached) == 0:
        return math.nan
    first = int(reached[0])
    return float(np.interp(target, accuracy[first - 1 : first + 1], hours[first - 1 : first + 1]))


def comparisons(summaries: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, differences to baseline and random rows, share of scoring, and cost of the target, by method."""
    accuracies = ("val_accuracy", "test_accuracy", "over_baseline", "over_random")
    costs = ("seconds_to_target", "samples_to_target")
    parts = []
    for of_group in groups_of(summaries).values():
        by_method = of_group.set_index("method", drop=False)
        parts.append(by_method.loc[in_order(by_method.index)])
    rows = pd.concat(parts, ignore_index=True)
    rows["method"] = [look(method).label for method in rows["method"]]
    columns = [
        *("group", "method", "runs", "diverged"),
        *(column for name in accuracies for column in (name, f"{name}_half_width")),
        *("scoring_share", "steps", "backprop_samples", "target", "reached"),
        *(column for name in costs for column in (name, f"{name}_half_width")),
    ]
    table = rows[columns].rename(columns={"group": "comparison"})
    _with_digits(table, 4, (*accuracies, "target"))
    _with_digits(table, 3, ("scoring_share",))
    _with_digits(table, 1, ("seconds_to_target",))
    return _with_digits(table, 0, ("steps", "backprop_samples", "samples_to_target"))


def chosen_rows(chosen: pd.DataFrame) -> pd.DataFrame:
    """Of each run how many rows of the data were never and always chosen, and the first `MOST_LISTED` of either."""
    found = []
    for (group, run), rows in chosen.groupby(["group", "run"], sort=False):
        never, always = never_and_always(rows)
        known = int((rows["drawn"] >= FEWEST_DRAWS).sum())
        found.append(
            {
                "run": f"{group}, {run}",
                "method": look(rows["method"].iloc[0]).label,
                "rows_drawn": known,
                "never_chosen": len(never) / known if known else math.nan,
                "always_chosen": len(always) / known if known else math.nan,
                "ids_never_chosen": _listed(never),
                "ids_always_chosen": _listed(always),
            }
        )
    return _with_digits(pd.DataFrame(found), 3, ("never_chosen", "always_chosen"))


def _listed(rows: pd.DataFrame) -> str:
    ids = [str(name) for name in rows["id"].iloc[:MOST_LISTED]]
    more = f" and {len(rows) - len(ids)} more" if len(rows) > len(ids) else ""
    return ", ".join(ids) + more or "none"


MAKERS: dict[str, Callable[..., pd.DataFrame]] = {
    "table_1": table_1,
    "table_2": functools.partial(resnet_table, "table_2", SAME_TIME),
    "table_3": functools.partial(resnet_table, "table_3", SAME_SAMPLES),
    "table_4": functools.partial(resnet_table, "table_4", SAME_TIME),
    "table_5": functools.partial(resnet_table, "table_5", SAME_SAMPLES),
    "table_6": table_6,
    "crossing": crossing,
    "comparisons": comparisons,
    "chosen_rows": chosen_rows,
}


def of_family(runs: pd.DataFrame, family: str) -> pd.DataFrame:
    """The runs of a family of presets that are configured as the paper's: what they change is no more one of them.

    Args:
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
    # What an older header does not know was off.
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
    if len(values) == 0:
        note = f"{column} was not recorded" if len(finished) else "not finished" if len(runs) else "not run"
        return math.nan, math.nan, 0, note
    mean, half = mean_and_half_width(scale * values)
    return mean, half, len(values), "one seed, no interval" if len(values) == 1 else ""


def _with_digits(table: pd.DataFrame, digits: int, columns: Sequence[str]) -> pd.DataFrame:
    """The table, with how many decimals columns (and their half-widths) are shown with; see `figures.text`."""
    table.attrs.setdefault("digits", {}).update(dict.fromkeys(columns, digits))
    return table
