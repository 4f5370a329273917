"""Sources of scores: objects that give each row of a gross batch a number, and learn from the rows that are kept.

    sift = Sift(model, score=Proxy(network, lr=1e-3))

An exit scores by the model itself; a source by anything else, alone or beside an exit. It is handed in as `score`, and
all other options hold for it as for any: `keep`, `select`, `random_share`, `scope`, `on_bad_scores`, the schedule.
`gsgd.sift.sources` has a module for each. One is written by two methods:

    scores(gross)     at a step that selects: (B,) numbers, larger is harder
    note(trained)     at every step until `end_step`, once the model has run on the rows that it trains on

and says by its class what it needs: ids of rows (`needs_ids`), the loss of an exit (`by_exit`), which is computed once,
by the scorer, in the pass that training takes over where it can, the features that the exit's head reads there
(`by_features`), the losses of the rows trained on (`needs_losses`), or nothing.

What a source has to keep to:

- `scores` changes nothing: readings ask for scores, too. What is learnt is learnt in `note`. What it draws, it draws
  from `gross.generator`, which a reading puts back.
- Whatever it computes, it computes in these two, so that it is timed and counted: `gsgd bench step` counts both in the
  step, and `training.costs.counted_work` in a budget of work.
- Ranks have one and the same state: what a rank notes, all note (`ranks.gathered`), and gradients are averaged. They
  select at the same steps and have as many rows each.
- `state_dict` has all that a resumed run needs to score as the run would have, bit for bit, in tensors and plain values
  that `torch.load(weights_only=True)` takes.

The engine works with a copy of the source that it is given, `Sift.source`: options may serve two engines, and a source
that has learnt is never begun with by mistake.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gsgd.sift.ranks import Ranks
from gsgd.sift.scoring_pass.head_inputs import Features


class ExitPass(Protocol):
    """What the exit of an engine makes of the gross batch; it runs once, whatever is asked of it.

    Attributes:
        losses: (B,), once it has run.
    """

    losses: Tensor | None

    def __call__(self, batch: Mapping[str, Any] | None = None) -> Tensor:
        """The losses (B,) of the exit, of the gross batch, or of another form of its rows."""
        ...

    def features(self) -> Features:
        """What the exit's head reads of the gross batch, `by_features` alone.

        Raises:
            ValueError: if that is not one vector a row.
        """
        ...


@dataclass(frozen=True)
class GrossBatch:
    """What is to be scored.

    Attributes:
        batch: the model's arguments and labels, without ids.
        size: B, its rows.
        device: where they lie.
        ids: (B,), of its rows, where the batch carried them.
        step: the optimizer step, counted from 0.
        generator: of the engine, for what is drawn; ranks that select together draw alike.
        exit_losses: what the engine's exit makes of it, `by_exit` alone; asked twice, it computes once.
            `exit_losses.features()` are what its head reads, `by_features` alone.
    """

    batch: Mapping[str, Any]
    size: int
    device: torch.device
    ids: Tensor | None
    step: int
    generator: torch.Generator
    exit_losses: ExitPass


@dataclass(frozen=True)
class TrainedRows:
    """Rows that the model trains on at a step.

    Attributes:
        batch: the model's arguments and labels.
        step: as of `GrossBatch`.
        ids: (k,), where the source needs ids.
        losses: (k,), float32, their losses in the training pass, where it needs ids or losses.
        exit_losses: (k,), of the exit at this step, where it needs ids; None where none has scored them.
        features: (k, d), `by_features` alone, likewise: what the head of the exit has read of them.
        gross: what this rank has scored at this step, all of its rows, `by_features` alone; None where nothing was
            scored.
    """

    batch: Mapping[str, Any]
    step: int
    ids: Tensor | None = None
    losses: Tensor | None = None
    exit_losses: Tensor | None = None
    features: Tensor | None = None
    gross: GrossBatch | None = None


class ScoreSource(ABC):
    """Scores the rows of gross batches; see the module for what it has to keep to.

    Attributes:
        needs_ids: whether batches must carry ids, and `data_rows` say how many there are.
        by_exit: whether it asks for the losses of the engine's exit.
        by_features: whether it asks for what the head of that exit reads; then `by_exit` is true, too.
        needs_losses: whether it learns from the losses of the rows trained on.
        learns_from_kept: whether it learns from the rows trained on and from no others, so that it would choose the
            same ones for ever: where `random_share` says nothing a quarter of the kept rows is drawn at random.
        learns_by_scoring: whether it learns at steps that select, and at no other.
        own_input: whether that exit is to score something else than the batch, so that training cannot take over what
            it computes.
        ranks: of the engine.
        data_rows: rows of the data set; None where nobody said.
    """

    needs_ids: bool = False
    by_exit: bool = False
    by_features: bool = False
    needs_losses: bool = False
    learns_from_kept: bool = False
    learns_by_scoring: bool = False
    own_input: bool = False
    ranks: Ranks
    data_rows: int | None

    def __repr__(self) -> str:
        return type(self).__name__

    def begin(self, ranks: Ranks, data_rows: int | None) -> None:
        """Training begins, by an engine of its own."""
        self.ranks, self.data_rows = ranks, data_rows

    @abstractmethod
    def scores(self, gross: GrossBatch) -> Tensor:
        """(B,), on the batch's device: larger is harder. It is called without gradients."""

    def note(self, trained: TrainedRows) -> None:  # noqa: B027
        """The model trains on these rows; what need not learn does nothing."""

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from `state`.

        Raises:
            ValueError: if it is of another source or other data.
        """
