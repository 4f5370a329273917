"""The speed-up measured: every method against tuned plain training, on a ladder of budgets.

First each method is tuned at each rung, plain training as well, with the same number of trials, on the validation split
and on seeds of their own; controls whose batch is a part of plain training's follow. What was chosen is frozen. Then
all are trained on fresh seeds, and the test split is judged once a run. `training.comparison.speedup` says what the
values come to.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from gsgd.results import write_json, write_table
from training.budget import Budget, StepCosts, seconds_of
from training.comparison.contenders import QUIET, TUNING_SEED, folder_name
from training.comparison.jobs import Job, has_ended, run_jobs
from training.comparison.ladder_results import (
    PLAIN,
    PLANNED,
    Chosen,
    Claim,
    InSeconds,
    LadderResult,
    MethodAtRung,
    Row,
    cells_of_claim,
    claims_in_seconds,
    rows_and_claims,
    write_tables,
)
from training.comparison.opening import begin, check_same, header_of, opened, record_of, tasks_of
from training.comparison.plan import Plan, check_plan, rungs_of
from training.comparison.time_left import TimeLeft
from training.comparison.tuning import Trial, Values, at_an_edge, best, draw_trials, in_words, part_of, with_parts
from training.config import Config
from training.ranks import failing_together
from training.run import Ending
from training.run.display import Display, duration
from training.run_folder.records import HEADER, OF_LADDER
from training.run_folder.schema import DIVERGED, FINISHED, INTERRUPTED, LadderHeader
from training.task import Task

TABLE = "ladder.csv"
SHARED = ("rungs", "tune", "tuning_seeds")
"""Entries of the header in which a ladder that goes on must agree with what is there, beside the configuration."""


def climb(
    config: Config,
    plan: Plan,
    folder: Path,
    *,
    accelerator: Accelerator,
    jobs: int = 1,
    wait: bool = False,
    dry_run: bool = False,
    display: Display | None = None,
) -> LadderResult:
    """Tune, freeze, train on fresh seeds, and measure the speed-ups; goes on where it was interrupted.

    Writes `ladder.json` (what it was, costs of steps, what was frozen, claims), `tuning.csv` (a row a trial),
    `runs.csv` (a row a run), `ladder.csv` (a row a method and rung) and `claims.csv` to `folder`, and the runs beneath.

    Args:
        jobs: how many runs are trained at a time, see `run_jobs`.
        wait: for another command that writes to the folder, instead of an error.
        dry_run: measure what steps cost, and say what there is to do; nothing is trained or written.

    Raises:
        ValueError: for a plan that does not fit the configuration, a folder of another ladder or of other data, or one
            that another command writes to.
        OSError: if the folder cannot be written to.
    """
    display = display or Display.silent()
    ladder = _Ladder(config, plan, folder, accelerator, jobs, display)
    if dry_run:
        with failing_together(accelerator):
            recorded = ladder.recorded()
        ladder.begin(recorded)
        return ladder.result(PLANNED, [], [])
    with opened(folder, ladder.recorded, accelerator, wait=wait, display=display) as recorded:
        ladder.begin(recorded)
        ladder.write_header()
        outcomes = ladder.train() if ladder.tune() else None
        if outcomes is None:
            return ladder.result(INTERRUPTED, [], [])
        return ladder.measure(outcomes)


class _Ladder:
    """One ladder in progress."""

    def __init__(self, config: Config, plan: Plan, folder: Path, accelerator: Accelerator, jobs: int, display: Display):
        self.config, self.plan, self.folder = config, plan, folder
        self.accelerator, self.jobs, self.display = accelerator, jobs, display
        self.rungs = rungs_of(config.training.budget, plan.rungs)
        self.labels = [contender.label for contender in plan.contenders]
        check_plan(plan, config)
        self.contenders = {contender.label: contender for contender in plan.contenders}
        self.trials = draw_trials(plan.grid, plan.contenders, plan.trials)
        sizes = [each.training.batch_size for each in self._configs_of(PLAIN).values()]
        self.trials = {label: with_parts(found, self.contenders[label], sizes) for label, found in self.trials.items()}
        self.configs = {key: each for label in self.labels for key, each in self._configs_of(label).items()}
        self.header: dict[str, Any] = {
            **header_of(config, plan.contenders, plan.seeds),
            "rungs": [str(rung) for rung in self.rungs],
            "tune": {key: list(values) for key, values in plan.grid.items()},
            "trials": {label: [in_words(values) for values in found] for label, found in self.trials.items()},
            "tuning_seeds": plan.tuning_seeds,
            "frozen": None,
        }
        self.tasks: dict[Any, Task] = {}
        self.costs: dict[tuple[str, Values], StepCosts] = {}
        self.frozen: dict[MethodAtRung, Values] = {}
        self.at = {label: plan.rungs_of_method(label, self.rungs) for label in self.labels}

    def _configs_of(self, label: str) -> dict[tuple[str, Values], Config]:
        own = {**QUIET, "evaluations": 1, **self.contenders[label].values, "label": label}  # only the end counts
        return {(label, values): self.config.with_values({**own, **dict(values)}) for values in self.trials[label]}

    def _trials_at(self, label: str, rung: Budget) -> list[Values]:
        """What is tried of a method at a rung; until plain training is tuned there, its first trial stands for it."""
        contender, found = self.contenders[label], self.trials[label]
        if contender.part_of_plain is None:
            return found
        plain = self.frozen.get((PLAIN, rung), self.trials[PLAIN][0])
        batch = part_of(contender, self.configs[PLAIN, plain].training.batch_size)
        return [values for values in found if batch in values]

    def _check_sizes(self) -> None:
        for (label, values), config in self.configs.items():
            gross = config.training.gross_size * self.accelerator.num_processes
            size = self.tasks[config.data].train_size
            if gross > size:
                raise ValueError(f"{label} {in_words(values)}: a gross batch has {gross} rows, the training set {size}")

    # ---- Costs and the plan ----

    def recorded(self) -> dict[str, Any] | None:
        """The record of the ladder in the folder, which must be of this one; None if there is none."""
        recorded = record_of(self.folder, OF_LADDER, LadderHeader)
        if recorded is None:
            return None
        changed = [name for name in SHARED if recorded[name] != self.header[name]]
        # A method stays at its rungs, however those that are added run.
        at = recorded.get("at") or dict.fromkeys(recorded["methods"], recorded["rungs"])  # older ladders do not say
        self.at |= {label: [rung for rung in self.rungs if str(rung) in at[label]] for label in at if label in self.at}
        # Seeds and methods may be added to a ladder.
        if [label for label in recorded["methods"] if label not in self.labels]:
            changed.append("methods")
        if any(self.header["trials"].get(label, trials) != trials for label, trials in recorded["trials"].items()):
            changed.append("trials")
        check_same("ladder", self.folder, self.config, recorded, changed)
        return recorded

    def begin(self, recorded: dict[str, Any] | None) -> None:
        """Read the data, measure what steps cost unless that is recorded, and say what there is to do."""
        self.tasks = tasks_of(self.configs.values(), self.accelerator)
        self._check_sizes()
        self.split = "test" if all("test" in task.splits for task in self.tasks.values()) else "validation"
        self.header["jobs"] = 0 if recorded is None else recorded.get("jobs")  # older ladders do not say
        named = {_key(*key): config for key, config in self.configs.items()}
        table = self.folder / TABLE
        costs = begin(table, self.header, recorded, named, self.tasks, self.accelerator, self.display)
        self.costs = {key: costs[_key(*key)] for key in self.configs}
        at = {label: list(map(str, rungs)) for label, rungs in self.at.items()}
        self.header |= {"split": self.split, "frozen": (recorded or {}).get("frozen"), "at": at}
        self.display.say(self.forecast())

    def forecast(self) -> str:
        """How many runs at each rung, and their reference time, evaluation aside."""
        lines, whole, count = [], 0.0, 0
        tuned = self.header["frozen"] or {}
        for rung in self.rungs:
            there = self._labels_at(rung)
            new = [label for label in there if label not in tuned]
            tuning = sum(self._seconds_to_tune(label, rung) for label in new)
            final = self._seconds_to_measure(rung)
            tried = sum(len(self._trials_at(label, rung)) for label in new) * self.plan.tuning_seeds
            tried, runs = tried if self.tuned else 0, len(there) * self.plan.seeds
            whole, count = whole + tuning + final, count + tried + runs
            lines.append(f"  {rung!s:>14}: {tried:4} runs to tune, {runs:4} to measure, {duration(tuning + final)}")
        several = f"; {self.jobs} at a time, threads divided" if self.jobs > 1 else ""
        total = f"{count} runs, about {duration(whole)} of training, as steps were measured{several}"
        if before := sum(1 for path in self.folder.rglob(HEADER) if has_ended(path.parent)):
            total += f"\n{before} of them were trained before"
        return "\n".join([f"ladder of {len(self.rungs)} rungs, {len(self.labels)} methods:", *lines, total])

    @property
    def tuned(self) -> bool:
        return bool(self.plan.grid)

    def _seconds_of_trials(self, label: str, rung: Budget) -> list[float]:
        return [self._seconds(label, values, rung) for values in self._trials_at(label, rung)]

    def _seconds_to_tune(self, label: str, rung: Budget) -> float:
        return self.plan.tuning_seeds * sum(self._seconds_of_trials(label, rung)) if self.tuned else 0.0

    def _labels_at(self, rung: Budget) -> list[str]:
        return [label for label in self.labels if rung in self.at[label]]

    def _seconds_to_measure(self, rung: Budget) -> float:
        """Of a run as the mean of its method's trials: which of them is chosen is not known yet."""
        of_labels = [self._seconds_of_trials(label, rung) for label in self._labels_at(rung)]
        return self.plan.seeds * sum(float(np.mean(seconds)) for seconds in of_labels)

    def _steps(self, label: str, values: Values, rung: Budget) -> int:
        config = self._config(label, values, rung)
        size = self.tasks[config.data].train_size
        return config.training.steps_within_budget(size, self.accelerator.num_processes, self.costs[label, values])

    def _seconds(self, label: str, values: Values, rung: Budget) -> float:
        steps = self._steps(label, values, rung)
        chosen = self.configs[label, values].training.dearer_steps(steps)
        return seconds_of(steps, self.costs[label, values], chosen)

    def _config(self, label: str, values: Values, rung: Budget, **more: Any) -> Config:
        return self.configs[label, values].with_values({"budget": str(rung), **more})

    # ---- Tuning ----

    def tune(self) -> bool:
        """Choose each method's values at each rung by validation, and freeze them; False if interrupted."""
        recorded = self.header["frozen"] or {}
        known = {(label, in_words(values)): values for label, found in self.trials.items() for values in found}
        self.frozen = {
            (label, rung): known[label, recorded[label][str(rung)]]
            for label in self.labels
            for rung in self.at[label]
            if label in recorded
        }
        new = [label for label in self.labels if label not in recorded]
        parts = [label for label in new if self.contenders[label].part_of_plain is not None]
        # What is a part of plain training's batch follows once that is known.
        return self._tune([label for label in new if label not in parts], parts) and self._tune(parts, [])

    def _tune(self, labels: Sequence[str], later: Sequence[str]) -> bool:
        """Choose and freeze these methods' values; `later` are those that follow."""
        if not labels:
            return True
        trials: dict[MethodAtRung, list[Trial]] = {
            (label, rung): [Trial(values, (), ()) for values in self._trials_at(label, rung)]
            for rung in self.rungs
            for label in self._labels_at(rung)
            if label in labels
        }
        if self.tuned:
            places = [(place, number) for place, found in trials.items() for number in range(len(found))]
            seeds = range(TUNING_SEED, TUNING_SEED + self.plan.tuning_seeds)
            jobs = [
                self._job(label, trials[label, rung][number].values, rung, seed, tuning=True)
                for (label, rung), number in places
                for seed in seeds
            ]
            later_s = sum(map(self._seconds_to_measure, self.rungs))
            later_s += sum(self._seconds_to_tune(label, rung) for label in later for rung in self.at[label])
            outcomes = self._run(jobs, "tuning", later_s=later_s)
            if outcomes is None:
                return False
            for at, (place, number) in enumerate(places):
                found = outcomes[at * len(seeds) : (at + 1) * len(seeds)]
                trials[place][number] = _trial(trials[place][number].values, found)
            self.frozen |= {place: best(found).values for place, found in trials.items()}
            self._write_trials(trials)
        else:
            self.frozen |= {place: found[0].values for place, found in trials.items()}
        self.header["frozen"] = {
            label: {str(rung): in_words(self.frozen[label, rung]) for rung in self.at[label]}
            for label in self.labels
            if (label, self.at[label][0]) in self.frozen
        }
        self.write_header()
        return True

    def _write_trials(self, trials: Mapping[MethodAtRung, Sequence[Trial]]) -> None:
        columns = ("method", "budget", "values", "seeds", "diverged", "val_accuracy", "val_loss", "chosen")
        rows = [
            (
                *(label, rung.amount, in_words(trial.values), self.plan.tuning_seeds, int(trial.diverged)),
                *((None, None) if trial.diverged else (float(np.mean(trial.accuracies)), float(np.mean(trial.losses)))),
                int(trial.values == self.frozen[label, rung]),
            )
            for (label, rung), found in trials.items()
            for trial in found
        ]
        if self.accelerator.is_main_process:
            path = self.folder / "tuning.csv"
            # Methods that were tuned before stay in the table as they are.
            before = list(csv.reader(path.read_text().splitlines()))[1:] if path.exists() else []
            now = {label for label, _ in trials}
            write_table(path, columns, [*(row for row in before if row[0] not in now), *rows])

    # ---- Fresh seeds ----

    def train(self) -> dict[MethodAtRung, list[Ending]] | None:
        """The runs that count, in the order of their seeds; None if interrupted."""
        first = self.config.training.seed
        places = [
            (label, rung, seed)
            for seed in range(first, first + self.plan.seeds)
            for rung in self.rungs
            for label in self._labels_at(rung)
        ]
        jobs = [self._job(label, self.frozen[label, rung], rung, seed) for label, rung, seed in places]
        if self.header["jobs"] is not None and not all(has_ended(job.folder) for job in jobs):
            self.header["jobs"] = max(self.header["jobs"], self.jobs)
            self.write_header()
        outcomes = self._run(jobs, "measuring")
        if outcomes is None:
            return None
        found: dict[MethodAtRung, list[Ending]] = {}
        for (label, rung, _), outcome in zip(places, outcomes, strict=True):
            found.setdefault((label, rung), []).append(outcome)
        return found

    def _job(self, label: str, values: Values, rung: Budget, seed: int, tuning: bool = False) -> Job:
        test = not tuning and self.split == "test"
        config = self._config(label, values, rung, seed=seed, test=test)
        if tuning:
            name = f"{label}:{in_words(values)}-seed{seed - TUNING_SEED}"
            folder = self.folder / "tuning" / str(rung) / folder_name(name)
        else:
            name = f"{label}-seed{seed}"
            folder = self.folder / str(rung) / folder_name(name)
        reference_s = self._seconds(label, values, rung)
        return Job(config, folder, self.costs[label, values], f"{rung} {name}", reference_s)

    def _run(self, jobs: Sequence[Job], stage: str, later_s: float = 0.0) -> list[Ending] | None:
        done = 0
        left = TimeLeft(sum(job.reference_s for job in jobs if not has_ended(job.folder)) + later_s)

        def tell(job: Job, outcome: Ending) -> None:
            nonlocal done
            done += 1
            if outcome.before:
                return
            end = f"accuracy {outcome.evaluations[-1].val_accuracy:.4f}" if outcome.evaluations else outcome.status
            self.display.say(f"{stage} [{done}/{len(jobs)}] {job.title}: {end}; {left.after(job.reference_s)}")

        # What each run says of itself would bury that.
        quiet = Display(self.display.console if self.display.console.is_terminal else None)
        return run_jobs(jobs, processes=self.jobs, accelerator=self.accelerator, display=quiet, tell=tell)

    # ---- What came out ----

    def measure(self, outcomes: Mapping[MethodAtRung, Sequence[Ending]]) -> LadderResult:
        """Rows by rung and method, and what is claimed of each method; all of it is written."""
        chosen = {
            (label, rung): Chosen(
                in_words(values),
                tried=len(self._trials_at(label, rung)) if self.tuned else 1,
                # A part of plain training's batch, the last of the values, was not chosen.
                at_edge=" ".join(
                    at_an_edge(values[:-1] if self.contenders[label].part_of_plain else values, self.plan.grid)
                ),
                reference_s=self._seconds(label, values, rung),
            )
            for (label, rung), values in self.frozen.items()
        }
        rows, claims = rows_and_claims(self.rungs, outcomes, chosen)
        by_clock = claims_in_seconds(self.rungs, outcomes, self.header["jobs"])
        if self.accelerator.is_main_process:
            write_tables(self.folder, rows, claims, by_clock, outcomes)
            # The claims make the ladder a finished one.
            self.header["claims"] = [cells_of_claim(each) for each in claims]
            self.header["in_seconds"] = by_clock.left_out or [cells_of_claim(each) for each in by_clock.claims]
            self.write_header()
        return self.result(FINISHED, rows, claims, by_clock)

    def write_header(self) -> None:
        """Write `ladder.json` as it is by now."""
        if self.accelerator.is_main_process:
            write_json(self.folder / OF_LADDER, self.header)

    def result(
        self, status: str, rows: list[Row], claims: list[Claim], by_clock: InSeconds | None = None
    ) -> LadderResult:
        """The result in a status."""
        return LadderResult(status, self.folder, self.rungs[-1].unit, self.split, self.tuned, rows, claims, by_clock)


def _key(label: str, values: Values) -> str:
    """What a method's costs are recorded under."""
    return f"{label} {in_words(values)}"


def _trial(values: Values, outcomes: Sequence[Ending]) -> Trial:
    if any(each.status == DIVERGED for each in outcomes):
        return Trial(values, (), (), diverged=True)
    last = [each.evaluations[-1] for each in outcomes]
    return Trial(values, [end.val_accuracy for end in last], [end.val_loss for end in last])
