"""Classification of a table's rows as a `Task`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.classified_rows import ClassifiedRows
from training.tabular.network import TabularNet, TabularNetConfig
from training.tabular.settings import TabularSettings
from training.tabular.tables import read_table


def build_tabular_net(settings: TabularSettings, *, columns: int, num_labels: int) -> TabularNet:
    """A new model, from torch's global generator and on its default device."""
    return TabularNet(TabularNetConfig(columns=columns, hidden_sizes=settings.hidden_sizes, num_labels=num_labels))


def build_proxy(settings: TabularSettings, *, columns: int, num_labels: int) -> TabularNet:
    """A new proxy, likewise."""
    return TabularNet(TabularNetConfig(columns=columns, hidden_sizes=(settings.proxy_size,), num_labels=num_labels))


class TabularTask(ClassifiedRows):
    """Implements `training.task.Task`.

    Columns are standardised by the training rows; a value that is missing is their mean, 0.

    Attributes:
        mean, std: (columns,), of the training rows; a column that is constant there has std 1.

    Args:
        seed: of the run; nothing of the rows depends on it.

    Raises:
        ValueError: if the table cannot be read, or does not fit the settings.
    """

    def __init__(self, settings: TabularSettings, seed: int):
        self.settings = settings
        table = read_table(settings.data, settings.target, settings.columns)
        if settings.positive and settings.positive not in table.class_names:
            raise ValueError(
                f"positive = {settings.positive!r} is not among the classes: {', '.join(table.class_names)}"
            )
        self.rare_class = table.class_names.index(settings.positive) if settings.positive else None
        self._split(settings, table.labels, len(table.class_names), "rows")
        self.mean, self.std = _mean_and_std(table.values[self._train.rows])
        self._values = np.nan_to_num((table.values - self.mean) / self.std).astype(np.float32)
        self.description: dict[str, Any] = {
            "data": Path(settings.data).name,
            **self._described(table.content, table.class_names),
            "columns": list(table.columns),
            "class_sizes": np.bincount(table.labels, minlength=self.num_labels).tolist(),
        }
        if self.rare_class is not None:
            self.description["accuracy"] = f"average precision of class {settings.positive}"

    def build_model(self) -> TabularNet:
        """See `build_tabular_net`."""
        return build_tabular_net(self.settings, columns=self._values.shape[1], num_labels=self.num_labels)

    def build_proxy(self) -> TabularNet:
        """See `build_proxy`."""
        return build_proxy(self.settings, columns=self._values.shape[1], num_labels=self.num_labels)

    def _batch(self, rows: np.ndarray, labels: np.ndarray) -> dict[str, Tensor]:
        """`values` (B, columns) float32 and `labels` (B,) int64."""
        return {"values": torch.from_numpy(self._values[rows]), "labels": torch.from_numpy(labels)}


def _mean_and_std(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (columns,) of what is not missing; 0 and 1 where there is nothing to tell them by."""
    known = ~np.isnan(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0.0).sum(axis=0) / count
    variance = np.where(known, values - mean, 0.0) ** 2
    std = np.sqrt(variance.sum(axis=0) / count)
    return mean, np.where(std > 1e-12 * np.maximum(1, abs(mean)), std, 1.0)
