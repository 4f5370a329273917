"""Figures and tables made several at a time, in processes of their own, and handed back in their order."""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from figures.checked import Missing

FEW = 8
"""Fewer are made by this process: a new one takes seconds to import what it draws with."""


def made(
    make: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], *, jobs: int
) -> Iterator[tuple[Any | Missing, float]]:
    """(make(*each), seconds that it took), of each of `arguments` in their order.

    Args:
        make: a function of a module; where it raises `Missing`, that is what comes in place of its result.
        jobs: processes, at least 1.
    """
    timed = functools.partial(_timed, make)
    if jobs == 1 or len(arguments) < FEW:
        yield from map(timed, arguments)
        return
    # Fresh processes: forking one that has started threads may hang.
    with ProcessPoolExecutor(min(jobs, len(arguments)), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(timed, arguments)


def _timed(make: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any | Missing, float]:
    begin = time.perf_counter()
    try:
        result = make(*arguments)
    except Missing as missing:
        result = missing
    return result, time.perf_counter() - begin
