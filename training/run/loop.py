"""The loop of a training run, and what it leaves: evaluations, checkpoints, logs, and the trained model."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from gsgd.locks import one_writer
from gsgd.sift.row_records.row_log import remove_log
from training.budget import StepCosts, parse_budget
from training.config import Config
from training.costs import measure_costs
from training.metrics.calibration import Calibration
from training.ranks import agreed, built, failing_together, told_by_others
from training.run.accelerator import make_accelerator
from training.run.display import Display
from training.run.evaluation import add_events, evaluate_split, evaluated
from training.run.header import recorded_costs, run_header
from training.run.interruption import signals_collected
from training.run.model_files import save_model
from training.run.resumption import FINAL, Ending, Unfinished, checkpoint_of, go_on, what_is_there
from training.run_folder import checkpoint
from training.run_folder.folders import ROWS, remove, written_names
from training.run_folder.metering import MeterLog, check_readings
from training.run_folder.records import HEADER, Records, recorded_evaluations
from training.run_folder.scalars import Scalars
from training.run_folder.schema import DIVERGED, FINISHED, INTERRUPTED, RUNNING
from training.task import Task
from training.training import Training, saved_model

LOGS = 200
AT_LEAST_EVERY = 100
"""The loss is looked at so many times in a run, and at least once in so many steps."""
AGREE_EVERY = 10
"""Steps after which several ranks tell each other of Ctrl-C and due checkpoints."""


def train(
    config: Config,
    folder: Path,
    *,
    accelerator: Accelerator | None = None,
    task: Task | None = None,
    costs: StepCosts | None = None,
    overwrite: bool = False,
    wait: bool = False,
    display: Display | None = None,
) -> Ending:
    """Train `config`, or go on where it stopped, with its results in `folder`.

    Writes `header.json`, `evaluations.csv`, `meters.csv` (with `meter_every`), events for TensorBoard, what `trackers`
    write, a checkpoint while it runs, and the trained model.
    Ctrl-C (or SIGTERM) writes a checkpoint first. A run that is recorded as finished is not trained again.

    Args:
        accelerator, task: to share among runs; made from the configuration if not given.
        costs: of a step; measured here if the budget is a time or work and they are not given.
        overwrite: begin anew; what the run there has written is removed once this one can start.
        wait: for another command that writes to the folder, instead of an error.
        display: what the user sees; None shows nothing.

    Raises:
        ValueError: if `folder` has the results of another configuration, of other data or at other costs, if they
            are damaged, if it is to be overwritten and holds anything else, if another command writes there, or if
            the configuration does not fit the data.
        OSError: if the folder cannot be written to, or its disk is too small for a checkpoint.
    """
    accelerator = accelerator or make_accelerator(config)
    display = display or Display.silent()
    # What a machine keeps may lie elsewhere on another one.
    agreed(accelerator, "configuration", {**config.values(), "cache_dir": ""})
    with contextlib.ExitStack() as lock:
        # What has ended needs no lock; and while the lock was waited for, the run may have ended.
        for locked in (False, True):
            with failing_together(accelerator):
                if locked and accelerator.is_main_process:
                    lock.enter_context(one_writer(folder, display.say if wait else None))
                found = what_is_there(config, folder, costs, overwrite)
            agreed(accelerator, f"run in {folder}", found.header or {})
            if isinstance(found, Ending):
                if accelerator.is_main_process:
                    checkpoint.remove(folder)  # a process killed at its very end leaves it
                return found
        assert isinstance(found, Unfinished)
        return _trained(config, folder, found, accelerator, task, costs, display)


def _trained(
    config: Config,
    folder: Path,
    there: Unfinished,
    accelerator: Accelerator,
    task: Task | None,
    costs: StepCosts | None,
    display: Display,
) -> Ending:
    """Train in a folder that is this process's own now."""
    settings = config.training
    if task is None:
        task = built(accelerator, config.build_task)
    state = checkpoint_of(folder, there.header, task, accelerator, display)
    # Without a checkpoint the run begins, whatever its header says.
    header = None if state is None else there.header
    with told_by_others(accelerator):
        if header is not None:
            costs = recorded_costs(header)
            total_steps = header["total_steps"]
        else:
            if costs is None and parse_budget(settings.budget).needs_costs:
                with display.measuring() as progress:
                    costs = measure_costs([config], [task], accelerator, progress=progress)[0]
            total_steps = settings.steps_within_budget(task.train_size, accelerator.num_processes, costs)
        training = Training(config, task, accelerator, total_steps, row_log=folder / ROWS)
        if state is not None:
            go_on(training, state, folder / checkpoint.NAME)
        records = Records(folder) if accelerator.is_main_process else None
        if records is not None:
            if header is not None:
                records.evaluations = recorded_evaluations(folder, header, settings, training.step)
            records.header = run_header(config, training, costs) if header is None else header
        run = _Run(config, training, records, costs, display, folder, {} if state is None else state.get("logged", {}))
        if records is not None:
            # All that is there has been read.
            remove(there.replaced)
            if state is None:
                remove_log(folder / ROWS)  # that a run killed before its first checkpoint has left
            records.update(status=RUNNING)
        if settings.log_rows:
            accelerator.wait_for_everyone()  # until no rank finds the log that was removed
        status = run.to_the_end()
        # It holds on to every model it prepared.
        accelerator.free_memory()
        ours = (records.header, records.evaluations, run.asked_to_stop) if records else (None, None, None)
        final = broadcast_object_list(list(ours))
    return Ending(status, folder, *final)


