"""The fair comparison: one budget for all, schedules that end with it, a random control, seeds, measured costs.

What it guards against (Kaddour et al., "No Train No Gain", 2023): a baseline whose learning rate is still high when its
time is up, scoring that nobody charges for, and one lucky seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from gsgd.results import write_json, write_table
from training.budget import StepCosts, parse_budget, seconds_of
from training.comparison.cluster import Cluster
from training.comparison.contenders import QUIET, TUNING_SEED, Contender, check_contenders, check_shared, folder_name
from training.comparison.jobs import Job
from training.comparison.opening import begin, check_same, header_of, opened, record_of, tasks_of
from training.comparison.summary import MethodSummary, RunResult, cells_of, default_target, summarise
from training.config import Config
from training.run import Ending, train
from training.run.display import Display, duration
from training.run_folder.metering import read_meters, write_meters
from training.run_folder.records import COLUMNS, EVALUATIONS, OF_COMPARISON, Evaluation
from training.run_folder.schema import FINISHED, ComparisonHeader


@dataclass(frozen=True)
class Sweep:
    """A key and the values to tune it over, for each method by itself."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        status: "finished", or "interrupted": then there is no summary.
        target: validation accuracy that times and samples to the target are about.
        tuned: label -> the value that its sweep chose.
    """

    status: str
    folder: Path
    target: float
    summaries: list[MethodSummary]
    results: list[RunResult]
    costs: dict[str, StepCosts]
    tuned: dict[str, str]


def parse_sweep(text: str) -> Sweep:
    """The sweep that `text`, such as "max_lr=1e-2,1e-3", names.

    Raises:
        ValueError: if it is none.
    """
    key, _, values = text.partition("=")
    found = tuple(value for value in values.split(",") if value)
    if not key or len(found) < 2:
        raise ValueError(f"--sweep {text!r} must be key=value,value,... with at least two values")
    return Sweep(key.replace("-", "_"), found)


def compare(
    config: Config,
    contenders: Sequence[Contender],
    folder: Path,
    *,
    seeds: int,
    accelerator: Accelerator,
    sweep: Sweep | None = None,
    target: float | None = None,
    wait: bool = False,
    display: Display | None = None,
    cluster: Cluster | None = None,
) -> Comparison:
    """Train every contender on every seed within the configuration's budget, and summarise.

    Results are written to `folder`: one folder a run, `compare.json`, `summary.csv`, and of all runs
    `evaluations.csv` and, with `meter_every`, `meters.csv`.
    What is finished there already is not trained again, and an interrupted run goes on.

    Args:
        seeds: runs of each method, with the configuration's seed and those after it.
        sweep: tune a key for each method first: one run a value, on a seed apart; the best final validation accuracy
            wins, and only the winner is trained on the reported seeds. Paper: the best test accuracy is picked; here:
            the test split is judged once, after the choice, because a maximum over test results flatters.
        target: accuracy whose cost is reported; None takes the baseline's mean final one.
        wait: for another command that writes to the folder, instead of an error.
        cluster: where runs are trained, each as a job; here, one after the other, if None.

    Raises:
        ValueError: for contenders that do not fit the configuration, a folder of another comparison or of other data,
            or one that another command writes to.
        OSError: if the folder cannot be written to.
    """
    display = display or Display.silent()
    comparison = _Comparison(config, contenders, folder, seeds, accelerator, sweep, display, cluster)
    with opened(folder, comparison.recorded, accelerator, wait=wait, display=display) as recorded:
        comparison.begin(recorded)
        return comparison.run(target)


class _Comparison:
    """One comparison in progress.

    Attributes:
        planned: label -> configuration of each method; swept: those that it is tuned over.
        costs: of all of them.
    """

    def __init__(
        self,
        config: Config,
        contenders: Sequence[Contender],
        folder: Path,
        seeds: int,
        accelerator: Accelerator,
        sweep: Sweep | None,
        display: Display,
        cluster: Cluster | None,
    ):
        self.config, self.folder, self.seeds, self.sweep = config, folder, seeds, sweep
        self.accelerator, self.display, self.cluster = accelerator, display, cluster
        check_contenders(contenders)
        for contender in contenders:
            if contender.part_of_plain is not None:
                raise ValueError(
                    f"{contender.label}: k is what a ladder chooses for plain training, so give --ladder N, too, or a "
                    "batch_size in rows"
                )
        self.planned = {
            contender.label: config.with_values({**QUIET, **contender.values, "label": contender.label})
            for contender in contenders
        }
        self.swept: dict[str, Config] = {}
        if sweep is not None:
            check_shared("--sweep", {sweep.key: ""})
            self.swept = {
                _swept(label, sweep, value): method.with_values({sweep.key: value})
                for label, method in self.planned.items()
                for value in sweep.values
            }
        self.header = {
            **header_of(config, contenders, seeds),
            "sweep": None if sweep is None else {"key": sweep.key, "values": list(sweep.values)},
        }
        self.costs: dict[str, StepCosts] = {}
        self.train_sizes: dict[Any, int] = {}
        self.done, self.total = 0, 0

    def recorded(self) -> dict[str, Any] | None:
        """The record of the comparison in the folder, which must be of this one; None if there is none."""
        recorded = record_of(self.folder, OF_COMPARISON, ComparisonHeader)
        if recorded is not None:
            # Seeds may be added to a comparison, and what is beside its runs may change.
            changed = [name for name in ("methods", "sweep") if recorded.get(name) != self.header[name]]
            check_same("comparison", self.folder, self.config, recorded, changed)
        return recorded

    def begin(self, recorded: dict[str, Any] | None) -> None:
        """Read the data, and measure what steps cost, unless that is recorded."""
        configs = {**self.planned, **self.swept}
        tasks = tasks_of(configs.values(), self.accelerator)
        self.train_sizes = {data: task.train_size for data, task in tasks.items()}
        self.tested = {data for data, task in tasks.items() if "test" in task.splits}
        table = self.folder / EVALUATIONS
        self.costs = begin(table, self.header, recorded, configs, tasks, self.accelerator, self.display)
        if recorded is None and self.accelerator.is_main_process:
            write_json(self.folder / OF_COMPARISON, self.header)
        budget, settings = parse_budget(self.config.training.budget), self.config.training
        if budget.unit == "baseline-epochs":
            # The time of one baseline for all, whatever batch or model a method brings along.
            samples = settings.plain_size * settings.accumulation_steps * self.accelerator.num_processes
            first = next(iter(self.planned))
            steps = max(1, round(budget.amount * self.train_sizes[self.planned[first].data] / samples))
            in_seconds = f"{steps * self.costs[first].plain_s:.15g}s"
            self.planned = {label: each.with_values({"budget": in_seconds}) for label, each in self.planned.items()}
        self.display.say(self.forecast())

    def forecast(self) -> str:
        """How many runs, and their reference time, evaluation aside."""
        per_method = self.seeds + (len(self.sweep.values) if self.sweep else 0)
        self.total = per_method * len(self.planned)
        seconds = 0.0
        for label, config in self.planned.items():
            steps = config.training.steps_within_budget(
                self.train_sizes[config.data], self.accelerator.num_processes, self.costs[label]
            )
            seconds += per_method * seconds_of(steps, self.costs[label], config.training.dearer_steps(steps))
        return f"{self.total} runs, about {duration(seconds)} of training"

    def run(self, target: float | None) -> Comparison:
        """Tune, train, summarise."""
        tuned: dict[str, str] = {}
        results: list[RunResult] = []
        interrupted = Comparison("interrupted", self.folder, math.nan, [], results, self.costs, tuned)
        if self.sweep is not None:
            key, values = self.sweep.key, self.sweep.values
            trials = [(label, value) for label in self.planned for value in values]
            outcomes = self.outcomes([self.trial(label, self.sweep, value) for label, value in trials])
            if len(outcomes) < len(trials):
                return interrupted
            accuracies = dict(zip(trials, map(_final_accuracy, outcomes), strict=True))
            for label, planned in self.planned.items():
                found = {value: accuracies[label, value] for value in values}
                tuned[label] = max(found, key=found.__getitem__)
                self.planned[label] = planned.with_values({key: tuned[label]})
                self.costs[label] = self.costs[_swept(label, self.sweep, tuned[label])]
        first = self.config.training.seed
        # Seed by seed: an interrupted comparison has all methods on the seeds it got to.
        places = [(label, seed) for seed in range(first, first + self.seeds) for label in self.planned]
        outcomes = self.outcomes([self.measured(*place) for place in places])
        for (label, seed), outcome in zip(places, outcomes, strict=False):
            accuracy = outcome.header.get("test_accuracy")
            results.append(RunResult(label, seed, outcome.status, outcome.evaluations, accuracy))
        if len(results) < len(places):
            return interrupted
        target = default_target(results) if target is None else target
        summaries = summarise(results, target)
        if self.accelerator.is_main_process:
            _write(self.folder, self.header, summaries, results, target, tuned)
        return Comparison(FINISHED, self.folder, target, summaries, results, self.costs, tuned)

    def outcomes(self, jobs: Sequence[Job]) -> list[Ending]:
        """Train the runs, on the cluster if there is one, or take them from the folder; up to where one interrupts."""
        say, found = self.display.say, list[Ending]()
        if self.cluster is not None and not self.cluster.train(
            jobs, self.folder, accelerator=self.accelerator, say=say
        ):
            return found
        for job in jobs:
            self.done += 1
            self.display.title = f"[{self.done}/{self.total}] {job.title}"
            say(self.display.title)
            ended = train(job.config, job.folder, accelerator=self.accelerator, costs=job.costs, display=self.display)
            if ended.interrupted or not ended.is_final:
                return found
            found.append(ended)
        return found

    def measured(self, label: str, seed: int) -> Job:
        """A run that counts."""
        config, name = self.planned[label], _run_name(label, seed)
        config = config.with_values({"seed": seed, "test": config.data in self.tested})
        return Job(config, self.folder / name, self.costs[label], name, math.nan)

    def trial(self, label: str, sweep: Sweep, value: str) -> Job:
        """A run that tunes."""
        name = f"tuning/{folder_name(f'{label}-{sweep.key}{value}')}"
        config = self.planned[label].with_values({sweep.key: value, "seed": TUNING_SEED, "test": False})
        return Job(config, self.folder / name, self.costs[_swept(label, sweep, value)], name, math.nan)


def _final_accuracy(trial: Ending) -> float:
    return trial.evaluations[-1].val_accuracy if trial.status == FINISHED else -math.inf


def _swept(label: str, sweep: Sweep, value: str) -> str:
    """What a method's costs are recorded under while it is tuned."""
    return f"{label} {sweep.key}={value}"


def _write(
    folder: Path,
    header: dict[str, Any],
    summaries: Sequence[MethodSummary],
    results: Sequence[RunResult],
    target: float,
    tuned: dict[str, str],
) -> None:
    rows: list[Evaluation] = [evaluation for result in results for evaluation in result.evaluations]
    write_table(folder / EVALUATIONS, tuple(COLUMNS), map(astuple, rows))
    metered = [entry for result in results for entry in read_meters(folder / _run_name(result.method, result.seed))]
    if metered:
        write_meters(folder, metered)
    cells = [cells_of(summary) for summary in summaries]
    write_table(folder / "summary.csv", tuple(cells[0]), [tuple(row.values()) for row in cells])
    header |= {"target": target, "tuned": tuned, "summary": [asdict(summary) for summary in summaries]}
    write_json(folder / OF_COMPARISON, header)


def _run_name(label: str, seed: int) -> str:
    return folder_name(f"{label}-seed{seed}")
