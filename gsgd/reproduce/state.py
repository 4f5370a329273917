"""What was run before: one small file a scale, by which a stage is skipped, continued or begun anew."""

from __future__ import annotations

import enum
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gsgd
from gsgd.reproduce.plan import Stage
from gsgd.results import provenance, write_json

FILE = "reproduce.json"
BEGUN, FINISHED, DIVERGED = "begun", "finished", "diverged"
NOT_PART_OF_THE_RESULT = ("gsgd/reproduce", "gsgd/cli.py")


@dataclass(frozen=True)
class Record:
    """A stage that was run.

    Attributes:
        status: "begun", "finished" or "diverged".
        command: without --results.
        version, source, commit: of gsgd; a fingerprint of the rooms' source; None outside a checkout.
        seconds: all its parts together, if it was interrupted.
        date: of the last time, UTC.
    """

    status: str
    command: tuple[str, ...]
    version: str
    source: str
    commit: str | None
    seconds: float
    date: str


class Standing(enum.Enum):
    """What is to be done about a stage."""

    TO_DO = "to do"
    CONTINUES = "goes on where it stopped"
    ANEW = "begins anew"
    DONE = "done"


class State:
    """The records of one scale, in its file.

    Args:
        path: of the file; it need not be there.

    Raises:
        ValueError: if the file cannot be understood, naming it and the remedy.
    """

    def __init__(self, path: Path):
        self.path = path
        self.records = self._read()
        # Looked at once: source that is changed while a stage runs makes what that stage recorded other code's.
        self._source = functools.cache(fingerprint)

    @functools.cached_property
    def _commit(self) -> str | None:
        commit: str | None = provenance()["commit"]
        return commit

    def _read(self) -> dict[str, Record]:
        if not self.path.exists():
            return {}
        try:
            stages = json.loads(self.path.read_text(encoding="utf-8"))["stages"]
            return {name: _record(entry) for name, entry in stages.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{self.path} does not say what was run before ({type(error).__name__}: {error}): remove it, and every "
                "stage is run again; comparisons that are finished are not trained again"
            ) from error

    def standing(self, stage: Stage, results: Path) -> Standing:
        """What is to be done about `stage`: finished by the same command and code, and still there, it is done."""
        record = self.records.get(stage.name)
        if stage.always or record is None:
            return Standing.TO_DO
        same = self.same(stage)
        if record.status == BEGUN:
            return Standing.CONTINUES if same or stage.keep else Standing.ANEW
        if not same and not stage.keep:
            return Standing.ANEW
        return Standing.DONE if (results / stage.output).exists() else Standing.TO_DO

    def same(self, stage: Stage) -> bool:
        """Whether what is recorded of `stage` is of the same command, version and source."""
        record = self.records[stage.name]
        now = (stage.command, gsgd.__version__, self._source(stage.rooms))
        return (record.command, record.version, record.source) == now

    def record(self, stage: Stage, status: str, seconds: float) -> None:
        """Write down that `stage` came to `status`, after so many seconds in all."""
        entry = Record(
            status=status,
            command=stage.command,
            version=gsgd.__version__,
            source=self._source(stage.rooms),
            commit=self._commit,
            seconds=round(seconds, 1),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        # Read again: runs of the paper may be shared out among several commands with --only.
        self.records = {**self._read(), stage.name: entry}
        self._write()

    def forget(self, stages: Sequence[Stage]) -> None:
        """Remove what is recorded of `stages`."""
        names = {stage.name for stage in stages}
        self.records = {name: record for name, record in self.records.items() if name not in names}
        if self.path.exists():
            self._write()

    def _write(self) -> None:
        write_json(self.path, {"stages": {name: asdict(record) for name, record in self.records.items()}})


def _record(entry: dict[str, Any]) -> Record:
    found = Record(**{field.name: entry[field.name] for field in fields(Record)})
    if found.status not in (BEGUN, FINISHED, DIVERGED):
        raise ValueError(f"status {found.status!r}")
    return Record(**{**asdict(found), "command": tuple(found.command), "seconds": float(found.seconds)})


def fingerprint(rooms: Sequence[str]) -> str:
    """A digest of the source of these packages, as they are installed; it changes when any of their code does.

    Not the commit: results that are recorded in a checkout change that, and an installed package has none.
    """
    root = Path(gsgd.__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for room in rooms:
        for path in sorted((root / room).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.suffix in (".py", ".toml") and not name.startswith(NOT_PART_OF_THE_RESULT):
                digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
