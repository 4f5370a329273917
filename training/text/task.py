"""BERT's pretraining as a `Task`: masked language modelling plus next-sentence prediction (Section 7.1, Appendix F)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertForPreTraining

from gsgd.ranges import whole
from gsgd.sift.huggingface.collator import MaskingCollator
from gsgd.sift.scoring_pass.row_losses import IGNORED
from training.data.cache import default_cache
from training.task import SPLITS, held_out_rows
from training.text.bert import bert_config
from training.text.documents import parse_source
from training.text.pairs import VERSION as PAIRS
from training.text.pairs import sentence_pairs
from training.text.sentences import VERSION as SENTENCES
from training.text.settings import TextSettings
from training.text.splits import split_documents, token_counts, without
from training.text.tokens import VERSION as TOKENS
from training.text.tokens import Tokens, tokenize
from training.text.wordpieces import SPECIAL, most_frequent, renumbering, tokenizer

HELD_OUT_SEED = 0
"""Of the pairs and masks of held-out rows, whatever the run's seed."""
_JUDGED_AT_ONCE = 1024
"""Positions whose logits are copied in float32 together: 125 MB with BERT's vocabulary."""


def build_bert(settings: TextSettings) -> BertForPreTraining:
    """A new `BertForPreTraining` with GELU; with the default settings, the paper's 110M parameters (Section 7.1).

    Its loss is the mean over masked tokens plus the mean next-sentence loss (Appendix F). It needs no data, is
    initialised from torch's global generator, and is made on torch's default device.
    """
    return BertForPreTraining(bert_config(settings))


