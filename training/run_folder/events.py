"""Events for TensorBoard, which agree with the tables however often a run is killed and goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

_log = logging.getLogger(__name__)


class Events:
    """Writes the scalars of a run to its folder `tensorboard`.

    Args:
        folder: of the run.
        step: where it goes on. What is there of this step and later ones is hidden: it is written again, and
            TensorBoard can hide nothing but all of a step.
        again: what was written of this step before its checkpoint, see `latest`.
    """

    def __init__(self, folder: Path, step: int, again: Mapping[str, float]):
        from torch.utils.tensorboard import SummaryWriter

        _pass_the_newest(folder / "tensorboard")
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self._latest: dict[str, tuple[int, float]] = {}
        for name, value in again.items():
            self.add(name, value, step)

    def add(self, name: str, value: float, step: int) -> None:
        """Note a scalar."""
        self._writer.add_scalar(name, value, step)
        self._latest[name] = step, value

    def latest(self, step: int) -> dict[str, float]:
        """What was written of this step, name -> value, for its checkpoint; all before is on the disk after it."""
        self.flush()
        return {name: value for name, (at, value) in self._latest.items() if at == step}

    def flush(self) -> None:
        """Have all on the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Have all on the disk, and end."""
        self._writer.close()


def _pass_the_newest(folder: Path) -> None:
    """Wait until a file opened now stands after all that are there.

    TensorBoard reads the files of a folder in the order of their names, and a name begins with the second in which
    its file was opened: of two of one second the later one could be read first, and hide points that count.
    """
    seconds = [
        int(second)
        for path in folder.glob("events.out.tfevents.*")
        if (second := path.name.removeprefix("events.out.tfevents.").partition(".")[0]).isdecimal()
    ]
    newest = max(seconds, default=0)
    ahead = newest + 1 - time.time()
    if ahead > 2:
        _log.warning(
            "%s has events of %s, which is ahead of this machine's clock: TensorBoard may hide points of this run",
            folder,
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(newest)),
        )
    elif ahead > 0:
        time.sleep(ahead)
