"""Hypothesis: a slow machine is no failure, and CI searches the same examples each time."""

import os

from hypothesis import settings

settings.register_profile("gsgd", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("gsgd")
