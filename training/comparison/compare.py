"""The fair comparison: one budget for all, schedules that end with it, a random control, seeds, measured prices.

What it guards against (Kaddour et al., "No Train No Gain", 2023): a baseline whose learning rate is still high when its
time is up, scoring that nobody charges for, and one lucky seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from gsgd.locks import one_writer
from gsgd.results import command_line, provenance, write_json, write_table
from training.budget import StepCosts, parse_budget, seconds_of
from training.comparison.summary import INTERVALS, MethodSummary, RunResult, default_target, summarise
from training.config import Config
from training.costs import measure_costs
from training.display import Display
from training.metering import read_meters, write_meters
from training.ranks import built, failing_together, told_by_others
from training.records import (
    COLUMNS,
    EVALUATIONS,
    HEADER,
    OF_COMPARISON,
    Evaluation,
    differences,
    fingerprint,
    read_json,
)
from training.run import Outcome, check_data, check_room, train
from training.schema import DIVERGED, FINISHED, ComparisonHeader, check
from training.settings import parse_method
from training.task import Task

TUNING_SEED = 1_000_000
"""Of the runs that tune: none of them is reported, so what is reported was not chosen for its luck."""


@dataclass(frozen=True)
class Contender:
    """A method with what it changes of the configuration, such as "loss@1:keep=0.7:start_share=0.5"."""

    label: str
    values: dict[str, str]


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


def parse_contender(text: str) -> Contender:
    """The method that `text` names, and the values behind its colons.

    Raises:
        ValueError: if it is none.
    """
    method, *changes = text.split(":")
    parse_method(method)
    values = {"method": method}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key or not value:
            raise ValueError(f"{change!r} in the method {text!r} must be key=value, as in loss@1:keep=0.7")
        values[key.replace("-", "_")] = value
    return Contender(text, values)


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

    Raises:
        ValueError: for contenders that do not fit the configuration, a folder of another comparison or of other data,
            or one that another command writes to.
        OSError: if the folder cannot be written to.
    """
    display = display or Display.silent()
    planned, swept = _planned(config, contenders, sweep)
    with contextlib.ExitStack() as lock:
        with failing_together(accelerator):
            if accelerator.is_main_process:
                lock.enter_context(one_writer(folder, display.say if wait else None))
            header = _header(config, contenders, seeds, sweep)
            recorded = _recorded(folder, header)
        return _compare(config, planned, swept, folder, header, recorded, seeds, accelerator, sweep, target, display)


def _planned(
    config: Config, contenders: Sequence[Contender], sweep: Sweep | None
) -> tuple[dict[str, Config], dict[str, Config]]:
    """(label -> configuration of each method, those that it is tuned over)."""
    if len({contender.label for contender in contenders}) < len(contenders):
        raise ValueError("a method is named twice")
    for contender in contenders:
        check_shared(f"the method {contender.label!r}", contender.values)
    if sweep is not None:
        check_shared("--sweep", {sweep.key: ""})
    quiet = {"save_model": False, "tensorboard": False}
    planned = {
        contender.label: config.with_values({**quiet, **contender.values, "label": contender.label})
        for contender in contenders
    }
    if sweep is None:
        return planned, {}
    swept = {
        _swept(label, sweep, value): method.with_values({sweep.key: value})
        for label, method in planned.items()
        for value in sweep.values
    }
    return planned, swept


