"""Hours until BERT base reaches 64% validation accuracy (abstract and Section 1)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from figures import paper
from figures.beside_paper import COLUMNS, cells, of_family, with_digits
from figures.methods import look


def make(runs: pd.DataFrame, evaluations: pd.DataFrame | None = None) -> pd.DataFrame:
    """Hours on the real clock to 64% validation accuracy, the paper's rough ones and ours (Section 1, Figure 2).

    Args:
        runs, evaluations: the tables of these names; `runs` may have no rows, `evaluations` may be None.

    Returns:
        Columns method, target, paper, ours, ours_half_width, runs, note.
    """
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
        mean, half, count, note = cells(same.assign(hours=hours) if hours else same.assign(hours=np.nan), "hours")
        if len(same) and np.isnan(hours).any():
            mean, half, note = np.nan, np.nan, f"reached by {np.isfinite(hours).sum()} of {len(hours)} runs"
        rows.append((look(entry["method"]).label, f"{entry['target']:.0%}", entry["hours"], mean, half, count, note))
    found = pd.DataFrame(rows, columns=["method", "target", *COLUMNS])
    return with_digits(with_digits(found, 0, ("paper",)), 1, ("ours",))


def _reach(evaluations: pd.DataFrame, target: float) -> float:
    """Hours at which the accuracy first reached `target`, linear between evaluations; NaN if it never did."""
    rows = evaluations.sort_values("step")
    accuracy = np.concatenate([[0.0], rows["val_accuracy"]])
    hours = np.concatenate([[0.0], rows["wall_clock_s"] / 3600])
    reached = np.flatnonzero(accuracy >= target)
    if len(reached) == 0:
        return float("nan")
    first = int(reached[0])
    return float(np.interp(target, accuracy[first - 1 : first + 1], hours[first - 1 : first + 1]))
