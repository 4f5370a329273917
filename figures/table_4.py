"""Table 4: ResNet-50 on Food-101 with the same training time."""

from __future__ import annotations

import pandas as pd

from figures.beside_paper import SAME_TIME, resnet_table


def make(runs: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy in percent on Food-101 in the time in which the baseline trains 100 epochs (Table 4).

    Args:
        runs: the table of that name; it may have no rows.

    Returns:
        As of `resnet_table`.
    """
    return resnet_table(runs, "food101", 4, SAME_TIME)
