"""Ctrl-C and SIGTERM while a run trains: they are collected, and the run ends itself at a step of its own."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def signals_collected() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM instead of dying of them; a second one is as usual."""
    received: list[int] = []
    handlers: dict[int, Any] = {}

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, handlers[number])

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            handlers[number] = signal.getsignal(number)
            signal.signal(number, receive)
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
