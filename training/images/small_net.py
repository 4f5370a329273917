"""Networks that train in seconds: multinomial logistic regression, a multi-layer perceptron, and LeNet."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from gsgd.sift.exits import check_exit_layer

Network = Literal["linear", "mlp", "lenet"]


class SmallNetConfig(PretrainedConfig):
    """What a `SmallNet` is.

    Args:
        network: "linear" (a convex loss, the paper's theory's own case), "mlp" (one hidden layer) or "lenet".
        num_channels, image_size: of the images.
        hidden_size: units of the hidden layer, of "mlp" and "lenet".
    """

    model_type = "small-net"

    def __init__(
        self,
        network: Network = "mlp",
        num_channels: int = 1,
        image_size: int = 28,
        hidden_size: int = 128,
        **others: Any,
    ):
        if network not in get_args(Network):
            raise ValueError(f"network = {network!r} must be one of: {', '.join(get_args(Network))}")
        self.network, self.hidden_size = network, hidden_size
        self.num_channels, self.image_size = num_channels, image_size
        super().__init__(**others)


class ImageClassifier(PreTrainedModel):
    """An image classifier whose output is that of its last exit."""

    exit_layers: int

    def early_logits(self, exit_layer: int, pixel_values: Tensor) -> Tensor:
        """Logits (B, num_labels) of an exit, 1..`exit_layers`, of images (B, channels, height, width).

        Raises:
            ValueError: if there is no such exit.
        """
        raise NotImplementedError

    def _init_weights(self, module: nn.Module) -> None:
        """Torch's own initialisation stays as it is."""

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutputWithNoAttention:
        """Logits (B, num_labels), and the mean cross-entropy loss if there are labels.

        Args:
            pixel_values: (B, channels, height, width).
            labels: (B,), classes 0..num_labels - 1.
        """
        logits = self.early_logits(self.exit_layers, pixel_values)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


class SmallNet(ImageClassifier):
    """An image classifier with no exit but its last layer; implements `gsgd.sift.EarlyExit`.

    "linear": logits = W x + b; "mlp": 784-128-10 for images of 28x28; "lenet": two convolutions of 5x5 with 16 and 32
    channels, each followed by ReLU and the maximum over 2x2, then one hidden layer.

    Reference:
        LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition. Proc. IEEE 86 (1998);
        ReLU and maxima in place of its sigmoids and means.
    """

    config_class = SmallNetConfig
    exit_layers = 1

    def __init__(self, config: SmallNetConfig):
        super().__init__(config)
        classes: Any = config.num_labels
        pixels = config.num_channels * config.image_size**2
        layers: list[nn.Module] = []
        if config.network == "lenet":
            layers += [nn.Conv2d(config.num_channels, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
            layers += [nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
            pixels = 32 * (config.image_size // 4) ** 2
        layers.append(nn.Flatten())
        if config.network != "linear":
            layers += [nn.Linear(pixels, config.hidden_size), nn.ReLU()]
            pixels = config.hidden_size
        # On a CPU the convolutions and maxima are 1.4 times as fast with the channels last in memory.
        self.layers = nn.Sequential(*layers)
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classifier = nn.Linear(pixels, classes)
        self.post_init()

    def early_logits(self, exit_layer: int, pixel_values: Tensor) -> Tensor:
        """Logits (B, num_labels) of the only exit, the last layer.

        Raises:
            ValueError: if `exit_layer` is another.
        """
        check_exit_layer(exit_layer, self.exit_layers)
        logits: Tensor = self.classifier(self.layers(pixel_values))
        return logits

    def last_module(self, exit_layer: int) -> nn.Module:
        """The module that ends the pass to an exit."""
        check_exit_layer(exit_layer, self.exit_layers)
        return self.classifier
