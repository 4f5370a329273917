"""Differences of each method's final accuracy to the baseline."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from figures.plots import forest
from figures.statistics import OTHERS


def draw(summaries: pd.DataFrame) -> Figure:
    """Is a method better than plain training? A forest plot of all comparisons."""
    return forest.draw(summaries, *OTHERS[0])
