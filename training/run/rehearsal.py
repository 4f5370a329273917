"""`gsgd train --dry-run`: a run's true model and shapes, a few small steps, and what the whole run will take."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gsgd.results import in_bytes
from gsgd.sift.scoring_pass.row_losses import IGNORED
from training.budget import StepCosts, parse_budget, seconds_of
from training.config import Config
from training.costs import Work, counted_work
from training.data.alterations import AlterationSettings, long_tailed_sizes
from training.images.task import build_proxy, build_resnet, build_small_net
from training.run.model_files import weights_on_disk
from training.task import Task
from training.text.task import build_bert
from training.text.wordpieces import vocabulary_size
from training.training import Training

IMAGES = {
    "uoft-cs/cifar10": (50_000, 10, 3),
    "uoft-cs/cifar100": (50_000, 100, 3),
    "ethz/food101": (75_750, 101, 3),
    "zalando-datasets/fashion_mnist": (60_000, 10, 1),
}
"""Data sets of the hub that presets name -> (training images, classes, channels)."""
TEXTS = ("bookcorpus", "wikimedia/wikipedia:20231101.en")
"""Sources of the hub that presets name."""

CHEAP, REPEATS = 1e10, 5
"""A step of so many FLOPs takes less than a second anywhere, and most of it is not arithmetic: the quickest of some."""
DEAR_REPEATS = 4
"""Of a dearer step, too: the first makes AdamW's moments, and the second takes memory in place of what they took."""


@dataclass(frozen=True)
class Rehearsal:
    """What a run will take.

    Attributes:
        steps, selecting: optimizer steps, and how many of them select.
        rows: trained on in each of the steps that were timed.
        costs: of the run's own step on this machine: the measured one, scaled by FLOPs, which grow with the rows.
        step_flops: of the run's own step without selection, forward and backward, of this process.
        memory: bytes of weights, gradients, AdamW's moments, and what the forward pass keeps for the backward pass.
        disk: bytes of two checkpoints, of which one is being written.
        made_up: whether rows stand in for data of the hub, which were not downloaded.
    """

    steps: int
    selecting: int
    rows: int
    costs: StepCosts
    step_flops: float
    parameters: int
    memory: int
    disk: int
    made_up: bool

    def lines(self) -> Iterator[str]:
        """The rehearsal in words."""
        hours = seconds_of(self.steps, self.costs, self.selecting) / 3600
        yield f"{self.steps} steps, {self.selecting} of which select; {self.parameters / 1e6:.1f} million parameters"
        yield (
            f"{hours:.3g} hours on this machine, evaluation aside: a step without selection "
            f"{self.costs.plain_s:.3g} s, with selection {self.costs.selecting_s:.3g} s"
        )
        yield (
            f"measured on steps of {self.rows} rows, and scaled by FLOPs, which grow with the rows, to "
            f"{self.step_flops:.3g} of a step without selection"
        )
        yield f"memory: {in_bytes(self.memory)} for weights, gradients, AdamW and activations, in float32"
        yield f"disk: {in_bytes(self.disk)} for two checkpoints, of which one is being written; data aside"
        if self.made_up:
            yield "made-up rows stand in for the data, which are on the hub and were not downloaded"


class MadeUpRows:
    """Rows of the shapes that a configuration's own have. Implements what a training step needs of `Task`."""

    splits: tuple[str, ...] = ()
    rare_class: int | None = None

    def __init__(self, config: Config):
        self.config = config
        self.description: dict[str, Any] = {}
        if config.task == "bert":
            self.train_size = 10**8  # more than any batch; how many pairs the texts make is known once they are read
        else:
            images, self.classes, self.channels = IMAGES[config.data.data]
            self.train_size = _altered_size(
                config.data, config.data.train_limit or round(images * (1 - config.data.validation_share)), self.classes
            )

    def build_model(self) -> nn.Module:
        """The run's own model."""
        if self.config.task == "bert":
            return build_bert(self.config.data)
        build: Any = build_resnet if self.config.task == "resnet" else build_small_net
        model: nn.Module = build(self.config.data, channels=self.channels, num_labels=self.classes)
        return model

    def build_proxy(self) -> nn.Module:
        """The run's own proxy."""
        if self.config.task == "bert":
            raise ValueError('method = "proxy" is for tasks whose rows have one class, not for bert')
        return build_proxy(self.config.data, channels=self.channels, num_labels=self.classes)

    def training_batch(self, rows: np.ndarray, epoch: int) -> dict[str, Tensor]:
        """Random rows."""
        settings, count = self.config.data, len(rows)
        draw = torch.Generator().manual_seed(int(rows[0]))
        if self.config.task != "bert":
            pixels = torch.randn(count, self.channels, settings.image_size, settings.image_size, generator=draw)
            return {"pixel_values": pixels, "labels": torch.randint(self.classes, (count,), generator=draw)}
        shape = (count, settings.sequence_length)
        vocabulary = vocabulary_size(settings.vocabulary or None)
        words = torch.randint(5, min(vocabulary, settings.vocab_limit or vocabulary), shape, generator=draw)
        masked = torch.rand(shape, generator=draw) < settings.mask_share
        masked[:, 0] = True  # a row without a label has no loss
        return {
            "input_ids": words,
            "token_type_ids": torch.zeros(shape, dtype=torch.int64),
            "attention_mask": torch.ones(shape, dtype=torch.int64),
            "labels": words.masked_fill(~masked, IGNORED),
            "next_sentence_label": torch.randint(2, (count,), generator=draw),
        }


