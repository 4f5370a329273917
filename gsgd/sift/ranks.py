"""Selection over the batches of all ranks: pool the scores, choose alike everywhere, deal the rows out evenly.

Every rank sees the same pooled scores and uses the same generator state, so all choose the same rows without a word.
The chosen rows, in ascending order of the batches laid end to end, are dealt out in equal runs: rank r trains on the
r-th of them, so the gradients that DistributedDataParallel averages weigh every row alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gsgd.sift.batches.batch import BatchRows


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

    def check_alike(self, batch: Mapping[str, Any]) -> None:
        """Whether the batches of all ranks have tensors of the same names, shapes and types.

        Every other collective relies on it: with different shapes, or a rank that fails on its own, they would hang.

        Raises:
            ValueError: on every rank, if they do not.
        """
        if not isinstance(batch, Mapping):
            raise ValueError(f'scope="global" needs a mapping as batch, not a {type(batch).__name__}')
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor) and value.dim() > 0}
        layout = ", ".join(f"{name} {tuple(v.shape)} {v.dtype}" for name, v in sorted(tensors.items()))
        digest = int.from_bytes(hashlib.blake2b(layout.encode(), digest_size=8).digest(), "little", signed=True)
        device = next((value.device for value in tensors.values()), None)
        if len(set(self.gathered(torch.tensor([digest], device=device)).tolist())) > 1:
            layouts = enumerate(self.gather_objects(layout))
            listed = "; ".join(f"rank {rank} has {text or 'no tensors'}" for rank, text in layouts)
            raise ValueError(
                f'scope="global" exchanges rows, so all ranks must have the same number of them, and of one shape: '
                f"{listed}. Pad to a common length, and drop the last batch if it is smaller"
            )

    def any(self, here: bool, device: torch.device) -> bool:
        """Whether it is true on any rank; all must ask."""
        found = torch.tensor([int(here)], device=device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return bool(found)

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order; all must give one."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def pool(self, scores: Tensor | None, kept: int, rows: int) -> tuple[Tensor | None, int, int]:
        """(scores of all ranks end to end, kept rows of all, rows of all); `check_alike` comes first."""
        # A rank without any labelled position scores in float32 whatever the model's type.
        pooled = None if scores is None else self.gathered(scores.double())
        return pooled, kept * self.size, rows * self.size

    def check_passes(self, passes: int) -> None:
        """Whether all ranks run a sharded model equally often.

        Raises:
            ValueError: on every rank, if they do not.
        """
        if len(set(counts := self.gather_objects(passes))) > 1:
            raise ValueError(
                f"with FSDP score_batch_size must give all ranks the same number of scoring passes, but they have "
                f"{counts}: drop the last batch if it is smaller"
            )

    def even(self, kept: int) -> int:
        """The largest number of rows up to `kept` that can be dealt out evenly."""
        return kept - kept % self.size if self.together else kept

    def share(self, chosen: Tensor) -> Tensor:
        """This rank's equal share of rows that were chosen of all."""
        number = len(chosen) // self.size
        return chosen[self.rank * number : (self.rank + 1) * number]

    def of_chosen(self, values: Tensor | None, chosen: Tensor) -> Tensor | None:
        """(k,), of the rows that this rank trains on, what `values` (B,) says of each row of its batch; None of None.

        Args:
            chosen: rows of this rank's batch; of all of them, laid end to end, if ranks select together.
        """
        if values is None:
            return None
        if self.together:
            return self.gathered(values)[self.share(chosen).to(values.device)]
        return values.index_select(0, chosen.to(values.device))

    def of_first(self, value: Tensor) -> Tensor:
        """Rank 0's tensor of this shape; all must ask."""
        found = value.clone()
        if self.size > 1:
            dist.broadcast(found, src=0)
        return found

    def mean(self, value: Tensor) -> Tensor:
        """The mean of the tensors of all ranks; all must give one."""
        if self.size == 1:
            return value
        found = value.clone()
        dist.all_reduce(found)
        return found / self.size

    def means(self, values: list[float], device: torch.device) -> list[float]:
        """Each value's mean over the ranks where it is not NaN; NaN where it is on all. All must ask."""
        if self.size == 1:
            return values
        found = torch.tensor(values, dtype=torch.float64, device=device)
        sums = torch.stack([found.nan_to_num(0.0), (~found.isnan()).to(found.dtype)])
        dist.all_reduce(sums)
        means: list[float] = (sums[0] / sums[1]).tolist()
        return means

    def gathered(self, value: Tensor) -> Tensor:
        """The tensors of all ranks, of one shape, end to end; all must give one."""
        if self.size == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)


def exchange_rows(batch: Mapping[str, Any], chosen: Tensor, ranks: Ranks, rows: BatchRows) -> dict[str, Any]:
    """This rank's share of the rows `chosen` (k,) of all ranks' batches laid end to end; k is a multiple of the ranks.

    `Ranks.check_alike` comes first. What has no rows is passed on as it is.

    Args:
        rows: which entries have rows.

    Raises:
        ValueError: if something that has rows is neither a tensor, an array nor a list.
    """
    with_rows = {name.split(".")[0] for name in rows.cut_names(batch)}
    gathered: dict[str, Any] = {}
    for name, value in sorted(batch.items()):
        if name not in with_rows:
            gathered[name] = value
        elif isinstance(value, Tensor):
            gathered[name] = ranks.gathered(value)
        elif isinstance(value, np.ndarray):
            gathered[name] = np.concatenate(ranks.gather_objects(value))
        elif isinstance(value, (list, tuple)) and name in rows.cut_names(batch):
            gathered[name] = [entry for part in ranks.gather_objects(list(value)) for entry in part]
        else:
            raise ValueError(
                f'scope="global" exchanges tensors, arrays and lists, but {name} is a {type(value).__name__}: '
                'flatten it, or select with scope="rank"'
            )
    return rows.take(gathered, ranks.share(chosen))
