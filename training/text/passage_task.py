"""Passages classified by the book that they are from, with a small BERT: a `Task` whose rows' losses differ widely."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from training.data.cache import default_cache
from training.data.classified_rows import ClassifiedRows
from training.text.bert import bert_config
from training.text.passages import cut_into_passages, labelled_documents
from training.text.settings import PassageSettings
from training.text.tokens import tokenize
from training.text.wordpieces import SPECIAL, most_frequent, renumbering, tokenizer

VERSION = 1
"""Counts up whenever the same data and settings give other rows."""


def build_passage_bert(settings: PassageSettings, *, num_labels: int) -> BertForSequenceClassification:
    """A new `BertForSequenceClassification` with GELU, from torch's global generator and on its default device."""
    return BertForSequenceClassification(bert_config(settings, num_labels=num_labels))


def build_proxy(settings: PassageSettings, *, num_labels: int) -> BertForSequenceClassification:
    """A new proxy, likewise: of one layer with one head."""
    size = settings.proxy_size
    small: dict[str, Any] = {"layers": 1, "heads": 1, "hidden_size": size, "intermediate_size": 4 * size}
    return build_passage_bert(dataclasses.replace(settings, **small), num_labels=num_labels)


class PassageTask(ClassifiedRows):
    """Implements `training.task.Task`. Splits are by passage within each class.

    Making one tokenises the documents, unless the cache has them.

    Attributes:
        vocab_size: of the model.

    Args:
        settings: of data and model.
        seed: of the run; nothing of the rows depends on it.

    Raises:
        ValueError: if the data cannot be read, or do not fit the settings.
    """

    rare_class: int | None = None

    def __init__(self, settings: PassageSettings, seed: int):
        self.settings = settings
        documents = labelled_documents(
            settings.data, label_column=settings.label_column, label_pattern=settings.label_pattern
        )
        cache = (Path(settings.cache_dir).expanduser() if settings.cache_dir else default_cache()) / "text"
        tokens = tokenize([documents.source], vocabulary=settings.vocabulary or None, cache=cache)
        if len(tokens.hashes) != len(documents.labels):
            raise ValueError(f"data = {settings.data!r} has a document in which there is no word: leave it out")
        self._ids = tokens.ids
        self._starts, of_document = cut_into_passages(tokens, self._length)
        labels = documents.labels[of_document]
        classes, most = len(documents.class_names), settings.max_held_out_rows
        self._set_vocabulary(self._split(settings, labels, classes, "passages", most=most))
        digest = hashlib.sha256(tokens.about["content"].encode())
        digest.update(repr((documents.class_names, self._length, self.vocab_size)).encode())
        digest.update(labels.astype("<i8").tobytes())
        self.description: dict[str, Any] = {
            "data": Path(settings.data).name,
            **self._described(digest.hexdigest(), documents.class_names),
            "code": {"passages": VERSION},
            "vocab_size": self.vocab_size,
        }

    @property
    def _length(self) -> int:
        """Tokens of a passage, without [CLS] and [SEP]."""
        return self.settings.sequence_length - 2

    def build_model(self) -> BertForSequenceClassification:
        """See `build_passage_bert`."""
        return build_passage_bert(self.settings, num_labels=self.num_labels)

    def build_proxy(self) -> BertForSequenceClassification:
        """See `build_proxy`."""
        return build_proxy(self.settings, num_labels=self.num_labels)

    def _tokens_of(self, rows: np.ndarray) -> np.ndarray:
        return self._ids[self._starts[rows][:, None] + np.arange(self._length)]

    def _batch(self, rows: np.ndarray, labels: np.ndarray) -> dict[str, Tensor]:
        """`input_ids` (B, sequence_length) and `labels` (B,), int64."""
        first, last = (np.full((len(rows), 1), ending) for ending in self._ends)
        ids = np.concatenate([first, self._new_ids[self._tokens_of(rows)], last], axis=1)
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}

    def _set_vocabulary(self, rows: np.ndarray) -> None:
        whole_tokenizer = tokenizer(self.settings.vocabulary or None)
        whole = len(whole_tokenizer)
        special = np.array(whole_tokenizer.convert_tokens_to_ids(list(SPECIAL)))
        kept = np.arange(whole)
        if self.settings.vocab_limit:
            counts = np.bincount(self._tokens_of(rows).ravel(), minlength=whole)
            kept = most_frequent(counts, self.settings.vocab_limit, special)
        self.vocab_size = len(kept)
        self._new_ids = renumbering(kept, whole, int(special[SPECIAL.index("[UNK]")]))
        self._ends = tuple(int(self._new_ids[special[SPECIAL.index(name)]]) for name in ("[CLS]", "[SEP]"))
