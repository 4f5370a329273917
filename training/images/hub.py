"""Images from the public hub by name, through `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gsgd.arguments import install
from training.images.parquet import BATCH, choose_column, encoded_images, number_classes, whole_labels


class HubImages:
    """A data set on the hub. It is downloaded when its labels or images are first asked for.

    Args:
        name, config: such as "uoft-cs/cifar100" and "" for its only or default configuration.
        label_column, image_column: as of `training.images.parquet.ParquetImages`.
    """

    def __init__(self, name: str, config: str = "", *, label_column: str = "", image_column: str = ""):
        self.name, self.config = name, config
        self._chosen = {"label_column": label_column, "image_column": image_column}
        self._loaded: Any = None
        self._numbered: tuple[tuple[str, ...], dict[str, np.ndarray]] | None = None

    def identity(self) -> dict[str, Any]:
        """See `training.images.sources.ImageSource`. Nothing is asked of the network, so a cache serves offline."""
        return {"hub": self.name, "config": self.config, **self._chosen}

    def splits(self) -> tuple[str, ...]:
        """See `training.images.sources.ImageSource`.

        Raises:
            ValueError: if the data set cannot be loaded, or has other splits.
        """
        return tuple(self._load())

    def class_names(self) -> tuple[str, ...]:
        """See `training.images.sources.ImageSource`."""
        return self._classes()[0]

    def labels(self, split: str) -> np.ndarray:
        """See `training.images.sources.ImageSource`."""
        return self._classes()[1][split]

    def images(self, split: str) -> Iterator[tuple[str, bytes]]:
        """See `training.images.sources.ImageSource`."""
        data = self._load()[split]
        column = choose_column(data.column_names, self._chosen["image_column"], "image_column", self.name)
        row = 0
        # As Arrow, the images stay encoded.
        for table in data.select_columns([column]).with_format("arrow").iter(BATCH):
            for encoded in encoded_images(table.column(column), f"{self.name} {split}", row):
                yield f"{self.name} {split}, row {row}", encoded
                row += 1

    def _classes(self) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        if self._numbered is None:
            values: dict[str, list[Any]] = {}
            named: tuple[str, ...] = ()
            for split, data in self._load().items():
                column = choose_column(data.column_names, self._chosen["label_column"], "label_column", self.name)
                named = named or tuple(getattr(data.features[column], "names", None) or ())
                table = data.select_columns([column]).with_format("arrow")[:]
                values[split] = whole_labels(table.column(column), f"{self.name} {split}, column {column}")
            self._numbered = number_classes(values, named, self.name)
        return self._numbered

    def _load(self) -> Any:
        if self._loaded is not None:
            return self._loaded
        try:
            import datasets
        except ImportError as error:
            raise ValueError(
                f"data = {self.name!r} is no local path, and loading it from the hub needs the package datasets: "
                f"install it ({install('train')}), or give local parquet files or an image folder"
            ) from error
        try:
            loaded = datasets.load_dataset(self.name, self.config or None)
        except Exception as error:  # datasets, its hub client and its HTTP library raise kinds of their own
            raise ValueError(
                f"data = {self.name!r} is no local path, and the hub did not give it "
                f"({type(error).__name__}: {error}): check the name and the connection, or give local parquet files "
                "or an image folder"
            ) from error
        unknown = [split for split in loaded if split not in ("train", "validation", "test")]
        if unknown:
            raise ValueError(f"{self.name} has the split {unknown[0]!r}, but must have train, validation or test")
        self._loaded = loaded
        return loaded
