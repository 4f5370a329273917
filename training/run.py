"""A training run from its configuration to its results: resumed where it stopped, evaluated, recorded."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from rich.console import Console
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from gsgd.host import processor
from gsgd.memory import keep_freed_memory
from gsgd.results import command_line, provenance
from training import checkpoint
from training.budget import StepCosts, parse_budget, seconds_of
from training.calibration import Calibration
from training.config import Config
from training.costs import measure_costs
from training.display import Display
from training.metering import MeterLog
from training.records import HEADER, Evaluation, Records, differences, read_evaluations, read_header
from training.settings import parse_method
from training.task import Task
from training.training import Training, saved_model

FINISHED, RUNNING, INTERRUPTED, DIVERGED = "finished", "running", "interrupted", "diverged"
LOGS = 200
AT_LEAST_EVERY = 100
"""The loss is looked at so many times in a run, and at least once in so many steps."""
AGREE_EVERY = 10
"""Steps after which several ranks tell each other of Ctrl-C and due checkpoints."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: str
    folder: Path
    header: dict[str, Any]
    evaluations: list[Evaluation]


def train(
    config: Config,
    folder: Path,
    *,
    accelerator: Accelerator | None = None,
    task: Task | None = None,
    costs: StepCosts | None = None,
    overwrite: bool = False,
    display: Display | None = None,
) -> Outcome:
    """Train `config`, or go on where it stopped, with its results in `folder`.

    Writes `header.json`, `evaluations.csv`, `meters.csv` (with `meter_every`), events for TensorBoard, a checkpoint
    while it runs, and the trained model.
    Ctrl-C (or SIGTERM) writes a checkpoint first. A run that is recorded as finished is not trained again.

    Args:
        accelerator, task: to share among runs; made from the configuration if not given.
        costs: measured prices of a step; measured here if the budget is a time or work and they are not given.
        overwrite: begin anew, and remove what is in `folder`.
        display: what the user sees; None shows nothing.

    Raises:
        ValueError: if `folder` has the results of another configuration, or is to be overwritten and is no run's, or
            if the configuration does not fit the data.
    """
    accelerator = accelerator or make_accelerator(config)
    display = display or Display.silent()
    header = _what_is_there(config, folder, overwrite)
    if header is not None and header["status"] in (FINISHED, DIVERGED):
        if accelerator.is_main_process:
            checkpoint.remove(folder)  # a process killed at its very end leaves it
        return Outcome(header["status"], folder, header, read_evaluations(folder))
    accelerator.wait_for_everyone()  # until all have looked
    if overwrite and accelerator.is_main_process and folder.exists():
        shutil.rmtree(folder)
    accelerator.wait_for_everyone()
    if task is None:
        # The first to come prepares the data for all.
        with accelerator.local_main_process_first():
            task = config.build_task()
    settings = config.training
    state = checkpoint.load(folder)
    if state is not None and header is not None:
        costs = StepCosts(**header["step_costs"]) if header["step_costs"] else None
        total_steps = header["total_steps"]
    else:
        state = None
        if costs is None and parse_budget(settings.budget).is_priced:
            with display.measuring() as progress:
                costs = measure_costs([config], [task], accelerator, progress=progress)[0]
        total_steps = settings.steps_within_budget(task.train_size, accelerator.num_processes, costs)
    training = Training(config, task, accelerator, total_steps)
    records = Records(folder) if accelerator.is_main_process else None
    if state is not None:
        training.load_state_dict(state)
    if records is not None:
        records.evaluations = [row for row in read_evaluations(folder) if row.step <= training.step] if state else []
        records.header = run_header(config, training, costs) if header is None or state is None else header
        records.update(status=RUNNING)
    run = _Run(config, training, records, costs, display, folder)
    status = run.to_the_end()
    # It holds on to every model it prepared.
    accelerator.free_memory()
    final = broadcast_object_list([records.header if records else None, records.evaluations if records else None])
    return Outcome(status, folder, final[0], final[1])


def make_accelerator(config: Config) -> Accelerator:
    """The process's accelerator: device, ranks and precision; ACCELERATE_USE_CPU=true keeps it off a GPU."""
    # Several processes without a GPU would each take themselves for the only one, if accelerate were not told.
    alone = not torch.accelerator.is_available()
    if alone:
        keep_freed_memory()
    precision = config.training.precision
    return Accelerator(
        mixed_precision=precision, step_scheduler_with_optimizer=False, **({"cpu": True} if alone else {})
    )


