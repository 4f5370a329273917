"""Augmentation of a batch at once: crops and flips as functions of (seed, epoch, row), then normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.draws import uniforms

PADDING = 4
FLIP_RATE = 0.5
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)


def crop_flip(images: np.ndarray, rows: np.ndarray, *, seed: int, epoch: int) -> Tensor:
    """Pad by 4 black pixels, crop back at random, flip half of them left to right: what is usual for 32x32.

    Args:
        images: (B, H, W, C) uint8.
        rows: (B,), the images' numbers, which with `seed` and `epoch` determine the draws.

    Returns:
        (B, C, H, W) uint8.
    """
    count, height, width, channels = images.shape
    draws = uniforms(seed, epoch, rows, 3)
    down, right = (draws[:, :2] * (2 * PADDING + 1)).astype(np.int64).T
    padded = np.zeros((count, height + 2 * PADDING, width + 2 * PADDING, channels), dtype=np.uint8)
    padded[:, PADDING:-PADDING, PADDING:-PADDING] = images
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    cropped = windows[np.arange(count), down, right]
    flipped = draws[:, 2] < FLIP_RATE
    cropped[flipped] = cropped[flipped][..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(cropped))


def resized_crop_flip(images: np.ndarray, rows: np.ndarray, size: int, *, seed: int, epoch: int) -> Tensor:
    """Crop 8% to 100% of the area at an aspect ratio of 3/4 to 4/3, resize bilinearly, flip half: as on ImageNet.

    A crop's area and place are drawn uniformly, its aspect ratio on a log scale; its sides are whole pixels. A side
    that would be longer than the image is cut to it, where torchvision draws again: here a row has 5 draws, always.

    Args:
        images: (B, H, W, C) uint8.
        rows: (B,), the images' numbers, which with `seed` and `epoch` determine the draws.
        size: height and width of the result.

    Returns:
        (B, C, size, size) uint8.
    """
    count, height, width, channels = images.shape
    draws = uniforms(seed, epoch, rows, 5)
    area = (AREA[0] + (AREA[1] - AREA[0]) * draws[:, 0]) * height * width
    ratio = np.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * draws[:, 1])
    high = np.clip(np.rint(np.sqrt(area / ratio)), 1, height).astype(np.int64)
    wide = np.clip(np.rint(np.sqrt(area * ratio)), 1, width).astype(np.int64)
    top = (draws[:, 2] * (height - high + 1)).astype(np.int64)
    left = (draws[:, 3] * (width - wide + 1)).astype(np.int64)
    source = torch.from_numpy(images).permute(0, 3, 1, 2)
    cropped = torch.empty((count, channels, size, size), dtype=torch.uint8)

    def resize(row: int) -> None:
        y, x = top[row], left[row]
        crop = source[row : row + 1, :, y : y + high[row], x : x + wide[row]]
        cropped[row] = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]

    # One at a time: torch's resizing of uint8 is several times faster than grid_sample on the batch as floats.
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        list(pool.map(resize, range(count)))
    flipped = torch.from_numpy(draws[:, 4] < FLIP_RATE)
    cropped[flipped] = cropped[flipped].flip(-1)
    return cropped


def centre_crop(images: np.ndarray, size: int) -> Tensor:
    """The middle of the images (B, H, W, C), H and W at least `size`, as (B, C, size, size) uint8."""
    top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
    middle = images[:, top : top + size, left : left + size].transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(middle))


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images / 255 - mean) / std per channel, float32.

    Args:
        images: (B, C, H, W), values in 0..255.
        mean, std: (C,), of images scaled to [0, 1]; std > 0.
    """
    shift = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1) * 255
    scale = 1 / (torch.tensor(std, dtype=torch.float32).view(-1, 1, 1) * 255)
    return images.to(torch.float32, memory_format=torch.contiguous_format, copy=True).sub_(shift).mul_(scale)
