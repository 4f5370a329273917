"""A small network that is trained beside the model, on the rows that are kept, and scores by its own losses.

    sift = Sift(model, score=Proxy(small, lr=1e-3))

A step costs the small network's forward pass on the gross batch, and its training on the rows that are kept; the model
scores nothing. Its losses rank rows as the model's do as far as what is hard for one is hard for the other.

Trained on nothing but what it chose, a small network forgets the rest, and its order with it: on a table with 2%
positives the rows that it kept had 1.7 times the mean loss after 1,600 steps of 3,900 and 1.15 times after 3,200. A
quarter of the kept rows is therefore drawn at random, unless `random_share` says otherwise; then 1.7 and 1.4.

Reference:
    Jordan: airbench, github.com/KellerJordan/cifar10-airbench, `airbench96_faster.py`, which trains its small network
    first, with a backward pass of the gross batch; here it is trained beside the model, and on what that trains on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gsgd.ranges import within
from gsgd.sift.ranks import Ranks
from gsgd.sift.score_source import GrossBatch, ScoreSource, TrainedRows
from gsgd.sift.scoring_pass.forward import loss_of
from gsgd.sift.sources.trained_losses import RowLossFunction, TrainedLosses


class Proxy(ScoreSource):
    """Scores rows by the losses of a small network, which each step trains on the rows that it keeps.

    The network is called as the model is, with a batch and its labels, and returns a mean loss and logits. It scores in
    eval mode, so that scoring draws nothing and moves no statistics. It is trained at steps that do not select, too, so
    that it knows something when the first one does; once selection has ended it rests.

    Args:
        network: on the model's device, with weights of its own. With several ranks those of rank 0 are everybody's, and
            gradients are averaged.
        lr: of AdamW, above 0; it stays.
        optimizer: of the network's weights, in place of AdamW; with a learning rate of its own.
        row_losses: `(output, batch) -> (k,)`, where the network's loss is not the cross-entropy of its logits.
        labels: the batch's entry of labels.

    Raises:
        ValueError: for a network without weights that train, or a learning rate out of range.
    """

    learns_from_kept = True

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float = 1e-3,
        optimizer: torch.optim.Optimizer | None = None,
        row_losses: RowLossFunction | None = None,
        labels: str = "labels",
    ):
        if not isinstance(network, nn.Module):
            raise ValueError(f"network is a {type(network).__name__} but must be a torch.nn.Module")
        self.network = network
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        if not self.weights:
            raise ValueError(f"network = {type(network).__name__} has no weights that train")
        lr = within("lr", lr, "be above 0", lambda value: value > 0)
        self.optimizer = torch.optim.AdamW(self.weights, lr=lr) if optimizer is None else optimizer
        self._losses = TrainedLosses(row_losses, labels)

    def begin(self, ranks: Ranks, data_rows: int | None) -> None:
        super().begin(ranks, data_rows)
        for value in self.network.state_dict().values():
            value.copy_(ranks.of_first(value))

    def scores(self, gross: GrossBatch) -> Tensor:
        """(B,), float32: the network's losses."""
        self.network.eval()
        found: Tensor = self._losses.peek(self.network(**gross.batch), gross.batch)
        return found

    def note(self, trained: TrainedRows) -> None:
        """A step of the network on these rows."""
        self.network.train()
        with torch.enable_grad():
            output = self.network(**trained.batch)
            loss = loss_of(output)
            if loss is None:
                raise ValueError(f"{type(self.network).__name__} returns no loss to train it by")
            self.optimizer.zero_grad()
            loss.backward()
        for weight in self.weights:
            if weight.grad is not None:
                weight.grad = self.ranks.mean(weight.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self._losses.shift is None:
            self._losses.of(output, trained.batch)  # which learns how labels are read, once, from values

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if it is of another network.
        """
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"the state is not of this {type(self.network).__name__}: {error}") from error
