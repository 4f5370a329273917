"""Table 1: validation accuracy at the last step of pretraining BERT base."""

from __future__ import annotations

import pandas as pd

from figures import paper
from figures.beside_paper import COLUMNS, cells, of_family, with_digits
from figures.methods import look


def make(runs: pd.DataFrame) -> pd.DataFrame:
    """Validation accuracy by method, the paper's and ours (Table 1).

    Args:
        runs: the table of that name; it may have no rows.

    Returns:
        Columns method, paper, ours, ours_half_width, runs, note.
    """
    ours = of_family(runs, "bert-base")
    rows = [
        (look(method).label, accuracy, *cells(ours[ours["base_method"] == method], "val_accuracy"))
        for method, accuracy in paper.table("table_1")[["method", "val_accuracy"]].itertuples(index=False)
    ]
    return with_digits(pd.DataFrame(rows, columns=["method", *COLUMNS]), 4, ("paper", "ours"))
