"""Batch samplers that choose rows before they are loaded, by losses last seen: selection where loading costs, too.

    sampler = LastSeenSampler(len(data), batch_size=64, keep=0.5)
    for batch in DataLoader(WithIds(data), batch_sampler=sampler, num_workers=4):
        ids = batch.pop("id")
        losses = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        (losses * sampler.weights(ids)).mean().backward()
        sampler.note(ids, losses)

Every epoch is a new permutation of the rows, a function of seed and epoch, and so are draws, of seed, epoch and place.
A batch that was handed out and has not been noted yet is part of the state, so that a resumed run goes on bit for bit,
however many batches a loader had fetched ahead. On several processes each has the same sampler, accelerate deals its
batches out, and `note` exchanges what the ranks have seen.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler

from gsgd import host
from gsgd.ranges import whole, within
from gsgd.sift.sources.last_seen import NEVER, UNSEEN, LastSeen, as_ids, check_age_bound, outside

LAG_ON_DEVICE = 1
"""How many steps behind a device's losses are taken up: their copies to the host have then arrived without a wait."""


class WithIds(Dataset[Any]):
    """A data set whose samples carry their index: mappings as `id_key`, tuples and lists as a last entry.

    Raises:
        ValueError: for a data set without a length, as a stream's, or whose samples have an entry of that name.
    """

    def __init__(self, data: Any, id_key: str = "id"):
        numbered = hasattr(data, "__len__") and hasattr(data, "__getitem__")
        if not numbered or isinstance(data, IterableDataset):  # which may say how long it is
            raise ValueError(
                f"a {type(data).__name__} has no rows to number: last-seen losses need a data set with a length and "
                "an index; of a stream, put ids of your own into the samples and give data_rows"
            )
        self.data = data
        self.id_key = id_key

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        sample = self.data[index]
        if isinstance(sample, Mapping):
            if self.id_key in sample:
                raise ValueError(f"samples have an entry {self.id_key!r} already: name another id_key")
            return {**sample, self.id_key: index}
        return (*sample, index) if isinstance(sample, (tuple, list)) else (sample, index)


