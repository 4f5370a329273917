"""The rows of a batch, to choose from; and what rows, packed documents and labelled tokens have in common."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from gsgd.sift.choice import Selection, number_kept
from gsgd.sift.gross_scores import GrossScores
from gsgd.sift.ranks import Ranks, exchange_rows
from gsgd.sift.score_source import GrossBatch
from gsgd.sift.shared_forward.capture import Capture


class Taken(NamedTuple):
    """What a step trains on.

    Attributes:
        batch: in the structure of the gross batch.
        rows: (k,) of the gross batch; of all ranks' laid end to end, if they select together.
        number: how many rows this rank trains on.
        tokens: (B, T), bool, the labels that count; None if all do.
    """

    batch: Any
    rows: Tensor
    number: int
    tokens: Tensor | None = None


class Candidates(Protocol):
    """What a step chooses from, of one gross batch."""

    gross: GrossBatch | None
    """What a source was given to score them; None where none has."""

    def __len__(self) -> int:
        """How many there are on this rank."""

    def number_kept(self, keep: float) -> tuple[int, str]:
        """(how many to keep of them; why that is all of them if it is)."""

    def scores(self, exit_layer: int, capture: Capture | None = None) -> Tensor | None:
        """(N,), by an exit or what else scores; None where nothing does.

        Args:
            capture: takes down what the layers compute, for the training pass.
        """

    def taken(self, chosen: Tensor) -> Taken:
        """Those chosen (k,), in ascending order, as a batch."""

    def tokens_of(self, selection: Selection) -> tuple[int, int] | None:
        """(tokens of the gross batch, tokens trained on); None where they are not counted."""


class Rows:
    """The rows of a gross batch.

    Args:
        model: as the engine was given it.
        batch: of this rank.
        size: B, its number of rows.
        ids: (B,), of its rows; None where it has none.
        step: at which they are scored.
        scoring: scores them.
        ranks: which select together, or each by itself.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Any,
        size: int,
        ids: Tensor | None,
        *,
        step: int,
        scoring: GrossScores,
        ranks: Ranks,
    ):
        self.model, self.batch, self.size, self.ids, self.step = model, batch, size, ids, step
        self.scoring, self.ranks = scoring, ranks
        self._rows = scoring.scorer.rows
        self.gross: GrossBatch | None = None

    def __len__(self) -> int:
        return self.size

    def number_kept(self, keep: float) -> tuple[int, str]:
        """As `Candidates` has it: at least 1, and 2 where a BatchNorm trains."""
        return number_kept(self.model, self.batch, self.size, keep)

    def scores(self, exit_layer: int, capture: Capture | None = None) -> Tensor | None:
        """As `Candidates` has it: by an exit, losses last seen, or a source.

        Raises:
            ValueError: as `GrossScores.of`.
        """
        scores, self.gross = self.scoring.of(
            self.batch, self.ids, exit_layer=exit_layer, step=self.step, capture=capture
        )
        return scores

    def taken(self, chosen: Tensor) -> Taken:
        """As `Candidates` has it; of rows of all ranks, if they select together, this rank's share."""
        if self.ranks.together:
            batch = exchange_rows(self.batch, chosen, self.ranks, self._rows)
            return Taken(batch, chosen, self._rows.size(batch))
        return Taken(self._rows.take(self.batch, chosen), chosen, len(chosen))

    def tokens_of(self, selection: Selection) -> tuple[int, int] | None:
        """None: of rows that are not packed, padding is not told from tokens."""
        return None
