"""A task that trains in milliseconds: noisy vectors of three classes, and a network with an early exit.

It has dropout and a BatchNorm, whose state a resumed run must have, and inputs that depend on the epoch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import SequenceClassifierOutput

from training.config import TASKS

FEATURES, CLASSES, HIDDEN = 6, 3, 8


@dataclass(frozen=True)
class TinySettings:
    rows: int = 64
    dropout: float = 0.2
    batch_normalised: bool = True
    splits: tuple[str, ...] = ("validation", "test")
    widths: tuple[int, ...] = ()
    cache_dir: str = ""


class TinyModel(nn.Module):
    """Implements `gsgd.sift.EarlyExit`: exit 1 reads the first layer."""

    exit_layers = 2

    def __init__(self, settings):
        super().__init__()
        # The gradient of a bias before a BatchNorm is rounding noise, of which AdamW makes whole steps.
        self.first = nn.Linear(FEATURES, HIDDEN, bias=not settings.batch_normalised)
        self.norm = nn.BatchNorm1d(HIDDEN) if settings.batch_normalised else nn.LayerNorm(HIDDEN)
        self.dropout = nn.Dropout(settings.dropout)
        self.early = nn.Linear(HIDDEN, CLASSES)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, CLASSES)

    def early_logits(self, exit_layer, x):
        hidden = self.dropout(torch.relu(self.norm(self.first(x))))
        if exit_layer == 1:
            return self.early(hidden)
        return self.last(torch.tanh(self.second(hidden))) + self.early(hidden)

    def forward(self, x, labels=None):
        logits = self.early_logits(2, x)
        return SequenceClassifierOutput(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)

    def save_pretrained(self, folder):
        Path(folder).mkdir(exist_ok=True)
        torch.save(self.state_dict(), Path(folder) / "pytorch_model.bin")


class TinyTask:
    rare_class = None

    def __init__(self, settings, seed):
        self.settings, self.seed = settings, seed
        rng = np.random.default_rng(7)
        total = settings.rows + 40
        self.labels = rng.integers(CLASSES, size=total)
        self.x = (rng.normal(size=(CLASSES, FEATURES))[self.labels] + rng.normal(size=(total, FEATURES))).astype("f4")
        self.train_size = settings.rows
        self.splits = settings.splits
        self.description = {"source": "tiny"}

    def build_model(self):
        return TinyModel(self.settings)

    def training_batch(self, rows, epoch):
        noise = [np.random.default_rng([self.seed, epoch, int(row)]).normal(size=FEATURES) for row in rows]
        x = self.x[rows] + 0.1 * np.array(noise, dtype="f4")
        return {"x": torch.from_numpy(x), "labels": torch.from_numpy(self.labels[rows])}

    def held_out(self, split, batch_size):
        start = self.train_size + (0 if split == "validation" else 20)
        for first in range(start, start + 20, batch_size):
            rows = np.arange(first, min(first + batch_size, start + 20))
            yield {"x": torch.from_numpy(self.x[rows]), "labels": torch.from_numpy(self.labels[rows])}

    def judge(self, output, batch):
        right = (output.logits.argmax(-1) == batch["labels"]).sum()
        return right, cross_entropy(output.logits, batch["labels"], reduction="sum"), torch.tensor(len(batch["labels"]))


TINY = (TinySettings, TinyTask)


def register():
    """For processes of their own; tests take the fixture."""
    TASKS["tiny"] = TINY