def _altered_size(settings: AlterationSettings, rows: int, classes: int) -> int:
    """Training rows that the settings make of so many, in equal classes."""
    sizes = np.full(classes, rows // classes)
    left = int(long_tailed_sizes(sizes, settings.imbalance).sum()) if settings.imbalance > 1 else rows
    return left * settings.copies


def is_made_up(config: Config) -> bool:
    """Whether made-up rows stand in for the data of this configuration."""
    if config.task == "bert":
        return any(source in TEXTS for source in config.data.data)
    return getattr(config.data, "data", None) in IMAGES


def rehearse(config: Config, accelerator: Accelerator) -> Rehearsal:
    """Build the run's model, do a few steps without and with selection, and reckon what the run takes.

    Raises:
        ValueError: if the configuration does not fit the model or the data.
    """
    try:
        return _rehearsed(config, accelerator)
    finally:
        # Model and optimizer refer to each other in circles, which Python comes to late: gigabytes each.
        accelerator.free_memory()


def _rehearsed(config: Config, accelerator: Accelerator) -> Rehearsal:
    settings, made_up = config.training, is_made_up(config)
    task: Any = MadeUpRows(config) if made_up else config.build_task()
    if settings.gross_size * accelerator.num_processes > task.train_size:
        raise ValueError(f"a gross batch has {settings.gross_size} rows, but the training set {task.train_size}")
    # Where rounding would select nothing of two rows, there are a few more.
    rows = next(n for n in itertools.count(2) if not settings.selects or round(n / settings.keep) > n)
    each = DEAR_REPEATS
    training = _training(config, task, accelerator, rows, each)
    flops, kept = _flops_and_activations(training, task, rows)
    if 3 * flops * settings.plain_size / rows < CHEAP:
        # What such a step takes does not grow with its rows: the run's own one is measured.
        rows, each = settings.plain_size, REPEATS
        training = _training(config, task, accelerator, rows, each)
        flops, kept = _flops_and_activations(training, task, rows)
    seconds = []
    for _ in range(2 * each):
        begin = time.perf_counter()
        training.train_step()
        training.mean_loss()  # waits for the device
        seconds.append(time.perf_counter() - begin)
    plain_s, selecting_s = min(seconds[:each]), min(seconds[each:])
    scale = settings.plain_size / rows * settings.accumulation_steps
    by_work = parse_budget(settings.budget).unit == "work"
    work = counted_work(config, task, accelerator) if by_work else Work(None, 0.0)
    costs = StepCosts(plain_s * scale, selecting_s * scale * settings.kept_size / settings.plain_size, *work)
    steps = settings.steps_within_budget(
        task.train_size, accelerator.num_processes, costs if parse_budget(settings.budget).needs_costs else None
    )
    weights = weights_on_disk(training.model)
    return Rehearsal(
        steps=steps,
        selecting=settings.selecting_steps(steps),
        rows=rows,
        costs=costs,
        # A backward pass takes two forward passes.
        step_flops=3 * flops * scale,
        parameters=training.parameters,
        memory=4 * weights + round(kept * settings.plain_size / rows),
        disk=2 * 3 * weights,
        made_up=made_up,
    )


def _training(config: Config, task: Task, accelerator: Accelerator, rows: int, each: int) -> Training:
    """The run's, with so many rows in a step: `each` steps without selection, and as many with."""
    changes: dict[str, Any] = {
        # What a run looks at in its first steps alone, readings and the check of its scores, is no step's cost.
        **{"batch_size": rows, "draw": 0, "keep_schedule": "", "accumulation_steps": 1},
        **{"meter_every": 0, "trim": 0.0, "check": False},
        **{"start_step": each, "start_share": 0.0, "end_step": 0, "end_share": 1.0},
    }
    small = dataclasses.replace(config.training, **changes)
    return Training(dataclasses.replace(config, training=small), task, accelerator, total_steps=2 * each)


def _flops_and_activations(training: Training, task: Task, rows: int) -> tuple[int, int]:
    """(FLOPs, bytes kept for the backward pass) of a forward pass of so many rows, which warms up, too."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in training.model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a node that saves its own output by a hook is never freed

    batch = training.batches.placed(task.training_batch(np.arange(rows), 0))
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        output = training.model(**batch)
    del output
    return counter.get_total_flops(), sum(kept.values())
