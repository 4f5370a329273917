"""Hypothesis: a slow machine is no failure, and CI searches the same examples each time. Ctrl-C: always as usual.

Workers share the processors: torch and NumPy would start as many threads in each of them as there are.
"""

import gc
import importlib.util
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported, which reads it once; the commands that tests run inherit it.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

settings.register_profile("gsgd", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("gsgd")

# A shell without job control starts what runs in the background with SIGINT ignored, and so would be their children.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """What was imported stays: collections of garbage, with which each training run begins or ends, pass it over.

    Where torch's and transformers' modules are searched they take longer than the run.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def host_waits():
    """The module `host_waits` beside this file, which refuses reads of a device."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("gsgd_tests_host_waits", Path(__file__).with_name("host_waits.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