class TextTask:
    """A BERT and its text, see `training.task.Task`; everything is a function of the settings and the seed.

    Making one tokenises the sources and builds the sentence pairs, or finds both in the cache. Held-out rows and their
    masks are the same for all seeds and epochs, so that all runs on the same data are judged alike.

    Args:
        settings: of data and model.
        seed: >= 0, of the training rows' pairs and masks.

    Attributes:
        tokenizer: of the whole vocabulary.
        kept_ids: (vocab_size,), its ids in the order of the model's own, if `vocab_limit` is set; else None.
        vocab_size: of the model.

    Raises:
        ValueError: if a source cannot be read, or a split that was asked for has less than two documents.
    """

    rare_class: int | None = None

    def __init__(self, settings: TextSettings, seed: int):
        self.settings = settings
        self.seed = whole("seed", seed, least=0)
        self._cache = (Path(settings.cache_dir).expanduser() if settings.cache_dir else default_cache()) / "text"
        vocabulary = settings.vocabulary or None
        self.tokenizer = tokenizer(vocabulary)

        self._tokens = {"train": self._read(settings.data, vocabulary)}
        self._tokens |= dict.fromkeys(SPLITS, self._tokens["train"])
        documents = split_documents(
            self._tokens["train"].hashes,
            validation_share=0 if settings.validation_data else settings.validation_share,
            test_share=settings.test_share,
        )
        if settings.validation_data:
            held_out = self._tokens["validation"] = self._read(settings.validation_data, vocabulary)
            documents["validation"] = np.arange(len(held_out.hashes))
            for split in ("train", "test"):
                documents[split] = without(self._tokens[split], documents[split], held_out.hashes)
        self._rows = {split: self._pairs(split, chosen) for split, chosen in documents.items()}
        limit = settings.max_validation_rows
        if 0 < limit < len(self._rows["validation"]):
            spaced = np.arange(limit) * len(self._rows["validation"]) // limit
            self._rows["validation"] = self._rows["validation"][spaced]

        self._set_vocabulary(documents["train"])
        self.train_size = len(self._rows["train"])
        self.splits = tuple(split for split in SPLITS if len(self._rows[split]))
        self.description = self._describe(documents)

    def build_model(self) -> BertForPreTraining:
        """See `build_bert`."""
        return build_bert(self.settings)

    def build_proxy(self) -> nn.Module:
        """See `training.task.Task`: none, since a vocabulary's head on every position is most of a small model.

        Raises:
            ValueError: always.
        """
        raise ValueError('method = "proxy" is for tasks whose rows have one class, not for bert')

    def training_batch(self, rows: np.ndarray, epoch: int) -> dict[str, Tensor]:
        """The batch of training rows (B,), with masks that are a function of (seed, epoch, the row's tokens).

        Returns:
            `input_ids`, `token_type_ids`, `attention_mask` and `labels`, (B, sequence_length), the labels -100 where
            nothing is masked, and `next_sentence_label` (B,), 0 where B follows A and 1 where it is random; int64.

        Raises:
            IndexError: if a row is not in 0..train_size - 1.
        """
        return self._collate.at_epoch(int(epoch))(self._features("train", rows))

    def held_out(self, split: str, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """See `training.task.Task`: the batches are as `training_batch` gives them."""
        batches = held_out_rows({name: len(rows) for name, rows in self._rows.items()}, split, batch_size)
        collate = self._collate_held_out.at_epoch(0)
        return (collate(self._features(split, rows)) for rows in batches)

    def judge(self, output: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(correctly predicted masked tokens, their cross-entropy summed, masked tokens), scalar tensors.

        Args:
            output: the model's, with `prediction_logits` (B, T, V).
            batch: with `labels` (B, T).
        """
        labels = batch["labels"]
        rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
        correct = torch.zeros((), dtype=torch.int64, device=labels.device)
        loss = torch.zeros((), dtype=torch.float64, device=labels.device)
        for row, column in zip(rows.split(_JUDGED_AT_ONCE), columns.split(_JUDGED_AT_ONCE), strict=True):
            logits, wanted = output.prediction_logits[row, column].float(), labels[row, column]
            correct += (logits.argmax(-1) == wanted).sum()
            loss += F.cross_entropy(logits, wanted, reduction="sum")
        return correct, loss, torch.tensor(len(rows), device=labels.device)

    def _read(self, sources: tuple[str, ...], vocabulary: str | None) -> Tokens:
        return tokenize([parse_source(name) for name in sources], vocabulary=vocabulary, cache=self._cache)

    def _pairs(self, split: str, documents: np.ndarray) -> np.ndarray:
        held_out = split != "train"
        share = self.settings.test_share if split == "test" else self.settings.validation_share
        if held_out and not len(documents) and not share:
            return np.empty(0)
        try:
            return sentence_pairs(
                self._tokens[split],
                documents,
                sequence_length=self.settings.sequence_length,
                short_share=self.settings.short_share,
                seed=HELD_OUT_SEED if held_out else self.seed,
                cache=self._cache,
            )
        except ValueError as error:
            raise ValueError(f"the {split} split: {error}") from error

    def _set_vocabulary(self, training_documents: np.ndarray) -> None:
        whole = len(self.tokenizer)
        special = np.array(self.tokenizer.convert_tokens_to_ids(list(SPECIAL)))
        kept = np.arange(whole)
        if self.settings.vocab_limit:
            counts = token_counts(self._tokens["train"], training_documents, whole)
            kept = most_frequent(counts, self.settings.vocab_limit, special)
        self.kept_ids = kept if self.settings.vocab_limit else None
        self.vocab_size = len(kept)
        self._new_ids = renumbering(kept, whole, int(special[SPECIAL.index("[UNK]")]))
        pad, unknown, self._first, self._separator, mask = self._new_ids[special].tolist()
        special_ids = (pad, unknown, self._first, self._separator, mask)
        self._collate, self._collate_held_out = (
            MaskingCollator(
                mask_token_id=mask,
                pad_token_id=pad,
                vocab_size=self.vocab_size,
                special_token_ids=special_ids,
                mask_share=self.settings.mask_share,
                # Rows are no longer than this, so that all batches have this length, whatever is in them.
                pad_to_multiple_of=self.settings.sequence_length,
                seed=seed,
            )
            for seed in (self.seed, HELD_OUT_SEED)
        )

    def _features(self, split: str, rows: np.ndarray) -> list[dict[str, np.ndarray]]:
        tokens, chosen = self._tokens[split], self._rows[split][np.asarray(rows)]
        features = []
        for a, b, a_length, b_length, random in chosen.tolist():
            text = self._new_ids[tokens.ids[a : a + a_length]], self._new_ids[tokens.ids[b : b + b_length]]
            ids = np.concatenate([[self._first], text[0], [self._separator], text[1], [self._separator]])
            segments = np.repeat(np.array([0, 1]), [a_length + 2, b_length + 1])
            features.append({"input_ids": ids, "token_type_ids": segments, "next_sentence_label": np.array(random)})
        return features

    def _describe(self, documents: dict[str, np.ndarray]) -> dict[str, Any]:
        described = {
            "sources": _without_folders(self._tokens["train"].about["sources"]),
            "content": self._tokens["train"].about["content"],
            "code": {"tokens": TOKENS, "pairs": PAIRS, "sentences": SENTENCES},
            "documents": {split: len(chosen) for split, chosen in documents.items()},
            "rows": {split: len(rows) for split, rows in self._rows.items()},
            "vocab_size": self.vocab_size,
        }
        if self.settings.validation_data:
            described["validation_sources"] = _without_folders(self._tokens["validation"].about["sources"])
            described["validation_content"] = self._tokens["validation"].about["content"]
        return described


def _without_folders(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of local files the name only: where they lay on one machine says nothing on another."""
    return [
        {**source, "source": Path(source["source"]).name if Path(source["source"]).is_absolute() else source["source"]}
        for source in sources
    ]
