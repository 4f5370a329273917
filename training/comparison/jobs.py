"""Runs that do not wait for each other: in this process one after the other, or several processes at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from training.budget import StepCosts
from training.config import Config
from training.run import Ending, make_accelerator, train
from training.run.display import Display
from training.run.resumption import FINAL
from training.run_folder.records import read_header


@dataclass(frozen=True)
class Job:
    """A run to be trained, and the reference time that it takes."""

    config: Config
    folder: Path
    costs: StepCosts
    title: str
    reference_s: float


def has_ended(folder: Path) -> bool:
    """Whether a run's folder records that it has, so that it is not trained again."""
    return (read_header(folder) or {}).get("status") in FINAL


def run_jobs(
    jobs: Sequence[Job],
    *,
    processes: int,
    accelerator: Accelerator,
    display: Display,
    tell: Callable[[Job, Ending], None] = lambda job, outcome: None,
) -> list[Ending] | None:
    """The outcomes in the order of the jobs; None if someone interrupted.

    What is finished in its folder is not trained again, and what was interrupted goes on. Several processes divide this
    one's threads among them.

    Args:
        processes: how many run at a time; with 1 they run here.
        tell: called as each has ended.

    Raises:
        ValueError: for several processes where this is one of several ranks.
    """
    if processes > 1 and accelerator.num_processes > 1:
        raise ValueError(f"--jobs {processes} with {accelerator.num_processes} ranks: several jobs are for one rank")
    if processes > 1 and sum(not has_ended(job.folder) for job in jobs) > 1:
        return _in_processes(jobs, min(processes, len(jobs)), tell)
    outcomes = []
    for job in jobs:
        display.title = job.title
        outcome = train(job.config, job.folder, accelerator=accelerator, costs=job.costs, display=display)
        if not outcome.is_final:
            return None
        tell(job, outcome)
        outcomes.append(outcome)
    return outcomes


def _in_processes(jobs: Sequence[Job], processes: int, tell: Callable[[Job, Ending], None]) -> list[Ending] | None:
    threads = max(1, torch.get_num_threads() // processes)
    asked: list[int] = []
    # A fork would inherit this process's threads in the middle of what they do.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(threads,)) as pool:
        waiting = {pool.submit(_train, job): place for place, job in enumerate(jobs)}

        def stop(number: int, frame: Any) -> None:
            if asked:
                raise KeyboardInterrupt
            asked.append(number)
            for future in waiting:
                future.cancel()
            if number == signal.SIGTERM:
                # Ctrl-C goes to all of a terminal's processes, this to one.
                for worker in list(pool._processes):
                    os.kill(worker, signal.SIGTERM)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        outcomes: dict[int, Ending] = {}
        try:
            for future in as_completed(waiting):
                try:
                    outcome = future.result()
                except CancelledError:
                    continue
                place = waiting[future]
                outcomes[place] = outcome
                if outcome.is_final:
                    tell(jobs[place], outcome)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    whole = len(outcomes) == len(jobs) and all(each.is_final for each in outcomes.values())
    return [outcomes[place] for place in range(len(jobs))] if whole else None


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    # Between two runs nothing of this process's is lost; while one trains it listens for itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _train(job: Job) -> Ending:
    return train(job.config, job.folder, accelerator=make_accelerator(job.config), costs=job.costs)
