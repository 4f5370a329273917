"""What a run trains: a model, its data and how it is judged. `training.text`, `.images` and `.tabular` have some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

SPLITS = ("validation", "test")


class Task(Protocol):
    """Data and model of one experiment.

    Attributes:
        train_size: rows of the training set.
        splits: which of SPLITS there are to judge on; "validation" always is.
        description: what was read, for the header of the results: sources, fingerprints (names that end in "content"),
            versions of the code that prepared it, sizes of the splits.
        rare_class: the class whose average precision is recorded in place of accuracy; None for accuracy. With a class
            the model's outputs have `logits` (B, classes), and the batches `labels` (B,).
    """

    train_size: int
    splits: tuple[str, ...]
    rare_class: int | None
    description: dict[str, Any]

    def build_model(self) -> nn.Module:
        """A new model, initialised from torch's global generator, on torch's default device."""
        ...

    def training_batch(self, rows: np.ndarray, epoch: int) -> dict[str, Tensor]:
        """The rows (B,) of the training set as the model's keyword arguments, on the CPU.

        A function of the rows, the epoch and the task's seed: augmentation and masking draw from nothing else, so a
        resumed run sees what it would have seen.
        """
        ...

    def held_out(self, split: str, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """The batches of "validation" or "test", the same ones in the same order whenever asked for.

        Raises:
            ValueError: if there is no such split, or it is empty.
        """
        ...

    def judge(self, output: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(correct predictions, loss summed over predictions, predictions) of one held-out batch, as scalar tensors.

        The model is in eval mode, and `output` is what it returned on `batch`.
        """
        ...


def judged_rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `Task.judge` returns where rows are classified: top-1 hits, cross-entropy in float32 summed, rows.

    Args:
        logits: (B, classes). labels: (B,).
    """
    logits = logits.float()
    correct = (logits.argmax(dim=-1) == labels).sum()
    return correct, F.cross_entropy(logits, labels, reduction="sum"), correct.new_tensor(len(labels))


def held_out_rows(sizes: Mapping[str, int], split: str, batch_size: int) -> Iterator[np.ndarray]:
    """The rows 0..sizes[split] - 1 of a held-out split, a batch at a time; the last one may be smaller.

    Raises:
        ValueError: if there is no such split, it is empty, or `batch_size` is not at least 1.
    """
    if split not in SPLITS:
        raise ValueError(f"split = {split!r} must be one of: {', '.join(SPLITS)}")
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size!r} must be at least 1")
    size = sizes[split]
    if not size:
        raise ValueError(f"the {split} split is empty: set {split}_share above 0")
    return (np.arange(start, min(start + batch_size, size)) for start in range(0, size, batch_size))
