"""Rows that have names: ids of a batch, the losses of those trained on, and scores by the losses last seen."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gsgd import host
from gsgd.sift.batches.batch_structure import device_of, same_tensors
from gsgd.sift.measures.readings import Columns, Reading
from gsgd.sift.models.wrappers import unwrap
from gsgd.sift.options import SiftOptions
from gsgd.sift.ranks import Ranks
from gsgd.sift.scorer import Scorer
from gsgd.sift.scoring_pass.mode import draws_kept, scoring_mode
from gsgd.sift.scoring_pass.module_state import unchanged
from gsgd.sift.scoring_pass.row_losses import IGNORED
from gsgd.sift.sources.last_seen import UNSEEN, LastSeen, as_ids, check_age_bound, check_ids
from gsgd.sift.sources.trained_losses import TrainedLosses

ENOUGH_REMEMBERED = 1000
"""Ids whose class is remembered, and no more after them, to notice ids that change."""
LOOK_EVERY = 16
"""From then on every so many steps are looked at: ids that change do so in every step."""


class Drawn(NamedTuple):
    """The rows (B,) of this rank's batch: ids, and whether each was kept."""

    ids: Tensor
    kept: Tensor


class Trained(NamedTuple):
    """Rows (k,) that were trained on: ids and losses; what they were chosen from, and the losses of an exit then."""

    ids: Tensor
    losses: Tensor
    drawn: Drawn | None
    exit_losses: Tensor | None = None


class _Awaited(NamedTuple):
    """Rows that were chosen and not trained on yet."""

    rows: Mapping[str, Any]
    ids: Tensor
    drawn: Drawn | None
    exit_losses: Tensor | None


