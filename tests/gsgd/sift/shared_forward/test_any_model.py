"""Models that mix rows, remember, branch, draw or write in place, and ones that change between steps or passes."""

import types

import pytest
import torch
import torch.nn.functional as F
from passes import assert_same, follow, inputs, take, tower, train, without
from torch import nn

from gsgd.sift import Sift


def attend(h):
    return (h @ h.mT).softmax(-1) @ h


def routed(self, x):
    """A mixture of experts: each sees the tokens that choose it, whose number may be a multiple of the rows'."""
    tokens = x.flatten(0, 1)
    out = torch.zeros_like(tokens)
    for layer, chosen in ((self.one, tokens[:, 0] <= 0), (self.two, tokens[:, 0] > 0)):
        out = out.index_add(0, torch.nonzero(chosen)[:, 0], layer(tokens[chosen]).relu())
    return self.norm(out.view_as(x))


def remember(memory, value, result):
    memory.add_(value.detach())
    return result()


def product(weights):
    return lambda s, x: weights(s, s.one(x) @ s.two(x).mT) @ s.three(x)


NOT_BY_ROW = {
    "mean over the batch": lambda s, x: s.two(s.one(x) - s.one(x).mean(0)),
    "mean in a buffer": lambda s, x: s.two(s.one(x) + torch.zeros(6, dtype=x.dtype).copy_(x.mean((0, 1)))),
    "BatchNorm by hand": lambda s, x: s.two(((h := s.one(x)) - h.mean((0, 1))) / h.std((0, 1))),
    "softmax over the batch": lambda s, x: s.two(s.one(x).softmax(0)),
    "sequence first": lambda s, x: s.two(s.one(x.transpose(0, 1)).cumsum(1)).transpose(0, 1),
    "sequence first by view": lambda s, x: s.two(s.one(x).reshape(x.shape[1], len(x), -1).cumsum(0)).view(x.shape),
    "sequence first in place": lambda s, x: s.two((s.one(x) * 2).transpose_(0, 1).cumsum(1)).transpose(0, 1),
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
    "experts": routed,
    "a branch on data": lambda s, x: s.two(h.relu()) if (h := s.one(x)).sum() > 0 else s.three(h.tanh()),
    "a branch on the number of rows": lambda s, x: s.two(s.one(x)) if len(x) == 8 else s.three(s.one(x)),
    # Those that count: of a scoring pass nothing stays.
    "calls": lambda s, x: remember(s.memory[0], torch.ones(()), lambda: s.two(s.one(x) * (1 + s.calls % 2))),
    "gradients": lambda s, x: s.two(s.one(x) * (1 + torch.is_grad_enabled())),
    "memory": lambda s, x: remember(s.memory, x.mean((0, 1)), lambda: s.two(s.one(x) + s.memory)),
    "memory by a view": lambda s, x: remember(s.memory[:3], x.mean((0, 1))[:3], lambda: s.two(s.one(x) + s.memory)),
    "products read by others": product(lambda s, h: h.tanh() + h.softmax(-1) + h.view(-1, *h.shape[1:]).sin()),
    "products changed in place": product(lambda s, h: h.add_(1).softmax(-1) + h.mul_(2)),
    "softmax of another type": product(lambda s, h: h.float().softmax(-1).double()),
    "softmax while scoring": product(lambda s, h: h.sigmoid() if torch.is_grad_enabled() else h.softmax(-1)),
}


@pytest.mark.parametrize("width", [4, 8])  # 8: as many tokens as rows
@pytest.mark.parametrize("block", NOT_BY_ROW.values(), ids=NOT_BY_ROW)
def test_models_that_mix_rows_or_differ_between_the_passes(block, width):
    follow(tower(block), *(inputs(seed, width=width) for seed in range(3)))


def in_order(self, x, order):
    return self.two(self.one(x[order]).relu())[torch.as_tensor(order).argsort()]


def packed(self, x, mask):
    return torch.zeros_like(x).masked_scatter(mask.bool()[..., None], self.two(self.one(x[mask.bool()]).relu()))


