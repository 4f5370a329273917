"""Selection over the batches of all ranks: pool the scores, choose alike everywhere, deal the rows out evenly.

Every rank sees the same pooled scores and uses the same generator state, so all choose the same rows without a word.
The chosen rows, in ascending order of the batches laid end to end, are dealt out in equal runs: rank r trains on the
r-th of them, so the gradients that DistributedDataParallel averages weigh every row alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gsgd.sift.batch import take_rows


@dataclass(frozen=True)
class Ranks:
    """Which rank this is, of how many, and whether they select together."""

    rank: int
    size: int
    together: bool

    @classmethod
    def here(cls, scope: str) -> Ranks:
        if not (dist.is_available() and dist.is_initialized()):
            return cls(0, 1, False)
        return cls(dist.get_rank(), dist.get_world_size(), scope == "global" and dist.get_world_size() > 1)

    def pool(self, scores: Tensor | None, kept: int, rows: int, device: torch.device) -> tuple[Tensor | None, int, int]:
        """(scores of all ranks end to end, kept rows of all, rows of all).

        Raises:
            ValueError: on every rank, if their batches differ in length.
        """
        sizes = self._gather(torch.tensor([rows], device=device)).tolist()
        if len(set(sizes)) > 1:
            raise ValueError(
                f'scope="global" needs batches of the same length on all ranks, but they have {sizes} rows'
            )
        pooled = None if scores is None else self._gather(scores)
        return pooled, kept * self.size, rows * self.size

    def even(self, kept: int) -> int:
        """The largest number of rows up to `kept` that can be dealt out evenly."""
        return kept - kept % self.size if self.together else kept

    def _gather(self, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)


def exchange_rows(batch: Mapping[str, Any], chosen: Tensor, ranks: Ranks) -> dict[str, Any]:
    """This rank's share of the rows `chosen` (k,) of all ranks' batches laid end to end; k is a multiple of the ranks.

    Raises:
        ValueError: on every rank, if a tensor's rows have different shapes on different ranks.
    """
    gathered = {}
    for name, value in batch.items():
        if not (isinstance(value, Tensor) and value.dim() > 0):
            gathered[name] = value
            continue
        shapes = ranks._gather(torch.tensor([list(value.shape)], device=value.device)).tolist()
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                f'scope="global" exchanges rows, so {name} must have one shape on all ranks, but has {shapes}: '
                "pad to a common length"
            )
        gathered[name] = ranks._gather(value)
    share = len(chosen) // ranks.size
    return take_rows(gathered, chosen[ranks.rank * share : (ranks.rank + 1) * share])