def _compare(
    config: Config,
    planned: dict[str, Config],
    swept: dict[str, Config],
    folder: Path,
    header: dict[str, Any],
    recorded: dict[str, Any] | None,
    seeds: int,
    accelerator: Accelerator,
    sweep: Sweep | None,
    target: float | None,
    display: Display,
) -> Comparison:
    """Compare in a folder that is this process's own now."""
    # What a method changes may be of the task (the exit's stage, say), and change its price.
    tasks: dict[Any, Task] = {}
    for each in (*planned.values(), *swept.values()):
        if each.data not in tasks:
            tasks[each.data] = built(accelerator, each.build_task)
    with failing_together(accelerator):
        header["data"] = fingerprint(tasks[next(iter(planned.values())).data].description)
        if recorded is not None:
            check_data(folder, recorded.get("data") or header["data"], header["data"])
        elif accelerator.is_main_process:
            check_room(folder / EVALUATIONS, tasks.values())
    costs = _prices(recorded, header, {**planned, **swept}, tasks, accelerator, display)
    if accelerator.is_main_process and recorded is None:
        write_json(folder / OF_COMPARISON, header)
    budget = parse_budget(config.training.budget)
    if budget.unit == "baseline-epochs":
        # The time of one baseline for all, whatever batch or model a method brings along.
        samples = config.training.plain_size * config.training.accumulation_steps * accelerator.num_processes
        first = next(iter(planned))
        steps = max(1, round(budget.amount * tasks[planned[first].data].train_size / samples))
        in_seconds = f"{steps * costs[first].plain_s:.15g}s"
        planned = {label: each.with_values({"budget": in_seconds}) for label, each in planned.items()}
    plan = _Plan(planned, costs, folder, accelerator, tasks, display)
    display.say(plan.forecast(seeds, sweep))
    tuned: dict[str, str] = {}
    if sweep is not None:
        for label in planned:
            best = plan.tune(label, sweep)
            if best is None:
                return Comparison("interrupted", folder, float("nan"), [], [], costs, tuned)
            tuned[label] = best
            planned[label] = planned[label].with_values({sweep.key: best})
            costs[label] = costs[_swept(label, sweep, best)]
    results: list[RunResult] = []
    for seed in range(config.training.seed, config.training.seed + seeds):
        # Seed by seed: an interrupted comparison has all methods on the seeds it got to.
        for label in planned:
            values = {"seed": seed, "test": "test" in tasks[planned[label].data].splits}
            outcome = plan.run(label, values, _run_name(label, seed), costs[label])
            if outcome.interrupted or outcome.status not in (FINISHED, DIVERGED):
                return Comparison("interrupted", folder, float("nan"), [], results, costs, tuned)
            results.append(
                RunResult(label, seed, outcome.status, outcome.evaluations, outcome.header.get("test_accuracy"))
            )
    target = default_target(results) if target is None else target
    summaries = summarise(results, target)
    if accelerator.is_main_process:
        _write(folder, header, summaries, results, target, tuned)
    return Comparison(FINISHED, folder, target, summaries, results, costs, tuned)


class _Plan:
    """The runs of a comparison, at fixed prices."""

    def __init__(
        self,
        planned: dict[str, Config],
        costs: dict[str, StepCosts],
        folder: Path,
        accelerator: Accelerator,
        tasks: dict[Any, Task],
        display: Display,
    ):
        self.planned, self.costs, self.folder = planned, costs, folder
        self.accelerator, self.display = accelerator, display
        self.train_sizes = {data: task.train_size for data, task in tasks.items()}
        self.done, self.total = 0, 0

    def forecast(self, seeds: int, sweep: Sweep | None) -> str:
        """How many runs, and how long they take at the measured prices, evaluation aside."""
        per_method = seeds + (len(sweep.values) if sweep else 0)
        self.total = per_method * len(self.planned)
        seconds = 0.0
        for label, config in self.planned.items():
            steps = self.steps(label)
            seconds += per_method * seconds_of(steps, self.costs[label], config.training.selecting_steps(steps))
        time = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
        return f"{self.total} runs, about {time} of training"

    def steps(self, label: str) -> int:
        """Optimizer steps that the budget pays for."""
        config = self.planned[label]
        ranks = self.accelerator.num_processes
        return config.training.steps_within_budget(self.train_sizes[config.data], ranks, self.costs[label])

    def run(self, label: str, values: dict[str, Any], name: str, costs: StepCosts) -> Outcome:
        """Train one run, or take it from the folder."""
        self.done += 1
        config = self.planned[label].with_values(values)
        self.display.title = f"[{self.done}/{self.total}] {name}"
        self.display.say(self.display.title)
        return train(
            config,
            self.folder / name,
            accelerator=self.accelerator,
            costs=costs,
            display=self.display,
        )

    def tune(self, label: str, sweep: Sweep) -> str | None:
        """The value of the best final validation accuracy; None if interrupted."""
        found: dict[str, float] = {}
        for value in sweep.values:
            name = f"tuning/{folder_name(f'{label}-{sweep.key}{value}')}"
            values = {sweep.key: value, "seed": TUNING_SEED, "test": False}
            outcome = self.run(label, values, name, self.costs[_swept(label, sweep, value)])
            if outcome.interrupted or outcome.status not in (FINISHED, DIVERGED):
                return None
            finished = outcome.status == FINISHED
            found[value] = outcome.evaluations[-1].val_accuracy if finished else float("-inf")
        return max(found, key=lambda value: found[value])


