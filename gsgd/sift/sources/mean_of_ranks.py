"""The mean of several sources, each by the ranks that it gives to the rows of a gross batch.

    sift = Sift(model, score=MeanOfRanks(ExitLoss(), Proxy(small)), exit_layer=1)

Ranks, not scores: sources have scales of their own, which change as training goes on, and losses have long tails, so
that of standardised scores the source with the largest outlier would choose. Ranks use of each source what selection
uses of a single one, its order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gsgd.sift.ranks import Ranks
from gsgd.sift.score_source import GrossBatch, ScoreSource, TrainedRows


class ExitLoss(ScoreSource):
    """The loss of the engine's exit as it is, to be one of several."""

    by_exit = True

    def scores(self, gross: GrossBatch) -> Tensor:
        """(B,): the exit's losses."""
        return gross.exit_losses()


class MeanOfRanks(ScoreSource):
    """Scores rows by the mean of the ranks that sources give them; it costs what all of them cost.

    Rows of equal scores share their mean rank. If ranks of processes select together, rows are ranked among those of
    all of them.

    Args:
        *sources: at least 2.

    Raises:
        ValueError: for fewer, or for what is no source.
    """

    def __init__(self, *sources: ScoreSource):
        if len(sources) < 2:
            raise ValueError(f"MeanOfRanks has {len(sources)} sources but must have at least 2")
        for source in sources:
            if not isinstance(source, ScoreSource):
                raise ValueError(f"{source!r} must be a ScoreSource, of gsgd.sift.sources or of your own")
        self.sources = sources
        self.needs_ids = any(source.needs_ids for source in sources)
        self.by_exit = any(source.by_exit for source in sources)
        self.by_features = any(source.by_features for source in sources)
        self.needs_losses = any(source.needs_losses for source in sources)
        self.learns_from_kept = any(source.learns_from_kept for source in sources)
        self.learns_by_scoring = any(source.learns_by_scoring for source in sources)
        self.own_input = any(source.own_input for source in sources)

    def begin(self, ranks: Ranks, data_rows: int | None) -> None:
        super().begin(ranks, data_rows)
        for source in self.sources:
            source.begin(ranks, data_rows)

    def scores(self, gross: GrossBatch) -> Tensor:
        """(B,), float64: mean ranks, from 0 for the easiest row on."""
        return torch.stack([self._ranks_of(source.scores(gross)) for source in self.sources]).mean(dim=0)

    def _ranks_of(self, scores: Tensor) -> Tensor:
        """(B,) ranks, NaN of a score that is not finite: such a row is on_bad_scores' to deal with."""
        everything = self.ranks.gathered(scores.double()) if self.ranks.together else scores.double()
        below = (everything[None] < scores[:, None]).sum(dim=1)
        equal = (everything[None] == scores[:, None]).sum(dim=1)
        return torch.where(torch.isfinite(scores), below + (equal - 1) / 2, torch.nan).double()

    def note(self, trained: TrainedRows) -> None:
        """Each source learns from the rows."""
        for source in self.sources:
            source.note(trained)

    def state_dict(self) -> dict[str, Any]:
        """Those of the sources."""
        return {"sources": [source.state_dict() for source in self.sources]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if it is of other sources.
        """
        if len(state["sources"]) != len(self.sources):
            raise ValueError(f"the state is of {len(state['sources'])} sources, but there are {len(self.sources)}")
        for source, own in zip(self.sources, state["sources"], strict=True):
            source.load_state_dict(own)