MIXING_BY_MASK = {
    "normalised by the padding of all": lambda s, x, mask: s.two(s.one(x) * mask.mean()),
    "by the mean mask": lambda s, x, mask: s.two(s.one(x) * mask.mean(0)[None, :, None]),
    "a branch": lambda s, x, mask: s.two(s.one(x)) if mask.all() else s.one(s.two(x)),
    "sorted by length": lambda s, x, mask: in_order(s, x, mask.sum(1).argsort(descending=True, stable=True)),
    "sorted in Python": lambda s, x, mask: in_order(s, x, sorted(range(len(x)), key=mask.sum(1).tolist().__getitem__)),
    "packed tokens": packed,
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


# ---- what is shared all the same ----


def through_views(self, x):
    h = self.one(x)
    h[:, 0] = 1.0
    h[:, 1:3] += self.two(x)[:, 1:3]
    h.view(-1).sigmoid_()
    return self.two(h)


def filled_in_parts(self, x):
    h = torch.zeros_like(x)
    h[:, :2], h[:, 2:] = self.one(x[:, :2]), self.two(x[:, 2:])
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
    "einsum": lambda s, x: torch.einsum("bti,ji,bsi->btj", s.one(x), s.two.weight, x),
    "whole numbers": lambda s, x: s.two(s.one(x) + ((c := (x * 4).long()) @ c.mT).sum(-1, True).to(x.dtype).tanh()),
    "masked attention": product(lambda s, h: h.masked_fill(h[0].isnan().logical_not().triu(1), -torch.inf).softmax(-1)),
}


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("block", SHARED.values(), ids=SHARED)
def test_operations_in_place_views_and_weights_used_twice(block, width):
    assert follow(tower(block), *(inputs(seed, width=width) for seed in range(2))) > 0


