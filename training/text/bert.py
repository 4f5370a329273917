"""The BERT that all tasks on text train, by its settings."""

from __future__ import annotations

from typing import Any

from transformers import BertConfig

from training.text.settings import BertSettings
from training.text.wordpieces import vocabulary_size


def bert_config(settings: BertSettings, **others: Any) -> BertConfig:
    """The configuration of a BERT with GELU; `others` are further entries of it."""
    vocabulary = vocabulary_size(settings.vocabulary or None)
    return BertConfig(
        vocab_size=min(vocabulary, settings.vocab_limit or vocabulary),
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=settings.intermediate_size,
        hidden_act="gelu",
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        max_position_embeddings=settings.sequence_length,
        **others,
    )
