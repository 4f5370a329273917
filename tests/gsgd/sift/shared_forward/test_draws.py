"""What is random is drawn once, for scoring, and the kept rows have their part of it; dropout in every form."""

import types

import pytest
import torch
import torch.nn.functional as F
from passes import assert_same, take, train
from torch import nn
from towers import inputs, tower, without

from gsgd.sift import Sift


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


def test_draws_that_cannot_be_cut_end_the_sharing(warnings_said):
    """A permutation of the batch is none of its rows: all that is drawn in training is drawn there."""
    model, reference = (tower(lambda s, x: s.two(s.one(x)[torch.randperm(len(x))])) for _ in range(2))
    sift = Sift(model, keep=3 / 8)
    for seed in range(3):
        rows = sift.choose(inputs(seed))
        losses = []
        for run in (sift.forward_kept, lambda rows: reference(**rows)):
            torch.manual_seed(100 + seed)
            losses.append(run(rows))
        assert_same(*losses, model, reference)
    assert "n of aten.randperm.default is not what it was" in warnings_said()[0]


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
    model, reference = Stack(change).double(), Stack(change).double()
    sift = Sift(model, exit_layer=2)
    for seed in range(3):
        found, computed, rows = train(sift, inputs(seed))
        assert_same(found, reference(**rows).loss, model, reference)
    assert computed["addmm"] == 3, "the second layer's output is spoilt, the first one's is not"
