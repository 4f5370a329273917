"""The scalars of a run while it trains, and all that they are written to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.run_folder.events import Events
from training.run_folder.trackers import Trackers
from training.settings import TrainingSettings


class Scalars:
    """Writes scalars to TensorBoard's events and to trackers.

    Args:
        writers: all of them.
    """

    def __init__(self, writers: Sequence[Events | Trackers]):
        self._writers = writers

    def add(self, name: str, value: float, step: int) -> None:
        """Note a scalar."""
        for writer in self._writers:
            writer.add(name, value, step)

    def latest(self, step: int) -> dict[str, float]:
        """What a checkpoint at this step keeps of it, name -> value, to be written again."""
        return {name: value for writer in self._writers for name, value in writer.latest(step).items()}

    def flush(self) -> None:
        """Have all written."""
        for writer in self._writers:
            writer.flush()

    @classmethod
    @contextlib.contextmanager
    def of(
        cls, settings: TrainingSettings, folder: Path, header: Mapping[str, Any], step: int, again: Mapping[str, float]
    ) -> Iterator[Scalars | None]:
        """Within the block, where a run's scalars go; None if nowhere.

        Args:
            header: of the run.
            step: where it goes on.
            again: as of `Events`.
        """
        with contextlib.ExitStack() as stack:
            writers: list[Events | Trackers] = []
            if settings.tensorboard:
                writers.append(stack.enter_context(contextlib.closing(Events(folder, step, again))))
            if settings.trackers:
                trackers = Trackers(settings.trackers, folder, header, resumes=step > 0)
                writers.append(stack.enter_context(contextlib.closing(trackers)))
            yield cls(writers) if writers else None
