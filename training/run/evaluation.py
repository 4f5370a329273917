"""An evaluation of a run: the model judged on held-out rows, scores on gross batches, and what it has cost so far."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gsgd.sift.scoring_pass.head_positions import positions_only
from gsgd.sift.scoring_pass.row_losses import IGNORED
from training.budget import StepCosts, seconds_of
from training.data.order import Order
from training.methods import parse_method
from training.metrics.average_precision import AveragePrecision
from training.run_folder.records import Evaluation
from training.run_folder.scalars import Scalars
from training.training import Training


class Metric(Protocol):
    """What is made of predictions of classes, added batch by batch; `sums` of several ranks are added."""

    sums: Tensor

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take logits (B, classes) and labels (B,)."""
        ...


@torch.no_grad()
def evaluate_split(training: Training, split: str, metric: Metric | None = None) -> tuple[float, float]:
    """(accuracy, mean loss) on "validation" or "test"; every rank judges its share of the batches.

    Of a task with a rare class its average precision is in the place of accuracy.

    Args:
        metric: takes the predictions, where rows are classified.
    """
    training.sift.finish_checks()
    model = training.accelerator.unwrap_model(training.model, keep_torch_compile=False)
    ranks, rank = training.accelerator.num_processes, training.accelerator.process_index
    sums = torch.zeros(3, dtype=torch.float64, device=training.accelerator.device)
    rare = training.task.rare_class
    precision = None if rare is None else AveragePrecision(rare, training.accelerator.device)
    model.eval()
    try:
        for number, batch in enumerate(training.task.held_out(split, training.settings.evaluation_batch_size)):
            if number % ranks != rank:
                continue
            batch = training.batches.placed(batch)
            with training.accelerator.autocast():
                output, batch = _labelled_only(model, batch)
            sums += torch.stack([value.double() for value in training.task.judge(output, batch)])
            # Of a language model labelled positions are predicted, not rows.
            if metric is not None and batch["labels"].dim() == 1:
                metric.add(output.logits, batch["labels"])
            if precision is not None:
                precision.add(output.logits, batch["labels"])
    finally:
        training.model.train()
    if metric is not None:
        metric.sums = training.accelerator.reduce(metric.sums, "sum")
    correct, loss, predictions = training.accelerator.reduce(sums, "sum").tolist()
    if precision is None:
        return correct / predictions, loss / predictions
    precision.sums = training.accelerator.reduce(precision.sums, "sum")
    return precision.value(), loss / predictions


def quality(training: Training) -> tuple[float, float] | tuple[None, None]:
    """(overlap with the exact top rows, rank correlation), means over `quality_batches` gross batches.

    The batches are the same at every evaluation; neither the run's generators nor its data order move.
    """
    settings = training.settings
    if not settings.quality_batches or not settings.scores_gross_batches:
        return None, None
    order = Order(training.task.train_size, settings.seed + 1)
    found = []
    devices = [training.accelerator.device] if training.accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), training.accelerator.autocast():
        for number in range(settings.quality_batches):
            torch.manual_seed(settings.seed + number)
            batch = training.batches.read(*order.take(settings.drawn_at(training.sift.next_keep)))
            (reading,) = training.sift.read(training.batches.placed(batch))
            found.append((reading.overlap, reading.rank_correlation))
    overlap, correlation = torch.tensor(found, dtype=torch.float64).mean(dim=0).tolist()
    return overlap, correlation


def _labelled_only(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """The model's output, of a language model at labelled positions only, and the batch that it belongs to.

    All positions' logits would be 4 GB for 64 rows of 512 tokens with BERT's vocabulary.
    """
    labels = batch["labels"]
    if labels.dim() < 2:
        return model(**batch), batch
    rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
    batch = {**batch, "labels": labels[rows, columns].unsqueeze(0)}
    with positions_only(model, rows, columns):
        return model(**batch), batch


def evaluated(training: Training, costs: StepCosts | None) -> Evaluation | None:
    """The evaluation of a run where it stands, whose clock is stopped; None if the loss is not finite.

    Every rank must call this. `costs` are those of a step, if they were measured.
    """
    settings = training.settings
    accuracy, loss = evaluate_split(training, "validation")
    if not math.isfinite(loss):
        return None
    overlap, correlation = quality(training)
    totals, ranks = training.sift.totals, training.accelerator.num_processes
    dearer = settings.dearer_steps(training.total_steps, training.step)
    return Evaluation(
        step=training.step,
        method=settings.label or settings.method,
        score=parse_method(settings.method).score,
        exit_layer=training.sift.exit_layer if settings.scores_rows else None,
        seed=settings.seed,
        backprop_samples=totals.backprop_samples * ranks,
        gross_samples=totals.gross_samples * ranks,
        wall_clock_s=training.wall_clock_s,
        **training.seconds,
        val_accuracy=accuracy,
        val_loss=loss,
        train_loss=training.loss_since_evaluation(),
        reference_s=None if costs is None else seconds_of(training.step, costs, dearer),
        overlap=overlap,
        rank_correlation=None if correlation is None or math.isnan(correlation) else correlation,
    )


def add_events(events: Scalars, evaluation: Evaluation) -> None:
    """Add what was measured to a run's scalars, and have them written."""
    for name in ("val_accuracy", "val_loss", "overlap", "rank_correlation"):
        if (value := getattr(evaluation, name)) is not None:
            events.add(f"validation/{name}", value, evaluation.step)
    events.flush()
