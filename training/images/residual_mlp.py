"""A deep multi-layer perceptron with residual blocks, which exits after each of them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig

from gsgd.sift.exits import check_exit_layer
from training.images.small_net import ImageClassifier


class ResidualMLPConfig(PretrainedConfig):
    """What a `ResidualMLP` is.

    Args:
        num_channels, image_size: of the images.
        blocks: how many there are, at least 1.
        hidden_size: units of the representation, and of each block's hidden layer.
    """

    model_type = "residual-mlp"

    def __init__(
        self, num_channels: int = 1, image_size: int = 28, blocks: int = 8, hidden_size: int = 128, **others: Any
    ):
        self.num_channels, self.image_size = num_channels, image_size
        self.blocks, self.hidden_size = blocks, hidden_size
        super().__init__(**others)


class ResidualBlock(nn.Module):
    """h + W2 ReLU(W1 norm(h) + b1) + b2, the norm before the layers and beside the residual path."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """The next representation (B, width) of one (B, width)."""
        update: Tensor = self.outer(F.relu(self.inner(self.norm(hidden))))
        return hidden + update


class ResidualMLP(ImageClassifier):
    """An image classifier of residual blocks; implements `gsgd.sift.EarlyExit` with an exit after each block.

        h_0  =  W x + b,    h_j  =  h_{j-1} + W2_j ReLU(W1_j norm_j(h_{j-1})),    logits at exit j  =  V norm(h_j) + c

    The last norm and the classifier are shared by all exits, as in language models that are cut after a layer. They are
    trained through the last exit only.

    Reference:
        He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks. ECCV 2016; with layer norms and without
        convolutions.
    """

    config_class = ResidualMLPConfig

    def __init__(self, config: ResidualMLPConfig):
        super().__init__(config)
        classes: Any = config.num_labels
        width = config.hidden_size
        self.embedding = nn.Linear(config.num_channels * config.image_size**2, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)
        self.exit_layers = config.blocks
        self.post_init()

    def early_logits(self, exit_layer: int, pixel_values: Tensor) -> Tensor:
        """Logits (B, num_labels) of the exit after the first `exit_layer` blocks.

        Raises:
            ValueError: if there is no such exit.
        """
        check_exit_layer(exit_layer, self.exit_layers)
        hidden = self.embedding(pixel_values.flatten(1))
        for block in self.blocks[:exit_layer]:
            hidden = block(hidden)
        logits: Tensor = self.classifier(self.norm(hidden))
        return logits

    def last_module(self, exit_layer: int) -> nn.Module:
        """The last block of an exit's pass: what comes behind it is called with other values in training."""
        check_exit_layer(exit_layer, self.exit_layers)
        return self.blocks[exit_layer - 1]
