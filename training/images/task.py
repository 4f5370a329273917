"""Image classification: with the modified ResNet (Section 7.2, Appendix G), or with a small network."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ResNetConfig

from training.data.alterations import altered
from training.data.splits import hold_out, limited
from training.images.arrays import VERSION, ImageArrays, cached_arrays
from training.images.augment import centre_crop, crop_flip, normalise, resized_crop_flip
from training.images.residual_mlp import ResidualMLP, ResidualMLPConfig
from training.images.resnet import EarlyExitResNet
from training.images.settings import ImageDataSettings, ImageSettings, ResNetSettings, SmallNetSettings
from training.images.small_net import SmallNet, SmallNetConfig
from training.images.sources import ALL, find_source
from training.task import SPLITS, held_out_rows, judged_rows


def build_resnet(settings: ResNetSettings, *, channels: int, num_labels: int) -> EarlyExitResNet:
    """A new model, from torch's global generator and on its default device, for images with so many channels.

    Every field of `ResNetSettings` becomes an entry of its configuration.
    """
    options: dict[str, Any] = {"num_channels": channels, "num_labels": num_labels}
    for field in dataclasses.fields(ResNetSettings):
        value = getattr(settings, field.name)
        # As JSON knows it: a configuration that is saved with its model is read back as it was.
        options[field.name] = list(value) if isinstance(value, tuple) else value
    return EarlyExitResNet(ResNetConfig(**options))


def build_small_net(settings: SmallNetSettings, *, channels: int, num_labels: int) -> SmallNet | ResidualMLP:
    """A new model, likewise."""
    sizes = {"num_channels": channels, "image_size": settings.image_size, "hidden_size": settings.hidden_size}
    if settings.network == "residual-mlp":
        return ResidualMLP(ResidualMLPConfig(blocks=settings.blocks, num_labels=num_labels, **sizes))
    return SmallNet(SmallNetConfig(settings.network, num_labels=num_labels, **sizes))


def build_proxy(settings: ImageDataSettings, *, channels: int, num_labels: int) -> SmallNet:
    """A new proxy, likewise."""
    sizes = {"image_size": settings.image_size, "hidden_size": settings.proxy_size}
    return SmallNet(SmallNetConfig(settings.proxy, num_channels=channels, num_labels=num_labels, **sizes))


class ImageTask(ABC):
    """Implements `training.task.Task` but for the model.

    Making one decodes the images unless the cache has them.

    Attributes:
        channels: 1 if all images are grey, else 3.
        num_labels: classes.
        mean, std: (channels,), of the training images that are trained on, scaled to [0, 1].
        train_size, splits, description: see `training.task.Task`.

    Args:
        seed: of the augmentation, >= 0. The splits do not depend on it.

    Raises:
        ValueError: if the data cannot be read, or do not fit the settings.
    """

    rare_class: int | None = None

    def __init__(self, settings: ImageDataSettings, seed: int):
        self.settings, self.seed = settings, seed
        splits, class_names = _read(settings, settings.data)
        train = splits.pop("train", None) or splits.pop(ALL, None)
        if train is None:
            raise ValueError(f"data = {settings.data!r} has no training split, only {', '.join(splits)}")
        if settings.test_data:
            splits["test"] = self._read_test(class_names)
        elif "test" not in splits and "validation" in splits:
            splits["test"] = splits.pop("validation")
        rows = np.arange(len(train.labels))
        if "test" not in splits:
            rows, held = hold_out(train.labels, rows, settings.test_share, "test")
            self._held_out = {"test": (train, held)}
            tested = f"{settings.test_share:g} of data, by class"
        else:
            self._held_out = {"test": (splits["test"], np.arange(len(splits["test"].labels)))}
            tested = "a split of its own"
        if not settings.validation_share:
            self._held_out["validation"] = self._held_out["test"]
            validated = "the test split"
        elif "validation" in splits:
            self._held_out["validation"] = (splits["validation"], np.arange(len(splits["validation"].labels)))
            validated = "a split of its own"
        else:
            rows, held = hold_out(train.labels, rows, settings.validation_share, "validation")
            self._held_out["validation"] = (train, held)
            validated = f"{settings.validation_share:g} of the training split, by class"
        if not len(self._held_out["validation"][1]):
            raise ValueError("validation_share = 0 validates on the test split, but test_share = 0 leaves it empty")
        rows = limited(train.labels, rows, settings.train_limit, "images")
        self._train, self._rows = train, altered(settings, train.labels, rows, len(class_names))
        self.train_size = len(self._rows.rows)
        self.splits = tuple(split for split in SPLITS if len(self._held_out[split][1]))
        self.num_labels = len(class_names)
        # The test set may be elsewhere, and grey though the training images are not; they are brought to one number.
        self.channels = max(arrays.images.shape[-1] for arrays in [train, *(a for a, _ in self._held_out.values())])
        mean, std = train.mean_and_std(self._rows.rows)
        spread = self.channels // len(mean)
        self.mean, self.std = mean * spread, std * spread
        self.description: dict[str, Any] = {
            "data": _short(settings.data),
            "test_data": _short(settings.test_data),
            "content": {
                "train": self._rows.content(train.content),
                **{split: a.content for split, (a, _) in self._held_out.items()},
            },
            "code": {"arrays": VERSION},
            "sizes": {"train": self.train_size, **{split: len(held) for split, (_, held) in self._held_out.items()}},
            "validation": validated,
            "test": tested,
            "classes": self.num_labels,
            "class_names": list(class_names),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        if self._rows.description:
            self.description["altered"] = self._rows.description

    @abstractmethod
    def build_model(self) -> nn.Module:
        """See `training.task.Task`."""

    def build_proxy(self) -> SmallNet:
        """See `training.task.Task`: the network that `proxy` names."""
        return build_proxy(self.settings, channels=self.channels, num_labels=self.num_labels)

    def training_batch(self, rows: np.ndarray, epoch: int) -> dict[str, Tensor]:
        """`pixel_values` (B, channels, image_size, image_size) float32 and `labels` (B,); see `training.task.Task`."""
        places = np.asarray(rows, dtype=np.int64)
        images, draws = self._train.images[self._rows.rows[places]], self._rows.draws[places]
        if self.settings.augment == "crop-flip":
            pixels = crop_flip(images, draws, seed=self.seed, epoch=epoch)
        elif self.settings.augment == "resized-crop-flip":
            pixels = resized_crop_flip(images, draws, self.settings.image_size, seed=self.seed, epoch=epoch)
        else:
            pixels = centre_crop(images, self.settings.image_size)
        return self._batch(pixels, self._rows.labels[places])

    def held_out(self, split: str, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """See `training.task.Task`: not augmented, the middle of the image."""
        batches = held_out_rows({name: len(rows) for name, (_, rows) in self._held_out.items()}, split, batch_size)
        arrays, rows = self._held_out[split]
        return (
            self._batch(centre_crop(arrays.images[rows[part]], self.settings.image_size), arrays.labels[rows[part]])
            for part in batches
        )

    def judge(self, output: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """See `training.task.Task`: top-1 hits, cross-entropy in float32, rows."""
        return judged_rows(output.logits, batch["labels"])

    def _batch(self, pixels: Tensor, labels: np.ndarray) -> dict[str, Tensor]:
        coloured = pixels.expand(-1, self.channels, -1, -1)
        return {"pixel_values": normalise(coloured, self.mean, self.std), "labels": torch.from_numpy(labels)}

    def _read_test(self, class_names: tuple[str, ...]) -> ImageArrays:
        splits, names = _read(self.settings, self.settings.test_data)
        arrays = next((splits[split] for split in ("test", "validation", ALL) if split in splits), None)
        if arrays is None:
            raise ValueError(f"test_data = {self.settings.test_data!r} has a training split only")
        # Without names in the data, classes are named by their numbers, and a test set may lack the last ones.
        unnamed = any(kind == tuple(map(str, range(len(kind)))) for kind in (names, class_names))
        if len(names) > len(class_names) or not (unnamed or names == class_names):
            strange = next((name for name in names if name not in class_names), names[-1])
            raise ValueError(
                f"test_data = {self.settings.test_data!r} has {len(names)} classes, data = {self.settings.data!r} has "
                f"{len(class_names)}, and they must be the same, but {strange!r} is not, or not in the same place"
            )
        return arrays


class ResNetTask(ImageTask):
    """With the modified ResNet."""

    settings: ImageSettings

    def build_model(self) -> EarlyExitResNet:
        """See `training.task.Task`."""
        return build_resnet(self.settings, channels=self.channels, num_labels=self.num_labels)


class SmallNetTask(ImageTask):
    """With a network that trains in seconds."""

    settings: SmallNetSettings

    def build_model(self) -> SmallNet | ResidualMLP:
        """See `training.task.Task`."""
        return build_small_net(self.settings, channels=self.channels, num_labels=self.num_labels)


def _read(settings: ImageDataSettings, data: str) -> tuple[dict[str, ImageArrays], tuple[str, ...]]:
    source = find_source(data, label_column=settings.label_column, image_column=settings.image_column)
    return cached_arrays(source, settings.cached_size, settings.cache_dir)


def _short(data: str) -> str:
    """A local path's last part: where it lay on one machine says nothing on another."""
    return Path(data).name if data and Path(data).expanduser().exists() else data
