"""Configurations: flat TOML files that hold differences only, and the options that override them."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from training.data.files import checked
from training.images.settings import ImageSettings, SmallNetSettings
from training.images.task import ResNetTask, SmallNetTask
from training.methods import BALANCED, HEADS, PROXY, parse_method
from training.run_folder.records import BESIDE_THE_RUN
from training.settings import TrainingSettings
from training.tabular.settings import TabularSettings
from training.tabular.task import TabularTask
from training.task import Task
from training.text.passage_task import PassageTask
from training.text.settings import PassageSettings, TextSettings
from training.text.task import TextTask

TASKS: dict[str, tuple[type, type]] = {
    "bert": (TextSettings, TextTask),
    "passages": (PassageSettings, PassageTask),
    "resnet": (ImageSettings, ResNetTask),
    "small-net": (SmallNetSettings, SmallNetTask),
    "tabular": (TabularSettings, TabularTask),
}
"""Value of the key `task` -> (its settings, the task itself)."""


@dataclass(frozen=True)
class Config:
    """A run that can be trained: what is trained, on what, and how."""

    name: str
    task: str
    data: Any
    training: TrainingSettings
    chosen: frozenset[str] = dataclasses.field(default=frozenset(), compare=False)
    """Keys that the user gave, by options or in files of their own, rather than a preset."""

    def build_task(self) -> Task:
        """The task, its data read (and prepared, the first time)."""
        return TASKS[self.task][1](self.data, self.training.seed)

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """A copy with other values of some keys; strings are read as on the command line.

        Raises:
            ValueError: as `load`.
        """
        return build(self.name, {**self.values(), **values})

    def values(self) -> dict[str, Any]:
        """Every key's value, `task` first."""
        return {"task": self.task, **dataclasses.asdict(self.training), **dataclasses.asdict(self.data)}

    def differences(self, recorded: Mapping[str, Any]) -> list[str]:
        """Keys whose values make a run of this configuration another one than that of a recorded configuration.

        A key that the record lacks is younger than it; its default is what was done before there was such a key.
        """
        # Every key has a default, so that its class can be made without any.
        defaults = Config("", self.task, type(self.data)(), TrainingSettings()).values()
        here, there = json.loads(json.dumps([self.values(), {**defaults, **recorded}]))
        return [name for name in {**there, **here} if name not in BESIDE_THE_RUN and there.get(name) != here.get(name)]


def load(source: str, values: Mapping[str, Any] | None = None) -> Config:
    """The configuration in the file, or of the preset's name, `source`, with `values` over it.

    A file's key `base` names another one (a file beside it, or a preset) whose values it changes.

    Raises:
        ValueError: if there is no such file or preset, it is not TOML, a key is unknown, a value is not of the key's
            type or out of range.
    """
    found = _find(source, Path())
    name = next((preset for preset, known in presets().items() if known == found), found.path.stem)
    read, chosen = _read(found, ())
    config = build(name, {**read, **(values or {})}, str(source))
    return dataclasses.replace(config, chosen=chosen | frozenset(values or {}))


def build(name: str, values: Mapping[str, Any], source: str = "the configuration") -> Config:
    """The configuration of these values.

    Raises:
        ValueError: as `load`.
    """
    task = values.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise ValueError(f"{source}: task = {_short(task)} must be one of: {', '.join(TASKS)}")
    kinds = (TrainingSettings, TASKS[task][0])
    known = [[field.name for field in dataclasses.fields(kind)] for kind in kinds]
    for key in values:
        if key != "task" and not any(key in names for names in known):
            every = sorted(name for names in known for name in names)
            close = difflib.get_close_matches(key, every, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(every)}"
            hint = "configurations have no tables" if isinstance(values[key], dict) else hint
            raise ValueError(f"{source}: no key {_short(key)} for task = {task}; {hint}")
    training, data = (
        _checked(kind, {key: value for key, value in values.items() if key in names})
        for kind, names in zip(kinds, known, strict=True)
    )
    _check_source(task, training, source)
    return Config(name, str(task), data, training)


def rows_have_classes(task: str) -> bool:
    """Whether each row of a task has one class."""
    return task != "bert"


def _check_source(task: str, training: TrainingSettings, source: str) -> None:
    """Whether a task has what a method's scores are made of.

    Raises:
        ValueError: if not.
    """
    if parse_method(training.method).score in (PROXY, BALANCED, *HEADS) and not rows_have_classes(task):
        raise ValueError(f"{source}: method = {training.method} is for tasks whose rows have one class, not for bert")
    for form, wanted, why in (
        ("pool", "resnet", "whose network takes pictures of any size"),
        ("first", "bert", "whose rows are tokens"),
    ):
        if training.cheaper.startswith(form) and task != wanted:
            raise ValueError(f"{source}: cheaper = {training.cheaper} is for task = {wanted}, {why}, not for {task}")


def _checked(kind: type, values: dict[str, Any]) -> Any:
    """The settings of these values, as pydantic reads them; what it refuses is said in one line."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first, *others = error.errors()
        if not first["loc"]:
            raise ValueError(str(first["ctx"]["error"])) from None
        same = [first, *(each for each in others if each["loc"][0] == first["loc"][0])]  # a union's members
        rule = " or ".join(re.sub(r"^(\w+ should|Value error, must)", "must", each["msg"]) for each in same)
        raise ValueError(f"{first['loc'][0]} = {_short(first['input'])} {rule}") from None


def _short(value: Any) -> str:
    """The value, in one line of a length that can be read."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


@dataclass(frozen=True)
class Source:
    """A configuration that is not read yet: a file, and values over it, as a row of a table has them."""

    path: Path
    values: tuple[tuple[str, str], ...] = ()
    about: str = ""

    def in_a_line(self) -> str:
        """What it is: what the table says, or the first line of the file."""
        return self.about or self.path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()


def presets() -> dict[str, Source]:
    """Name -> source of the configurations that are installed with the package: files, and the rows of a table."""
    root = Path(str(files("training") / "configs"))
    found = {path.relative_to(root).with_suffix("").as_posix(): Source(path) for path in root.rglob("*.toml")}
    lines = (root / "runs.csv").read_text(encoding="utf-8").splitlines()
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        values = tuple((key, row[key]) for key in ("method", "max_lr", "budget") if row[key])
        found[row["preset"]] = Source(found[row["base"]].path, values, row["about"])
    return dict(sorted(found.items()))


def _find(source: str, folder: Path) -> Source:
    path = folder / source
    if path.suffix.lower() == ".toml" and path.exists():
        return Source(checked(path))
    known = presets()
    if source in known:
        return known[source]
    close = difflib.get_close_matches(source, known, n=3) or list(known)
    raise ValueError(
        f"there is no configuration {source!r}: neither a .toml file nor a preset; presets: {', '.join(close[:20])}"
    )


def _read(source: Source, seen: tuple[Path, ...]) -> tuple[dict[str, Any], frozenset[str]]:
    """(values, those keys that are not a preset's) of a source on its bases."""
    path = source.path
    if path.resolve() in seen:
        raise ValueError(f"{path} is, through its base, based on itself")
    try:
        # Editors on Windows begin UTF-8 with a byte order mark.
        content = tomllib.loads(path.read_text(encoding="utf-8-sig")) | dict(source.values)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    base = content.pop("base", None)
    own = frozenset() if source in presets().values() else frozenset(content)
    if base is None:
        return content, own
    if not isinstance(base, str):
        raise ValueError(f"{path}: base = {_short(base)} must be the name of a file or of a preset")
    values, chosen = _read(_find(base, path.parent), (*seen, path.resolve()))
    return {**values, **content}, chosen | own
