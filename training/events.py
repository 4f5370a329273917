"""Events for TensorBoard, which agree with the tables however often a run is killed and goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


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
