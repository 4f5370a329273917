"""Selection in TRL's `SFTTrainer` (extra `trl`).

trainer = SiftSFTTrainer(model, args=SFTConfig(...), train_dataset=data, sift=SiftArguments(exit_layer=8, keep=0.5))
trainer.train()

Rows are what TRL's collator makes: samples, or with `packing=True` or `padding_free=True` the documents of a pack
(`gsgd.sift.candidates.packed_documents`; `keep_tokens=True` lets `keep` be a share of their tokens). Scores are losses
by the labels that TRL gives the model, so that prompts count as little as in its loss.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from gsgd.commands.arguments import install
from gsgd.sift.huggingface.trainer import SiftMixin

try:
    from trl import SFTTrainer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: {install('trl')}", name=error.name) from error


class SiftSFTTrainer(SiftMixin, SFTTrainer):
    """TRL's `SFTTrainer` with selection: see `SiftMixin`.

    TRL's own logs (`entropy`, `mean_token_accuracy`, `num_tokens`) are of the rows that are trained on. Its losses
    "nll" and "dft" are trained on as ever; both are scored by the cross-entropy.

    Not tested: vision-language models, Liger kernels, sequence parallelism, expert models.

    Args:
        sift: the selection's options; None for the defaults.
        *args, **kwargs: as the SFTTrainer's.

    Raises:
        ValueError: for options that the model or the batches do not admit.
    """

    def _number_rows(self) -> None:
        if type(self.data_collator).__module__.startswith("trl."):
            raise ValueError(
                f"{self.sift_arguments.ids_needed_for} needs the ids of rows, but TRL's collators leave nothing of a "
                f"sample but its tokens: pass a data_collator that keeps {self.sift_arguments.id_key!r}"
            )
        super()._number_rows()

    def _loss_of_row(self, row: Mapping[str, Any]) -> Any:
        arguments: Any = self.args
        if arguments.loss_type != "nll":  # trained on, but not scored by
            return self.sift.scorer.own_loss(row)
        with self._metrics_as_ever():
            return super()._loss_of_row(row)

    def _learn_loss_scale(self, model: nn.Module, batches: list[Any]) -> bool:
        with self._metrics_as_ever():
            return super()._learn_loss_scale(model, batches)

    @contextmanager
    def _metrics_as_ever(self) -> Iterator[None]:
        """Losses within the block, which nothing is trained on, are in no log."""
        metrics, tokens = copy.deepcopy(self._metrics), self._total_train_tokens
        try:
            yield
        finally:
            self._metrics, self._total_train_tokens = metrics, tokens
