"""The model that is pretrained."""

from __future__ import annotations

from transformers import BertConfig, BertForPreTraining

from training.text.settings import TextSettings
from training.text.wordpieces import vocabulary_size


def build_bert(settings: TextSettings) -> BertForPreTraining:
    """A new `BertForPreTraining` with GELU; with the default settings, the paper's 110M parameters (Section 7.1).

    Its loss is the mean over masked tokens plus the mean next-sentence loss (Appendix F). It needs no data, is
    initialised from torch's global generator, and is made on torch's default device.
    """
    return BertForPreTraining(
        BertConfig(
            vocab_size=model_vocabulary_size(settings),
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            intermediate_size=settings.intermediate_size,
            hidden_act="gelu",
            hidden_dropout_prob=settings.dropout,
            attention_probs_dropout_prob=settings.dropout,
            max_position_embeddings=settings.sequence_length,
        )
    )


def model_vocabulary_size(settings: TextSettings) -> int:
    """Entries of the vocabulary, or `vocab_limit` if that is set and smaller."""
    size = vocabulary_size(settings.vocabulary or None)
    return min(size, settings.vocab_limit) if settings.vocab_limit else size
