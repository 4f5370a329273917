"""Hypothesis: a slow machine is no failure, and CI searches the same examples each time. Ctrl-C: always as usual."""

import os
import signal

from hypothesis import settings

settings.register_profile("gsgd", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("gsgd")

# A shell without job control starts what runs in the background with SIGINT ignored, and so would be their children.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
