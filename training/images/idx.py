"""Images in idx files, the format of MNIST: Fashion-MNIST, KMNIST, EMNIST and their kin come as four of them."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.files import files_below, stamp
from training.images.labelled import LabelledImages, Labels

NAME = re.compile(r"(?:(?P<set>.+)[-_.])?(?P<split>train|t10k|test)[-_.](?P<kind>images|labels)[-_.]idx[13]-ubyte")
SPLITS = {"train": "train", "t10k": "test", "test": "test"}
UNSIGNED_BYTES = 8
"""The third byte of a file: what its entries are. The format has others; images and labels are these."""


@dataclass(frozen=True)
class IdxPair:
    """The two files of a split."""

    images: Path
    labels: Path


class IdxImages(LabelledImages):
    """Grey images in idx files, such as train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz.

    Args:
        root: the folder, and `pairs` its files by split, see `idx_pairs`.

    Reference:
        LeCun, Cortes, Burges: The MNIST database of handwritten digits, "File formats".
    """

    def __init__(self, root: Path, pairs: dict[str, IdxPair]):
        self.root, self.pairs = root, pairs

    def identity(self) -> dict[str, Any]:
        stamped = {
            split: [[str(path.relative_to(self.root)), *stamp(path)] for path in (pair.images, pair.labels)]
            for split, pair in self.pairs.items()
        }
        return {"idx": str(self.root.resolve()), "files": stamped}

    def read_labels(self) -> dict[str, list[Labels]]:
        return {
            split: [Labels(str(pair.labels), read_idx(pair.labels, dimensions=1).tolist())]
            for split, pair in self.pairs.items()
        }

    def images(self, split: str) -> Iterator[tuple[str, bytes]]:
        path = self.pairs[split].images
        images = read_idx(path, dimensions=3)
        _, height, width = images.shape
        # What an image is after this header is a portable grey map, which decoders know.
        header = f"P5 {width} {height} 255\n".encode()
        return ((f"{path}, image {number}", header + image.tobytes()) for number, image in enumerate(images))


def idx_pairs(root: Path) -> dict[str, IdxPair]:
    """Split -> its two idx files in a folder, for which there may be subfolders; empty if there is none of the kind.

    Raises:
        ValueError: if a split has images without labels or the other way round, or there are several data sets.
    """
    found: dict[str, dict[str, Path]] = {}
    sets = set()
    for path in files_below(root, ("ubyte", "ubyte.gz")):
        match = NAME.fullmatch(path.name.lower().removesuffix(".gz"))
        if match is None:
            continue
        sets.add(match["set"])
        files = found.setdefault(SPLITS[match["split"]], {})
        if len(sets) > 1 or match["kind"] in files:
            raise ValueError(
                f"{root} holds several data sets of idx files, such as {path}: name a folder with one of them"
            )
        files[match["kind"]] = path
    for split, files in found.items():
        if len(files) < 2:
            have, lacks = ("images", "labels") if "images" in files else ("labels", "images")
            raise ValueError(f"{files[have]} has no {lacks} beside it, which {split} needs")
    return {split: IdxPair(**files) for split, files in found.items()}


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """The array of an idx file of unsigned bytes, compressed by gzip or not.

    Args:
        dimensions: that it must have: 1 of labels, 3 of images (N, height, width).

    Raises:
        ValueError: if it cannot be read, is cut or too long, or holds something else.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    start = 4 + 4 * dimensions
    if len(content) < start or tuple(content[:4]) != (0, 0, UNSIGNED_BYTES, dimensions):
        raise ValueError(
            f"{path} begins with {tuple(content[:4])}, but an idx file of unsigned bytes in {dimensions} dimensions "
            f"with {(0, 0, UNSIGNED_BYTES, dimensions)} and the sizes"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{path} has {len(content) - start} entries, but says that it has {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
