"""`meters.csv`: how well the scores stood in for exact losses, one row a reading of the engine's meters.

A row is a dictionary: which run it is of (`method`, `seed`), the fields of `gsgd.sift.measures.readings.Reading`, of
rank 0's gross batch, and `meter_s`, the seconds on the device's clock that readings took since the run's start.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gsgd.results import write_table
from gsgd.sift import Sift
from training.run_folder.records import METER_COLUMNS, METERS, check_steps, read_table
from training.run_folder.scalars import Scalars
from training.settings import TrainingSettings


class MeterLog:
    """The readings of a run, kept in its folder.

    Args:
        done: the run's steps so far; readings of later ones, which a killed run has left, are made again.

    Raises:
        ValueError: if the table of a run that goes on cannot be read.
    """

    def __init__(self, folder: Path, settings: TrainingSettings, done: int):
        self.folder = folder
        self._run = {"method": settings.label or settings.method, "seed": settings.seed}
        self.rows = [row for row in read_meters(folder) if row["step"] < done] if done else []

    def take(self, sift: Sift, events: Scalars | None = None) -> None:
        """Note the engine's readings, also among the run's scalars, if they are written."""
        for reading in sift.readings:
            self.rows.append({**self._run, **asdict(reading), "meter_s": sift.meter_s})
            if events is None:
                continue
            for name, value in asdict(reading).items():
                if isinstance(value, float) and math.isfinite(value):
                    events.add(f"meters/{name}", value, reading.step)

    def write(self) -> None:
        """Write the table, if there are readings. Not at each of them: a step should not wait for a disk."""
        if self.rows:
            write_meters(self.folder, self.rows)

    def cost(self, wall_clock_s: float) -> str:
        """In words, what the readings took of a run of so many seconds."""
        seconds = self.rows[-1]["meter_s"] if self.rows else 0.0
        share = f", {100 * seconds / wall_clock_s:.1f}% of training" if wall_clock_s > 0 else ""
        return f"  {len(self.rows)} readings of the scores took {seconds:.1f} s{share}"


def check_readings(folder: Path, rows: Iterable[dict[str, Any]], metered: Iterable[int] | None, done: int) -> None:
    """Whether these are the readings of a run's first `done` steps, each once and in order.

    Args:
        metered: the steps at which it reads its meters; None where only the run tells, and the order alone is checked.

    Raises:
        ValueError: if not, naming the file and the line.
    """
    if metered is None:
        _check_order(folder, [row["step"] for row in rows])
        return
    check_steps(folder / METERS, [row["step"] for row in rows], [step for step in metered if step < done])


def check_all_there(folder: Path, readings: int) -> None:
    """Whether the table of a run that has ended holds so many readings, in the order of their steps.

    Raises:
        ValueError: if not, or if it cannot be read, naming the file and the line.
    """
    steps = [row["step"] for row in read_meters(folder)]
    _check_order(folder, steps)
    if len(steps) != readings:
        raise ValueError(f"{folder / METERS}: {len(steps)} rows are there, but the header tells of {readings}")


def _check_order(folder: Path, steps: Sequence[int]) -> None:
    ascending = next((n for n, (one, two) in enumerate(itertools.pairwise(steps), 1) if two <= one), len(steps))
    if ascending < len(steps):
        raise ValueError(
            f"{folder / METERS}, line {ascending + 2}: step {steps[ascending]} is not after the one before"
        )


def write_meters(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write `meters.csv`; a number that is not defined is `nan`."""
    write_table(folder / METERS, tuple(METER_COLUMNS), [[row[name] for name in METER_COLUMNS] for row in rows])


def read_meters(folder: Path) -> list[dict[str, Any]]:
    """The readings recorded in `folder`, in their order; none if there is no table.

    Raises:
        ValueError: if the table cannot be read, naming the file and the row.
    """
    return read_table(folder / METERS, METER_COLUMNS, "a reading")