@contextlib.contextmanager
def running(config: Config) -> Iterator[tuple[Accelerator, Display]]:
    """What a command runs with: the process's accelerator, and a display that only the first of several has."""
    accelerator = make_accelerator(config)
    try:
        yield accelerator, Display(Console(stderr=True) if accelerator.is_main_process else None)
    finally:
        accelerator.end_training()


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
    ):
        self.config, self.training, self.records = config, training, records
        self.costs, self.display, self.folder = costs, display, folder
        total, settings = training.total_steps, config.training
        metered = records is not None and training.sift.meter_every > 0
        self.meters = MeterLog(folder, settings, training.step) if metered else None
        self.evaluate_after = {
            max(1, round(total * number / settings.evaluations)) for number in range(1, settings.evaluations + 1)
        }
        self.log_every = min(max(1, total // LOGS), AT_LEAST_EVERY)
        self.saved_at = time.monotonic()
        self.last_loss = 0.0
        self.events: Any = None

    def to_the_end(self) -> str:
        """Train until the budget is spent, the loss is not finite, or someone interrupts. Returns the status."""
        training, total = self.training, self.training.total_steps
        with self._events(), _signals() as asked_to_stop, self.display.training(self.config, training):
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
                    self._evaluate()
                    due = training.step < total
                if stop and status == RUNNING and training.step < total:
                    status, due = INTERRUPTED, True
                if due and status != DIVERGED:
                    self._save()
            training.stop_clock()
            if status == RUNNING:
                status = FINISHED
            self._end(status)
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
        self.display.log(self.last_loss)
        if self.events is not None:
            self.events.add_scalar("train/loss", self.last_loss, training.step)
            self.events.add_scalar("train/lr", training.scheduler.get_last_lr()[0], training.step)

    def _evaluate(self) -> None:
        training, settings = self.training, self.config.training
        training.stop_clock()
        accuracy, loss = training.evaluate("validation")
        overlap, correlation = training.quality()
        method, totals = parse_method(settings.method), training.sift.totals
        ranks = training.accelerator.num_processes
        reference = None
        if self.costs is not None:
            first, last = settings.first_and_last(training.total_steps)
            selecting = min(training.step, last) - min(training.step, first)
            reference = seconds_of(training.step, self.costs, selecting)
        evaluation = Evaluation(
            step=training.step,
            method=settings.label or settings.method,
            score=method.score,
            exit_layer=training.sift.exit_layer if settings.scores_rows else None,
            seed=settings.seed,
            backprop_samples=totals.backprop_samples * ranks,
            gross_samples=totals.gross_samples * ranks,
            wall_clock_s=training.wall_clock_s,
            **training.seconds,
            val_accuracy=accuracy,
            val_loss=loss,
            train_loss=training.loss_since_evaluation(),
            reference_s=reference,
            overlap=overlap,
            rank_correlation=None if correlation is None or math.isnan(correlation) else correlation,
        )
        self.display.evaluated(evaluation)
        if self.records is not None:
            self.records.add(evaluation)
        if self.events is not None:
            for name in ("val_accuracy", "val_loss", "overlap", "rank_correlation"):
                if (value := getattr(evaluation, name)) is not None:
                    self.events.add_scalar(f"validation/{name}", value, training.step)
            self.events.flush()
        training.start_clock()

    def _save(self) -> None:
        self.training.stop_clock()
        state = self.training.state_dict()
        if self.meters is not None:
            self.meters.write()  # first: what a resumed run does not measure again must be there
        if self.training.accelerator.is_main_process:
            checkpoint.save(self.folder, state)
        self.training.accelerator.wait_for_everyone()
        self.saved_at = time.monotonic()
        self.training.start_clock()

    def _end(self, status: str) -> None:
        training, settings = self.training, self.config.training
        calibration = Calibration(training.accelerator.device)
        test = training.evaluate("test", calibration) if settings.test and status == FINISHED else None
        if self.records is None:
            return
        if settings.save_model and status == FINISHED:
            model: Any = saved_model(training)
            with _no_bars():
                model.save_pretrained(self.folder / "model")
        entries: dict[str, Any] = {"status": status, "steps_done": training.step, **training.seconds}
        entries["wall_clock_s"] = training.wall_clock_s
        if self.meters is not None:
            self.meters.write()
            entries["meter_s"] = training.sift.meter_s
            self.display.say(self.meters.cost(training.wall_clock_s))
        if test is not None:
            entries |= {"test_accuracy": test[0], "test_loss": test[1], "test_calibration_error": calibration.error()}
        self.records.update(**entries)
        if status in (FINISHED, DIVERGED):
            # Only now: killed with neither, the run would begin anew and lose its table.
            checkpoint.remove(self.folder)

    @contextlib.contextmanager
    def _events(self) -> Iterator[None]:
        if self.records is None or not self.config.training.tensorboard:
            yield
            return
        from torch.utils.tensorboard import SummaryWriter

        self.events = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.training.step)
        try:
            yield
        finally:
            self.events.close()


def _what_is_there(config: Config, folder: Path, overwrite: bool) -> dict[str, Any] | None:
    if overwrite and folder.is_dir() and any(folder.iterdir()) and not (folder / HEADER).exists():
        raise ValueError(f"{folder} is not the folder of a run, which has a {HEADER}: it is not overwritten")
    header = None if overwrite else read_header(folder)
    if header is None:
        return None
    if changed := differences(header["config"], config.values()):
        named = ", ".join(
            f"{key} ({header['config'].get(key)!r} there, {config.values().get(key)!r} here)" for key in changed[:3]
        )
        raise ValueError(
            f"{folder} has the results of another configuration: {named}. "
            "Choose another --name, or --overwrite to begin anew"
        )
    return header


def run_header(config: Config, training: Training, costs: StepCosts | None) -> dict[str, Any]:
    """What is recorded of a run: provenance, command, configuration, data, device and length."""
    device = training.accelerator.device
    on_cpu = f"{processor()}, {os.cpu_count()} processors"
    return {
        **provenance(),
        "command": command_line(),
        "name": config.name,
        "config": config.values(),
        "data": training.task.description,
        "parameters": training.parameters,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu,
        "threads": torch.get_num_threads(),
        "processes": training.accelerator.num_processes,
        "total_steps": training.total_steps,
        "step_costs": None if costs is None else asdict(costs),
        "seed": config.training.seed,
    }


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' own progress bars, which last a moment and get into the output."""
    if not is_progress_bar_enabled():
        yield
        return
    disable_progress_bar()
    try:
        yield
    finally:
        enable_progress_bar()


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM instead of dying of them; a second one is as usual."""
    received: list[int] = []
    handlers: dict[int, Any] = {}

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, handlers[number])

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            handlers[number] = signal.getsignal(number)
            signal.signal(number, receive)
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
