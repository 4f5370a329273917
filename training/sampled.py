"""Rows that a sampler chooses before they are read, by losses last seen: InfoBatch and importance sampling in a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gsgd.sift import ImportanceSampler, InfoBatchSampler
from training.settings import TrainingSettings

FULL_FROM = 7 / 8
"""InfoBatch trains on all rows in the last eighth of a run (Qin et al., arXiv:2303.04947, Section 3)."""
MOST_EMPTY_EPOCHS = 10


class SampledOrder:
    """Takes the place of `training.data.order.Order` where a sampler chooses: of its batches, each rank has every n-th.

    Args:
        settings: with method "infobatch" or "importance".
        train_size: rows of the training set.
        total_steps: of the run.
        ranks, rank: how many processes there are, and which this is. All have the same sampler.
    """

    def __init__(self, settings: TrainingSettings, train_size: int, total_steps: int, *, ranks: int, rank: int):
        self.ranks, self.rank = ranks, rank
        size, seed = settings.batch_size, settings.seed
        self.sampler: InfoBatchSampler | ImportanceSampler
        if settings.method == "infobatch":
            self.sampler = InfoBatchSampler(train_size, size, prune=settings.prune, seed=seed)
        else:
            share = settings.uniform_share
            self.sampler = ImportanceSampler(train_size, size, keep=settings.keep, uniform_share=share, seed=seed)
        self.full_from = round(FULL_FROM * total_steps * settings.accumulation_steps)
        self._taken = 0
        self._full = False
        self._batches: Iterator[list[int]] | None = None

    def take(self) -> tuple[np.ndarray, np.ndarray, int]:
        """This rank's next batch: ids (k,), what their losses are multiplied by (k,), and the epoch they are of.

        Raises:
            ValueError: if epochs have too few rows left for one batch a rank.
        """
        if isinstance(self.sampler, InfoBatchSampler) and self._taken >= self.full_from and not self._full:
            # Paper: epochs of all rows at the end; here: such an epoch begins at once, as a run may have few epochs.
            self._full, self.sampler.until_epoch, self._batches = True, 0, None
            self.sampler.set_epoch(self.sampler.epoch + 1)
        self._taken += 1
        for _ in range(MOST_EMPTY_EPOCHS):
            if self._batches is None:
                self._batches = iter(self.sampler)
            dealt = []
            for ids in self._batches:
                dealt.append((np.array(ids), self.sampler.weights(ids).numpy()))
                if len(dealt) == self.ranks:
                    return *dealt[self.rank], self.sampler.epoch
            self._batches = None  # what was too little for all ranks is left out
        raise ValueError(
            f"what is left of an epoch of {self.sampler.seen.rows} rows makes no {self.sampler.batch_size} rows for "
            f"each of {self.ranks} processes: lower batch_size or prune"
        )

    def state_dict(self) -> dict[str, Any]:
        """That of the sampler, the same on every rank, and whether all rows are trained on by now."""
        return {**self.sampler.state_dict(), "full": self._full}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.sampler.load_state_dict(state)
        # Batches that were handed out and not noted come again.
        self._taken, self._full, self._batches = self.sampler.step, state["full"], None
        if isinstance(self.sampler, InfoBatchSampler) and self._full:
            self.sampler.until_epoch = 0
