"""Convolutions to single pixels as products, against torch's own convolution."""

import itertools

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from gsgd.sift.shared_forward.convolutions import as_product, is_one_product  # noqa: E402

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def arguments(image, weight, bias=None, stride=1, padding=0, **more):
    return {
        "input": image, "weight": weight, "bias": bias, "stride": [stride] * 2, "padding": [padding] * 2,
        "dilation": [1, 1], "transposed": False, "output_padding": [0, 0], "groups": 1, **more,
    }  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3)])
def test_every_convolution_to_a_single_pixel_and_no_other(kernel, layout):
    draw = torch.Generator().manual_seed(0)
    products = 0
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
            products += 1
            torch.testing.assert_close(as_product(call), wanted, rtol=1e-13, atol=1e-13)
    assert products > 50


def test_convolutions_that_it_leaves_alone():
    image, weight = torch.ones(2, 4, 1, 1), torch.ones(4, 4, 1, 1)
    assert is_one_product(arguments(image, weight))
    assert not is_one_product(arguments(image, torch.ones(4, 2, 1, 1), groups=2))
    assert not is_one_product(arguments(image, weight, transposed=True))
    assert not is_one_product(arguments(torch.ones(2, 4, 3, 3), torch.ones(4, 4, 2, 2), dilation=[2, 2]))
    assert not is_one_product(arguments(image.to("meta"), weight.to("meta")))
    assert not is_one_product(arguments(image[:, :, 0], weight[:, :, 0]))  # of one dimension
    assert not is_one_product(arguments(image, weight.double()))
