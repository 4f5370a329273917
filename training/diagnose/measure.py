"""Whether selection can help a configuration: its model, trained plainly, diagnosed and watched on its way."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from gsgd.sift.exits import check_exit_layer, count_exits
from gsgd.sift.measures.diagnosis import Diagnosis
from gsgd.sift.measures.expected_factor import step_cost
from gsgd.sift.models.wrappers import innermost, unwrap
from training.budget import parse_budget
from training.config import Config, rows_have_classes
from training.costs import counted_work, measure_costs
from training.data.order import Order
from training.diagnose.forecast import LAST_SEEN, Forecast, Watch
from training.diagnose.proxy_beside import TrainingWithProxy
from training.methods import PROXY, SCORES, parse_method
from training.run.header import run_header
from training.task import Task
from training.training import Training, build_sift

AFTER = (0, 300)
"""Steps of plain training after which the model is diagnosed, if nothing else is said."""
BATCHES = 32
"""Gross batches, if nothing else is said and the training set has as many."""
DEFAULT_SCORE = "loss"


@dataclass(frozen=True)
class Point:
    """What was found after some steps of plain training.

    Attributes:
        step: how many.
        train_loss: mean since the point before; None where nothing was trained.
        seconds: that the diagnosis took.
    """

    step: int
    train_loss: float | None
    diagnosis: Diagnosis
    seconds: float


@dataclass(frozen=True)
class Diagnosed:
    """A configuration's diagnoses.

    Attributes:
        header: as of a run, with `score`, `rows` of a gross batch, `kept` of them, and the `model` that was read.
        points: in the order of their steps.
        forecasts: what selection is expected to be worth over the steps that were trained; none if none was.
    """

    header: dict[str, Any]
    points: list[Point]
    forecasts: list[Forecast]


def diagnose_config(
    config: Config,
    accelerator: Accelerator,
    *,
    after: Sequence[int] | None = None,
    to_end: bool = False,
    batches: int | None = None,
    exits: Sequence[int] | None = None,
    level: float = 0.75,
    model: Path | None = None,
    task: Task | None = None,
    progress: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> Diagnosed:
    """Train the configuration without selection, and diagnose selection after some steps.

    Selection is that of the configuration: its score (its method's, or the loss), share, rule and mode of scoring. The
    learning rate's schedule is that of the whole run, which the configuration's budget is. All points are diagnosed on
    the same gross batches of the training set, which are disjoint and drawn in an order of their own. On the way to the
    last point the scores are watched, and what they are worth over such a run is forecast.

    Args:
        after: numbers of steps; None is `AFTER`, as far as the run is long enough, and 0 for a trained model.
        to_end: train to the end of the run, which the budget is, and diagnose there, too, so that what is forecast is
            about the whole of it.
        batches: gross batches to diagnose on, at least 2; None is `BATCHES`, or as many as the training set has.
        exits, level: as of `gsgd.sift.measures.diagnosis.diagnose`.
        model: a folder that `gsgd train` saved a model in, to be diagnosed as it is; None begins anew.
        task: of the configuration; made from it if not given.
        progress: told (what is being done, how much of it is, how much there is).

    Raises:
        ValueError: for several processes, steps beyond the run's end, more rows than the training set has, a folder
            without a model of this configuration, or a configuration that has nothing to select.
    """
    if accelerator.num_processes > 1:
        raise ValueError(
            f"{accelerator.num_processes} processes: a diagnosis runs on one, so launch it without torchrun"
        )
    if batches is not None and batches < 2:
        raise ValueError(f"batches = {batches} must be at least 2; {BATCHES} or more say something")
    if model is not None and (to_end or (after is not None and set(after) != {0})):
        raise ValueError("a trained model is diagnosed as it is: leave out the steps to train it for")
    if after is not None and (not after or min(after) < 0):
        raise ValueError(f"after = {list(after)} must be numbers of steps, 0 or more")
    selecting = _selecting(config)
    task = config.build_task() if task is None else task
    gross = selecting.training.gross_size
    batches = max(2, min(BATCHES, task.train_size // gross)) if batches is None else batches
    if batches * gross > task.train_size:
        raise ValueError(
            f"batches = {batches} of {gross} rows are more than the {task.train_size} of the training set: at most "
            f"{task.train_size // gross} are disjoint"
        )
    plain = config.with_values({"method": "baseline"})
    costs = None
    if parse_budget(config.training.budget).needs_costs:
        told = functools.partial(progress, "measuring the cost of a step")
        costs = measure_costs([plain], [task], accelerator, progress=told)[0]
    total = plain.training.steps_within_budget(task.train_size, 1, costs)
    if after is None:
        after = (0,) if model is not None or to_end else [min(step, total) for step in AFTER]
    stops = sorted({*after, *([total] if to_end else [])})
    if stops[-1] > total:
        raise ValueError(
            f"after = {stops[-1]} steps: by its budget = {config.training.budget} the run has {total}, so raise the "
            "budget or stop earlier"
        )
    watched = TrainingWithProxy if model is None and rows_have_classes(config.task) else Training
    training = watched(_noting(plain, total), task, accelerator, total)
    checked = [check_exit_layer(layer, count_exits(unwrap(training.model))) for layer in exits or ()]
    if model is not None:
        load_weights(training.model, model)
    sift = build_sift(training.model, selecting.training, total, training.task.train_size)
    header = {
        **run_header(config, training, None),
        "score": parse_method(selecting.training.method).score,
        "rows": gross,
        "kept": max(1, round(selecting.training.keep * gross)),
        "batches": batches,
        "model": None if model is None else str(model),
    }
    watch = Watch(training, sift, checked or range(1, count_exits(unwrap(training.model)) + 1))
    points, looks = [], watch.steps(stops[-1])
    for step in stops:
        while training.step < step:
            training.train_step()
            if training.step in looks:
                watch.look()
            progress(f"training to step {step}", training.step, step)
        trained = training.mean_loss() if step else None
        order = Order(task.train_size, config.training.seed + 1)
        taken = [training.batches.placed(task.training_batch(*order.take(gross))) for _ in range(batches)]
        told = functools.partial(progress, f"measuring after {step} steps")
        told(0, batches // 2)
        begin = time.perf_counter()
        with accelerator.autocast():
            found = sift.diagnose(taken, exits=checked or None, level=level, seed=config.training.seed, progress=told)
        points.append(Point(step, trained, found, time.perf_counter() - begin))
    forecasts: list[Forecast] = []
    if watch.looks:
        progress("judging on the validation split", 0, 1)
        of_scores = _costs_of_scores(selecting, task, accelerator, watch, points[-1].diagnosis)
        forecasts = watch.forecasts(of_scores, watch.validation_loss())
    accelerator.free_memory()
    return Diagnosed(header, points, forecasts)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Take over the weights of the model that is saved in `folder`.

    Raises:
        ValueError: if there is none, or it is of another shape.
    """
    inner: Any = innermost(unwrap(model))
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: `gsgd train` saves a model in results/NAME/model")
    try:
        saved = type(inner).from_pretrained(folder)
        inner.load_state_dict(saved.state_dict())
    except (OSError, AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder} holds no model of this configuration: {str(error).splitlines()[0]}") from error


def _noting(plain: Config, total: int) -> Config:
    """The configuration with losses last seen noted, and no step that selects by them: it trains as the baseline."""
    never = {"start_step": total, "start_share": 0.0, "end_step": 0, "end_share": 1.0}
    return plain.with_values({"method": LAST_SEEN, **never})


def _costs_of_scores(
    selecting: Config, task: Task, accelerator: Accelerator, watch: Watch, diagnosis: Diagnosis
) -> dict[str, float]:
    """Score -> the cost of a selecting step over a plain one: counted for a budget of work, else as it was timed.

    A proxy's is counted in any case.
    """
    costs = {LAST_SEEN: 1.0}
    for each in diagnosis.exits:
        score = watch.name(each.exit_layer)
        if parse_budget(selecting.training.budget).unit == "work":
            of_row = counted_work(selecting.with_values({"method": score}), task, accelerator).scoring or 0.0
            costs[score] = step_cost(of_row, watch.kept / watch.gross)
        else:
            costs[score] = each.break_even
    if PROXY in watch.looks[0].kept:
        work = counted_work(selecting.with_values({"method": PROXY}), task, accelerator)
        costs[PROXY] = step_cost(work.scoring or 0.0, watch.kept / watch.gross, work.training)
    return costs


def _selecting(config: Config) -> Config:
    """The configuration with selection at every step, by the score of its method or by the loss."""
    named = parse_method(config.training.method).score
    score = named if named in SCORES else DEFAULT_SCORE
    always = {"start_step": 0, "start_share": 0.0, "end_step": 0, "end_share": 1.0, "scope": "rank", "cheaper": ""}
    return config.with_values({"method": f"{score}@1", **always})
