"""Runs as jobs of a cluster, by submitit (extra `cluster`): on Slurm, or as processes of this machine.

Each run of a comparison is a job of its own. One that is preempted goes on from its checkpoint when the cluster starts
it again; what has ended is in its folder, from where the comparison reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from accelerate import Accelerator

from gsgd.commands.arguments import install
from gsgd.ranges import one_of
from training.comparison.jobs import Job, has_ended
from training.run import Ending, make_accelerator, train

Executor = Literal["debug", "local", "slurm"]
LOGS = "jobs"
"""Folder, beside the runs, of what jobs say."""
_A_DAY_MIN = 24 * 60
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Cluster:
    """Where jobs run.

    Args:
        executor: "slurm"; "local", processes of this machine, all at a time; or "debug", one after the other in this
            process.
        options: of submitit's executor, such as timeout_min (a day, if it is not given), gpus_per_node, cpus_per_task,
            slurm_partition, slurm_array_parallelism.

    Raises:
        ValueError: for another executor.
        ModuleNotFoundError: if submitit is not installed.
    """

    executor: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("--executor", self.executor, get_args(Executor))
        _submitit()

    def train(
        self, jobs: Sequence[Job], folder: Path, *, accelerator: Accelerator, say: Callable[[str], object]
    ) -> bool:
        """Train those that have not ended; whether all have in the end, or someone interrupted.

        Ctrl-C cancels the jobs. If this process is killed they run on, and the same command waits for them.

        Args:
            folder: of the comparison, where the logs of jobs go.
            say: told of each as it ends.

        Raises:
            ValueError: for options that submitit does not know, or where this is one of several ranks.
            submitit.core.utils.FailedJobError: if a job failed, with what it said, once the others have ended.
        """
        if accelerator.num_processes > 1:
            raise ValueError(f"--executor with {accelerator.num_processes} ranks: jobs are for one rank each")
        left = [job for job in jobs if not has_ended(job.folder)]
        if not left:
            return True
        executor = _submitit().AutoExecutor(folder=folder.resolve() / LOGS / "%j", cluster=self.executor)
        try:
            executor.update_parameters(**{"name": "gsgd", "timeout_min": _A_DAY_MIN, **self.options})
        except (NameError, TypeError) as error:
            raise ValueError(f"--executor-options: {error}") from None
        with executor.batch():
            # Elsewhere a process may begin in another folder.
            submitted = [executor.submit(_Train(replace(job, folder=job.folder.resolve()))) for job in left]
        try:
            self._wait(dict(zip(submitted, left, strict=True)), len(jobs), say)
        except KeyboardInterrupt:
            for one in submitted:
                one.cancel(check=False)
            return False
        return all(has_ended(job.folder) for job in jobs)

    def _wait(self, waiting: dict[Any, Job], whole: int, say: Callable[[str], object]) -> None:
        failed: list[Any] = []
        while waiting:
            for one in [each for each in waiting if self.executor == "debug" or each.done()]:
                job = waiting.pop(one)
                if one.exception() is not None:
                    failed.append(one)
                said = "failed" if one in failed else one.result().status
                say(f"[{whole - len(waiting)}/{whole}] {job.title}: {said} (job {one.job_id})")
                if self.executor == "debug" and not has_ended(job.folder):
                    return  # Ctrl-C came to this process, and the others have not begun
            if waiting:
                time.sleep(_LOOK_EVERY_S)
        for one in failed:
            one.result()


@dataclass(frozen=True)
class _Train:
    """What a job does, the first time and after each preemption."""

    job: Job

    def __call__(self) -> Ending:
        job = self.job
        # An earlier command's job on the same run, if there is one, is waited for.
        return train(job.config, job.folder, accelerator=make_accelerator(job.config), costs=job.costs, wait=True)

    def checkpoint(self) -> Any:
        """The same again: the run goes on from its own checkpoint."""
        return _submitit().helpers.DelayedSubmission(self)


def parse_options(text: str) -> dict[str, Any]:
    """Options of an executor from words such as "timeout_min=240,slurm_partition=gpu".

    Raises:
        ValueError: for words that are no options.
    """
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ValueError(f"--executor-options {part!r} must be NAME=VALUE,...")
        found[name.strip()] = int(value) if value.strip().isdecimal() else value.strip()
    return found


def _submitit() -> Any:
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: {install('cluster')}", name=error.name) from error
    return submitit
