"""`keep_freed_memory`, seen by the page faults of another process that allocates and frees what it has before."""

import platform
import subprocess
import sys

import pytest

from gsgd.memory import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from gsgd.memory import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
np.ones(25_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(25_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator without these settings")


def faults(way: str) -> int:
    # NumPy's huge pages would hide the faults that are counted.
    environment = {"NUMPY_MADVISE_HUGEPAGE": "0", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FAULTS, way]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


@glibc
def test_freed_memory_is_used_again_without_a_page_fault():
    assert faults("kept") < 100


@glibc
def test_without_it_every_page_is_cleared_anew():
    pages = 25_000_000 * 8 // 65536  # of the largest size that is common
    assert faults("as ever") > pages


def test_another_system_is_told_apart(monkeypatch):
    monkeypatch.setattr("gsgd.memory.os.name", "nt")
    assert keep_freed_memory() is False


def test_another_c_library_is_told_apart(monkeypatch):
    monkeypatch.setattr("gsgd.memory.ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
