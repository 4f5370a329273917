"""Images decoded once into memory-mapped arrays, in a cache folder named by what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console

from gsgd.commands.console import Bar, bar
from gsgd.results import in_bytes, write_json
from training.data.cache import cached_folder, default_cache, read_array
from training.images.labelled import LabelledImages
from training.run_folder.records import read_json

VERSION = 2
"""Of the cache's layout, of how images are decoded and classes numbered: a change makes old folders be passed over."""
CHUNK = 512
GREY_MODES = ("1", "L", "LA")
# Others have more than 8 bits a channel, which Pillow clips rather than scales, or it cannot turn them into RGB (LAB).
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")


@dataclass(frozen=True)
class ImageArrays:
    """One split, memory-mapped.

    Attributes:
        images: (N, size, size, C) uint8; C is 1 if all images of all splits are grey, else 3.
        labels: (N,) int64.
        moments: (N, 2C) int64, per image the sums over pixels of each channel's values and of their squares.
        content: digest of images and labels, the same on any machine that decodes alike.
    """

    images: np.ndarray
    labels: np.ndarray
    moments: np.ndarray
    content: str

    def mean_and_std(self, rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation (C,) over these rows' pixels, scaled to [0, 1]; a constant channel's std is 1."""
        _, height, width, channels = self.images.shape
        means = self.moments[rows].sum(axis=0) / (len(rows) * height * width)
        first, second = means[:channels] / 255, means[channels:] / 255**2
        variance = np.maximum(second - first**2, 0)
        return tuple(map(float, first)), tuple(float(v) ** 0.5 if v > 1e-12 else 1.0 for v in variance)


def cached_arrays(
    source: LabelledImages, size: int, cache_dir: str | Path = ""
) -> tuple[dict[str, ImageArrays], tuple[str, ...]]:
    """(split -> its arrays, names of the classes) of a source, decoded and resized unless the cache has them.

    Each image's shorter side is resized to `size` (bicubic) and its middle square kept. The cache folder's name is a
    digest of the source's identity and the size, so that a change of the inputs makes a new one; the old one stays
    until somebody deletes it. Processes that start together decode once where the file system has locks, and
    otherwise once each, with the same result.

    Args:
        size: height and width of the cached images, in pixels.
        cache_dir: empty for `default_cache()`.

    Raises:
        ValueError: if an image cannot be read, naming its file or row, or the cache cannot be written or is too large
            for the disk.
    """
    made_from = {"version": VERSION, "size": size, **source.identity()}
    root = Path(cache_dir).expanduser() if cache_dir else default_cache()
    folder = cached_folder(root / "images", "images", made_from, lambda folder: _build(source, size, folder))
    about = read_json(folder / "about.json")
    arrays = {
        split: ImageArrays(
            read_array(folder / f"{split}-images.npy"),
            read_array(folder / f"{split}-labels.npy", mapped=False),
            read_array(folder / f"{split}-moments.npy"),
            content,
        )
        for split, content in about["content"].items()
    }
    return arrays, tuple(about["class_names"])


def decode(encoded: bytes, where: str, size: int, channels: int) -> np.ndarray:
    """The image, (size, size, channels) uint8: the middle square of its upright view, resized.

    Raises:
        ValueError: if it cannot be read, naming `where` it stands.
    """
    with _opened(encoded, where) as image:
        upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
        square = ImageOps.fit(upright, (size, size), method=Image.Resampling.BICUBIC)
    return np.asarray(square).reshape(size, size, channels)


@contextlib.contextmanager
def _opened(encoded: bytes, where: str) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.mode not in GREY_MODES + COLOUR_MODES:
                raise ValueError(f"its mode {image.mode} is none of {', '.join(GREY_MODES + COLOUR_MODES)}")
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(f"{where}: the image cannot be read: it is of no known format") from error
    except Exception as error:  # Pillow's decoders raise kinds of many sorts on broken files
        raise ValueError(f"{where}: the image cannot be read: {error}") from error


def _build(source: LabelledImages, size: int, folder: Path) -> None:
    labels = {split: source.labels(split) for split in source.splits()}
    if empty := [split for split, of_split in labels.items() if not len(of_split)]:
        raise ValueError(f"the split {empty[0]} has no images")
    total = sum(map(len, labels.values()))
    channels = 1 if _all_grey(source) else 3
    needed, free = total * size * size * channels, shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"the decoded images take {in_bytes(needed)}, but {folder.parent} has {in_bytes(free)} left: "
            "name another folder by cache_dir, or lower image_size"
        )
    content = {}
    with bar(Console(stderr=True), "decoding images", total, "images") as progress:
        for split, of_split in labels.items():
            shape = (len(of_split), size, size, channels)
            content[split] = _write_split(folder, split, of_split, shape, source.images(split), progress)
    write_json(folder / "about.json", {"content": content, "class_names": source.class_names()})


def _reserve(path: Path) -> None:
    """Take the file's place on the disk: written through a map, a disk that is full ends the process by a signal."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _write_split(
    folder: Path,
    split: str,
    labels: np.ndarray,
    shape: tuple[int, int, int, int],
    images: Iterator[tuple[str, bytes]],
    progress: Bar,
) -> str:
    """Writes the split's arrays; returns their digest."""
    count, size, _, channels = shape
    path = folder / f"{split}-images.npy"
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    _reserve(path)
    moments = np.empty((count, 2 * channels), dtype=np.int64)
    digest = hashlib.sha256(repr(shape).encode())
    row = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        # A chunk at a time: the pool's own map would take the whole data set into memory.
        while chunk := list(itertools.islice(images, CHUNK)):
            decoded = np.stack(list(pool.map(lambda item: decode(item[1], item[0], size, channels), chunk)))
            if row + len(decoded) > count:
                raise ValueError(f"{split} has more images than its {count} labels")
            mapped[row : row + len(decoded)] = decoded
            values = decoded.reshape(len(decoded), -1, channels).astype(np.int64)
            moments[row : row + len(decoded)] = np.concatenate([values.sum(axis=1), (values**2).sum(axis=1)], axis=1)
            digest.update(decoded.tobytes())
            row += len(decoded)
            progress.advance(len(decoded))
    if row < count:
        raise ValueError(f"{split} has {row} images but {count} labels")
    mapped.flush()
    del mapped
    np.save(folder / f"{split}-labels.npy", labels)
    np.save(folder / f"{split}-moments.npy", moments)
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _all_grey(source: LabelledImages) -> bool:
    """Whether all images of all splits are; ends at the first that is not, and reads headers only."""
    for split in source.splits():
        for where, encoded in source.images(split):
            with _opened(encoded, where) as image:
                if image.mode not in GREY_MODES:
                    return False
    return True
