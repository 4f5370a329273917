"""Table 5: ResNet-50 on Food-101 with the same backpropagated samples."""

from __future__ import annotations

import pandas as pd

from figures.beside_paper import SAME_SAMPLES, resnet_table


def make(runs: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy in percent on Food-101 after 100 epochs of backpropagated samples (Table 5).

    Args:
        runs: the table of that name; it may have no rows.

    Returns:
        As of `resnet_table`.
    """
    return resnet_table(runs, "food101", 5, SAME_SAMPLES)
