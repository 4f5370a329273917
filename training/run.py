"""A training run from its configuration to its results: resumed where it stopped, evaluated, recorded."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from rich.console import Console
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from gsgd.host import processor
from gsgd.locks import one_writer
from gsgd.memory import keep_freed_memory
from gsgd.results import check_writable, command_line, provenance
from gsgd.sift.row_log import remove_log
from training.budget import StepCosts, parse_budget, seconds_of
from training.calibration import Calibration
from training.config import Config
from training.costs import measure_costs
from training.display import Display
from training.ranks import agreed, built, failing_together, leaving_in_turn, told_by_others
from training.run_folder import checkpoint
from training.run_folder.events import Events
from training.run_folder.folders import ROWS, is_empty, own_files, remove, written_names
from training.run_folder.metering import MeterLog, check_all_there, check_readings
from training.run_folder.records import (
    EVALUATIONS,
    HEADER,
    OF_COMPARISON,
    Evaluation,
    Records,
    fingerprint,
    read_header,
    recorded_evaluations,
)
from training.run_folder.schema import DIVERGED, FINISHED, INTERRUPTED, RUNNING, CheckpointState, check
from training.settings import parse_method
from training.task import Task
from training.training import Training, saved_model

logger = logging.getLogger(__name__)
LOGS = 200
AT_LEAST_EVERY = 100
"""The loss is looked at so many times in a run, and at least once in so many steps."""
AGREE_EVERY = 10
"""Steps after which several ranks tell each other of Ctrl-C and due checkpoints."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        interrupted: whether someone asked to stop, if only when all was done.
        before: whether it had ended before, so that nothing was trained, nor the data looked at.
    """

    status: str
    folder: Path
    header: dict[str, Any]
    evaluations: list[Evaluation]
    interrupted: bool = False
    before: bool = False


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
) -> Outcome:
    """Train `config`, or go on where it stopped, with its results in `folder`.

    Writes `header.json`, `evaluations.csv`, `meters.csv` (with `meter_every`), events for TensorBoard, a checkpoint
    while it runs, and the trained model.
    Ctrl-C (or SIGTERM) writes a checkpoint first. A run that is recorded as finished is not trained again.

    Args:
        accelerator, task: to share among runs; made from the configuration if not given.
        costs: measured prices of a step; measured here if the budget is a time or work and they are not given.
        overwrite: begin anew; what the run there has written is removed once this one can start.
        wait: for another command that writes to the folder, instead of an error.
        display: what the user sees; None shows nothing.

    Raises:
        ValueError: if `folder` has the results of another configuration, of other data or at other prices, if they
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
                found = _what_is_there(config, folder, costs, overwrite)
            agreed(accelerator, f"run in {folder}", found.header or {})
            if isinstance(found, Outcome):
                if accelerator.is_main_process:
                    checkpoint.remove(folder)  # a process killed at its very end leaves it
                return found
        assert isinstance(found, _There)
        return _train(config, folder, found, accelerator, task, costs, display)


@dataclass(frozen=True)
class _There:
    """What is in a folder: the header of a run that goes on, or the files of one that is replaced."""

    header: dict[str, Any] | None
    replaced: list[Path]


def _train(
    config: Config,
    folder: Path,
    there: _There,
    accelerator: Accelerator,
    task: Task | None,
    costs: StepCosts | None,
    display: Display,
) -> Outcome:
    """Train in a folder that is this process's own now."""
    settings, header, state = config.training, there.header, None
    if task is None:
        task = built(accelerator, config.build_task)
    with failing_together(accelerator):
        if header is not None:
            check_data(folder, header["data"], task.description)
            state = checkpoint.load(folder)
            if state is None and header["status"] == INTERRUPTED:
                display.say(f"{folder} was interrupted, but its {checkpoint.NAME} is gone: it begins anew")
        if state is not None:
            check(CheckpointState, state, folder / checkpoint.NAME)
    agreed(accelerator, "data", task.description)
    agreed(accelerator, f"checkpoint in {folder}", {"step": None if state is None else state["step"]})
    with failing_together(accelerator):
        if accelerator.is_main_process and state is None:
            check_room(folder / checkpoint.NAME, [task])
    with told_by_others(accelerator):
        if state is not None and header is not None:
            costs = _prices(header)
            total_steps = header["total_steps"]
        else:
            if costs is None and parse_budget(settings.budget).is_priced:
                with display.measuring() as progress:
                    costs = measure_costs([config], [task], accelerator, progress=progress)[0]
            total_steps = settings.steps_within_budget(task.train_size, accelerator.num_processes, costs)
        training = Training(config, task, accelerator, total_steps, row_log=folder / ROWS)
        if state is not None:
            try:
                training.load_state_dict(state)
            except (RuntimeError, KeyError, IndexError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{folder / checkpoint.NAME} is not of this run ({type(error).__name__}): remove it to begin anew"
                ) from error
        records = Records(folder) if accelerator.is_main_process else None
        if records is not None:
            if state is not None and header is not None:
                records.evaluations = recorded_evaluations(folder, header, config.training, training.step)
            records.header = run_header(config, training, costs) if header is None or state is None else header
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
    return Outcome(status, folder, *final)


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
    with leaving_in_turn(accelerator):
        try:
            yield accelerator, Display(Console(stderr=True) if accelerator.is_main_process else None)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold the model
            raise
        finally:
            # The model goes before the process group: with gloo a group that is destroyed while a distributed model
            # lives can hang at the end of the process.
            accelerator.free_memory()
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
        self.events: Events | None = None
        self.asked_to_stop = False

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
        training, settings = self.training, self.config.training
        training.stop_clock()
        accuracy, loss = training.evaluate("validation")
        if not math.isfinite(loss):
            return False
        overlap, correlation = training.quality()
        method, totals = parse_method(settings.method), training.sift.totals
        ranks = training.accelerator.num_processes
        reference = None
        if self.costs is not None:
            dearer = settings.dearer_steps(training.total_steps, training.step)
            reference = seconds_of(training.step, self.costs, dearer)
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
                    self.events.add(f"validation/{name}", value, training.step)
            self.events.flush()
        training.start_clock()
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
        test = training.evaluate("test", calibration) if settings.test and status == FINISHED else None
        if self.records is None:
            return
        files = {HEADER, *self.records.header.get("files", [])}
        if settings.save_model and status == FINISHED:
            files |= self._save_model()
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
        if status in (FINISHED, DIVERGED):
            # Only now: killed with neither, the run would begin anew and lose its table.
            checkpoint.remove(self.folder)

    def _save_model(self) -> set[str]:
        """Write the trained model; returns the names of its files."""
        folder = self.folder / "model"
        model: Any = saved_model(self.training)
        check_writable(folder / "config.json", room=weights_on_disk(model))  # its libraries have errors of their own
        begun = time.time_ns()
        with _no_bars():
            model.save_pretrained(folder)
        return {f"model/{path.name}" for path in folder.iterdir() if path.stat().st_mtime_ns >= begun}

    @contextlib.contextmanager
    def _events(self) -> Iterator[None]:
        if self.records is None or not self.config.training.tensorboard:
            yield
            return
        self.events = Events(self.folder, self.training.step, self.logged)
        try:
            yield
        finally:
            self.events.close()


