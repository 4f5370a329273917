"""Table 6: hours that scoring took in pretraining BERT base, by the layer of the exit."""

from __future__ import annotations

import pandas as pd

from figures import paper
from figures.beside_paper import cells, of_family, with_digits
from figures.methods import look

PARTS = ("selection", "forward", "backward")


def make(runs: pd.DataFrame) -> pd.DataFrame:
    """Hours of scoring, and of forward and backward passes, the paper's and ours (Table 6).

    Args:
        runs: the table of that name; it may have no rows.

    Returns:
        Columns method, then for each part PART_paper, PART_ours, PART_ours_half_width, then runs and note.
    """
    ours = of_family(runs, "bert-base")
    rows = []
    for _, entry in paper.table("table_6").iterrows():
        same = ours[ours["base_method"] == entry["method"]]
        row: dict[str, object] = {"method": look(entry["method"]).label}
        for part in PARTS:
            mean, half, row_count, row_note = cells(same, f"{part}_s", 1 / 3600)
            row |= {f"{part}_paper": entry[f"{part}_h"], f"{part}_ours": mean, f"{part}_ours_half_width": half}
        rows.append({**row, "runs": row_count, "note": row_note})
    found = with_digits(pd.DataFrame(rows), 4, ("selection_paper", *(f"{part}_ours" for part in PARTS)))
    return with_digits(found, 1, ("forward_paper", "backward_paper"))
