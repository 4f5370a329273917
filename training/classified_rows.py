"""What tasks share whose rows lie in memory and have one class each: batches by place, and how they are judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from training.data.alterations import AlteredRows
from training.task import held_out_rows, judged_rows


class ClassifiedRows:
    """A part of a `training.task.Task`; the rest of it makes a batch of rows.

    Attributes:
        _train: rows and labels of the training set, altered or not.
        _labels: (rows,), the true classes of all rows.
        _held_out: split -> its rows.
    """

    _train: AlteredRows
    _labels: np.ndarray
    _held_out: Mapping[str, np.ndarray]

    def training_batch(self, rows: np.ndarray, epoch: int) -> dict[str, Tensor]:
        """The rows (B,) of the training set with `labels` (B,), int64, the same in every epoch."""
        places = np.asarray(rows, dtype=np.int64)
        return self._batch(self._train.rows[places], self._train.labels[places])

    def held_out(self, split: str, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """The batches of "validation" or "test", with true classes.

        Raises:
            ValueError: if there is no such split, or it is empty.
        """
        batches = held_out_rows({name: len(rows) for name, rows in self._held_out.items()}, split, batch_size)
        rows = self._held_out[split]
        return (self._batch(rows[part], self._labels[rows[part]]) for part in batches)

    def judge(self, output: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Top-1 hits, cross-entropy in float32 summed over rows, and rows."""
        return judged_rows(output.logits, batch["labels"])

    def _batch(self, rows: np.ndarray, labels: np.ndarray) -> dict[str, Tensor]:
        """The model's keyword arguments of rows (B,) with these classes (B,)."""
        raise NotImplementedError
