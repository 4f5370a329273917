"""What a run leaves behind: `header.json`, what it was, and `evaluations.csv`, one row an evaluation."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from gsgd.results import write_json, write_table
from theory.readings import MEASURED
from training.data.files import checked
from training.run_folder.schema import DIVERGED, RunHeader, check
from training.settings import TrainingSettings

OF_COMPARISON, OF_LADDER = "compare.json", "ladder.json"
HEADER = "header.json"
EVALUATIONS = "evaluations.csv"
METERS = "meters.csv"
BESIDE_THE_RUN = frozenset(
    ("cache_dir", "tensorboard", "trackers", "checkpoint_every_s", "save_model", "label", "check", "log_rows")
)
"""Keys that change nothing that is trained: another value makes no other run, and no step dearer."""


@dataclass(frozen=True)
class Evaluation:
    """Where a run stood when it was evaluated. Samples and seconds are since its start.

    Attributes:
        step: optimizer steps done.
        method, score, exit_layer, seed: which run it is; score and exit_layer are None where nothing is scored.
        backprop_samples, gross_samples: trained on, and drawn; all ranks.
        wall_clock_s: of training steps, without evaluation and checkpoints.
        selection_s, forward_s, backward_s: parts of it, on the device's clock, of rank 0.
        val_accuracy, val_loss: on the validation split.
        train_loss: mean since the evaluation before.
        reference_s: what the steps cost as it was measured before the run; None without measured costs.
        overlap, rank_correlation: of the scores with exact losses: the share of the kept rows that exact losses would
            have kept, and Spearman's correlation; None where not measured.
    """

    step: int
    method: str
    score: str | None
    exit_layer: int | None
    seed: int
    backprop_samples: int
    gross_samples: int
    wall_clock_s: float
    selection_s: float
    forward_s: float
    backward_s: float
    val_accuracy: float
    val_loss: float
    train_loss: float | None = None
    reference_s: float | None = None
    overlap: float | None = None
    rank_correlation: float | None = None


COLUMNS: dict[str, Any] = get_type_hints(Evaluation)
"""Of `evaluations.csv`: column -> type."""
METER_COLUMNS: dict[str, Any] = {
    **{"method": str, "seed": int},
    **{name: int if name in ("step", "exit_layer", "rows", "kept") else float for name in MEASURED},
    **dict.fromkeys(("delta_chosen", "delta_hardest"), float | None),
    **{"meter_s": float},
}
"""Of `meters.csv`; a number that is not defined is `nan`, and one that older versions did not measure None."""


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("selection_s", "forward_s", "backward_s"), (lambda value: value >= 0, "at least 0")),
    **dict.fromkeys(("backprop_samples", "gross_samples", "wall_clock_s"), (lambda value: value > 0, "above 0")),
    "val_accuracy": (lambda value: 0 <= value <= 1, "in [0, 1]"),
}


class Records:
    """The results of one run, in its folder. Every file is written whole or not at all."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.evaluations: list[Evaluation] = []
        self.header: dict[str, Any] = {}

    def add(self, evaluation: Evaluation) -> None:
        """Append and write."""
        self.evaluations.append(evaluation)
        write_table(self.folder / EVALUATIONS, tuple(COLUMNS), map(astuple, self.evaluations))

    def update(self, **entries: Any) -> None:
        """Set entries of the header and write it."""
        self.header.update(entries)
        write_json(self.folder / HEADER, self.header)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: if it cannot be read, or is no object, naming the file.
    """
    try:
        content = json.loads(checked(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} but must hold an object")
    return content


def read_header(folder: Path) -> dict[str, Any] | None:
    """The header of the run recorded in `folder`; None if there is none.

    Raises:
        ValueError: if it cannot be read, or has an entry that cannot be, naming the file and the entry.
    """
    path = folder / HEADER
    return check(RunHeader, read_json(path), path) if path.exists() else None


def fingerprint(data: Mapping[str, Any]) -> dict[str, Any]:
    """What tells data from others in a task's description: its entries on the content, else all of it."""
    return {name: value for name, value in data.items() if name.endswith("content")} or dict(data)


def read_evaluations(folder: Path) -> list[Evaluation]:
    """The evaluations recorded in `folder`, in their order; none if there is no table.

    Raises:
        ValueError: if the table cannot be read, naming the file and the row.
    """
    return [Evaluation(**cells) for cells in read_table(folder / EVALUATIONS, COLUMNS, "an evaluation")]


def recorded_evaluations(
    folder: Path, header: Mapping[str, Any], settings: TrainingSettings, done: int | None = None
) -> list[Evaluation]:
    """The evaluations of a run, as its header says that they must be: each once, in order, with finite numbers.

    Args:
        done: of a run that goes on, its steps; later evaluations are made again. None for one that has ended.

    Raises:
        ValueError: if they are not, naming the file and the line.
    """
    path, total = folder / EVALUATIONS, header["total_steps"]
    steps = settings.evaluated_after(total)
    if done is None and header["status"] == DIVERGED:
        steps = [step for step in steps if step < header["steps_done"]]  # that one was not finite
    elif done is not None:
        steps = [step for step in steps if step <= done]
    rows = read_evaluations(folder)
    rows = rows if done is None else [*rows[: len(steps)], *(row for row in rows[len(steps) :] if row.step <= done)]
    check_steps(path, [row.step for row in rows], steps)
    for line, row in enumerate(rows, start=2):
        _check_cells(row, settings.seed, header["status"], f"{path}, line {line}")
    return rows


def _check_cells(row: Evaluation, seed: int, status: str, place: str) -> None:
    if row.seed != seed:
        raise ValueError(f"{place}: seed = {row.seed}, but the run's is {seed}")
    for name, value in vars(row).items() if status != DIVERGED else ():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{place}: {name} = {value} must be finite")
        holds, rule = _RANGES.get(name, (lambda _: True, ""))
        if not holds(value):
            raise ValueError(f"{place}: {name} = {value} must be {rule}")


def check_steps(path: Path, found: Sequence[int], wanted: Sequence[int]) -> None:
    """Whether a table has a row for each of the steps, and no other.

    Raises:
        ValueError: if not, naming the file and the line.
    """
    for line, (step, expected) in enumerate(itertools.zip_longest(found, wanted), start=2):
        if step != expected:
            there = "the table ends" if step is None else f"there is step {step}"
            missing = "no row" if expected is None else f"step {expected}"
            raise ValueError(f"{path}, line {line}: {there} where the header tells of {missing}")


def read_table(path: Path, columns: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The rows of a table, cell by column; none if there is no table.

    Args:
        columns: to take, with their types; an empty cell is None.
        kind: what a row is, for the message.

    Raises:
        ValueError: if a row lacks a column or a cell is not of its type, naming the file and the line.
    """
    if not path.exists():
        return []
    found: list[dict[str, Any]] = []
    checked(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                if None in row:
                    raise ValueError(f"{len(row[None])} more cells than columns")
                found.append({name: _cell(name, row.get(name), kind_of_cell) for name, kind_of_cell in columns.items()})
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {len(found) + 2}: not {kind} ({error})") from error
    return found


def _cell(name: str, text: str | None, kind: Any) -> Any:
    """A cell as a value of its column's type, such as int or `str | None`."""
    kinds = get_args(kind) or (kind,)
    if not text:
        if NoneType in kinds:
            return None
        raise ValueError(f"{name}: nothing is there")
    try:
        return kinds[0](text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
