"""A linear head of its own on the features of an exit, which sources train beside the model.

    outputs  =  V h + b,        h in R^d what the exit's own head reads,        one output a class

The features come out of the exit's pass, which is made anyway, and are constants: no gradient reaches the model. The
head begins at 0 and is trained by AdamW with a learning rate that stays. A step costs 2 d C operations a row to score,
and 4 d C a row to train, as the gradient of the features is not asked for.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsgd.ranges import within
from gsgd.sift.score_source import GrossBatch, ScoreSource, TrainedRows


class ExitHead(ScoreSource):
    """Scores rows by a head on an exit's features; what it scores by, and learns from, a subclass says.

    It learns at steps that select, where the exit has scored. All ranks have the same head: gradients are averaged.

    Args:
        lr: of AdamW, above 0; it stays.
        labels: the batch's entry of classes, one a row.

    Attributes:
        head: None before the first batch, which tells its width.

    Raises:
        ValueError: for a learning rate out of range.
    """

    by_exit = True
    by_features = True
    learns_by_scoring = True

    def __init__(self, *, lr: float = 1e-2, labels: str = "labels"):
        self.lr = within("lr", lr, "be above 0", lambda value: value > 0)
        self.labels = labels
        self.head: nn.Linear | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self._state: Mapping[str, Any] | None = None

    def scores(self, gross: GrossBatch) -> Tensor:
        """(B,), float32 or float64: of each row, by its own class.

        Raises:
            ValueError: if the exit does not read one vector a row, or rows have not one class each.
        """
        features, labels = gross.exit_losses.features(), self.classes_of(gross.batch, gross.size)
        return self.row_scores(self.outputs(features.values, features.classes), labels)

    def note(self, trained: TrainedRows) -> None:
        """A step of the head, on rows that the exit has scored at this step."""
        loss = self.loss(trained)
        if loss is None:
            return
        # There was a loss, and with it a head.
        assert self.head is not None
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        loss.backward()
        for weight in self.head.parameters():
            assert weight.grad is not None
            weight.grad = self.ranks.mean(weight.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @abstractmethod
    def row_scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(B,) scores of rows with these outputs (B, C) and classes (B,)."""

    @abstractmethod
    def loss(self, trained: TrainedRows) -> Tensor | None:
        """What a step of the head is to lower, with its graph; None where there is nothing to learn from."""

    def outputs(self, values: Tensor, classes: int) -> Tensor:
        """(B, C) of features (B, d), in their own precision whatever autocast says."""
        head = self._at(values, classes)
        kind = values.device.type
        available = torch.amp.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if available else contextlib.nullcontext():
            return F.linear(values, head.weight, head.bias)

    def classes_of(self, batch: Mapping[str, Any], rows: int) -> Tensor:
        """(rows,) classes.

        Raises:
            ValueError: if rows have not one each.
        """
        labels = batch.get(self.labels)
        if not isinstance(labels, Tensor) or labels.shape != (rows,) or labels.is_floating_point():
            found = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise ValueError(f"{self.labels!r} is {found}, but {type(self).__name__} needs one class a row, ({rows},)")
        return labels

    def _at(self, values: Tensor, classes: int) -> nn.Linear:
        if self.head is None:
            # So that nothing is drawn.
            head = nn.utils.skip_init(nn.Linear, values.shape[1], classes, device=values.device, dtype=values.dtype)
            for weight in head.parameters():
                nn.init.zeros_(weight)
            self.head, self.optimizer = head, torch.optim.AdamW(head.parameters(), lr=self.lr, weight_decay=0.0)
            if self._state is not None:
                self._take(self._state)
        return self.head

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer; None of them before the first batch."""
        if self.head is None or self.optimizer is None:
            return dict(self._state) if self._state is not None else {"head": None, "optimizer": None}
        return {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if it is of another source, or, as soon as that is known, of a head of another shape.
        """
        missing = {"head", "optimizer"} - set(state)
        if missing:
            raise ValueError(f"the state is not of a {type(self).__name__}: it lacks {', '.join(sorted(missing))}")
        self._state = None if state["head"] is None else dict(state)
        if self._state is None:
            self.head = self.optimizer = None
        elif self.head is not None:
            self._take(self._state)

    def _take(self, state: Mapping[str, Any]) -> None:
        # They were made just now, or before.
        assert self.head is not None
        assert self.optimizer is not None
        try:
            self.head.load_state_dict(state["head"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"the state is not of this head of {type(self).__name__}: {error}") from error
        self._state = None
