"""Convolutions that scoring computes as matrix products: those whose images come out as single pixels.

Deep layers of a network on small images convolve 2x2 or 1x1 images. Most of the kernel then meets padding, and a
convolution made for large images runs at a fraction of a matrix product's speed: the last stage of ResNet-50 on images
of 32x32, a quarter of the operations, takes half of the time of all convolutions (oneDNN on an AMD EPYC).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def is_one_product(named: dict[str, Any]) -> bool:
    """Whether a call of aten.convolution, arguments by name, is one that `as_product` carries out.

    On a GPU its own kernels are as fast.
    """
    image, weight = named["input"], named["weight"]
    if image.device.type != "cpu" or image.dim() != 4 or image.dtype != weight.dtype or not image.is_floating_point():
        return False
    if named["transposed"] or named["groups"] != 1 or any(step != 1 for step in named["dilation"]):
        return False
    sizes = zip(image.shape[2:], weight.shape[2:], named["stride"], named["padding"], strict=True)
    return all(0 <= size + 2 * padding - kernel < stride and size > 0 for size, kernel, stride, padding in sizes)


def as_product(named: dict[str, Any]) -> Tensor:
    """What the convolution returns, (B, C, 1, 1) with the channels last: the pixels times the taps that meet them."""
    image, weight, bias = named["input"], named["weight"], named["bias"]
    for axis, padding in zip((2, 3), named["padding"], strict=True):
        first = min(padding, weight.shape[axis])
        length = min(image.shape[axis], weight.shape[axis] - first)
        image, weight = image.narrow(axis, 0, length), weight.narrow(axis, first, length)
    # The order of pixels and channels in which both lie in memory.
    pixels, taps = image.permute(0, 2, 3, 1).flatten(1), weight.permute(0, 2, 3, 1).flatten(1)
    product = pixels @ taps.t() if bias is None else torch.addmm(bias, pixels, taps.t())
    return product.view(*product.shape, 1, 1).contiguous(memory_format=torch.channels_last)
