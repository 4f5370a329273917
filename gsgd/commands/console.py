"""What a terminal shows: a bar for what takes long, and tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table


class Bar:
    """A bar that moves while something runs; it goes when that ends. Where there is no terminal it shows nothing."""

    def __init__(self, progress: Progress, task: TaskID):
        self._progress, self._task = progress, task

    def to(self, done: float, total: float | None = None, what: str | None = None) -> None:
        """Set how much is done, how much there is, and what is being done."""
        self._progress.update(self._task, completed=done, total=total, description=what)

    def advance(self, done: float = 1) -> None:
        """Add what has just been done."""
        self._progress.advance(self._task, done)

    def note(self, text: str) -> None:
        """Say something beside the bar."""
        self._progress.update(self._task, note=text)


@contextlib.contextmanager
def bar(console: Console, what: str, total: float | None = None, unit: str = "") -> Iterator[Bar]:
    """A bar while the block runs.

    Args:
        total: how much there is to do; None where nobody knows.
        unit: of it, where numbers are large.
    """
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,.0f} " + unit) if unit else MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        yield Bar(progress, progress.add_task(what, total=total, note=""))


def print_table(
    console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
) -> None:
    """Columns of numbers to the right; what does not fit is folded, never cut off.

    Args:
        left: places of the columns of words.
    """
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
