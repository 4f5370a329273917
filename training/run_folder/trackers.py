"""Runs shown by Weights & Biases, MLflow or trackio, as accelerate knows them (`log_with`): on this machine by default.

What they write lies beside the run's folder, so that the runs of a comparison share it; nothing is sent anywhere unless
the user's environment says so (`WANDB_MODE`, `MLFLOW_TRACKING_URI`, `TRACKIO_SPACE_ID`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
_RUN = "gsgd.run"
"""MLflow's tag with the number of a run, by which one that goes on is found."""


def check_installed(names: Sequence[str]) -> None:
    """Raises a ValueError for a tracker whose package is not installed."""
    there = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in there:
            raise ValueError(f"trackers = {name!r} needs its package: pip install {_PACKAGES[name]}")


class Trackers:
    """Writes the scalars of a run to trackers.

    Args:
        names: of trackers.
        folder: of the run; its name is the run's there.
        header: of the run: its name is the project's (or experiment's), its configuration is stored as it begins.
        resumes: whether the run goes on. A run that was killed shows the steps since its last checkpoint twice.
    """

    def __init__(self, names: Sequence[str], folder: Path, header: Mapping[str, Any], *, resumes: bool):
        folder = folder.resolve()
        _stay_on_this_machine(folder.parent)
        project = str(header["name"]).replace("/", "-")
        number = hashlib.sha256(f"{folder} {header['date']}".encode()).hexdigest()[:16]
        self._step, self._values = 0, dict[str, float]()
        self._trackers: list[GeneralTracker] = []
        for name in names:
            tracker = LOGGER_TYPE_TO_CLASS[name](project, **_options(name, project, folder, number, resumes))
            tracker.start()
            if not resumes:  # MLflow takes no other value of a key
                tracker.store_init_configuration(dict(header["config"]))
            self._trackers.append(tracker)

    def add(self, name: str, value: float, step: int) -> None:
        """Note a scalar; those of a step are written together."""
        if step != self._step:
            self.flush()
            self._step = step
        self._values[name] = value

    def latest(self, step: int) -> dict[str, float]:
        """Nothing: what was written of a step stays there."""
        self.flush()
        return {}

    def flush(self) -> None:
        """Hand over what was noted."""
        for tracker in self._trackers if self._values else ():
            tracker.log(self._values, step=self._step)
        self._values = {}

    def close(self) -> None:
        """Hand over all, and end."""
        self.flush()
        for tracker in self._trackers:
            tracker.finish()


def _stay_on_this_machine(root: Path) -> None:
    if "MLFLOW_TRACKING_URI" not in os.environ:
        # What comes with mlflow-skinny writes to a folder alone, and has to be told that this is meant.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    for name, value in (
        ("WANDB_MODE", "offline"),
        ("MLFLOW_TRACKING_URI", (root / "mlruns").as_uri()),
        ("TRACKIO_DIR", str(root / "trackio")),
    ):
        os.environ.setdefault(name, value)


def _options(name: str, project: str, folder: Path, number: str, resumes: bool) -> dict[str, Any]:
    """What accelerate hands on to a tracker beside the project."""
    if name == "mlflow":
        found = _mlflow_run(project, number) if resumes else None
        return {"run_name": folder.name, "tags": {_RUN: number}, "run_id": found}
    options = {"name": folder.name, "group": folder.parent.name, "resume": "allow" if resumes else "never"}
    return {**options, "id": number, "dir": str(folder.parent)} if name == "wandb" else options


def _mlflow_run(project: str, number: str) -> str | None:
    """MLflow's own name of the run of this number; None if it has none."""
    import mlflow

    found = mlflow.search_runs(
        experiment_names=[project], filter_string=f"tags.`{_RUN}` = '{number}'", output_format="list"
    )
    return found[0].info.run_id if found else None
