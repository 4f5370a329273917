"""Operations that the scoring pass carries out faster than torch does on a CPU: dropout masks, convolutions of pixels.

A BERT layer draws more random numbers than it has outputs, and torch takes 5.8 ns for each: a seventh of a scoring
pass. Here each entry takes 16 bits of the same generator, compared with a threshold: 1.7 ns (on an AMD EPYC).

Deep layers of a network on small images convolve 2x2 or 1x1 images, where most of the kernel meets padding: the last
stage of ResNet-50 on images of 32x32, a quarter of the operations, takes half of the time (oneDNN on an AMD EPYC).
Without the first a shared step of BERT-base at its last exit takes 5% longer, without the second one of ResNet-50 9%.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def bernoulli_(target: Tensor, p: float) -> Tensor:
    """Fill a tensor (on the CPU, without gaps) with 1 at probability `p`, and with 0 otherwise.

    It advances torch's default generator, by other draws than `Tensor.bernoulli_`. Each entry takes 16 bits, to which
    the probability is not rounded, as the threshold of all is drawn from the two numbers beside it; near 0 and 1, 32.
    """
    if p >= 1:
        return target.fill_(1)
    kind, width = (torch.int16, 16) if 0.01 <= p <= 0.99 else (torch.int32, 32)
    numbers = -(-target.numel() * width // 64)
    bits = torch.empty(numbers, dtype=torch.int64).random_(-(2**63), None).view(kind)[: target.numel()]
    threshold = math.floor(p * 2**width + float(torch.rand((), dtype=torch.float64)))
    # A whole number of so many bits is below it with probability (threshold + 2^(width - 1)) / 2^width.
    return target.copy_((bits < threshold - 2 ** (width - 1)).view(target.shape))


def is_slow_draw(function: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation is one that `bernoulli_` carries out faster."""
    if function is not aten.bernoulli_.float or len(args) != 2 or kwargs.get("generator") is not None:
        return False
    target, p = args
    return isinstance(target, Tensor) and target.device.type == "cpu" and target.is_floating_point() and 0 <= p <= 1


def is_one_product(named: dict[str, Any]) -> bool:
    """Whether a call of aten.convolution, arguments by name, is for `as_product`; a GPU's own kernels are as fast."""
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