class _Run:
    """The loop around `Training.train_step`: evaluation, checkpoints, logs and interruption."""

    def __init__(
        self,
        config: Config,
        training: Training,
        records: Records | None,
        costs: StepCosts | None,
        display: Display,
        folder: Path,
        logged: dict[str, float],
    ):
        self.config, self.training, self.records = config, training, records
        self.costs, self.display, self.folder, self.logged = costs, display, folder, logged
        total, settings = training.total_steps, config.training
        metered = records is not None and training.sift.meter_every > 0
        self.meters = MeterLog(folder, settings, training.step) if metered else None
        if self.meters is not None:
            check_readings(folder, self.meters.rows, settings.metered_at(total), training.step)
        self.evaluate_after = set(settings.evaluated_after(total))
        self.log_every = min(max(1, total // LOGS), AT_LEAST_EVERY)
        self.saved_at = time.monotonic()
        self.last_loss = 0.0
        self.events: Scalars | None = None
        self.asked_to_stop = False

    def to_the_end(self) -> str:
        """Train until the budget is spent, the loss is not finite, or someone interrupts. Returns the status."""
        training, total = self.training, self.training.total_steps
        with self._events(), signals_collected() as asked_to_stop, self.display.training(self.config, training):
            status = RUNNING
            training.start_clock()
            while status == RUNNING and training.step < total:
                training.train_step()
                if self.meters is not None:
                    self.meters.take(training.sift, self.events)
                training.sift.readings.clear()
                self.display.step(training.step)
                stop, due = self._agree(bool(asked_to_stop))
                if training.step % self.log_every == 0 or training.step in self.evaluate_after or stop:
                    self._log()
                    if not math.isfinite(self.last_loss):
                        status = DIVERGED
                if training.step in self.evaluate_after and status == RUNNING:
                    status = RUNNING if self._evaluate() else DIVERGED
                    due = training.step < total
                if stop and status == RUNNING and training.step < total:
                    status, due = INTERRUPTED, True
                if due and status != DIVERGED:
                    self._save()
            training.stop_clock()
            if status == RUNNING:
                status = FINISHED
            self._end(status)
            self.asked_to_stop = bool(asked_to_stop)
        return status

    def _agree(self, asked: bool) -> tuple[bool, bool]:
        """(whether to stop, whether a checkpoint is due), the same on every rank."""
        due = time.monotonic() - self.saved_at > self.config.training.checkpoint_every_s
        accelerator = self.training.accelerator
        if accelerator.num_processes == 1:
            return asked, due
        if self.training.step % AGREE_EVERY:
            return False, False
        flags = torch.tensor([float(asked), float(due)], device=accelerator.device)
        anyone = accelerator.reduce(flags, "sum").tolist()
        return anyone[0] > 0, anyone[1] > 0

    def _log(self) -> None:
        training = self.training
        self.last_loss = training.mean_loss()
        training.sift.write_rows()
        self.display.log(self.last_loss)
        if self.events is not None:
            self.events.add("train/loss", self.last_loss, training.step)
            self.events.add("train/lr", training.scheduler.get_last_lr()[0], training.step)

    def _evaluate(self) -> bool:
        """Evaluate and record it; False if the loss is not finite, which is no evaluation."""
        self.training.stop_clock()
        evaluation = evaluated(self.training, self.costs)
        if evaluation is None:
            return False
        self.display.evaluated(evaluation)
        if self.records is not None:
            self.records.add(evaluation)
        if self.events is not None:
            add_events(self.events, evaluation)
        self.training.start_clock()
        return True

    def _save(self) -> None:
        self.training.stop_clock()
        state = self.training.state_dict()
        if self.meters is not None:
            self.meters.write()  # first: what a resumed run does not measure again must be there
        if self.events is not None:
            state["logged"] = self.events.latest(self.training.step)
        if self.training.accelerator.is_main_process:
            checkpoint.save(self.folder, state)
        self.training.accelerator.wait_for_everyone()
        self.saved_at = time.monotonic()
        self.training.start_clock()

    def _end(self, status: str) -> None:
        training, settings = self.training, self.config.training
        calibration = Calibration(training.accelerator.device)
        test = evaluate_split(training, "test", calibration) if settings.test and status == FINISHED else None
        if self.records is None:
            return
        files = {HEADER, *self.records.header.get("files", [])}
        if settings.save_model and status == FINISHED:
            files |= save_model(saved_model(training), self.folder)
        if self.events is not None:
            self.events.flush()
        files |= set(written_names(self.folder))
        entries: dict[str, Any] = {
            "status": status,
            "steps_done": training.step,
            "files": sorted(files - {checkpoint.NAME}),
        }
        entries |= training.seconds
        entries["wall_clock_s"] = training.wall_clock_s
        entries["first_loss"] = training.first_loss
        if self.meters is not None:
            self.meters.write()
            entries["readings"] = len(self.meters.rows)
            entries["meter_s"] = training.sift.meter_s
            self.display.say(self.meters.cost(training.wall_clock_s))
        if test is not None:
            entries |= {"test_accuracy": test[0], "test_loss": test[1], "test_calibration_error": calibration.error()}
        self.records.update(**entries)
        if status in FINAL:
            # Only now: killed with neither, the run would begin anew and lose its table.
            checkpoint.remove(self.folder)

    @contextlib.contextmanager
    def _events(self) -> Iterator[None]:
        if self.records is None:
            yield
            return
        settings, header, step = self.config.training, self.records.header, self.training.step
        with Scalars.of(settings, self.folder, header, step, self.logged) as self.events:
            yield
