"""What an exit has made of rows that were chosen and not trained on yet, for sources that learn from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from gsgd.sift.batches.batch_structure import same_tensors
from gsgd.sift.score_source import GrossBatch


class Scored(NamedTuple):
    """Of rows that a step trains on: their features (k, d), and the gross batch that they were chosen from."""

    features: Tensor | None = None
    gross: GrossBatch | None = None


class ScoredRows:
    """Holds it from the choice of rows until they are trained on.

    Args:
        most: choices at a time: a trainer may choose all micro-batches of a step before the first is trained.
    """

    def __init__(self, most: int):
        self._awaiting: deque[tuple[Mapping[str, Any], Scored]] = deque(maxlen=most)

    def awaits(self, rows: Mapping[str, Any], features: Tensor | None, gross: GrossBatch) -> None:
        """These rows are about to be trained on."""
        self._awaiting.append((rows, Scored(features, gross)))

    def of(self, rows: Mapping[str, Any]) -> Scored:
        """What is held of rows that were trained on now, once; nothing of rows that were not scored."""
        for place, (chosen, scored) in enumerate(self._awaiting):
            if same_tensors(chosen, rows):
                del self._awaiting[place]
                return scored
        return Scored()
