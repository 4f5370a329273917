"""Dropout masks drawn faster: their distribution and generator; convolutions to single pixels, against torch's own."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from passes import inputs, tower, train

from gsgd.sift import Sift
from gsgd.sift.shared_forward.cpu_kernels import as_product, bernoulli_, is_one_product, is_slow_draw

aten = torch.ops.aten


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1 - 2**-10, 1.0])
def test_share_of_ones(p, dtype):
    """Four tests an amount of 6 sigma apart err with probability 1e-8 in all; seeds are fixed."""
    torch.manual_seed(1)
    found = bernoulli_(torch.full((1000, 1000), 7, dtype=dtype), p)
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert abs(float(found.double().mean()) - p) <= 6 * math.sqrt(p * (1 - p) / 1e6)


def test_neighbours_are_independent():
    """Entries that share a draw of 64 bits, and ones further apart: correlations within 6 sigma (error 1e-8)."""
    torch.manual_seed(2)
    found = bernoulli_(torch.empty(2_000_001), 0.5) - 0.5
    for lag in (1, 2, 3, 64):
        assert abs(float((found[:-lag] * found[lag:]).mean() * 4)) < 6 / math.sqrt(2e6)
    first, second = found[:-1].view(-1, 2).mean(0)
    assert abs(float(first - second)) < 6 * math.sqrt(0.5 / 1e6)


def test_the_smallest_probabilities_are_not_rounded_away():
    """2^-20 of 2^22 entries are 4 on average; 0 or more than 30 have probability below 0.02 and 1e-16. Seed fixed."""
    torch.manual_seed(3)
    assert 0 < float(bernoulli_(torch.empty(2**22), 2.0**-20).sum()) <= 30


def test_in_place_and_by_the_default_generator():
    target = torch.empty(3, 5)
    torch.manual_seed(4)
    assert bernoulli_(target, 0.5) is target
    state = torch.get_rng_state()
    torch.manual_seed(4)
    assert torch.equal(bernoulli_(torch.empty(3, 5), 0.5), target)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(bernoulli_(torch.empty(3, 5), 0.5), target)


def test_what_it_stands_in_for():
    x, float_ = torch.empty(4), aten.bernoulli_.float
    assert is_slow_draw(float_, (x, 0.5), {})
    assert not is_slow_draw(float_, (x, 0.5), {"generator": torch.Generator()})
    others = [(float_, (x.long(), 0.5)), (float_, (x, 1.5)), (float_, (x.to("meta"), 0.5))]
    others += [(aten.bernoulli_.Tensor, (x, x)), (aten.uniform_.default, (x,))]
    assert not any(is_slow_draw(function, arguments, {}) for function, arguments in others)


def test_a_recorded_pass_drops_and_scales_as_dropout_does_and_hands_the_masks_on():
    """384,000 entries at 0.75: within 6 sigma (error 2e-9)."""
    torch.manual_seed(5)
    seen = []

    def block(self, x):
        seen.append(F.dropout(torch.ones_like(x), 0.25))
        return self.one(x) * seen[-1]

    sift = Sift(tower(block))
    train(sift, inputs(rows=400, width=160))
    scored, trained = seen[-2:]
    torch.testing.assert_close(scored.unique(), torch.tensor([0.0, 4 / 3], dtype=torch.float64))
    assert abs(float((scored > 0).double().mean()) - 0.75) < 6 * math.sqrt(0.75 * 0.25 / scored.numel())
    assert torch.equal(trained, scored[sift.last.indices])


def arguments(image, weight, bias=None, stride=1, padding=0, **more):
    return {
        "input": image, "weight": weight, "bias": bias, "stride": [stride] * 2, "padding": [padding] * 2,
        "dilation": [1, 1], "transposed": False, "output_padding": [0, 0], "groups": 1, **more,
    }  # fmt: skip


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
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
