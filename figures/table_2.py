"""Table 2: ResNet-50 on CIFAR-100 with the same training time."""

from __future__ import annotations

import pandas as pd

from figures.beside_paper import SAME_TIME, resnet_table


def make(runs: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy in percent on CIFAR-100 in the time in which the baseline trains 100 epochs (Table 2).

    Args:
        runs: the table of that name; it may have no rows.

    Returns:
        As of `resnet_table`.
    """
    return resnet_table(runs, "cifar100", 2, SAME_TIME)