def check_shared(where: str, values: Mapping[str, Any]) -> None:
    """Refuse keys that all methods of a comparison share, among those that `where` names.

    Raises:
        ValueError: naming the key.
    """
    for key in ("task", "budget", "seed", "test", "label"):
        if key in values:
            raise ValueError(f"{where} sets {key}, but that is the comparison's: all methods share it")


def _swept(label: str, sweep: Sweep, value: str) -> str:
    """What a method's price is recorded under while it is tuned."""
    return f"{label} {sweep.key}={value}"


def _recorded(folder: Path, header: dict[str, Any]) -> dict[str, Any] | None:
    """The record of the comparison in the folder, which must be of this one; None if there is none."""
    path = folder / OF_COMPARISON
    if not path.exists():
        if (folder / HEADER).exists():
            raise ValueError(f"{folder} is the folder of a run, which has a {HEADER}: choose another --name")
        return None
    recorded = check(ComparisonHeader, read_json(path), path)
    # Seeds may be added to a comparison, and what is beside its runs may change.
    changed = [name for name in ("methods", "sweep") if recorded.get(name) != header[name]]
    if changed := differences(recorded["config"], header["config"]) + changed:
        raise ValueError(
            f"{folder} has another comparison: its {', '.join(changed)} differ. Choose another --name, or remove it"
        )
    return recorded


def _prices(
    recorded: dict[str, Any] | None,
    header: dict[str, Any],
    priced: dict[str, Config],
    tasks: dict[Any, Task],
    accelerator: Accelerator,
    display: Display,
) -> dict[str, StepCosts]:
    """Measured before the first run; later those that the first runs were planned with. Sets header["step_costs"]."""
    if recorded is not None:
        begun = ("date", "commit", "python", "machine", "versions", "step_costs")
        header.update((name, recorded[name]) for name in begun if name in recorded)
    else:
        with display.measuring() as progress, told_by_others(accelerator):
            configs = list(priced.values())
            found = measure_costs(configs, [tasks[each.data] for each in configs], accelerator, progress=progress)
        header["step_costs"] = {label: asdict(costs) for label, costs in zip(priced, found, strict=True)}
    return {label: StepCosts(**costs) for label, costs in header["step_costs"].items()}


def _header(config: Config, contenders: Sequence[Contender], seeds: int, sweep: Sweep | None) -> dict[str, Any]:
    return {
        **provenance(),
        "command": command_line(),
        "name": config.name,
        "config": {key: list(value) if isinstance(value, tuple) else value for key, value in config.values().items()},
        "methods": [contender.label for contender in contenders],
        "seeds": seeds,
        "sweep": None if sweep is None else {"key": sweep.key, "values": list(sweep.values)},
    }


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
    names = [field.name for field in dataclasses.fields(MethodSummary)]
    columns = [column for name in names for column in ((name, f"{name}_half_width") if name in INTERVALS else (name,))]
    cells = [[cell for name in names for cell in _cells(name, getattr(summary, name))] for summary in summaries]
    write_table(folder / "summary.csv", columns, cells)
    header |= {"target": target, "tuned": tuned, "summary": [asdict(summary) for summary in summaries]}
    write_json(folder / OF_COMPARISON, header)


def _cells(name: str, value: Any) -> list[Any]:
    """An interval takes two columns, its mean and its half-width."""
    if name not in INTERVALS:
        return [value]
    if value is None:
        return [None, None]
    return [value.mean, None if math.isnan(value.half_width) else value.half_width]


def _run_name(label: str, seed: int) -> str:
    return folder_name(f"{label}-seed{seed}")


def folder_name(text: str) -> str:
    """Safe as a folder's name, and still readable."""
    return re.sub(r"[^A-Za-z0-9@._=+-]", "-", text)
