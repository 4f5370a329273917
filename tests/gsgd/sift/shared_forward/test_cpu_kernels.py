"""Dropout masks drawn faster: their distribution and generator; convolutions to single pixels, against torch's own."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from gsgd.sift.shared_forward.cpu_kernels import as_product, bernoulli_, is_one_product, is_slow_draw

aten = torch.ops.aten


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.0, 1.2e-5, 0.1, 0.5, 0.9, 1 - 2**-10, 1.0])  # the second one would be 0 in 16 bits
def test_share_of_ones(p, dtype):
    """21 tests an amount of 6 sigma apart err with probability 1e-7 in all; seeds are fixed."""
    torch.manual_seed(1)
    found = bernoulli_(torch.full((2000, 2000), 7, dtype=dtype), p)
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert abs(float(found.double().mean()) - p) <= 6 * math.sqrt(p * (1 - p) / 4e6)


def test_neighbours_are_independent():
    """Entries that share a draw of 64 bits, and ones further apart: correlations within 6 sigma (error 1e-8)."""
    torch.manual_seed(2)
    found = bernoulli_(torch.empty(2_000_001), 0.5) - 0.5
    for lag in (1, 2, 3, 64):
        assert abs(float((found[:-lag] * found[lag:]).mean() * 4)) < 6 / math.sqrt(2e6)
    first, second = found[:-1].view(-1, 2).mean(0)
    assert abs(float(first - second)) < 6 * math.sqrt(0.5 / 1e6)


def test_in_place_and_by_the_default_generator():
    target = torch.empty(3, 5)
    torch.manual_seed(4)
    assert bernoulli_(target, 0.5) is target
    torch.manual_seed(4)
    assert torch.equal(bernoulli_(torch.empty(3, 5), 0.5), target)
    assert not torch.equal(bernoulli_(torch.empty(3, 5), 0.5), target)


def test_what_it_stands_in_for():
    x, float_ = torch.empty(4), aten.bernoulli_.float
    assert is_slow_draw(float_, (x, 0.5), {})
    assert not is_slow_draw(float_, (x, 0.5), {"generator": torch.Generator()})
    others = [(float_, (x.long(), 0.5)), (float_, (x, 1.5)), (float_, (x.to("meta"), 0.5))]
    others += [(aten.bernoulli_.Tensor, (x, x)), (aten.uniform_.default, (x,))]
    assert not any(is_slow_draw(function, arguments, {}) for function, arguments in others)


def arguments(image, weight, bias=None, stride=1, padding=0, **more):
    return {
        "input": image, "weight": weight, "bias": bias, "stride": [stride] * 2, "padding": [padding] * 2,
        "dilation": [1, 1], "transposed": False, "output_padding": [0, 0], "groups": 1, **more,
    }  # fmt: skip


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3)])
def test_every_convolution_to_a_single_pixel_and_no_other(kernel, layout):
    draw = torch.Generator().manual_seed(0)
    for rows, channels, height, width, stride, padding in itertools.product(
        (1, 3), (1, 4), (1, 2, 3), (1, 2), (1, 2, 3, 7), (0, 1, 2)
    ):
        image = torch.randn(rows, channels, height, width, generator=draw, dtype=torch.float64).to(memory_format=layout)
        weight = torch.randn(5, channels, *kernel, generator=draw, dtype=torch.float64).to(memory_format=layout)
        bias = torch.randn(5, generator=draw, dtype=torch.float64) if stride != 2 else None
        call = arguments(image, weight, bias, stride, padding)
        if height + 2 * padding < kernel[0] or width + 2 * padding < kernel[1]:
            assert not is_one_product(call)  # which torch refuses
            continue
        wanted = F.conv2d(image, weight, bias, stride, padding)
        assert is_one_product(call) == (wanted.shape[2:] == (1, 1))
        if is_one_product(call):
            torch.testing.assert_close(as_product(call), wanted, rtol=1e-13, atol=1e-13)


def test_convolutions_that_it_leaves_alone():
    image, weight = torch.ones(2, 4, 1, 1), torch.ones(4, 4, 1, 1)
    assert is_one_product(arguments(image, weight))
    assert not is_one_product(arguments(image, torch.ones(4, 2, 1, 1), groups=2))
    assert not is_one_product(arguments(image, weight, transposed=True))
    assert not is_one_product(arguments(torch.ones(2, 4, 3, 3), torch.ones(4, 4, 2, 2), dilation=[2, 2]))
    assert not is_one_product(arguments(image.to("meta"), weight.to("meta")))
    assert not is_one_product(arguments(image[:, :, 0], weight[:, :, 0]))  # of one dimension
    assert not is_one_product(arguments(image, weight.double()))
