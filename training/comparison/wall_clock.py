"""What the runs of a ladder took by the clock, and whether that can be compared.

A budget of work charges what is computed. The clock charges all of a step: reading and augmenting rows, choosing them,
the optimizer. It charges whatever else the machine does meanwhile, too, so its word is taken only of runs that had one
machine to themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.run import Ending

MOST_SPREAD = 1.25
"""Runs of one method at one rung do the same work; if their seconds differ by more than this, something else ran.

Beside other programs, on two cores, some runs took 46 times as long as others with the same work.
"""


def seconds_of_runs(runs: Sequence[Ending]) -> float:
    """The median over seeds of what runs took: training steps with all that they read, without evaluation."""
    return float(np.median([run.header["wall_clock_s"] for run in runs]))


def why_not_comparable(groups: Mapping[str, Sequence[Ending]], jobs: int | None) -> str | None:
    """Why the clock's word is not taken of these runs, as the end of a sentence; None if it is.

    Args:
        groups: what they are called -> runs that do the same work.
        jobs: how many were trained at a time at most; None where that was not recorded.
    """
    if jobs is None:
        return "it was not recorded how many runs were trained at a time"
    if jobs > 1:
        return f"{jobs} runs were trained at a time (--jobs 1 has the machine to itself)"
    headers = [run.header for runs in groups.values() for run in runs]
    for entry in ("machine", "device", "threads", "processes"):
        kinds = list(dict.fromkeys(str(header.get(entry)) for header in headers))
        if len(kinds) > 1:
            return f"the runs differ in {entry}: {'; '.join(kinds)}"
    for name, runs in groups.items():
        seconds = [run.header["wall_clock_s"] for run in runs]
        if max(seconds) > MOST_SPREAD * min(seconds):
            slowest = runs[int(np.argmax(seconds))].folder
            return (
                f"the machine did something else, too: {name} took from {min(seconds):.3g} to {max(seconds):.3g} s for "
                f"the same work (remove what took too long, such as {slowest}, and give the same command again)"
            )
    return None
