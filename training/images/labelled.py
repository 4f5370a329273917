"""Labelled images in splits, wherever they come from: what a source has to give, and how its classes are numbered."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CLASSES = 1000
"""So many classes may be named whatever the number of images, as where a few are tried of a large data set."""
CLASSES_AN_IMAGE = 10


@dataclass(frozen=True)
class Labels:
    """The labels of some images.

    Attributes:
        where: the table or folder they are from, for messages.
        values: all whole numbers, or all strings, which are names of classes.
        names: of the classes, by number; empty if the data note none.
    """

    where: str
    values: Sequence[Any]
    names: Sequence[str] = ()


class LabelledImages(ABC):
    """Encoded images with classes, in splits. Making one reads no image.

    Every method but `identity` raises a ValueError if the data cannot be read, or hold labels or images that are none.
    """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells whether the data are still the same ones, as JSON: paths, sizes, times of change, or the name."""

    @abstractmethod
    def read_labels(self) -> dict[str, list[Labels]]:
        """Labels of some of the splits "train", "validation" and "test", or of "all", if nothing tells which."""

    @abstractmethod
    def images(self, split: str) -> Iterator[tuple[str, bytes]]:
        """(where it stands, for messages; the encoded image) of each, in the order of the labels."""

    def splits(self) -> tuple[str, ...]:
        """Those of `read_labels`."""
        return tuple(self._classes[1])

    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return self._classes[0]

    def labels(self, split: str) -> np.ndarray:
        """Classes (N,) int64 of the split's images, each in 0..len(class_names()) - 1."""
        return self._classes[1][split]

    @functools.cached_property
    def _classes(self) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        return number_classes(self.read_labels())


def number_classes(found: Mapping[str, Sequence[Labels]]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """(names of the classes, split -> labels (N,) int64).

    Where the data name classes, numbers mean the names of their own table, or of all others where it has none, and
    classes come in the order of the first table, of the training split if there is one. Other strings are numbered in
    alphabetical order; numbers without any names are their own names.

    Raises:
        ValueError: for a label that names no class, labels of two kinds, or more classes than the images can be of.
    """
    ordered = [labels for split in sorted(found, key=lambda split: split != "train") for labels in found[split]]
    orders = list(dict.fromkeys(tuple(labels.names) for labels in ordered if labels.names))
    meant = {id(labels): _meant(labels, orders) for labels in ordered}
    kinds = {isinstance(meant[id(labels)][0], str): labels.where for labels in ordered if labels.values}
    if len(kinds) > 1:
        raise ValueError(f"the labels are names in {kinds[True]}, but numbers without names in {kinds[False]}")
    every = {value for values in meant.values() for value in values}
    classes = len(orders[0]) if orders else max(every, default=-1) + 1 if kinds.get(False) else len(every)
    images = sum(map(len, meant.values()))
    most = max(CLASSES, CLASSES_AN_IMAGE * images)
    if images and classes > most:
        raise ValueError(
            f"{ordered[0].where}: {len(every)} distinct labels of {images} images are numbered up to {classes - 1}, "
            f"but there may be {most} classes at most: are they class numbers?"
        )
    names: Sequence[Any] = orders[0] if orders else range(classes) if kinds.get(False) else sorted(every)
    place = {name: number for number, name in enumerate(names)}
    for labels in ordered:
        if unknown := [value for value in meant[id(labels)] if value not in place]:
            raise ValueError(f"{labels.where}: label {unknown[0]!r} is not among the {len(names)} names of classes")
    return tuple(map(str, names)), {
        split: np.array([place[value] for labels in tables for value in meant[id(labels)]], dtype=np.int64)
        for split, tables in found.items()
    }


def _meant(labels: Labels, orders: Sequence[tuple[str, ...]]) -> Sequence[Any]:
    """The labels as names of classes, if there are names: the table's own, or those that all other tables have."""
    values, names = labels.values, tuple(labels.names)
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"{labels.where}: two classes have the name {twice!r}")
    if not values or isinstance(values[0], str):
        return values
    if not names and len(orders) > 1:
        raise ValueError(f"{labels.where}: labels are numbers without names, and others number the names differently")
    names = names or next(iter(orders), ())
    if outside := [value for value in values if value < 0 or (names and value >= len(names))]:
        rule = f"lie in 0..{len(names) - 1}, the classes that are named" if names else "be at least 0"
        raise ValueError(f"{labels.where}: label {outside[0]} must {rule}")
    return [names[value] for value in values] if names else values
