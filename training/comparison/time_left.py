"""How much longer a ladder takes, from how long its runs so far took against their reference time."""

from __future__ import annotations

import time

from training.run.display import duration


class TimeLeft:
    """Reckons from now on.

    Args:
        ahead_s: reference time of the runs that are still to be trained.
    """

    def __init__(self, ahead_s: float):
        self._ahead_s = ahead_s
        self._done_s = 0.0
        self._begun = time.monotonic()

    def after(self, reference_s: float) -> str:
        """In words, once such a run has ended: reference time leaves out evaluation, and other programs."""
        self._done_s += reference_s
        rate = (time.monotonic() - self._begun) / self._done_s
        return f"about {duration(rate * max(0.0, self._ahead_s - self._done_s))} left"
