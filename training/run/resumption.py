"""What a run finds in its folder: how it has ended, or where it goes on, or nothing that keeps it from beginning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from training.budget import StepCosts
from training.config import Config
from training.ranks import agreed, failing_together
from training.run.display import Display
from training.run.header import check_configuration, check_data
from training.run.model_files import check_room
from training.run_folder import checkpoint
from training.run_folder.folders import is_empty, own_files
from training.run_folder.metering import check_all_there
from training.run_folder.records import (
    EVALUATIONS,
    HEADER,
    OF_COMPARISON,
    OF_LADDER,
    Evaluation,
    read_header,
    recorded_evaluations,
)
from training.run_folder.schema import DIVERGED, FINISHED, INTERRUPTED, CheckpointState, check
from training.task import Task
from training.training import Training

FINAL = (FINISHED, DIVERGED)


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        interrupted: whether someone asked to stop, if only when all was done.
        before: whether it had ended before, so that nothing was trained, nor the data looked at.
    """

    status: str
    folder: Path
    header: dict[str, Any]
    evaluations: list[Evaluation]
    interrupted: bool = False
    before: bool = False

    @property
    def is_final(self) -> bool:
        """Whether the run does not go on: it has finished, or diverged."""
        return self.status in FINAL


@dataclass(frozen=True)
class Unfinished:
    """What is in the folder of a run that has not ended: its header if it goes on, or the files that it replaces."""

    header: dict[str, Any] | None
    replaced: list[Path]


def what_is_there(config: Config, folder: Path, costs: StepCosts | None, overwrite: bool) -> Ending | Unfinished:
    """How the run in the folder ended; or what is to be known of it to go on, or to begin.

    Raises:
        ValueError: if the folder is another run's, is damaged, or is to be overwritten and holds anything else.
    """
    if overwrite:
        if not is_empty(folder) and not (folder / HEADER).exists():
            raise ValueError(f"{folder} is not the folder of a run, which has a {HEADER}: it is not overwritten")
        return Unfinished(None, own_files(folder, _listed(folder)))
    header = read_header(folder)
    if header is None:
        for name in (OF_COMPARISON, OF_LADDER, EVALUATIONS, checkpoint.NAME, "model"):
            if (folder / name).exists():
                raise ValueError(f"{folder} has {name}, but no {HEADER}: no run of this name began it")
        return Unfinished(None, [])
    check_configuration(folder, header, config, costs)
    if header["status"] not in FINAL:
        return Unfinished(header, [])
    evaluations = recorded_evaluations(folder, header, config.training)
    if "readings" in header:
        check_all_there(folder, header["readings"])
    return Ending(header["status"], folder, header, evaluations, before=True)


def checkpoint_of(
    folder: Path, header: dict[str, Any] | None, task: Task, accelerator: Accelerator, display: Display
) -> dict[str, Any] | None:
    """The checkpoint that a run on these data goes on from, the same on every rank; None if it begins.

    Raises:
        ValueError: for other data than the header's, or a checkpoint that cannot be read.
        OSError: if the disk has no room for one.
    """
    state = None
    with failing_together(accelerator):
        if header is not None:
            check_data(folder, header["data"], task.description)
            state = checkpoint.load(folder)
            if state is None and header["status"] == INTERRUPTED:
                display.say(f"{folder} was interrupted, but its {checkpoint.NAME} is gone: it begins anew")
        if state is not None:
            check(CheckpointState, state, folder / checkpoint.NAME)
    agreed(accelerator, "data", task.description)
    agreed(accelerator, f"checkpoint in {folder}", {"step": None if state is None else state["step"]})
    with failing_together(accelerator):
        if accelerator.is_main_process and state is None:
            check_room(folder / checkpoint.NAME, [task])
    return state


def go_on(training: Training, state: dict[str, Any], path: Path) -> None:
    """Bring the training to the state of the checkpoint that was read from `path`.

    Raises:
        ValueError: if it is of another run.
    """
    try:
        training.load_state_dict(state)
    except ValueError as error:
        raise ValueError(f"{path} is not of this run: {error}") from error
    except Exception as error:  # torch and numpy raise what they like, depending on what is wrong
        raise ValueError(f"{path} is not of this run ({type(error).__name__}): remove it to begin anew") from error


def _listed(folder: Path) -> list[str]:
    """The files that the header lists; none if it is damaged, which is a reason to overwrite it."""
    try:
        return (read_header(folder) or {}).get("files", [])
    except ValueError:
        return []
