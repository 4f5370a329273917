"""A stage of `gsgd reproduce`: a command line, whether it is done, and how it is begun anew."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from gsgd.locks import LOCK, one_writer
from gsgd.results import provenance


@dataclass(frozen=True)
class Stage:
    """A command line, as a user would type it.

    Attributes:
        seconds: that it takes, about; of the laptop scale.
        header: the file that says, when all is done, how it was made; none if the stage is quick and run each time.
    """

    name: str
    line: str
    seconds: float = 0.0
    header: str | None = None

    def words(self, results: Path) -> list[str]:
        """The command line with `results` as its folder of results."""
        return [*self.line.split(), *([] if results == Path("results") else ["--results", str(results)])]

    def done(self, results: Path) -> str | None:
        """When and by what it was finished, in words; None if it was not."""
        if self.header is None:
            return None
        try:
            content = json.loads((results / self.header).read_text(encoding="utf-8"))
            checks, made = content.get("checks"), content.get("header", content)
            status = "finished" if "summary" in content else made.get("status")
            if checks is not None and all(check["status"] == check["expected"] for check in checks):
                status = "finished"
            if status not in ("finished", "diverged"):
                return None
            now = provenance()
            same = (made["commit"], made["versions"].get("gsgd")) == (now["commit"], now["versions"].get("gsgd"))
            return f"{status} {made['date'][:10]}{'' if same else ' by other code; --fresh begins anew'}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # not there, or not understood: the command itself says what is wrong

    def forget(self, results: Path) -> None:
        """Remove the folder that it alone writes to; of `gsgd verify` the file that says that it is done.

        Raises:
            ValueError: if another command writes there.
        """
        if self is VERIFY:
            (results / str(self.header)).unlink(missing_ok=True)
        elif (folder := self.own_folder(results)) is not None:
            with one_writer(folder):
                shutil.rmtree(folder)

    def own_folder(self, results: Path) -> Path | None:
        """The folder that it alone writes to; None if there is none.

        Raises:
            ValueError: if it is a link, or holds what no stage writes.
        """
        folder = None if self.header is None or self is VERIFY else (results / self.header).parent
        if folder is None or not os.path.lexists(folder):
            return None
        if not folder.is_dir() or folder.is_symlink():
            raise ValueError(f"{folder} is no folder of a stage, but a link or a file: --fresh does not remove it")
        below = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
        strange = [path for path in below if path.is_symlink() or not any(map(path.match, WRITTEN))]
        if strange:
            raise ValueError(f"{folder} holds what no stage writes, such as {min(strange)}: --fresh does not remove it")
        return folder


WRITTEN = (
    *("compare.json", "summary.csv", "header.json", "evaluations.csv", "meters.csv", "checkpoint.pt"),
    *("readings.csv", "live.csv"),  # one table, by its name of today and by an older one
    *("model/config.json", "model/generation_config.json", "model/model*.safetensors", "model/model*.index.json"),
    *("tensorboard/events.out.tfevents.[0-9]*.*", "rows/rank-*-part-*.parquet", ".*.[0-9]*.tmp", LOCK),
)
"""Names of the files in the folders of stages."""
VERIFY = Stage("verify", "gsgd verify", 35.0, "theory/verify.json")
LAST = (Stage("figures", "gsgd figures", 45.0), Stage("report", "gsgd report", 30.0))