class _RowSampler(Sampler[list[int]]):
    """Batches of row ids, epoch by epoch, with what was handed out and not noted yet."""

    def __init__(self, data_rows: int, batch_size: int, *, gross: int, seed: int):
        self.batch_size = whole("batch_size", batch_size, least=1)
        self.gross = gross
        self.seed = whole("seed", seed, least=0, most=2**63 - 1)
        self.seen = LastSeen(data_rows)
        if gross > self.seen.rows:
            raise ValueError(
                f"a step draws {gross} rows, but data_rows = {self.seen.rows}: lower batch_size or raise keep"
            )
        self.epoch = 0
        self.step = 0
        self._offset = 0
        self._ended = False
        self._resumes = False
        self._handed: deque[tuple[list[int], list[float]]] = deque()
        self._noted: deque[tuple[Tensor, Tensor, Any, int]] = deque()

    def __len__(self) -> int:
        return len(self._order()) // self.gross

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order the next iteration takes; without it, epochs follow each other."""
        epoch = whole("epoch", epoch, least=0)
        if epoch != self.epoch:
            self.epoch, self._resumes = epoch, False
        if not self._resumes:
            self._ended = False

    def __iter__(self) -> Iterator[list[int]]:
        if self._resumes:
            self._resumes = False
            for handed, _ in list(self._handed):
                yield list(handed)
        else:
            self.epoch, self._ended, self._offset = self.epoch + self._ended, False, 0
            self._handed.clear()
            self._begin_epoch()
        order = self._order()
        lots = np.random.default_rng([self.seed, self.epoch, 1]).random(len(order))
        while self._offset + self.gross <= len(order):
            drawn = slice(self._offset, self._offset + self.gross)
            ids, weights = self._chosen(order[drawn], lots[drawn])
            self._offset += self.gross
            self._handed.append((ids.tolist(), weights.tolist()))
            yield ids.tolist()
        self._ended = True

    def weights(self, ids: Any) -> Tensor:
        """(k,), float32: what the losses of a batch that was handed out are multiplied by, on the device of `ids`.

        Raises:
            ValueError: if no such batch is waiting to be noted.
        """
        wanted = _listed(ids)
        for handed, weights in self._handed:
            if handed == wanted:
                found = torch.tensor(weights)
                return host.sent(found, ids.device) if isinstance(ids, Tensor) else found
        raise ValueError(f"no batch with ids {wanted[:4]}... was handed out that has not been noted: ask before `note`")

    def note(self, ids: Any, losses: Tensor) -> None:
        """Rows `ids` (k,) were trained on, and had these losses (k,); every rank must call it.

        Raises:
            ValueError: if there are not as many of the two, or an id names no row.
        """
        ids, losses = as_ids(ids), torch.as_tensor(losses)
        if ids.shape != losses.shape or ids.dim() != 1:
            raise ValueError(f"ids has shape {tuple(ids.shape)} and losses {tuple(losses.shape)}: both must be (k,)")
        losses = losses.detach().float()
        parts = _of_all_ranks(ids.to(losses.device), losses)
        # Those of this rank alone are on the host, where a device need not be waited for.
        for noted in [ids] if len(parts) == 1 else [part_ids for part_ids, _ in parts]:
            listed = _listed(noted)
            low, high = min(listed, default=0), max(listed, default=0)
            if low < 0 or high >= self.seen.rows:
                raise outside(low if low < 0 else high, self.seen.rows)
            self._forget(listed)
        of_device = not host.holds(losses)
        for part_ids, part_losses in parts:
            copies = part_ids.to("cpu", non_blocking=True), part_losses.to("cpu", non_blocking=True)
            event = None
            if of_device and losses.device.type == "cuda":
                event = torch.cuda.Event()
                event.record()
            self._noted.append((*copies, event, self.step))
        self.step += 1
        self._take_up(LAG_ON_DEVICE * len(parts) if of_device else 0)

    def state_dict(self) -> dict[str, Any]:
        """Losses, place in the order of the data, and batches that were handed out; the same on every rank."""
        for *_, event, _ in self._noted:
            if event is not None:
                event.synchronize()
        return {
            "epoch": self.epoch,
            "offset": self._offset,
            "ended": self._ended,
            "step": self.step,
            "seen": self.seen.state_dict(),
            "handed": [[list(ids), list(weights)] for ids, weights in self._handed],
            "noted": [[ids.clone(), losses.clone(), step] for ids, losses, _, step in self._noted],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`: the next iteration begins with the batches that had not been noted.

        Raises:
            ValueError: if it is of another number of rows.
        """
        self.seen.load_state_dict(state["seen"])
        self.epoch, self._offset, self.step = state["epoch"], state["offset"], state["step"]
        self._ended = state["ended"]
        self._handed = deque((list(ids), list(weights)) for ids, weights in state["handed"])
        self._noted = deque((ids, losses, None, step) for ids, losses, step in state["noted"])
        self._resumes = True

    def _begin_epoch(self) -> None:
        """Called where an epoch begins, not where one is gone on with."""

    def _order(self) -> np.ndarray:
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.seen.rows)

    def _chosen(self, drawn: np.ndarray, lots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """((k,) ids out of a gross batch (B,), (k,) weights), by uniform numbers (B,)."""
        raise NotImplementedError

    def _take_up(self, left: int) -> None:
        while len(self._noted) > left:
            ids, losses, event, step = self._noted.popleft()
            if event is not None:
                event.synchronize()
            self.seen.losses.numpy()[ids.numpy()] = losses.numpy()  # of a row drawn twice, the last
            self.seen.seen_at.numpy()[ids.numpy()] = step

    def _forget(self, ids: list[int]) -> None:
        for entry in self._handed:
            if entry[0] == ids:
                self._handed.remove(entry)
                return


class LastSeenSampler(_RowSampler):
    """Of every round(batch_size / keep) rows the hardest by the losses last seen of them, and a share at random.

    Rows never seen come first, then the largest losses. The random share revisits rows whose old loss was small; a
    bound on the age of a loss, in steps, does so for certain.

    Args:
        data_rows: of the data set.
        batch_size: rows trained on in a step, on each process.
        keep: share of the drawn rows that are trained on, in (0, 1].
        random_share: of the batch, chosen among the rows drawn and not taken for their losses, in [0, 1].
        max_age: steps after which a loss counts as never seen; None for no bound.
        seed: of order and draws.

    Raises:
        ValueError: for values out of range, or an age bound below the steps of one pass over the data.
    """

    def __init__(
        self,
        data_rows: int,
        batch_size: int,
        *,
        keep: float = 0.5,
        random_share: float = 0.25,
        max_age: int | None = None,
        seed: int = 0,
    ):
        keep = within("keep", keep, "lie in (0, 1]", lambda value: 0 < value <= 1)
        gross = max(1, round(whole("batch_size", batch_size, least=1) / keep))
        super().__init__(data_rows, batch_size, gross=gross, seed=seed)
        self.random_share = within("random_share", random_share, "lie in [0, 1]", lambda value: 0 <= value <= 1)
        self.max_age = None if max_age is None else whole("max_age", max_age, least=1)
        check_age_bound(self.max_age, rows=self.seen.rows, gross=gross)

    def _chosen(self, drawn: np.ndarray, lots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores = self.seen.scores(torch.from_numpy(drawn), step=self.step, max_age=self.max_age).numpy()
        at_random = math.floor(self.random_share * self.batch_size)
        hardest = np.argsort(-scores, kind="stable")
        top, others = hardest[: self.batch_size - at_random], hardest[self.batch_size - at_random :]
        chosen = np.concatenate([top, others[np.argsort(lots[others])[:at_random]]])
        return drawn[np.sort(chosen)], np.ones(self.batch_size)


class ImportanceSampler(_RowSampler):
    """Rows drawn in proportion to the losses last seen of them, and weighted so that gradients stay unbiased.

        q_j = (1 - e) s_j / sum s  +  e / B,      w_j = 1 / (B q_j)  <=  1 / e

    Row j of a gross batch of B is drawn with probability q_j, batch_size times with replacement. With the bound on the
    weights SGD's own bound holds with L/e in place of L: what it can gain is variance (`theory.formulas.stale`). Rows
    never seen count as the mean of those that were.

    Args:
        data_rows, batch_size, keep, seed: as of `LastSeenSampler`.
        uniform_share: e, in (0, 1].

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self, data_rows: int, batch_size: int, *, keep: float = 0.25, uniform_share: float = 0.25, seed: int = 0
    ):
        keep = within("keep", keep, "lie in (0, 1]", lambda value: 0 < value <= 1)
        gross = max(1, round(whole("batch_size", batch_size, least=1) / keep))
        super().__init__(data_rows, batch_size, gross=gross, seed=seed)
        self.uniform_share = within("uniform_share", uniform_share, "lie in (0, 1]", lambda value: 0 < value <= 1)

    def _chosen(self, drawn: np.ndarray, lots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        losses = self.seen.losses.numpy()[drawn].astype(float)
        known = losses < UNSEEN
        losses = np.where(known, losses, losses[known].mean() if known.any() else 1.0).clip(min=0)
        share = losses / losses.sum() if losses.sum() > 0 else np.full(self.gross, 1 / self.gross)
        q = (1 - self.uniform_share) * share + self.uniform_share / self.gross
        ends = np.cumsum(q)
        # The last end may be rounded to less than 1.
        at = np.searchsorted(ends, lots[: self.batch_size] * ends[-1], side="right").clip(max=self.gross - 1)
        return drawn[at], 1 / (self.gross * q[at])


class InfoBatchSampler(_RowSampler):
    """InfoBatch: an epoch leaves out a share of the rows below the mean loss, and weights the rest of those up.

    From the second epoch on, a row whose last loss is below the mean of all is left out with probability `prune`, else
    its loss is multiplied by 1 / (1 - prune), so that the expected gradient is that of all rows. The last epochs train
    on all.

    Args:
        data_rows, batch_size, seed: as of `LastSeenSampler`.
        prune: r, in [0, 1).
        until_epoch: the first epoch, counted from 0, from which on all rows are trained on again (the paper: the last
            eighth of training); None for never.

    Raises:
        ValueError: for values out of range.

    Reference:
        Qin et al., InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning, ICLR 2024, arXiv:2303.04947.
    """

    def __init__(
        self, data_rows: int, batch_size: int, *, prune: float = 0.5, until_epoch: int | None = None, seed: int = 0
    ):
        batch_size = whole("batch_size", batch_size, least=1)
        super().__init__(data_rows, batch_size, gross=batch_size, seed=seed)
        self.prune = within("prune", prune, "lie in [0, 1)", lambda value: 0 <= value < 1)
        self.until_epoch = None if until_epoch is None else whole("until_epoch", until_epoch, least=0)
        self._easy = np.zeros(self.seen.rows, dtype=bool)

    def _begin_epoch(self) -> None:
        ended = self.until_epoch is not None and self.epoch >= self.until_epoch
        losses, known = self.seen.losses.double(), self.seen.seen_at != NEVER
        if ended or not bool(known.any()):
            self._easy = np.zeros(self.seen.rows, dtype=bool)
            return
        self._easy = (known & (losses < losses[known].mean())).numpy()

    def _order(self) -> np.ndarray:
        order = super()._order()
        draws = np.random.default_rng([self.seed, self.epoch, 0]).random(self.seen.rows)
        return order[~(self._easy & (draws < self.prune))[order]]

    def _chosen(self, drawn: np.ndarray, lots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return drawn, np.where(self._easy[drawn], 1 / (1 - self.prune), 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "easy": torch.from_numpy(self._easy.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._easy = state["easy"].numpy().copy()


def _listed(ids: Any) -> list[int]:
    return ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else list(map(int, ids))


def _of_all_ranks(ids: Tensor, losses: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
    """What every rank noted, in their order."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [(ids, losses)]
    every_ids = [torch.empty_like(ids) for _ in range(dist.get_world_size())]
    every_losses = [torch.empty_like(losses) for _ in range(dist.get_world_size())]
    dist.all_gather(every_ids, ids.contiguous())
    dist.all_gather(every_losses, losses.contiguous())
    return list(zip(every_ids, every_losses, strict=True))
