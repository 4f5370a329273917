"""An evaluation of a run: the model judged on the validation split, with what the run has cost so far."""

from __future__ import annotations

import math

from training.budget import StepCosts, seconds_of
from training.methods import parse_method
from training.run_folder.records import Evaluation
from training.run_folder.scalars import Scalars
from training.training import Training


def evaluated(training: Training, costs: StepCosts | None) -> Evaluation | None:
    """The evaluation of a run where it stands, whose clock is stopped; None if the loss is not finite.

    Every rank must call this. `costs` are those of a step, if they were measured.
    """
    settings = training.settings
    accuracy, loss = training.evaluate("validation")
    if not math.isfinite(loss):
        return None
    overlap, correlation = training.quality()
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
