"""Rows cut out of tensors of any layout, arguments told by samples, and attention's masks, against plain indexing."""

import itertools

import pytest
import torch
from torch import nn

from gsgd.sift.shared_forward.row_operations import Sample, cut, is_cheap, same_mask

aten = torch.ops.aten
ROWS, PICKED = 6, torch.tensor([4, 0, 3])
T, KEPT = 3, torch.tensor([0, 2])


def numbers(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


LAYOUTS = {
    "one axis": numbers(6),
    "entries of a row one behind the other": numbers(6 * 5, 4),
    "contiguous": numbers(6, 3, 4),
    "transposed": numbers(6, 4, 3).mT,
    "channels last": numbers(6, 3, 2, 4).to(memory_format=torch.channels_last),
    "heads": numbers(6, 5, 2, 4).transpose(1, 2),
    "a part": numbers(6, 5, 8)[:, 1:4, ::2],
    "one for all of a row": numbers(6, 1, 4).expand(6, 5, 4),
}


@pytest.mark.parametrize("value", LAYOUTS.values(), ids=LAYOUTS)
def test_rows_have_their_values_and_layout(value):
    found, each = cut(value, ROWS, PICKED), len(value) // ROWS
    assert found.tolist() == [value[each * row + at].tolist() for row in PICKED.tolist() for at in range(each)]
    axes = [axis for axis in range(1, value.dim()) if value.stride(axis)]
    assert sorted(axes, key=found.stride) == sorted(axes, key=value.stride)
    assert all(cut(one, ROWS, PICKED) is one for one in (None, 3, torch.tensor(2.0), torch.ones(7, 2)))


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 40, 50), (30, 70), (6, 2, 9, 11), (6, 3, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rows_are_told_from_other_rows_and_from_the_whole(shape, dtype):
    value = numbers(*shape, dtype=dtype)
    of = Sample.of(value, ROWS)
    wanted = value.unflatten(0, (ROWS, -1))[PICKED].flatten(0, 1)
    assert of.compare(wanted, PICKED) is True
    assert of.compare(value.clone(), PICKED) is False
    assert of.compare(wanted, torch.tensor([4, 0, 2])) is None
    for other in (wanted.to(torch.float16), wanted[..., None], wanted.flatten()[:-1], 3.0, None):
        assert of.compare(other, PICKED) is None
    for row, at in itertools.product(range(3), (0, -1)):
        other = wanted.clone()
        other.view(3, -1)[row, at] += 1
        assert of.compare(other, PICKED) is None


def test_not_a_number_and_infinities_are_themselves_only():
    value = numbers(ROWS, 2)
    value[0], value[3] = torch.tensor([float("nan"), float("inf")]), torch.tensor([float("-inf"), 1e300])
    of, wanted = Sample.of(value, ROWS), value[PICKED]
    assert of.compare(wanted, PICKED) is True
    for place, number in (((1, 0), 0.0), ((1, 1), float("-inf")), ((2, 0), float("inf")), ((0, 0), float("nan"))):
        other = wanted.clone()
        other[place] = number
        assert of.compare(other, PICKED) is None


@pytest.mark.parametrize("view", [lambda weight: weight, lambda weight: weight.t(), lambda weight: weight.view(-1)])
@torch.no_grad()
def test_parameters_are_told_by_their_changes_and_values(view):
    weight = nn.Parameter(numbers(6, 5))
    of = Sample.of(view(weight), ROWS)
    assert of.compare(view(weight), PICKED) is False
    assert of.compare(view(weight.detach().clone()), PICKED) is None, "no parameter"
    for factor, same in ((2.0, None), (0.5, False)):
        weight.data = weight.detach() * factor
        assert of.compare(view(weight), PICKED) is same
    weight.detach()[2, 2] += 1  # which is counted, wherever it is
    assert of.compare(view(weight), PICKED) is None


def seen(mask, causal, rows):
    """Which positions each position of each row sees, entry by entry."""

    def one(row, at, other):
        entry = True if mask is None else mask[row if len(mask) > 1 else 0, 0, at, other].item()
        return (entry if isinstance(entry, bool) else entry == 0) and (other <= at or not causal)

    return [[[one(row, at, other) for other in range(T)] for at in range(T)] for row in rows]


@pytest.mark.parametrize("padded", [[], [1], [2]])  # of four rows, of which the first and the third are kept
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rows", [1, 4])
def test_masks_by_what_they_show(rows, causal, additive, padded):
    mask = torch.ones(rows, 1, T, T, dtype=torch.bool).tril(0 if causal else T)
    mask[padded if rows > 1 else [], ..., -1] = False
    mask, found = torch.where(mask, 0.0, -1e9) if additive else mask, set()
    kept = mask[KEPT] if rows > 1 else mask
    for before in ((mask, False), (None, False), (None, True)):
        for now in ((kept, False), (kept.flip(-1), False), (None, False), (None, True)):
            same = seen(*before, KEPT.tolist()) == seen(*now, range(2))
            assert same_mask(*before, *now, KEPT) is same
            found.add(same)
    assert found == {False, True}
    assert same_mask(mask, True, kept, True, KEPT)
    bias = numbers(4, 2, T, T)
    assert same_mask(bias, False, bias[KEPT], False, KEPT)
    assert not same_mask(bias, False, bias[KEPT] + 1, False, KEPT)


@pytest.mark.parametrize(("terms", "cheap"), [(64, True), (65, False)])
def test_few_terms_are_cheap(terms, cheap):
    one = torch.ones
    assert is_cheap(aten.bmm, {"self": one(2, 3, terms), "mat2": one(2, terms, 99)}) is cheap
    assert is_cheap(aten.baddbmm, {"self": one(2, 3, 99), "batch1": one(2, 3, terms)}) is cheap
    assert is_cheap(aten.convolution, {"weight": one(99, terms, 1, 1)}) is cheap
    assert not is_cheap(aten.convolution, {"weight": one(99, 3, 1, 3)})
