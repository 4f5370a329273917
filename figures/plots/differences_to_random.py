"""Differences of each method's final accuracy to that of random rows."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from figures.plots import forest
from figures.statistics import OTHERS


def draw(summaries: pd.DataFrame) -> Figure:
    """Is a method better than rows drawn at random? A forest plot of all comparisons."""
    return forest.draw(summaries, *OTHERS[1])
