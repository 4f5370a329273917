"""Selection in sentence-transformers' `SentenceTransformerTrainer` (extra `sentence-transformers`).

    trainer = SiftSentenceTransformerTrainer(model, args=..., train_dataset=pairs, sift=SiftArguments(score=hardness))

Its losses are of whole batches, so none of them says how hard a row is: rows are chosen at random, the control, or by a
callable that is given the embeddings of the gross batch. A loss with the other rows as negatives then sees those that
are kept only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from gsgd.commands.arguments import install
from gsgd.sift.batches.batch import BatchRows
from gsgd.sift.huggingface.trainer import SiftArguments, SiftMixin
from gsgd.sift.scoring_pass.mode import draws_kept

try:
    from sentence_transformers import SentenceTransformerTrainer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: {install('sentence-transformers')}", name=error.name) from error

_LABEL = "label"
"""What sentence-transformers' collator calls labels, whatever the data set's column is called."""


class SiftSentenceTransformerTrainer(SiftMixin, SentenceTransformerTrainer):
    """sentence-transformers' trainer with selection: see `SiftMixin`.

    A callable `score` is `(embeddings, labels) -> (B,)` or `(embeddings, labels, batch) -> (B,)`, larger being harder:
    embeddings (B, texts of a row, H) are of the gross batch, without gradients, labels those of the batch or None.

    Not tested: several processes, several data sets, a `Router`, CrossEncoder and SparseEncoder trainers.

    Args:
        sift: the selection's options, with `score="random"` or a callable.
        *args, **kwargs: as the SentenceTransformerTrainer's.

    Raises:
        ValueError: for options that need a loss of each row, or layers that exit.
    """

    def __init__(self, *args: Any, sift: SiftArguments, **kwargs: Any):
        _check(sift)
        names = sift.label_names or (_LABEL,)
        # Scores are of embeddings, which nothing else in a step computes for rows at a time.
        super().__init__(*args, sift=dataclasses.replace(sift, reuse=False, label_names=names), **kwargs)

    def _scored_model(self) -> nn.Module:
        return Embeddings(super()._scored_model(), lambda batch: self.collect_features(batch)[0])

    def _learn_rows(self, rows: BatchRows) -> None:
        data: Any = self.train_dataset
        rows.learn_fields(getattr(data, "column_names", None) or ())
        if not isinstance(data, IterableDataset) and hasattr(data, "column_names") and len(data):
            with draws_kept(self.sift.model):
                for number in (2, 3):
                    rows.learn(self.data_collator([data[place % len(data)] for place in range(number)]))


class Embeddings(nn.Module):
    """A SentenceTransformer as what scores are made of: the embeddings of all texts of a row.

    Args:
        model: the SentenceTransformer.
        features: batch -> one dictionary of inputs for each text of a row.
    """

    exit_layers = 1

    def __init__(self, model: nn.Module, features: Callable[[dict[str, Any]], list[dict[str, Tensor]]]):
        super().__init__()
        self.model, self.features = model, features

    def early_logits(self, exit_layer: int, **batch: Any) -> Tensor:
        """(B, texts, H)."""
        return torch.stack([self.model(inputs)["sentence_embedding"] for inputs in self.features(batch)], dim=1)


def _check(sift: SiftArguments) -> None:
    if not isinstance(sift, SiftArguments):
        raise ValueError(f"sift is a {type(sift).__name__} but must be SiftArguments")
    if sift.score != "random" and not callable(sift.score):
        raise ValueError(
            f"score = {sift.score!r} is the loss of a row, but sentence-transformers has losses of batches: give "
            '"random", or a callable (embeddings (B, texts, H), labels) -> (B,)'
        )
    refused = {
        "log_rows": sift.log_rows is not None,
        "labelled_head": sift.labelled_head,
        "meter_every": sift.meter_every > 0,
        "exit_layer": sift.exit_layer != 1,
    }
    for name, is_set in refused.items():
        if is_set:
            raise ValueError(
                f"{name} = {getattr(sift, name)!r} is not for sentence-transformers, whose models have embeddings in "
                "place of losses of rows and of exits"
            )
