"""What tasks share whose rows lie in memory and have one class each: splits, batches by place, how they are judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from training.data.alterations import AlteredRows, altered
from training.data.splits import hold_out, limited
from training.task import SPLITS, held_out_rows, judged_rows


class ClassifiedRows:
    """A part of a `training.task.Task`; the rest of it makes a batch of rows. Splits are the same for all seeds.

    Attributes:
        num_labels: classes.
        train_size, splits: see `training.task.Task`.
        _train: rows and labels of the training set, altered or not.
        _labels: (rows,), the true classes of all rows.
        _held_out: split -> its rows.
    """

    _train: AlteredRows
    _labels: np.ndarray
    _held_out: Mapping[str, np.ndarray]

    def _split(self, settings: Any, labels: np.ndarray, classes: int, what: str, *, most: int = 0) -> np.ndarray:
        """Hold out rows of each class, and alter the others as the settings say. Returns these as they were before.

        Args:
            settings: with `test_share`, `validation_share`, `train_limit`, and those of alterations.
            labels: (rows,), classes of all rows, in 0..classes - 1.
            what: rows are, in words.
            most: rows of a split that are judged, evenly spaced over all; 0 for all.
        """
        rows, held_out = np.arange(len(labels)), {}
        for split, share in (("test", settings.test_share), ("validation", settings.validation_share)):
            rows, held = hold_out(labels, rows, share, split)
            held_out[split] = held[np.arange(most) * len(held) // most] if 0 < most < len(held) else held
        rows = limited(labels, rows, settings.train_limit, what)
        self._labels, self._held_out, self.num_labels = labels, held_out, classes
        self._train = altered(settings, labels, rows, classes)
        self.train_size = len(self._train.rows)
        self.splits = tuple(split for split in SPLITS if len(held_out[split]))
        return rows

    def _described(self, content: str, class_names: Sequence[str]) -> dict[str, Any]:
        """What a header says of rows and classes; `content` is the digest of the data before they were altered."""
        alteration = {"altered": self._train.description} if self._train.description else {}
        return {
            "content": self._train.content(content),
            "sizes": {"train": self.train_size, **{split: len(held) for split, held in self._held_out.items()}},
            "classes": self.num_labels,
            "class_names": list(class_names),
            **alteration,
        }

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