class NamedRows:
    """Notes the losses of the rows that a step trained on, and, if they are to, scores rows by those last seen.

    Args:
        options: of the engine, with a score by ids or `log_rows`.
        ranks: every rank notes what all of them have seen.

    Attributes:
        seen: the losses last seen; None before the first batch, which tells where they lie, and where they score
            nothing.
    """

    def __init__(self, options: SiftOptions, ranks: Ranks):
        self.options = options
        self.ranks = ranks
        self.seen: LastSeen | None = None
        self.trained = TrainedLosses.of_options(options)
        self._state: Mapping[str, Any] | None = None
        self._labels: dict[int, int] = {}
        # Chosen and not trained on yet: a trainer may choose all micro-batches of a step before the first is trained.
        most = max(2, options.accumulation_steps)
        self._awaiting: deque[_Awaited] = deque(maxlen=most)

    def ids(self, batch: Any) -> Tensor:
        """(B,), int64: the ids that a batch carries.

        Raises:
            ValueError: if it carries none, or they do not name rows of the data one to one.
        """
        key = self.options.id_key
        if not isinstance(batch, Mapping) or key not in batch:
            held = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise ValueError(
                f"{self.options.ids_needed_for} needs the ids of a batch's rows under {key!r} (id_key), but it holds: "
                f"{held}. gsgd.sift.WithIds(data) puts each sample's index there; samples of a stream need ids of "
                "their own"
            )
        ids = as_ids(batch[key])
        if len(ids) == 0:
            raise ValueError(f"{key!r} holds no ids")
        return ids

    @property
    def _scores(self) -> bool:
        return self.options.score == "last-seen"

    @property
    def _rows(self) -> int:
        assert self.options.data_rows is not None  # the options have seen to it
        return self.options.data_rows

    def scores(self, ids: Tensor, *, step: int, device: torch.device) -> Tensor:
        """(B,), float32, on the device: the losses last seen; rows never seen come first."""
        if self.seen is None:
            self.seen = LastSeen(self._rows, device)
            if self._state is not None:
                self.seen.load_state_dict(self._state)
            check_age_bound(self.options.max_age, rows=self.seen.rows, gross=len(ids) * self.ranks.size)
        return self.seen.scores(ids, step=step, max_age=self.options.max_age)

    def read(self, scorer: Scorer, batch: Mapping[str, Any], ids: Tensor, *, step: int) -> Reading:
        """How well the losses last seen of a gross batch stand in for its exact ones; it waits for a device.

        A forward pass of the batch, without gradients and in the mode that `scoring_mode` names, of which nothing is
        left; none where no row of it was ever seen.

        Raises:
            ValueError: as `TrainedLosses.of`.
        """
        return self.columns(scorer, batch, ids, step=step).reading(scorer.keep, step=step)

    def columns(self, scorer: Scorer, batch: Mapping[str, Any], ids: Tensor, *, step: int) -> Columns:
        """The losses last seen beside the exact ones, see `read`."""
        ids = check_ids(ids, self._rows)
        scores = self.scores(ids, step=step, device=device_of(batch))
        return columns_of_scores(scorer, self.trained, batch, scores, scores < UNSEEN)

    def awaits(
        self, rows: Mapping[str, Any], ids: Tensor, drawn: Drawn | None = None, exit_losses: Tensor | None = None
    ) -> None:
        """Rows with these ids are about to be trained on; `exit_losses` (k,) are what an exit has made of them."""
        self._awaiting.append(_Awaited(rows, ids, drawn, exit_losses))

    def note(
        self,
        output: Any,
        rows: Mapping[str, Any],
        batch: Mapping[str, Any],
        *,
        step: int,
        positions: tuple[Tensor, int] | None = None,
        items: Tensor | int | None = None,
    ) -> Trained | None:
        """The ids and losses of rows that were chosen, from the model's output on them; None for other rows.

        Args:
            output: the model's, on `batch`: the rows, with labels as the model saw them.
            positions, items: as of `TrainedLosses.of`.

        Raises:
            ValueError: as `TrainedLosses.of`; where rows have a class each, on the host, for an id that has another one
                than before.
        """
        for place, entry in enumerate(self._awaiting):
            if same_tensors(entry.rows, rows):
                del self._awaiting[place]
                break
        else:
            return None
        if self.options.check:
            self._check_labels(entry.ids, rows.get(self.trained.labels))
        losses = self.trained.of(output, batch, positions=positions, items=items)
        ids = host.sent(entry.ids, losses.device)
        trained = Trained(ids, losses, entry.drawn, entry.exit_losses)
        if not self._scores:
            return trained
        if self.seen is None:
            self.seen = LastSeen(self._rows, losses.device)
        everywhere = (ids, losses) if self.ranks.size == 1 else (self.ranks.gathered(ids), self.ranks.gathered(losses))
        self.seen.note(*everywhere, step=step)
        return trained

    def _check_labels(self, ids: Tensor, labels: Any) -> None:
        """Of some ids the class is remembered: one that comes back with another does not always name the same row."""
        if len(self._labels) >= ENOUGH_REMEMBERED and self.trained.steps % LOOK_EVERY:
            return
        if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
            return
        if not host.holds(labels) or not host.holds(ids):
            return
        present = dict(zip(ids.tolist(), labels.tolist(), strict=True))
        for name in self._labels.keys() & present.keys():
            before, now = self._labels[name], present[name]
            if before != now:
                raise ValueError(
                    f"id {name} came with the label {before} and comes with {now} now: an id must name the same row in "
                    "every epoch, so number the rows before they are shuffled (gsgd.sift.WithIds); where labels of a "
                    "row do change, check=False"
                )
        if len(self._labels) < ENOUGH_REMEMBERED:
            self._labels |= present

    def state_dict(self) -> dict[str, Any]:
        """The losses last seen, and what was learnt of labels."""
        table = self.seen.state_dict() if self.seen is not None else self._state
        return {"seen": table, "shift": self.trained.shift, "steps": self.trained.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if it is of another number of rows.
        """
        self._state, self.trained.shift, self.trained.steps = state["seen"], state["shift"], state["steps"]
        if self._state is not None:
            seen = LastSeen(self._rows)
            seen.load_state_dict(self._state)  # so that another data set is refused here
            self.seen = None


def columns_of_scores(
    scorer: Scorer, trained: TrainedLosses, batch: Mapping[str, Any], scores: Tensor, usable: Tensor
) -> Columns:
    """Scores (B,) of a gross batch, wherever they come from, beside its exact losses.

    A forward pass of the batch, without gradients and in the mode that `scoring_mode` names, of which nothing is left;
    none where no row is usable. It waits for a device.

    Args:
        trained: what reads the losses of rows off the model's output.
        usable: (B,), bool: rows that have a score.

    Raises:
        ValueError: as `TrainedLosses.of`.
    """
    losses = scores
    if bool(usable.any()):
        model = unwrap(scorer.model)
        with contextlib.ExitStack() as stack:
            for kept in (torch.no_grad(), unchanged(model), draws_kept(model)):
                stack.enter_context(kept)
            stack.enter_context(scoring_mode(model, scorer.options.scoring_mode))
            found = [trained.peek(model(**part), part) for part in scorer.parts(batch)]
        losses = torch.cat(found)
        usable = usable & _labelled(batch.get(trained.labels), losses)
    return Columns(0, scores, losses, usable)


def _labelled(labels: Any, losses: Tensor) -> Tensor:
    """(B,), bool: the rows with a label, where rows have several."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or len(labels) != len(losses):
        return torch.ones_like(losses, dtype=torch.bool)
    return (labels.reshape(len(losses), -1) != IGNORED).any(dim=1)
