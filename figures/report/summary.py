"""Differences of methods in the finished comparisons, as far as intervals tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from figures.methods import in_order, look
from figures.report.runs import Training
from figures.statistics import OTHERS, groups_of

MOST_NAMED = 6
"""Of more methods only those with a clear difference are named."""


@dataclass(frozen=True)
class Difference:
    """A method's difference from another: its label, the id of what made it, and the interval in percentage points."""

    label: str
    target: str
    interval: str


@dataclass
class Differences:
    """Methods by what their intervals show; `alone` are those of one seed, which have none."""

    above: list[Difference] = field(default_factory=list)
    below: list[Difference] = field(default_factory=list)
    unsure: list[Difference] = field(default_factory=list)
    alone: list[Difference] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of methods."""
        return len(self.above) + len(self.below) + len(self.unsure) + len(self.alone)


def comparisons(summaries: pd.DataFrame | None, training: Training) -> list[dict[str, Any]]:
    """The budget, seeds, differences and diverged methods of each finished comparison.

    Args:
        summaries: the table of that name; None where no comparison is finished.
    """
    found = []
    for group, rows in ({} if summaries is None else groups_of(summaries)).items():
        content = training.comparisons.get(group)
        found.append(
            {
                "group": group,
                "budget": content and content["config"]["budget"],
                "seeds": int(rows["runs"].max()),
                "unequal": rows["runs"].nunique() > 1,
                "against": {
                    name: against(rows, column, other, training)
                    for column, other, name in OTHERS
                    if other in set(rows["method"])
                },
                "diverged": [
                    {
                        "label": look(row["method"]).label,
                        "target": training.target(group, row["method"]),
                        "diverged": row["diverged"],
                        "runs": row["runs"],
                    }
                    for _, row in rows.iterrows()
                    if row["diverged"]
                ],
            }
        )
    return found


def against(rows: pd.DataFrame, column: str, other: str, training: Training) -> Differences:
    """Differences of the methods of a comparison to one of them.

    Args:
        rows: of the table "summaries", of one comparison.
        column: "over_baseline" or "over_random".
        other: the method compared with.
    """
    found = Differences()
    by_method = rows[rows[column].notna() & (rows["method"] != other)].set_index("method")
    for method in in_order(by_method.index):
        row = by_method.loc[method]
        mean, half = row[column], row[f"{column}_half_width"]
        interval = f"{100 * mean:+.2f}" if pd.isna(half) else f"{100 * mean:+.2f} ± {100 * half:.2f}"
        if pd.isna(half):
            side = found.alone
        elif abs(mean) <= half:
            # Only an interval that leaves zero out shows a difference.
            side = found.unsure
        else:
            side = found.above if mean > 0 else found.below
        side.append(Difference(look(method).label, training.target(row["group"], method), interval))
    return found
