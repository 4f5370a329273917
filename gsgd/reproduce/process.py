"""One command at a time, as a child process that is interrupted cleanly.

A process of its own, because a stage then gives its memory back when it ends, has torch's threads to itself, and writes
its checkpoint on Ctrl-C as it does when it is called by hand. It leads a process group of its own, because the terminal
sends Ctrl-C to every process of the foreground group, and a launcher such as torchrun passes it on once more; a
training run that is told twice stops without a checkpoint. So the terminal tells only us, and we tell the child, once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gsgd

Run = Callable[[Sequence[str]], int]
"""Runs a command line and returns its exit code (negative: the signal that killed it). Raises `Interrupted`."""

MODULES = {"gsgd": "gsgd", "torchrun": "torch.distributed.run"}
INTERRUPTED = 130
"""Exit code of a command that somebody interrupted."""
PATIENCE = 3
"""Ctrl-C so many times, and the child is killed with all its own children."""


class Interrupted(Exception):
    """Somebody asked to stop, and the command has ended.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"interrupted by signal {number}")
        self.number = number


def run_command(words: Sequence[str]) -> int:
    """Run `words`, whose first is "gsgd" or "torchrun", with this Python; what it prints goes where ours goes.

    Raises:
        Interrupted: if SIGINT, SIGTERM or SIGHUP came meanwhile and was passed on; or the command says that it was
            interrupted. It has ended.
    """
    asked: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def tell(number: int, frame: Any) -> None:
        asked.append(number)
        for child in children:
            _tell(child, number, len(asked))

    def suspend(number: int, frame: Any) -> None:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGCONT)

    with _handlers(tell, suspend):
        options: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        command = [sys.executable, "-m", MODULES[words[0]], *words[1:]]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=_environment(), **options) as child:
            children.append(child)
            for count, number in enumerate(list(asked), start=1):  # it came before there was anyone to tell
                _tell(child, number, count)
            code = child.wait()
            children.clear()
    if asked or code in (INTERRUPTED, -signal.SIGINT):  # or somebody told the child itself
        raise Interrupted(asked[0] if asked else signal.SIGINT)
    return code


def _tell(child: subprocess.Popen[bytes], number: int, count: int) -> None:
    if os.name != "posix":
        if count >= PATIENCE:
            child.kill()
        return  # the console has told it already
    with contextlib.suppress(ProcessLookupError):
        if count >= PATIENCE:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            # A run writes its checkpoint on SIGINT and SIGTERM only.
            child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)


@contextlib.contextmanager
def _handlers(tell: Any, suspend: Any) -> Iterator[None]:
    wanted: dict[int, Any] = {int(signal.SIGINT): tell, int(signal.SIGTERM): tell}
    if os.name == "posix":
        # The child's group is not the foreground one; where the terminal stops such writers, it must not.
        wanted |= {signal.SIGHUP: tell, signal.SIGTSTP: suspend, signal.SIGTTOU: signal.SIG_IGN}
    # What is ignored (nohup, a job in the background) stays so.
    before = {number: signal.getsignal(number) for number in wanted}
    for number, handler in wanted.items():
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment() -> dict[str, str]:
    """Ours, so set that the child imports the very gsgd that we are, not one in the folder where we were called."""
    installed = Path(gsgd.__file__).resolve().parent.parent
    return {**os.environ} if installed == Path.cwd() else {**os.environ, "PYTHONSAFEPATH": "1"}
