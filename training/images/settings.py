"""The settings of a run on images: what a configuration's keys may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from training.data.alterations import AlterationSettings
from training.images.small_net import Network
from training.keys import AtLeastZero, Natural, Positive, ShareBelowOne, Sizes, key


@dataclass(frozen=True)
class ImageDataSettings(AlterationSettings):
    """Data, their splits and preparation.

    Raises:
        ValueError: for a value out of range or a combination that cannot be, naming the keys.
    """

    data: Annotated[str, Field(min_length=1)] = key(
        "embedded",
        "embedded, local parquet or idx files, an image folder, or a name on the hub, see "
        "`training.images.sources.find_source`",
    )
    test_data: str = key("", "the test split, if it is elsewhere than in `data`; likewise")
    label_column: str = key("", "of a table; empty for label, fine_label or labels, whichever there is")
    image_column: str = key("", "of a table; empty for img or image")
    # Paper: reports the best test accuracy over learning rates, and no validation split; here: a tenth held out, since
    # what is tuned on the test set is not tested on it. 0 is the paper's way.
    validation_share: ShareBelowOne = key(
        0.1,
        "share of the training split that is held out for validation, in [0, 1): of each class, the same rows for all "
        "seeds. Not used if the data bring a validation split beside a test split (where there is a validation split "
        "only, as in Food-101 on the hub, it is the test split). 0 validates on the test split",
    )
    test_share: ShareBelowOne = key(
        0.2, "share of `data` that is held out for the test, likewise, if there is no test split at all"
    )
    train_limit: Natural = key(0, "train on so many images only, the same number of each class; 0 for all")
    # Paper: names no input size; here: CIFAR's own. The configurations for Food-101 say 224, the usual one.
    image_size: Annotated[Positive, Field(ge=8)] = key(32, "height and width of the model's input, in pixels")
    # Paper: does not mention augmentation; here: what is usual for CIFAR, and "none" is one key away.
    augment: Literal["crop-flip", "resized-crop-flip", "none"] = key(
        "crop-flip",
        "of training images: crop-flip (pad by 4, crop back, flip), resized-crop-flip (crop 8% to 100% of the area, "
        "resize, flip) or none",
    )
    cache_dir: str = key("", "for the decoded images; empty for gsgd in the user's cache folder")

    @property
    def cached_size(self) -> int:
        """Height and width of the decoded images that are kept, in pixels."""
        # 256 for 224, as usual: what is cut off at evaluation is there for the crops in training.
        return round(self.image_size * 256 / 224) if self.augment == "resized-crop-flip" else self.image_size


@dataclass(frozen=True)
class ResNetSettings:
    """The model's own settings; each is the entry of its name in the model's configuration.

    Raises:
        ValueError: for a value out of range or a combination that cannot be, naming the keys.
    """

    depths: Sizes = key((3, 4, 6, 3), "blocks of each stage; the default is ResNet-50's")
    hidden_sizes: Sizes = key((256, 512, 1024, 2048), "output channels of each stage; the default is ResNet-50's")
    embedding_size: Positive = key(64, "channels of the stem")
    layer_type: Literal["basic", "bottleneck"] = key("bottleneck", "of the blocks: bottleneck or basic")
    exit_stage: Positive = key(2, "stage whose output the early classifier reads, counted from 1, before the last")
    # Paper: does not say which stem the 32x32 images of CIFAR-100 met; here: ResNet-50's own, since the paper says that
    # nothing but the second classifier was changed. It costs a sixteenth of the 3x3 one, and accuracy.
    small_images: bool = key(
        False, "a 3x3 stem that does not downsample, in place of the 7x7 one that divides height and width by 4"
    )
    early_loss: AtLeastZero = key(
        0.0,
        "what the early classifier's own loss counts in training, at least 0; 0 is the paper's way, which trains it "
        "through the sum of logits only",
    )

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.hidden_sizes):
            raise ValueError(
                f"depths = {self.depths} and hidden_sizes = {self.hidden_sizes} must be as long as each other: "
                "one entry a stage"
            )
        if not self.exit_stage < len(self.depths):
            raise ValueError(
                f"exit_stage = {self.exit_stage!r} must lie in 1..{len(self.depths) - 1}, before the last of depths"
            )
        narrow = [width for width in self.hidden_sizes if self.layer_type == "bottleneck" and width % 4]
        if narrow:
            raise ValueError(f"hidden_sizes has {narrow[0]}, but a bottleneck's must be divisible by 4")


@dataclass(frozen=True)
class ImageSettings(ImageDataSettings, ResNetSettings):
    """What the task "resnet" takes."""


@dataclass(frozen=True)
class SmallNetSettings(ImageDataSettings):
    """What the task "small-net" takes."""

    network: Literal[Network, "residual-mlp"] = key(
        "mlp", "linear (multinomial logistic regression), mlp (one hidden layer), lenet, or residual-mlp (with exits)"
    )
    hidden_size: Positive = key(128, "units of the hidden layer, of mlp and lenet, and of residual-mlp's blocks")
    blocks: Positive = key(8, "of residual-mlp, which has an exit after each")