@pytest.mark.parametrize(("terms", "saved"), [(64, 0), (65, 2)])
def test_products_of_up_to_64_terms_are_computed_again(terms, saved):
    """Besides them there are two products with weights, the block's and the early head's."""
    model = tower(lambda s, x: s.norm(x @ torch.baddbmm(x.mT @ x, x.mT, x).tanh()))
    assert follow(model, inputs(width=terms)) == saved + 1


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
    "a buffer by what it is": lambda model: model.memory.copy_(model.memory.clone()),  # as DistributedDataParallel does
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
    saved = follow(model, inputs(0), inputs(1), change=lambda m, number: number == at and change(m), between=between)
    assert saved > 0, "not shared again"


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
    ways = [(first + number // 2) % 2 for number in range(6)]
    follow(tower(block), *map(inputs, range(3)), change=lambda m, number: setattr(m, "way", ways[number]))


# ---- draws ----


class Tape:
    """Draws; in the reference's second pass gives again what the first drew: its rows, or all of it."""

    def __init__(self):
        self.drawn, self.rows = [], None

    def __call__(self, *shape, by_row):
        if self.rows is None:
            self.drawn.append((torch.rand(shape, dtype=torch.float64), by_row))
            return self.drawn[-1][0].clone()
        value, by_row = self.drawn.pop(0)
        return value[self.rows] if by_row else value


def layer_drop(self, x):
    for layer in (self.one, self.two, self.one, self.two):
        if float(self.draw(by_row=False)) > 0.5:
            x = layer(x).relu()
    return self.two(x)


def noise_changed_after_use(self, x):
    noise = self.draw(*x.shape, by_row=True)
    return self.two(self.one(x * noise) + noise.mul_(0.5))


BY_SIZE = {
    "depth by row": lambda s, x: s.two(x + s.one(x) * (s.draw(len(x), 1, 1, by_row=True) + 0.5).floor_() / 0.5),
    "depth by batch": lambda s, x: s.two(x + s.one(x) * (s.draw(1, 1, 1, by_row=False) + 0.5).floor() / 0.5),
    "layers left out": layer_drop,
    "common noise": lambda s, x: s.two(s.one(x) + s.draw(*x.shape[1:], by_row=False)),
    "noise": lambda s, x: s.two(s.one(x) + s.draw(*x.shape, by_row=True)),
    "noise changed after use": noise_changed_after_use,
}


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("block", BY_SIZE.values(), ids=BY_SIZE)
def test_draws_by_size_are_those_of_the_scoring_pass(block, width):
    """torch.rand(size) knows nothing of the batch, and must be drawn once all the same."""
    model = tower(block, draw=lambda *shape, by_row: torch.rand(shape, dtype=torch.float64))
    reference, sift = tower(block), Sift(model, keep=3 / 8)
    for seed in range(8):
        batch = inputs(seed, width=width)
        torch.manual_seed(seed)
        found = sift(**batch)
        tape = reference.draw = Tape()
        torch.manual_seed(seed)
        with torch.no_grad():
            reference.early_logits(1, **without(batch))
        tape.rows = sift.last.indices
        assert_same(found, reference(**take(batch, tape.rows)), model, reference)


DROPS = {
    "dropout": lambda h: F.dropout(h, 0.4),
    "dropout in place": lambda h: F.dropout(h, 0.4, inplace=True),
    "dropout1d": lambda h: F.dropout1d(h, 0.4),
    "alpha_dropout": lambda h: F.alpha_dropout(h, 0.4, training=True),
    "native_dropout": lambda h: torch.ops.aten.native_dropout(h, 0.4, True)[0],
    "bernoulli_": lambda h: h * torch.empty_like(h).bernoulli_(0.6),
    "bernoulli": lambda h: h * torch.bernoulli(torch.full_like(h, 0.6)),
    "rows": lambda h: h * h.new_empty((h.shape[0], 1, 1)).bernoulli_(0.6).div_(0.6),
    "rand_like": lambda h: h * torch.rand_like(h),
    "normal_": lambda h: h + torch.empty_like(h).normal_(),
}


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_every_way_to_drop(drop):
    """What is dropped in a row depends on the row's entry of the draw: the factor h' / h tells it."""
    seen, masks = [], []

    def block(self, x):
        h = self.one(x)
        dropped = drop(h.clone())
        seen.append((h.detach().clone(), dropped.detach().clone()))
        return self.two(dropped)

    sift = Sift(tower(block), keep=3 / 8, check=False)
    sift.scorer.reading(inputs(0))
    for seed in range(3):
        seen.clear()
        sift(**inputs(seed)).backward()
        (h_gross, gross), (h, dropped) = seen
        torch.testing.assert_close(h, h_gross[sift.last.indices], rtol=1e-12, atol=0)
        torch.testing.assert_close(dropped, gross[sift.last.indices], rtol=1e-12, atol=0)
        masks.append(tuple((gross / h_gross).flatten().tolist()))
    assert len(set(masks)) == 3, "the same draws at two steps"


NOT_CUT = {
    "n of aten.randperm.default is not what it was": lambda s, x: s.two(s.one(x)[torch.randperm(len(x))]),
    "rand_like.default comes where the gross batch had aten.randn_like": lambda s, x: s.two(
        s.one(x) + (torch.rand_like(x) if torch.is_grad_enabled() else torch.randn_like(x))
    ),
}


@pytest.mark.parametrize(("reason", "block"), NOT_CUT.items())
def test_draws_that_cannot_be_cut_end_the_sharing(reason, block, warnings_said):
    """A permutation of the batch is none of its rows: all that is drawn in training is drawn there."""
    model, reference = tower(block), tower(block)
    sift = Sift(model, keep=3 / 8)
    for seed in range(3):
        rows = sift.choose(inputs(seed))
        losses = []
        for run in (sift.forward_kept, lambda rows: reference(**rows)):
            torch.manual_seed(100 + seed)
            losses.append(run(rows))
        assert_same(*losses, model, reference)
    assert reason in warnings_said()[0]


def test_dropout_after_what_mixes_rows_keeps_its_scale():
    """Masks are recorded after they were divided by 1 - p; where they are not handed out, the division must happen."""
    seen = []

    def block(self, x):
        h = self.one(x)
        h = self.two(h - h.mean(0))
        seen.append(F.dropout(torch.ones_like(h), 0.5))
        return h * seen[-1]

    sift = Sift(tower(block))
    for seed in range(3):
        sift(**inputs(seed)).backward()
    assert all(mask.unique().tolist() == [0.0, 2.0] for mask in seen)


class Stack(nn.Module):
    """A stack of layers as transformers has them, whose head changes the last hidden states in place."""

    def __init__(self, change):
        super().__init__()
        torch.manual_seed(0)
        self.config = types.SimpleNamespace(num_hidden_layers=3)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head, self.change = nn.Linear(6, 3), change

    def forward(self, x, labels=None):
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.change(x).mean(1))
        return types.SimpleNamespace(logits=logits, loss=None if labels is None else F.cross_entropy(logits, labels))


IN_PLACE = {
    "all": lambda h: h.mul_(2),
    "by a view": lambda h: h.view(-1).mul_(2).view_as(h),
    "detached": lambda h: h.detach().mul_(2).add(h),
    "a part": lambda h: h[:, 0].zero_()[:, None] + h,
}


@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE)
def test_a_head_that_changes_the_exits_output_in_place(change):
    """After the exit nothing is watched: what it does to recorded outputs must not get into the training pass."""
    model, reference = Stack(None).double(), Stack(None).double()
    sift = Sift(model, exit_layer=2)
    for seed in range(3):
        # In the first step not yet, so that what is handed out later is not compared.
        model.change = reference.change = change if seed else lambda h: h
        found, computed, rows = train(sift, inputs(seed))
        assert_same(found, reference(**rows).loss, model, reference)
        # Of four products the second layer's output is spoilt, the first one's is not; in the first step both compare.
        assert computed["addmm"] == (3 if seed else 4)
