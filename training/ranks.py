"""Several processes that train together fail together: none waits for another that is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from accelerate import Accelerator

Built = TypeVar("Built")
FAILED = "gsgd: a process failed"


@contextlib.contextmanager
def failing_together(accelerator: Accelerator) -> Iterator[None]:
    """What is wrong on one process is an error on all of them; each must come here, and the block exchange nothing.

    Raises:
        ValueError: on the others, with the words of the first that failed.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as found:
        error = found
    size = accelerator.num_processes
    if size > 1:
        said: list[str | None] = [None] * size
        torch.distributed.all_gather_object(said, None if error is None else _in_words(error))
        failed = [f"process {rank} of {size}: {words}" for rank, words in enumerate(said) if words is not None]
        if failed and error is None:
            raise ValueError(failed[0])
    if error is not None:
        raise error


@contextlib.contextmanager
def told_by_others(accelerator: Accelerator) -> Iterator[None]:
    """While processes exchange what they compute: an error on one ends the others' exchange, and they say it, too.

    Raises:
        ValueError: on the others, with the words of the one that failed.
    """
    if accelerator.num_processes == 1:
        yield
        return
    store = torch.distributed.distributed_c10d._get_default_store()
    try:
        yield
    except Exception as error:
        if store.check([FAILED]):
            raise ValueError(store.get(FAILED).decode()) from error
        store.set(FAILED, f"process {accelerator.process_index} of {accelerator.num_processes}: {_in_words(error)}")
        raise


def _in_words(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def built(accelerator: Accelerator, build: Callable[[], Built]) -> Built:
    """What `build` makes on every process: on each machine first on one, which prepares files for the others."""
    made: list[Built] = []
    for turn in (True, False):
        with failing_together(accelerator):
            if accelerator.is_local_main_process == turn:
                made.append(build())
    return made[0]
