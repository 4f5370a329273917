"""Models that mix rows, remember, branch or write in place, and ones that change between steps or passes."""

import pytest
import torch
import torch.nn.functional as F
from passes import assert_same, counted, train
from torch import nn
from towers import follow, inputs, tower

from gsgd.sift import Sift


def filled_sequence_first(self, x):
    h = torch.zeros(x.shape[1], x.shape[0], x.shape[2], dtype=x.dtype)
    h.transpose(0, 1).copy_(self.one(x))
    return self.two(h.cumsum(0)).transpose(0, 1)


MIXING = {
    "mean over the batch": lambda s, x: s.two(s.one(x) - s.one(x).mean(0)),
    "mean in a buffer": lambda s, x: s.two(s.one(x) + torch.zeros(6, dtype=x.dtype).copy_(x.mean((0, 1)))),
    "BatchNorm by hand": lambda s, x: s.two(((h := s.one(x)) - h.mean((0, 1))) / h.std((0, 1))),
    "softmax over the batch": lambda s, x: s.two(s.one(x).softmax(0)),
    "sequence first": lambda s, x: s.two(s.one(x.transpose(0, 1)).cumsum(1)).transpose(0, 1),
    "sequence first by view": lambda s, x: s.two(s.one(x).reshape(x.shape[1], len(x), -1).cumsum(0)).view(x.shape),
    "sequence first in place": lambda s, x: s.two((s.one(x) * 2).transpose_(0, 1).cumsum(1)).transpose(0, 1),
    "sequence first, filled": filled_sequence_first,
    "attention over the batch": lambda s, x: s.two(attend(s.one(x).transpose(0, 1))).transpose(0, 1),
    "products of rows with rows": lambda s, x: s.two(attend(s.one(x).flatten(1)).view_as(x)),
    "LayerNorm of the whole batch": lambda s, x: s.two(F.layer_norm(s.one(x), x.shape)),
    # (1, B, C) is an image without a batch to convolution's eyes.
    "rows as channels": lambda s, x: s.two(F.avg_pool1d(s.one(x).flatten(1).t()[None], 3, 1, 1)[0].t().view_as(x)),
    "numbered rows": lambda s, x: s.two(s.one(x) + torch.arange(len(x), dtype=x.dtype)[:, None, None]),
    "numbered rows by index": lambda s, x: s.two(s.one(x) + s.word(torch.arange(len(x)) % 5)[:, None]),
    "times the number of rows": lambda s, x: s.two(s.one(x) * torch.scalar_tensor(len(x), dtype=x.dtype)),
    "divided by the number of rows": lambda s, x: s.two(s.one(x) / torch.ones(len(x), dtype=x.dtype).sum()),
    "weighted by the number of rows": lambda s, x: s.two(s.one(x) * x.new_ones(len(x), 1, 1).softmax(0)),
    "neighbours": lambda s, x: s.two(s.one(x) + x.roll(1, 0)),
    "reversed rows": lambda s, x: s.two(s.one(x).flip(0)).flip(0) + s.two(x.flip(0)),
    "part of the rows": lambda s, x: s.two(torch.cat([(h := s.one(x))[: len(h) // 2].relu(), h[len(h) // 2 :]])),
}


def attend(h):
    return (h @ h.mT).softmax(-1) @ h


def routed(self, x):
    """A mixture of experts: each sees the tokens that choose it, whose number may be a multiple of the rows'."""
    tokens = x.flatten(0, 1)
    out = torch.zeros_like(tokens)
    for layer, chosen in ((self.one, tokens[:, 0] <= 0), (self.two, tokens[:, 0] > 0)):
        where = torch.nonzero(chosen)[:, 0]
        out = out.index_add(0, where, layer(tokens[where]).relu())
    return self.norm(out.view_as(x))


@pytest.mark.parametrize("width", [4, 8])  # 8: as many tokens as rows
@pytest.mark.parametrize("block", MIXING.values(), ids=MIXING)
def test_models_that_mix_rows(block, width):
    follow(tower(block), *(inputs(seed, width=width) for seed in range(2)))


def in_order(self, x, order):
    return self.two(self.one(x[order]).relu())[torch.as_tensor(order).argsort()]


MIXING_BY_MASK = {
    "normalised by the padding of all": lambda s, x, mask: s.two(s.one(x) * mask.mean()),
    "by the mean mask": lambda s, x, mask: s.two(s.one(x) * mask.mean(0)[None, :, None]),
    "sorted by length": lambda s, x, mask: in_order(s, x, mask.sum(1).argsort(descending=True, stable=True)),
    "sorted in Python": lambda s, x, mask: in_order(
        s, x, sorted(range(len(x)), key=mask.sum(1).neg().tolist().__getitem__)
    ),
    "packed tokens": lambda s, x, mask: torch.zeros_like(x).masked_scatter(
        mask.bool()[..., None], s.two(s.one(x[mask.bool()]).relu())
    ),
    "longest in Python": lambda s, x, mask: s.two(s.one(x[:, : int(max(mask.sum(1).tolist()))]).relu()),
    "longest as scale": lambda s, x, mask: s.two(s.one(x) * torch.tensor(max(mask.sum(1).tolist()), dtype=x.dtype)),
}


@pytest.mark.parametrize("block", MIXING_BY_MASK.values(), ids=MIXING_BY_MASK)
def test_mixing_that_the_first_batches_do_not_show(block):
    """Without padding all of these treat rows one by one; the first replays can find nothing."""
    full, half, alike = torch.ones(3, 8, 4, dtype=torch.float64)
    half[::2, 2:] = 0
    alike[:, 3] = 0
    follow(tower(block), *(inputs(seed, mask=mask) for seed, mask in enumerate((full, full, half, alike, half, full))))


def test_experts_that_get_as_many_tokens_as_rows_by_chance():
    """Of 32 tokens 16 go to each expert, of the kept rows' 12 tokens 6: sizes scale as rows do, the tokens do not."""
    odd, even = inputs(0), inputs(1)
    odd["x"][..., 0] = torch.linspace(-1.0, 5.0, 32, dtype=torch.float64).view(8, 4)
    signs = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]).repeat(4).view(8, 4)
    signs[0], signs[1] = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([-1.0, -1.0, 1.0, 1.0])
    even["x"][..., 0] = signs
    follow(tower(routed), odd, odd, even, even, rows=torch.tensor([0, 2, 3]))


# ---- state, branches, gradients ----


def in_part_of_a_constant(self, x):
    scale = torch.ones(6, dtype=x.dtype)
    scale[:3].fill_(1.0 + torch.is_grad_enabled())
    return self.two(self.one(x) * scale)


def remember(memory, value, result):
    memory.add_(value.detach())
    return result()


BETWEEN_PASSES = {
    "a branch on data": lambda s, x: s.two(h.relu()) if (h := s.one(x)).sum() > 0 else s.three(h.tanh()),
    "a branch on rows": lambda s, x: s.two(s.one(x)) if len(x) == 8 else s.three(s.one(x)),
    # Those that count: of a scoring pass nothing stays.
    "calls": lambda s, x: remember(s.memory[0], torch.ones(()), lambda: s.two(s.one(x) * (1 + s.calls % 2))),
    "gradients": lambda s, x: s.two(s.one(x) * (1 + torch.is_grad_enabled())),
    "gradients, in part of a constant": in_part_of_a_constant,
    "memory": lambda s, x: remember(s.memory, x.mean((0, 1)), lambda: s.two(s.one(x) + s.memory)),
    "memory by a view": lambda s, x: remember(s.memory[:3], x.mean((0, 1))[:3], lambda: s.two(s.one(x) + s.memory)),
}


@pytest.mark.parametrize("block", BETWEEN_PASSES.values(), ids=BETWEEN_PASSES)
def test_what_differs_between_the_passes_is_not_shared(block):
    follow(tower(block), *map(inputs, range(5)))


def test_branches_taken_in_turn():
    """One row decides, so that gross batch and kept rows may differ, too."""
    batches = [inputs(seed) for seed in range(6)]
    for number, batch in enumerate(batches):
        batch["x"] = batch["x"] * 0.1 + (1.0 if number % 3 else -1.0)
    follow(tower(lambda s, x: s.two(s.one(x).relu() if x.sum() > 0 else s.one(x).tanh() * 2)), *batches)


def test_a_branch_on_the_mask_is_taken_as_the_kept_rows_say(warnings_said):
    mask = (torch.arange(8) > 3)[:, None].expand(8, 4)
    batch = inputs(mask=mask)
    follow(tower(lambda s, x, mask: s.two(x) if mask.any() else s.one(x)), batch, rows=torch.tensor([0, 1, 2]))
    assert "for the gross batch" in warnings_said()[0]


SOFTMAX = {
    "read before and behind": lambda s, product: product.tanh() + product.softmax(-1) + product.view(-1, 4, 4).sin(),
    "changed in place": lambda s, product: product.add_(1).softmax(-1) + product.mul_(2),
    "masked": lambda s, product: product.masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf).softmax(-1),
    "of another type": lambda s, product: product.float().softmax(-1).double(),
    "softmax while scoring only": lambda s, product: (
        product.sigmoid() if s.calls == 3 and torch.is_grad_enabled() else product.softmax(-1)
    ),
}


@pytest.mark.parametrize("weights", SOFTMAX.values(), ids=SOFTMAX)
def test_attention_written_out(weights):
    model = tower(lambda s, x: weights(s, s.one(x) @ s.two(x).mT) @ s.three(x))
    follow(model, *map(inputs, range(3)))


# ---- memory in place, views, constants ----


def through_views(self, x):
    h = self.one(x)
    h[:, 0] = 1.0
    h[:, 1:3] += self.two(x)[:, 1:3]
    h.view(-1).sigmoid_()
    return self.two(h)


def filled_in_parts(self, x):
    h = torch.zeros_like(x)
    h[:, :2] = self.one(x[:, :2])
    h[:, 2:] = self.two(x[:, 2:])
    return self.norm(h)


def chunks(self, x):
    a, b, c = self.one(x).chunk(3, dim=-1)
    h = torch.stack([a, b, c], dim=2).flatten(2).transpose(1, 2).contiguous().transpose(1, 2)
    return self.two(h.unsqueeze(1).expand(-1, 2, -1, -1).mean(1)).reshape(x.shape)


SHARED = {
    "in place": lambda s, x: s.norm(s.two(h := s.one(x).add_(x).mul_(2).relu_()).add_(h)),
    "in place through views": through_views,
    "filled in parts": filled_in_parts,
    "views": chunks,
    "a layer twice": lambda s, x: s.one(s.one(s.one(x).relu()).relu()),
    "tied": lambda s, x: s.one(x) @ s.one.weight + s.two(x),
    "einsum": lambda s, x: (
        torch.einsum("bti,ji->btj", s.one(x), s.two.weight) + torch.einsum("bti,bsi->bt", x, x)[..., None]
    ),
    "whole numbers": lambda s, x: s.two(s.one(x) + ((c := (x * 4).long()) @ c.mT).sum(-1, True).to(x.dtype).tanh()),
}


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("block", SHARED.values(), ids=SHARED)
def test_operations_in_place_views_and_weights_used_twice_are_shared(block, width):
    follow(tower(block), *(inputs(seed, width=width) for seed in range(3)), share=True)


def test_products_of_many_terms_are_kept():
    """Up to 64 terms they are computed again."""
    products = []
    for width in (64, 65):
        sift = Sift(tower(lambda s, x: s.two(x @ torch.baddbmm(x.mT @ x, x.mT, x).tanh())))
        sift.choose(inputs(0, width=width))
        products.append([train(sift, inputs(seed, width=width))[1]["bmm"] for seed in range(2)][1])
        follow(sift.model, *(inputs(seed, width=width) for seed in range(2)), share=True)
    assert products == [2, 1]


def test_not_a_number_is_no_reason_to_compute(warnings_said):
    model = tower(lambda self, x: self.two(self.one(x) * torch.tensor(float("nan"), dtype=x.dtype)))
    sift = Sift(model, score=lambda logits, labels: labels.double())
    for seed in range(2):
        loss, computed, _ = train(sift, inputs(seed))
        assert loss.isnan()
    assert computed["addmm"] == 2  # the first three of five are shared
    assert not warnings_said()


def test_tensors_with_operations_of_their_own_are_left_alone(warnings_said):
    from torch.testing._internal.two_tensor import TwoTensor

    follow(tower(lambda self, x: self.two(self.one(TwoTensor(x, x).sin().a))), inputs(0), inputs(1))
    assert "TwoTensor is a tensor with operations of its own" in warnings_said()[0]


# ---- changes ----


def settable(self, x):
    h = self.norm(self.one(x) * self.scale + self.shift).pow(self.power)
    return self.two(h.clamp(min=0.0) if self.flag else h) + self.memory


def put(name, value):
    return lambda model: setattr(model, name, value)


CHANGES = {
    "a number": put("scale", 3.0),
    "a number of another type": put("scale", torch.tensor(3.0, dtype=torch.float64)),
    "a power": put("power", 3),
    "a flag": put("flag", False),
    "a layer's setting": lambda model: setattr(model.norm, "eps", 0.5),
    "a weight in place": lambda model: model.one.weight.detach().mul_(2),
    "a weight behind autograd's back": lambda model: model.one.weight.data.mul_(2),
    "another weight": lambda model: setattr(model.one, "weight", nn.Parameter(model.one.weight.detach() * 2)),
    "a weight's data": lambda model: setattr(model.one.weight, "data", model.one.weight.detach() * 2),
    "a weight's strides": lambda model: setattr(model.one.weight, "data", model.one.weight.data.t().contiguous().t()),
    "a weight for another": lambda model: setattr(model.two, "weight", model.one.weight),
    "a buffer in place": lambda model: model.memory.add_(1),
    "a buffer of other sizes": put("shift", torch.full((4, 6), 2.0, dtype=torch.float64)),
    "a buffer by rows": put("shift", torch.full((1, 1, 6), 2.0, dtype=torch.float64)),
    "a layer": lambda model: setattr(model, "norm", nn.Identity()),
    "frozen weights": lambda model: model.one.requires_grad_(False),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(("between", "at"), [(False, 1), (True, 0), (True, 2)])
def test_what_changes_is_seen(change, between, at):
    """Between steps, and between the passes of one: of the first one, whose products are compared, and of a later."""
    model = tower(settable, scale=2.0, power=2, flag=True, shift=torch.ones(6, dtype=torch.float64))
    follow(model, inputs(0), inputs(1), change=lambda m, number: number == at and change(m), between=between)


def written_from_neighbours(self, x):
    h = self.one(x)
    h[:, 0] = h.roll(1, self.way)[:, 1]
    return self.two(h)


WAYS = {
    "rows": lambda s, x: s.two(s.one(x) + torch.arange(len(x))[:, None, None] * s.way),
    "scoring": lambda s, x: s.two(s.one(x) * (2 if torch.is_grad_enabled() else 2 + s.way)),
    "neighbours": written_from_neighbours,
}


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("block", WAYS.values(), ids=WAYS)
def test_models_that_mix_rows_in_some_steps(block, first):
    """Numbers of rows, scores unlike training, and neighbours written into rows: now and then."""
    follow(tower(block), *map(inputs, range(3)), change=lambda m, number: setattr(m, "way", (first + number // 2) % 2))


def test_what_no_longer_mixes_rows_is_shared_again():
    model = tower(written_from_neighbours)
    sift, counts = Sift(model, exit_layer=1), []
    for step in range(6):
        model.way = int(step > 2)
        counts.append(train(sift, inputs(step))[1]["addmm"])
    # Of five products the block's two and the early head's; while rows mix, its first.
    assert (counts[2], counts[-1]) == (4, 2)


@pytest.mark.parametrize("value", [2.0, 3.0])
def test_a_buffer_that_is_written_to_between_the_passes_counts_by_its_values(value):
    """As DistributedDataParallel does before every pass, with what the buffers are already."""
    model, reference = (tower(lambda s, x: s.two(s.one(x) * s.memory)) for _ in range(2))
    reference.memory.fill_(value)
    sift = Sift(model)
    for seed in range(3):
        model.memory.fill_(2.0)
        rows = sift.choose(inputs(seed))
        model.memory.copy_(torch.full((6,), value))
        found, computed = counted(sift.forward_kept, rows)
        assert_same(found, reference(**rows), model, reference)
    assert computed["addmm"] == (2 if value == 2 else 4)
