"""What a step of each method costs, measured in turn on one machine, before anything is trained.

Clocks on shared machines drift by more than methods differ, so a budget of time is spent in reference time: every step
at its method's median cost (the idea of NoTrainNoGain, Kaddour et al. 2023). The real clock is recorded beside it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from gsgd.host import finished
from gsgd.sift import SiftOptions
from training.budget import StepCosts
from training.config import Config
from training.methods import SAMPLED, WEIGHTED, parse_method
from training.run_folder.records import BESIDE_THE_RUN
from training.task import Task
from training.training import Training

ROUNDS = 12
"""Timed steps of each method."""


ONLY_SELECTING = frozenset(
    (
        *("method", "keep", "keep_schedule", "select", "trim", "scoring_mode", "scope", "score_batch_size", "reuse"),
        *("batchnorm", "cheaper"),
    )
)
"""Settings that change what a selecting step costs, and no other."""
FREE = BESIDE_THE_RUN | frozenset(
    (
        *("start_step", "end_step", "start_share", "end_share", "auto_level", "auto_every", "meter_every", "budget"),
        *("max_lr", "weight_decay", "decay_all", "beta1", "beta2", "eps", "schedule", "warmup_share", "cycle_momentum"),
        *("prune", "uniform_share", "proxy_lr", "head_lr", "focal_gamma", "loss_power"),
        *("random_share", "max_age", "seed", "evaluations", "evaluation_batch_size", "quality_batches", "test"),
    )
)
"""Settings that change no step's cost. A setting that is named nowhere here counts: at worst it is measured twice."""


def kind_of_step(config: Config) -> tuple:
    """What the cost of a method's own step depends on: steps of one kind are measured once."""
    settings = config.training
    without = FREE if settings.selects else FREE | ONLY_SELECTING
    if settings.method in (*WEIGHTED, *SAMPLED):
        # Their losses of rows, a second cross-entropy, are 2 to 10% of a small net's step, and a sampler as much again.
        without = without - {"method"}
    return tuple(item for item in _as_timed(config).values().items() if item[0] not in without)


def _as_timed(config: Config) -> Config:
    """What is timed in place of `config`: selection at every step, of a moving exit at the last, the dearest."""
    method = parse_method(config.training.method)
    always: dict[str, Any] = {"start_step": 0, "start_share": 0.0, "end_step": 0, "end_share": 1.0, "meter_every": 0}
    moving: dict[str, Any] = {"method": f"{method.score}@last"} if method.auto else {}
    if config.training.reuse == "auto":
        moving["reuse"] = "cpu"  # its turns would be measured in place of steps
    return config.with_values({**always, **moving})


def measure_costs(
    configs: Sequence[Config],
    tasks: Sequence[Task],
    accelerator: Accelerator,
    *,
    rounds: int = ROUNDS,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[StepCosts]:
    """Median seconds of the steps of each configuration, in interleaved rounds on models of their own.

    An exit that moves has the cost of the last one, an upper bound of its steps but for those that re-measure.
    The first two rounds warm up. With several ranks all of them step together, and the slowest counts.
    What scoring computes is counted beside, see `counted_work`.

    Args:
        configs: each is measured with selection and without.
        tasks: of the configs, in their order.
        rounds: timed steps of each.
        progress: told (rounds done, all rounds).

    Returns:
        One for each of `configs`, in their order.
    """
    kinds: dict[tuple, tuple[Config, Task]] = {}
    pairs = []
    for config, task in zip(configs, tasks, strict=True):
        plain = config.with_values({"method": "baseline"})
        pairs.append((kind_of_step(plain), kind_of_step(config)))
        kinds.setdefault(kind_of_step(plain), (plain, task))
        kinds.setdefault(kind_of_step(config), (_as_timed(config), task))
    steps = rounds + 2
    trainings = {kind: Training(config, task, accelerator, steps) for kind, (config, task) in kinds.items()}
    seconds: dict[tuple, list[float]] = {kind: [] for kind in kinds}
    for number in range(steps):
        for kind, training in trainings.items():
            finished(accelerator.device)
            begin = time.perf_counter()
            training.train_step()
            finished(accelerator.device)
            if number >= 2:
                seconds[kind].append(time.perf_counter() - begin)
        progress(number + 1, steps)
    medians = torch.tensor([float(np.median(times)) for times in seconds.values()], dtype=torch.float64)
    if accelerator.num_processes > 1:
        medians = accelerator.gather(medians.to(accelerator.device)[None]).amax(dim=0).cpu()
    found = dict(zip(seconds, medians.tolist(), strict=True))
    work = {kind: counted_work(config, task, accelerator) for kind, (config, task) in kinds.items()}
    accelerator.free_memory()
    return [StepCosts(found[plain], found[selecting], *work[selecting]) for plain, selecting in pairs]


class Work(NamedTuple):
    """Floating point operations on a row, as shares of those of the model's forward pass on it.

    Attributes:
        scoring: a row of the gross batch; None where they were not counted.
        training: of what scores, a row that the model trains on.
    """

    scoring: float | None
    training: float


def counted_work(config: Config, task: Task, accelerator: Accelerator) -> Work:
    """What a method's scores take.

    Counted on one gross batch: the same on any machine, and of any method. Exact losses are 1, an early exit less, what
    needs no pass 0. A scoring pass that training takes over in part (`reuse`) counts in full. Numbers of fewer bits
    count as others do.
    """
    config = _as_timed(config)
    settings = config.training
    if not settings.scores_gross_batches:
        return Work(0.0, 0.0)
    # Eagerly, and nothing but the scoring.
    bare: dict[str, Any] = {"compile": False, "check": False, "reuse": False, "score_batch_size": 0}
    counted = dataclasses.replace(config, training=dataclasses.replace(settings, **bare))
    training = Training(counted, task, accelerator, 2)
    rows = np.arange(settings.gross_size) % task.train_size
    batch = training.batches.placed({**task.training_batch(rows, 0), SiftOptions.id_key: torch.from_numpy(rows)})
    with torch.no_grad(), accelerator.autocast():
        # What a first step finds out of the model, on rows of its own, is no step's cost.
        training.sift.forward_kept(training.sift.choose(batch))
        with FlopCounterMode(display=False) as scoring:
            kept = training.sift.choose(batch)
        number = training.sift.last.kept if training.sift.last is not None else settings.kept_size
        with FlopCounterMode(display=False) as forward:
            output = training.sift.training_output(kept)  # with the head where training has it
        with FlopCounterMode(display=False) as noting:
            training.sift.note(output, kept)
    of_row = forward.get_total_flops() / number
    return Work(scoring.get_total_flops() / settings.gross_size / of_row, noting.get_total_flops() / number / of_row)
