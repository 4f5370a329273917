"""How much longer a ladder takes, from how long its runs so far took against their prices."""

from __future__ import annotations

import time

from training.display import duration


class TimeLeft:
    """Reckons from now on.

    Args:
        ahead_s: what the runs that are still to be trained cost at the measured prices.
    """

    def __init__(self, ahead_s: float):
        self._ahead_s = ahead_s
        self._done_s = 0.0
        self._begun = time.monotonic()

    def after(self, priced_s: float) -> str:
        """In words, once a run of that price has ended: prices leave out evaluation, and other programs."""
        self._done_s += priced_s
        rate = (time.monotonic() - self._begun) / self._done_s
        return f"about {duration(rate * max(0.0, self._ahead_s - self._done_s))} left"
