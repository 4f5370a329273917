"""What is compared: methods with what each changes, the tasks they train, and what their steps cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from gsgd.results import command_line, provenance
from training.budget import StepCosts
from training.config import Config
from training.costs import measure_costs
from training.display import Display
from training.ranks import built, failing_together, told_by_others
from training.run import check_data, check_room
from training.run_folder.records import HEADER, OF_COMPARISON, OF_LADDER, fingerprint
from training.settings import parse_method
from training.task import Task

TUNING_SEED = 1_000_000
"""Of the runs that tune: none of them is reported, so what is reported was not chosen for its luck."""
QUIET = {"save_model": False, "tensorboard": False}
"""What no run of a comparison writes."""
BEGUN = ("date", "commit", "python", "machine", "versions")
"""Entries of the header of a comparison that goes on which tell of its beginning."""


@dataclass(frozen=True)
class Contender:
    """A method with what it changes of the configuration, such as "loss@1:keep=0.7:start_share=0.5"."""

    label: str
    values: dict[str, str]


def parse_contender(text: str) -> Contender:
    """The method that `text` names, and the values behind its colons.

    Raises:
        ValueError: if it is none.
    """
    method, *changes = text.split(":")
    parse_method(method)
    values = {"method": method}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key or not value:
            raise ValueError(f"{change!r} in the method {text!r} must be key=value, as in loss@1:keep=0.7")
        values[key.replace("-", "_")] = value
    return Contender(text, values)


def check_shared(where: str, values: Mapping[str, Any]) -> None:
    """Refuse keys that all methods of a comparison share, among those that `where` names.

    Raises:
        ValueError: naming the key.
    """
    for key in ("task", "budget", "seed", "test", "label"):
        if key in values:
            raise ValueError(f"{where} sets {key}, but that is the comparison's: all methods share it")


def header_of(config: Config, contenders: Sequence[Contender], seeds: int) -> dict[str, Any]:
    """What every comparison records of itself before it begins.

    Raises:
        ValueError: if there are not so many seeds from the configuration's on.
    """
    config.with_values({"seed": config.training.seed + seeds - 1})
    return {
        **provenance(),
        "command": command_line(),
        "name": config.name,
        "config": {key: list(value) if isinstance(value, tuple) else value for key, value in config.values().items()},
        "methods": [contender.label for contender in contenders],
        "seeds": seeds,
    }


def no_record(folder: Path, record: str) -> None:
    """Look at a folder in which a comparison is to begin, since its record is not there.

    Raises:
        ValueError: if it is the folder of something else, or its record was lost.
    """
    for other in (HEADER, OF_COMPARISON, OF_LADDER):
        if (folder / other).exists():
            raise ValueError(f"{folder} is of something else, which has a {other}: choose another --name")
    if run := next(folder.rglob(HEADER), None):
        raise ValueError(f"{folder} holds runs, such as {run.parent}, but no {record}: choose another --name")


def tasks_of(configs: Iterable[Config], accelerator: Accelerator) -> dict[Any, Task]:
    """Settings of the data -> their task; what a method changes may be of the task (the exit's stage, say)."""
    tasks: dict[Any, Task] = {}
    for each in configs:
        if each.data not in tasks:
            tasks[each.data] = built(accelerator, each.build_task)
    return tasks


def same_data(
    table: Path,
    header: dict[str, Any],
    recorded: dict[str, Any] | None,
    tasks: Mapping[Any, Task],
    accelerator: Accelerator,
) -> None:
    """Note what data a comparison is on, which must be those that it was begun on, and that there is room for it.

    Args:
        table: the first that it will write.
        recorded: its header from before, if there is one.

    Raises:
        ValueError: for other data.
        OSError: for a disk that is full or read-only.
    """
    with failing_together(accelerator):
        header["data"] = fingerprint(next(iter(tasks.values())).description)
        if recorded is not None:
            check_data(table.parent, recorded.get("data") or header["data"], header["data"])
        elif accelerator.is_main_process:
            check_room(table, tasks.values())


def prices(
    configs: Mapping[str, Config],
    recorded: Mapping[str, Any],
    tasks: Mapping[Any, Task],
    accelerator: Accelerator,
    display: Display,
) -> dict[str, Any]:
    """Name -> what steps cost, as it is recorded: those that earlier runs were planned with, others measured now."""
    new = {name: config for name, config in configs.items() if name not in recorded}
    found: Sequence[StepCosts] = []
    if new:
        with display.measuring() as progress, told_by_others(accelerator):
            of_configs = [tasks[config.data] for config in new.values()]
            found = measure_costs(list(new.values()), of_configs, accelerator, progress=progress)
    measured = {name: asdict(costs) for name, costs in zip(new, found, strict=True)}
    return {name: measured.get(name) or recorded[name] for name in configs}


def folder_name(text: str) -> str:
    """Safe as a folder's name, and still readable."""
    return re.sub(r"[^A-Za-z0-9@._=+-]", "-", text)
