"""What the finished comparisons answer to two questions, as far as intervals tell."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from figures.methods import in_order, look
from figures.report.runs import Training
from figures.statistics import OTHERS, groups_of

MOST_NAMED = 3
"""More methods are counted and not named: the pictures below the sentences name them."""


@dataclass(frozen=True)
class Difference:
    """A method's difference from another: its label, the id of what made it, and the interval in percentage points."""

    group: str
    label: str
    target: str
    interval: str


@dataclass(frozen=True)
class Diverged:
    """A method of which runs diverged, with the id of what made it, and how many did."""

    group: str
    label: str
    target: str
    diverged: int
    runs: int


@dataclass
class Answer:
    """Methods of all comparisons by what their intervals show; `alone` are those of one seed, which have none.

    Attributes:
        name: what methods are compared with, in words.
        silent: comparisons whose intervals all hold zero.
    """

    name: str
    above: list[Difference] = field(default_factory=list)
    below: list[Difference] = field(default_factory=list)
    unsure: list[Difference] = field(default_factory=list)
    alone: list[Difference] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of differences."""
        return len(self.above) + len(self.below) + len(self.unsure) + len(self.alone)


@dataclass(frozen=True)
class Compared:
    """The finished comparisons, what they answer, and the methods of which runs diverged."""

    groups: list[str]
    answers: list[Answer]
    diverged: list[Diverged]


def read(summaries: pd.DataFrame | None, training: Training) -> Compared:
    """What finished comparisons found.

    Args:
        summaries: the table of that name; None where no comparison is finished.
    """
    if summaries is None:
        return Compared([], [], [])
    methods = set(summaries["method"])
    answers = [answer(summaries, column, other, name, training) for column, other, name in OTHERS if other in methods]
    diverged = [
        Diverged(
            str(row["group"]),
            look(row["method"]).label,
            training.target(row["group"], row["method"]),
            int(row["diverged"]),
            int(row["runs"]),
        )
        for _, row in summaries.iterrows()
        if row["diverged"]
    ]
    return Compared(list(groups_of(summaries)), answers, diverged)


def answer(summaries: pd.DataFrame, column: str, other: str, name: str, training: Training) -> Answer:
    """Differences of the methods of all comparisons to one of them.

    Args:
        summaries: the table of that name.
        column: "over_baseline" or "over_random".
        other: the method compared with.
        name: what it is called.
    """
    found = Answer(name)
    for group, rows in groups_of(summaries).items():
        by_method = rows[rows[column].notna() & (rows["method"] != other)].set_index("method")
        sides = []
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
            side.append(Difference(group, look(method).label, training.target(group, method), interval))
            sides.append(side)
        if sides and all(side is found.unsure for side in sides):
            found.silent.append(group)
    return found
