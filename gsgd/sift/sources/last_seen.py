"""The loss last seen of each row of a data set: a score that costs no forward pass.

    seen = LastSeen(rows=60_000)
    scores = seen.scores(ids, step=step)         # never seen: the largest number there is
    ...                                          # train on some of them
    seen.note(ids[kept], losses, step=step)

An early exit is one approximate loss, the loss last seen of a row is another. With the same crop and no dropout it is
f(w', x) at an earlier iterate w'. If f(., x) is L-smooth and nonnegative, sqrt(f(w, x)) and sqrt(f(w', x)) differ by at
most sqrt(L/2) |w - w'|, so that the mean loss of the kept rows falls short of that of the hardest by a bounded factor
(`theory.formulas.stale`). The bound needs the age of a score to be bounded; so does `max_age` here.
"""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gsgd import host
from gsgd.ranges import whole

UNSEEN = torch.finfo(torch.float32).max
"""The score of a row that was never seen, or too long ago, so that it comes first."""
NEVER = -1


class LastSeen:
    """For each row of a data set its loss when last seen, and at which step that was; 8 bytes a row.

    Args:
        rows: of the data set; their ids are 0..rows-1. At least 1.
        device: where the table lies: that of the losses, so that nothing waits.

    Attributes:
        losses: (rows,), float32; `UNSEEN` of rows never seen, so that they are scores as they are.
        seen_at: (rows,), int32, the step at which each was last seen, or -1.

    Raises:
        ValueError: if `rows` is not a whole number of at least 1.
    """

    def __init__(self, rows: int, device: torch.device | str = "cpu"):
        if not isinstance(rows, numbers.Number):
            raise ValueError(
                f"data_rows is a {type(rows).__name__} but must be the number of rows of the data set, len(data); of a "
                "stream, one above all ids"
            )
        self.rows = whole("data_rows", rows, least=1, most=2**40)
        self.losses = torch.full((self.rows,), UNSEEN, device=device)
        self.seen_at = torch.full((self.rows,), NEVER, dtype=torch.int32, device=device)

    def scores(self, ids: Tensor, *, step: int, max_age: int | None = None) -> Tensor:
        """(B,), float32: the losses last seen of rows `ids` (B,), `UNSEEN` of those that come first.

        Args:
            step: the present one, which ages are counted to.
            max_age: in steps; a row that was last seen longer ago counts as never seen. None for no bound.

        Raises:
            ValueError: as `check_ids`; on a device an id out of range gets the score NaN.
        """
        ids = check_ids(ids, self.rows)
        if host.holds(self.losses):
            return self._scores(ids, step, max_age)
        ids = ids.to(self.losses.device)
        inside = (ids >= 0) & (ids < self.rows)
        return torch.where(inside, self._scores(ids.clamp(0, self.rows - 1), step, max_age), torch.nan)

    def _scores(self, ids: Tensor, step: int, max_age: int | None) -> Tensor:
        scores = self.losses.index_select(0, ids)
        if max_age is None:
            return scores
        return scores.masked_fill_(self.seen_at.index_select(0, ids) < step - max_age, UNSEEN)

    def note(self, ids: Tensor, losses: Tensor, *, step: int) -> None:
        """Rows `ids` (k,) had these losses (k,) at this step.

        Raises:
            ValueError: if there are not as many of the two.
        """
        if ids.shape != losses.shape or ids.dim() != 1:
            raise ValueError(f"ids has shape {tuple(ids.shape)} and losses {tuple(losses.shape)}: both must be (k,)")
        ids = ids.to(self.losses.device)
        if not host.holds(ids):
            ids = ids.clamp(0, self.rows - 1)  # what is out of range was found when it was scored
        self.losses.index_copy_(0, ids, losses.detach().to(self.losses))
        self.seen_at.index_fill_(0, ids, step)

    @property
    def share_seen(self) -> float:
        """The share of rows that were seen at least once; on a device, reading it waits."""
        return float((self.seen_at != NEVER).float().mean())

    def state_dict(self) -> dict[str, Tensor]:
        """The table, on the host."""
        return {"losses": self.losses.cpu(), "seen_at": self.seen_at.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if it is of another number of rows.
        """
        losses, seen_at = state["losses"], state["seen_at"]
        if len(losses) != self.rows:
            raise ValueError(
                f"the state has losses of {len(losses)} rows, but data_rows = {self.rows}: resume on the same data"
            )
        self.seen_at.copy_(seen_at)
        # Older states have NaN of rows never seen.
        self.losses.copy_(losses).masked_fill_(self.seen_at == NEVER, UNSEEN)


def as_ids(ids: Any) -> Tensor:
    """`ids` as a tensor (B,) of int64, whatever they are.

    Raises:
        ValueError: if they are no whole numbers in one axis.
    """
    if isinstance(ids, Tensor) and ids.dtype == torch.int64 and ids.dim() == 1:
        return ids  # the usual case, told apart quickly
    try:
        found = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError):
        what = type(ids).__name__
        if isinstance(ids, (list, tuple)) and ids:
            what += f" of {type(ids[0]).__name__}"
        raise ValueError(f"ids of type {what} {_WHOLE}") from None
    if found.dim() != 1 or found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool:
        raise ValueError(f"ids of shape {tuple(found.shape)} and {found.dtype} {_WHOLE}")
    return found.long()


_WHOLE = "must be whole numbers of shape (B,): number the rows from 0 (gsgd.sift.WithIds does)"


def outside(name: int, rows: int) -> ValueError:
    """The error for an id that names no row."""
    return ValueError(
        f"id {name} must lie in 0..{rows - 1}, the rows of the data (data_rows): number them from 0 (gsgd.sift.WithIds "
        "does), or raise data_rows"
    )


def check_ids(ids: Any, rows: int) -> Tensor:
    """`ids` as a tensor (B,) of int64.

    Raises:
        ValueError: if they are no whole numbers in one axis, or, where the host holds them, if one is out of range or
            comes twice.
    """
    found = as_ids(ids)
    if not host.holds(found) or len(found) == 0:
        return found
    listed = found.tolist()  # quicker than arrays on so few numbers, the first call of which takes longest
    low, high = min(listed), max(listed)
    if low < 0 or high >= rows:
        raise outside(low if low < 0 else high, rows)
    if len(set(listed)) < len(listed):
        twice = next(row for row, times in Counter(listed).items() if times > 1)
        raise ValueError(
            f"id {twice} comes twice in one batch: ids must name rows one to one; a sampler that "
            "fills up the last batch needs drop_last=True"
        )
    return found


def check_age_bound(max_age: int | None, *, rows: int, gross: int) -> None:
    """Whether rows can be met often enough for an age bound.

    Raises:
        ValueError: if `max_age` is below the steps that one pass over the data takes, so that every row comes too late.
    """
    steps = rows / gross
    if max_age is not None and max_age < steps:
        raise ValueError(
            f"max_age = {max_age} steps cannot hold: a row is drawn once in {steps:.0f} steps ({rows} rows, {gross} a "
            "step), so every score would be too old; raise it to several times that"
        )
