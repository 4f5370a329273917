"""Rows cut out of tensors of any layout, arguments told by samples, and attention's masks, against plain indexing."""

import pytest
import torch

from gsgd.sift.shared_forward.row_operations import Sample, cut, is_cheap, same_mask

aten = torch.ops.aten
ROWS, PICKED = 6, torch.tensor([4, 0, 3])
T, KEPT = 3, torch.tensor([0, 2])


def numbers(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


LAYOUTS = {
    "one axis": numbers(6),
    "small": numbers(6, 3),
    "large, in float32": numbers(6, 40, 50, dtype=torch.float32),
    "entries of a row one behind the other": numbers(6 * 5, 70),
    "transposed, in bfloat16": numbers(6, 9, 11, dtype=torch.bfloat16).mT,
    "channels last": numbers(6, 3, 8, 8).to(memory_format=torch.channels_last),
    "heads": numbers(6, 5, 2, 4).transpose(1, 2),
    "a part": numbers(6, 5, 8)[:, 1:4, ::2],
    "one for all of a row": numbers(6, 1, 4).expand(6, 5, 4),
}


@pytest.mark.parametrize("value", LAYOUTS.values(), ids=LAYOUTS)
def test_rows_have_their_values_and_layout_and_are_told_from_others(value):
    each, of = len(value) // ROWS, Sample.of(value, ROWS)
    wanted = torch.cat([value[each * row : each * (row + 1)] for row in PICKED.tolist()])
    found = cut(value, ROWS, PICKED)
    assert torch.equal(found, wanted)
    assert all(cut(one, ROWS, PICKED) is one for one in (None, 3, torch.tensor(2.0), torch.ones(7, 2)))
    axes = [axis for axis in range(1, value.dim()) if value.stride(axis)]
    assert sorted(axes, key=found.stride) == sorted(axes, key=value.stride)
    assert of.compare(found, PICKED) is True
    assert of.compare(value.clone(), PICKED) is False
    assert of.compare(found, torch.tensor([4, 0, 2])) is None
    others = [wanted.to(torch.float16), wanted[..., None], wanted.flatten()[:-1], 3.0, None]
    for row in range(3):
        for at in (0, -1):
            others.append(wanted.clone(memory_format=torch.contiguous_format))
            others[-1].view(3, -1)[row, at] += 1
    assert [of.compare(other, PICKED) for other in others] == [None] * len(others)


def test_not_a_number_and_infinities_are_themselves_only():
    value = numbers(ROWS, 2)
    value[0], value[3] = torch.tensor([float("nan"), float("inf")]), torch.tensor([float("-inf"), 1e300])
    of, wanted = Sample.of(value, ROWS), value[PICKED]
    assert of.compare(wanted, PICKED) is True
    for place, number in (((1, 0), 0.0), ((1, 1), float("-inf")), ((2, 0), float("inf")), ((0, 0), float("nan"))):
        other = wanted.clone()
        other[place] = number
        assert of.compare(other, PICKED) is None


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
    mask = torch.where(mask, 0.0, -1e9) if additive else mask
    kept = mask[KEPT] if rows > 1 else mask
    for before in ((mask, False), (None, False), (None, True)):
        for now in ((kept, False), (kept.flip(-1), False), (None, False), (None, True)):
            assert same_mask(*before, *now, KEPT) is (seen(*before, KEPT.tolist()) == seen(*now, range(2)))
    assert same_mask(mask, True, kept, True, KEPT)
    bias = numbers(4, 2, T, T)
    assert [same_mask(bias, False, bias[KEPT] + more, False, KEPT) for more in (0, 1)] == [True, False]


@pytest.mark.parametrize(("terms", "cheap"), [(64, True), (65, False)])
def test_few_terms_are_cheap(terms, cheap):
    assert is_cheap(aten.bmm, {"self": numbers(2, 3, terms), "mat2": numbers(2, terms, 99)}) is cheap
    assert is_cheap(aten.baddbmm, {"self": numbers(2, 3, 99), "batch1": numbers(2, 3, terms)}) is cheap
    assert is_cheap(aten.convolution, {"weight": numbers(99, terms, 1, 1)}) is cheap
    assert not is_cheap(aten.convolution, {"weight": numbers(99, 3, 1, 3)})
