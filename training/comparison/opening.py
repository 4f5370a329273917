"""How a comparison or a ladder opens its folder: what was recorded there, the data, and what steps cost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator

from gsgd.locks import one_writer
from gsgd.results import command_line, provenance
from training.budget import StepCosts
from training.comparison.contenders import Contender
from training.config import Config
from training.costs import measure_costs
from training.ranks import built, failing_together, told_by_others
from training.run.display import Display
from training.run.header import check_data
from training.run.model_files import check_room
from training.run_folder.records import HEADER, OF_COMPARISON, OF_LADDER, fingerprint, read_json
from training.run_folder.schema import Record, check
from training.task import Task

Found = TypeVar("Found")
BEGUN = ("date", "commit", "python", "machine", "versions")
"""Entries of the header of a comparison that goes on which tell of its beginning."""


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


def record_of(folder: Path, name: str, kind: type[Record]) -> dict[str, Any] | None:
    """The record of the comparison in a folder, which is called `name` there; None if one can begin.

    Raises:
        ValueError: if it cannot be read, was lost, or the folder is of something else.
    """
    path = folder / name
    if path.exists():
        return check(kind, read_json(path), path)
    _check_free(folder, name)
    return None


def _check_free(folder: Path, record: str) -> None:
    """Look at a folder in which a comparison is to begin, since its record is not there.

    Raises:
        ValueError: if it is the folder of something else, or its record was lost.
    """
    for other in (HEADER, OF_COMPARISON, OF_LADDER):
        if (folder / other).exists():
            raise ValueError(f"{folder} is of something else, which has a {other}: choose another --name")
    if run := next(folder.rglob(HEADER), None):
        raise ValueError(f"{folder} holds runs, such as {run.parent}, but no {record}: choose another --name")


def check_same(kind: str, folder: Path, config: Config, recorded: Mapping[str, Any], changed: Sequence[str]) -> None:
    """Whether a comparison, a "ladder" say, goes on with the configuration and the plan that it was begun with.

    Args:
        changed: entries of the plan that are not as recorded.

    Raises:
        ValueError: if not, naming what differs, and how keys that differ are given to go on with it.
    """
    there, here = recorded["config"], config.values()
    keys = config.differences(there)
    if not (keys or changed):
        return
    named = [f"{key} ({_text(there.get(key))} there, {_text(here.get(key))} here)" for key in keys]
    text = (
        f"{folder} has another {kind}: its {', '.join([*named, *changed])} differ. Choose another --name, or remove it"
    )
    if not changed and all(key in there and key in here for key in keys):
        text += f", or go on with it by {' '.join(f'--{key} {_text(there[key])}' for key in keys)}"
    raise ValueError(text)


def _text(value: Any) -> str:
    """A key's value as the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


@contextlib.contextmanager
def opened(
    folder: Path, recorded: Callable[[], Found], accelerator: Accelerator, *, wait: bool, display: Display
) -> Iterator[Found]:
    """Within the block no other command writes to the folder; yields what `recorded` has found there since.

    Args:
        wait: for another command that writes there, instead of an error.

    Raises:
        ValueError: as `recorded`, and if another command writes there.
        OSError: if the folder cannot be written to.
    """
    with contextlib.ExitStack() as lock:
        with failing_together(accelerator):
            if accelerator.is_main_process:
                lock.enter_context(one_writer(folder, display.say if wait else None))
            found = recorded()
        yield found


def tasks_of(configs: Iterable[Config], accelerator: Accelerator) -> dict[Any, Task]:
    """Settings of the data -> their task; what a method changes may be of the task (the exit's stage, say)."""
    tasks: dict[Any, Task] = {}
    for each in configs:
        if each.data not in tasks:
            tasks[each.data] = built(accelerator, each.build_task)
    return tasks


def begin(
    table: Path,
    header: dict[str, Any],
    recorded: dict[str, Any] | None,
    configs: Mapping[str, Config],
    tasks: Mapping[Any, Task],
    accelerator: Accelerator,
    display: Display,
) -> dict[str, StepCosts]:
    """What the steps of each configuration cost, by its name; the data and these costs are noted in the header.

    The data must be those that the comparison was begun on, and there must be room for it. Costs that earlier runs were
    planned with stay, others are measured now.

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
    recorded = recorded or {}
    header.update((name, recorded[name]) for name in BEGUN if name in recorded)
    known: dict[str, Any] = recorded.get("step_costs", {})
    new = {name: config for name, config in configs.items() if name not in known}
    found: Sequence[StepCosts] = []
    if new:
        with display.measuring() as progress, told_by_others(accelerator):
            of_configs = [tasks[config.data] for config in new.values()]
            found = measure_costs(list(new.values()), of_configs, accelerator, progress=progress)
    measured = dict(zip(new, found, strict=True))
    costs = {name: measured.get(name) or StepCosts(**known[name]) for name in configs}
    header["step_costs"] = {name: asdict(each) for name, each in costs.items()}
    return costs
