"""Several processes that train together fail together: none waits for another that is gone or does something else."""

from __future__ import annotations

import contextlib
import json
import os
import re
import reprlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import torch
from accelerate import Accelerator, PartialState

from gsgd.commands.arguments import in_words

Built = TypeVar("Built")
Processes: TypeAlias = Accelerator | PartialState
FAILED, LEFT = "gsgd: a process failed", "gsgd: processes that have left"
"""Keys of the store in which processes find each other."""
GONE = "another process has ended; the same command goes on from the last checkpoint"
LEAVING_S = 3.0


def launched() -> PartialState | None:
    """The processes that a launcher, such as torchrun, has started; None if there is but this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    # Several processes without a GPU would each take themselves for the only one, if accelerate were not told.
    return PartialState(cpu=not torch.accelerator.is_available())


@contextlib.contextmanager
def failing_together(processes: Processes | None) -> Iterator[None]:
    """What is wrong on one process is an error on all of them; each must come here, and the block exchange nothing.

    Args:
        processes: None if there is but one.

    Raises:
        ValueError: on the others, with the words of the first that failed.
        ConnectionError: if another process is gone.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as found:
        error = found
    if processes is not None and processes.num_processes > 1:
        said = _of_all(processes, None if error is None else _of(processes, _words(error)))
        failed = [words for words in said if words is not None]
        if failed and error is None:
            raise ValueError(failed[0])
    if error is not None:
        raise error


def agreed(processes: Processes, what: str, entries: Mapping[str, Any]) -> None:
    """Whether all processes have the same entries, which are JSON; each must come here.

    Args:
        what: they are entries of, for the message.

    Raises:
        ValueError: on all of them if not, naming the first that has others, and the entry.
        ConnectionError: if another process is gone.
    """
    if processes.num_processes == 1:
        return
    first, *others = _of_all(processes, json.loads(json.dumps(entries)))
    for process, other in enumerate(others, start=1):
        for name in {**first, **other}:
            if first.get(name) != other.get(name):
                here, there = reprlib.repr(first.get(name)), reprlib.repr(other.get(name))
                raise ValueError(
                    f"all processes must have the same {what}: {name} is {here} for process 0, "
                    f"but {there} for process {process}"
                )


@contextlib.contextmanager
def told_by_others(processes: Processes) -> Iterator[None]:
    """While processes exchange what they compute: an error on one ends the others' exchange, and they say it, too.

    Raises:
        ValueError: on the others, with the words of the one that failed.
        ConnectionError: if another process is gone without a word; on the first that meets it.
    """
    if processes.num_processes == 1:
        yield
        return
    store = _store()
    try:
        yield
    except Exception as error:
        gone = _is_of_one_gone(error)
        words = GONE if gone else _words(error)
        mine = _of(processes, words)
        try:
            first = store.compare_set(FAILED, "", mine).decode()
        except torch.distributed.DistError:
            first = mine  # the store is gone with the process that kept it
        if not first.endswith(f": {words}"):
            raise ValueError(first) from error
        if gone and first == mine:
            raise ConnectionAbortedError(GONE) from error
        if gone:
            raise ValueError(GONE) from error
        raise


@contextlib.contextmanager
def leaving_in_turn(processes: Processes) -> Iterator[None]:
    """After an error in the block, the process that keeps the store leaves last: the others find in it what was wrong.

    With torchrun it is torchrun that keeps the store.
    """
    if processes.num_processes == 1:
        yield
        return
    store = _store()
    try:
        yield
    except BaseException:
        with contextlib.suppress(torch.distributed.DistError):
            left, until = store.add(LEFT, 1), time.monotonic() + LEAVING_S
            keeps = processes.process_index == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
            while keeps and left < processes.num_processes and time.monotonic() < until:
                time.sleep(0.05)
                left = store.add(LEFT, 0)
        raise


def built(accelerator: Accelerator, build: Callable[[], Built]) -> Built:
    """What `build` makes on every process: on each machine first on one, which prepares files for the others."""
    made: list[Built] = []
    for turn in (True, False):
        with failing_together(accelerator):
            if accelerator.is_local_main_process == turn:
                made.append(build())
    return made[0]


def _of_all(processes: Processes, mine: Any) -> list[Any]:
    """What each process gives."""
    given: list[Any] = [None] * processes.num_processes
    try:
        torch.distributed.all_gather_object(given, mine)
    except RuntimeError as error:
        if _is_of_one_gone(error):
            raise ConnectionAbortedError(GONE) from error
        raise
    return given


def _is_of_one_gone(error: Exception) -> bool:
    """Whether an exchange failed since another process has closed its connections: gloo's errors are of no own kind."""
    of_exchange = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
    return of_exchange and re.search("onnection|peer|remote process", str(error)) is not None


def _words(error: Exception) -> str:
    words = (in_words(error).strip() or type(error).__name__).splitlines()[0]
    return words if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {words}"


def _of(processes: Processes, words: str) -> str:
    return f"process {processes.process_index} of {processes.num_processes}: {words}"


def _store() -> Any:
    return torch.distributed.distributed_c10d._get_default_store()
