"""The paper's modified ResNet (Appendix G): a second linear classifier on an intermediate stage's representation."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.models.resnet.modeling_resnet import ResNetConvLayer, ResNetPreTrainedModel

from gsgd.ranges import within
from gsgd.sift.exits import check_exit_layer


class EarlyExitResNet(ResNetPreTrainedModel):
    """ResNet that predicts from its final and from an intermediate representation together (Appendix G).

        logits  =  L_f R_f  +  L_i R_i,        early logits  =  L_i R_i

    R_f and R_i are the globally averaged outputs of the last stage and of stage `exit_stage`; L_f and L_i are linear
    classifiers, both trained. It implements `gsgd.sift.EarlyExit` with two exits: 1 is L_i R_i, which costs the stages
    up to `exit_stage` only, and 2 the full model.

    In training mode every BatchNorm needs more than one value per channel: where the last stage is 1x1 (32x32 images
    with the usual stem), a batch of one row raises torch's ValueError, so keep at least two.

    Args:
        config: of transformers' ResNet; its defaults are ResNet-50. `num_labels` is the number of classes. Three
            entries of our own may be added, and are saved with it. `exit_stage` (default 2, "the second block
            consisting of 128 filters": in a bottleneck stage its 512 output channels) lies in 1..stages - 1.
            `small_images` (default False) is a 3x3 stem that does not downsample, as usual for 32x32, in place of the
            7x7 one that divides by 4. `early_loss` (default 0, as the paper) is what the early prediction's own loss
            counts in training, since L_i is otherwise trained through the sum of logits only.

    Raises:
        ValueError: if `exit_stage` or `early_loss` is out of range.

    Example:
        model = EarlyExitResNet(ResNetConfig(num_labels=100, exit_stage=2))
        sift = Sift(model, exit_layer=1)
    """

    exit_layers = 2

    def __init__(self, config: ResNetConfig):
        super().__init__(config)
        self.resnet = ResNetModel(config)
        self.exit_stage: int = getattr(config, "exit_stage", 2)
        classes: Any = config.num_labels
        stages, widths = len(self.resnet.encoder.stages), list(config.hidden_sizes or ())
        if (
            isinstance(self.exit_stage, bool)
            or not isinstance(self.exit_stage, int)
            or not 1 <= self.exit_stage < stages
        ):
            raise ValueError(
                f"exit_stage = {self.exit_stage!r} must be a whole number in 1..{stages - 1}, before the last stage"
            )
        self.early_loss: float = getattr(config, "early_loss", 0.0)
        within("early_loss", self.early_loss, "be at least 0, and finite", lambda value: value >= 0)
        if getattr(config, "small_images", False):
            # Paper: does not say which stem the 32x32 images of CIFAR-100 met; here: either, by the configuration.
            embedder: Any = self.resnet.embedder
            embedder.embedder = ResNetConvLayer(
                config.num_channels, config.embedding_size, kernel_size=3, stride=1, activation=config.hidden_act
            )
            embedder.pooler = nn.Identity()
        self.early_classifier = nn.Linear(widths[self.exit_stage - 1], classes)
        self.classifier = nn.Linear(widths[-1], classes)
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutputWithNoAttention:
        """Logits L_f R_f + L_i R_i, and the mean cross-entropy loss if there are labels.

        In training mode `early_loss` times the early prediction's loss is part of it.

        Args:
            pixel_values: (B, channels, height, width).
            labels: (B,), classes 0..num_labels - 1.

        Returns:
            `.logits` (B, num_labels), `.loss` a scalar or None.
        """
        logits, early = self._logits(pixel_values)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        if loss is not None and labels is not None and self.training and self.early_loss:
            loss = loss + self.early_loss * F.cross_entropy(early, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)

    def early_logits(self, exit_layer: int, pixel_values: Tensor) -> Tensor:
        """Logits (B, num_labels) at exit 1, L_i R_i, or at exit 2 those of the full model.

        Raises:
            ValueError: if `exit_layer` is neither.
        """
        if check_exit_layer(exit_layer, self.exit_layers) == self.exit_layers:
            return self._logits(pixel_values)[0]
        return self._early(pixel_values)[1]

    def last_module(self, exit_layer: int) -> nn.Module:
        """The module that ends the pass to an exit."""
        return self.classifier if check_exit_layer(exit_layer, self.exit_layers) == 2 else self.early_classifier

    def _logits(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """(L_f R_f + L_i R_i, L_i R_i)."""
        hidden, early = self._early(pixel_values)
        for stage in self.resnet.encoder.stages[self.exit_stage :]:
            hidden = stage(hidden)
        return self.classifier(self._pool(hidden)) + early, early

    def _early(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """(feature map of stage `exit_stage`, L_i R_i)."""
        hidden = self.resnet.embedder(pixel_values)
        for stage in self.resnet.encoder.stages[: self.exit_stage]:
            hidden = stage(hidden)
        return hidden, self.early_classifier(self._pool(hidden))

    def _pool(self, hidden: Tensor) -> Tensor:
        return self.resnet.pooler(hidden).flatten(1)
