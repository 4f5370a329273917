"""A multi-layer perceptron on rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from gsgd.sift.exits import check_exit_layer


class TabularNetConfig(PretrainedConfig):
    """What a `TabularNet` is.

    Args:
        columns: numbers of a row.
        hidden_sizes: units of the hidden layers.
    """

    model_type = "tabular-net"

    def __init__(self, columns: int = 30, hidden_sizes: Sequence[int] = (128, 128), **others: Any):
        self.columns, self.hidden_sizes = columns, list(hidden_sizes)
        super().__init__(**others)


class TabularNet(PreTrainedModel):
    """Linear layers with ReLU between them; implements `gsgd.sift.EarlyExit` with no exit but the last layer."""

    config_class = TabularNetConfig
    exit_layers = 1

    def __init__(self, config: TabularNetConfig):
        super().__init__(config)
        classes: Any = config.num_labels
        layers: list[nn.Module] = []
        inputs = config.columns
        for width in config.hidden_sizes:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Torch's own initialisation stays as it is."""

    def forward(self, values: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        """Logits (B, num_labels), and the mean cross-entropy loss if there are labels.

        Args:
            values: (B, columns), standardised.
            labels: (B,), classes 0..num_labels - 1.
        """
        logits = self.early_logits(1, values)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def early_logits(self, exit_layer: int, values: Tensor) -> Tensor:
        """Logits (B, num_labels) of the only exit, the last layer.

        Raises:
            ValueError: if `exit_layer` is another.
        """
        check_exit_layer(exit_layer, self.exit_layers)
        logits: Tensor = self.classifier(self.layers(values))
        return logits

    def last_module(self, exit_layer: int) -> nn.Module:
        """The module that ends the pass to an exit."""
        check_exit_layer(exit_layer, self.exit_layers)
        return self.classifier
