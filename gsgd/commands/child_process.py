"""A command as a child process that gets our signals, ends when we do, and imports the gsgd that we are."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[2]
_ON_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG of Linux' prctl.h


def run_command(words: Sequence[str]) -> int:
    """Run "gsgd ..." or "torchrun ..." as a child and return its exit code, 130 if it was interrupted.

    The terminal tells Ctrl-C to the child, too, which writes its checkpoint: here it is only waited for.
    """
    module = {"gsgd": "gsgd", "torchrun": "torch.distributed.run"}[words[0]]
    prepare = _ends_with_parent() if sys.platform == "linux" else None
    # The child is to import the very gsgd that we are, not one in the folder where we were called.
    environment = {**os.environ} if Path.cwd() == PACKAGES else {**os.environ, "PYTHONSAFEPATH": "1"}
    told: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    try:
        line = [sys.executable, "-m", module, *words[1:]]
        with subprocess.Popen(line, env=environment, preexec_fn=prepare) as child:
            signal.signal(signal.SIGTERM, lambda number, frame: child.terminate())
            code = child.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if told or code in (-signal.SIGINT, -signal.SIGTERM):
        return 130
    return code if code >= 0 else 128 - code


def _ends_with_parent() -> Callable[[], None]:
    """What a child does first on Linux: asks for SIGTERM when we end, however we end. It writes its checkpoint then."""
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_ON_PARENTS_DEATH, signal.SIGTERM)
        if os.getppid() != parent:  # which has ended since
            os.kill(os.getpid(), signal.SIGTERM)

    return ask
