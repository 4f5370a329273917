"""What a user sees of a run: a line that moves, with the running loss and accuracy, and one line an evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console

from gsgd.commands.console import Bar, bar
from training.run_folder.records import Evaluation


class Display:
    """Shows runs on the console of standard error; on a terminal as a moving bar, elsewhere as lines.

    Args:
        console: where to; None shows nothing.
        title: what stands before the bar; None takes the configuration's name.
    """

    def __init__(self, console: Console | None, title: str | None = None):
        self.console = console or Console(quiet=True, force_terminal=False)
        self.title = title
        self._bar: Bar | None = None
        self._accuracy = ""

    @classmethod
    def silent(cls) -> Display:
        """Shows nothing."""
        return cls(None)

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[Callable[[int, int], None]]:
        """While the costs of steps are measured; yields the progress to report."""
        with bar(self.console, "measuring the cost of a step") as moving:
            yield moving.to

    @contextlib.contextmanager
    def training(self, config: Any, training: Any) -> Iterator[None]:
        """While a run trains."""
        settings = config.training
        if training.step:
            self.say(f"{config.name}: going on from step {training.step} of {training.total_steps}")
        title = self.title or f"{config.name} {settings.label or settings.method}, seed {settings.seed}"
        with bar(self.console, title, training.total_steps) as self._bar:
            self.step(training.step)
            yield

    def step(self, done: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.to(done)

    def log(self, loss: float) -> None:
        """The running loss, beside the accuracy of the last evaluation."""
        if self._bar is not None:
            self._bar.note(f"loss {loss:.3f}{self._accuracy}")

    def evaluated(self, evaluation: Evaluation) -> None:
        """One line an evaluation."""
        self._accuracy = f" acc {evaluation.val_accuracy:.3f}"
        overlap = "" if evaluation.overlap is None else f"  overlap {evaluation.overlap:.3f}"
        self.say(
            f"  step {evaluation.step:>7}  {evaluation.backprop_samples:>9} samples  {evaluation.wall_clock_s:8.1f} s  "
            f"accuracy {evaluation.val_accuracy:.4f}  loss {evaluation.val_loss:.4f}{overlap}"
        )


def duration(seconds: float) -> str:
    """So many seconds as a user reads them."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
