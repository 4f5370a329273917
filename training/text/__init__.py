"""BERT's pretraining task: text, sentence pairs and masks, and the model that learns from them (Section 7.1)."""

from training.text.task import TextSettings, TextTask

__all__ = ["TextSettings", "TextTask"]