def _what_is_there(config: Config, folder: Path, costs: StepCosts | None, overwrite: bool) -> Outcome | _There:
    """How the run in the folder ended; or what is to be known of it to go on, or to begin."""
    if overwrite:
        if not is_empty(folder) and not (folder / HEADER).exists():
            raise ValueError(f"{folder} is not the folder of a run, which has a {HEADER}: it is not overwritten")
        return _There(None, own_files(folder, _listed(folder)))
    header = read_header(folder)
    if header is None:
        for name in (EVALUATIONS, checkpoint.NAME, "model", OF_COMPARISON):
            if (folder / name).exists():
                raise ValueError(f"{folder} has a {name}, but no {HEADER}: no run of this name began it")
        return _There(None, [])
    if changed := config.differences(header["config"]):
        named = ", ".join(
            f"{key} ({header['config'].get(key)!r} there, {config.values().get(key)!r} here)" for key in changed[:3]
        )
        raise ValueError(
            f"{folder} has the results of another configuration: {named}. "
            "Choose another --name, or --overwrite to begin anew"
        )
    if costs is not None and _prices(header) != costs:
        raise ValueError(
            f"{folder} was trained at prices of {header['step_costs']}, but they are {asdict(costs)}: "
            "it is of another comparison"
        )
    if header["status"] in (FINISHED, DIVERGED):
        evaluations = recorded_evaluations(folder, header, config.training)
        if "readings" in header:
            check_all_there(folder, header["readings"])
        return Outcome(header["status"], folder, header, evaluations, before=True)
    return _There(header, [])


def _listed(folder: Path) -> list[str]:
    """The files that the header lists; none if it is damaged, which is a reason to overwrite it."""
    try:
        return (read_header(folder) or {}).get("files", [])
    except ValueError:
        return []


def check_data(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Whether a run or a comparison goes on with the data it began with; warns if other code has prepared them.

    Args:
        there, here: descriptions of tasks, as recorded and as they are.

    Raises:
        ValueError: if not, naming both fingerprints.
    """
    here = json.loads(json.dumps(here))
    if fingerprint(there) != fingerprint(here):
        raise ValueError(
            f"the data are not those that {folder} began with: {fingerprint(there)} there, "
            f"{fingerprint(here)} here. Choose another --name to begin anew"
        )
    if changed := [name for name in {**there, **here} if there.get(name) != here.get(name)]:
        logger.warning(
            "%s goes on with the same data, but other code has prepared them: %s differs", folder, ", ".join(changed)
        )


def check_room(path: Path, tasks: Iterable[Task]) -> None:
    """Whether the disk of a run's file has room for a checkpoint: weights, and AdamW's two moments of each.

    Raises:
        OSError: if not, or if the file cannot be written.
    """
    with torch.device("meta"):
        weights = max(weights_on_disk(task.build_model()) for task in tasks)
    check_writable(path, room=3 * weights)


def weights_on_disk(model: torch.nn.Module) -> int:
    """Bytes of the model's parameters."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def _prices(header: dict[str, Any]) -> StepCosts | None:
    return StepCosts(**header["step_costs"]) if header["step_costs"] else None


def run_header(config: Config, training: Training, costs: StepCosts | None) -> dict[str, Any]:
    """What is recorded of a run: provenance, command, configuration, data, device and length."""
    device = training.accelerator.device
    on_cpu = f"{processor()}, {os.cpu_count()} processors"
    return {
        **provenance(),
        "command": command_line(),
        "name": config.name,
        "files": [HEADER],
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
