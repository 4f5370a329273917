"""In which order rows are trained on: a function of (seed, epoch), whatever the sizes of the batches."""

from __future__ import annotations

import numpy as np


class Order:
    """Every epoch is a new permutation; what is too short for a whole batch at its end is left out.

    Args:
        size: rows of the training set.
        seed: >= 0.
    """

    def __init__(self, size: int, seed: int):
        self.size = size
        self.seed = seed
        self.epoch = 0
        self.offset = 0
        self._shuffled: tuple[int, np.ndarray] | None = None

    def take(self, count: int) -> tuple[np.ndarray, int]:
        """The next `count` rows and the epoch they are of.

        Raises:
            ValueError: if an epoch has fewer rows.
        """
        if count > self.size:
            raise ValueError(
                f"a step takes {count} rows but the training set has {self.size}: lower batch_size or raise keep"
            )
        if self.offset + count > self.size:
            self.epoch, self.offset = self.epoch + 1, 0
        if self._shuffled is None or self._shuffled[0] != self.epoch:
            kind = np.uint32 if self.size < 2**32 else np.uint64
            rows = np.arange(self.size, dtype=kind)
            np.random.default_rng([self.seed, self.epoch]).shuffle(rows)
            self._shuffled = self.epoch, rows
        taken = self._shuffled[1][self.offset : self.offset + count]
        self.offset += count
        return taken, self.epoch

    def state_dict(self) -> dict[str, int]:
        """Where the next rows are taken from."""
        return {"epoch": self.epoch, "offset": self.offset}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from `state`."""
        self.epoch, self.offset = state["epoch"], state["offset"]
