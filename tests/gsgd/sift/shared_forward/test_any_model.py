"""Models that mix rows, remember, branch, draw or write in place, and ones that change between steps or passes."""

import types

import pytest
import torch
import torch.nn.functional as F
from passes import assert_same, counted, follow, inputs, tower
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from gsgd.sift import Sift


def routed(self, x):
    """A mixture of experts: each sees the tokens that choose it, whose number may be a multiple of the rows'."""
    tokens = x.flatten(0, 1)
    out = torch.zeros_like(tokens)
    for layer, chosen in ((self.one, tokens[:, 0] <= 0), (self.two, tokens[:, 0] > 0)):
        out = out.index_add(0, torch.nonzero(chosen)[:, 0], layer(tokens[chosen]).relu())
    return self.norm(out.view_as(x))


def product(weights):
    return lambda s, x: weights(s, s.one(x) @ s.two(x).mT) @ s.three(x)


NOT_BY_ROW = {
    "mean over the batch": lambda s, x: s.two(s.one(x) - s.one(x).mean(0)),
    "softmax over the batch": lambda s, x: s.two(s.one(x).softmax(0)),
    "sequence first": lambda s, x: s.two(s.one(x.transpose(0, 1)).cumsum(1)).transpose(0, 1),
    "products of rows with rows": lambda s, x: s.two((((h := s.one(x).flatten(1)) @ h.mT).softmax(-1) @ h).view_as(x)),
    "experts": routed,
    "a branch on data": lambda s, x: s.two(h.relu()) if (h := s.one(x)).sum() > 0 else s.three(h.tanh()),
    "memory, of which nothing stays": lambda s, x: s.two(s.one(x) + s.memory.add_(x.mean((0, 1)))),
    "products changed in place": product(lambda s, h: h.add_(1).softmax(-1) + h.mul_(2)),
    "softmax of another type": product(lambda s, h: h.float().softmax(-1).double()),
    "softmax while scoring": product(lambda s, h: h.sigmoid() if torch.is_grad_enabled() else h.softmax(-1)),
}


def through_views(self, x):
    h = self.one(x)
    h[:, 0] = 1.0
    h[:, 1:3] += self.two(x)[:, 1:3]
    h.view(-1).sigmoid_()
    return self.two(h)


SHARED = {
    "in place": lambda s, x: s.norm(s.two(h := s.one(x).add_(x).mul_(2).relu_()).add_(h)),
    "in place through views": through_views,
    "a layer twice": lambda s, x: s.one(s.one(s.one(x).relu()).relu()),
    "tied": lambda s, x: s.one(x) @ s.one.weight + s.two(x),
    "whole numbers": lambda s, x: s.two(s.one(x) + ((c := (x * 4).long()) @ c.mT).sum(-1, True).to(x.dtype).tanh()),
    "masked attention": product(lambda s, h: h.masked_fill(h[0].isnan().logical_not().triu(1), -torch.inf).softmax(-1)),
}


@pytest.mark.parametrize("width", [4, 8])  # 8: as many tokens as rows
@pytest.mark.parametrize("what", [*NOT_BY_ROW, *SHARED])
def test_models_that_mix_rows_differ_between_the_passes_or_are_shared(what, width):
    saved = follow(tower({**NOT_BY_ROW, **SHARED}[what]), *(inputs(seed, width=width) for seed in range(3)))
    assert saved > 0 or what in NOT_BY_ROW


def written_from_neighbours(self, x, mask):
    h = self.one(x)
    h[:, 0] = h.roll(int((mask == 0).any()), 0)[:, 1]
    return self.two(h)


MIXING_BY_MASK = {
    "normalised by the padding of all": lambda s, x, mask: s.two(s.one(x) * mask.mean()),
    "scores are normalised": lambda s, x, mask: s.two(s.one(x) * (1 if torch.is_grad_enabled() else mask.mean())),
    "a branch": lambda s, x, mask: s.two(s.one(x)) if mask.all() else s.one(s.two(x)),
    "longest in Python": lambda s, x, mask: s.two(s.one(x[:, : int(max(mask.sum(1).tolist()))]).relu()),
    "written from neighbours": written_from_neighbours,
}


@pytest.mark.parametrize("block", MIXING_BY_MASK.values(), ids=MIXING_BY_MASK)
def test_mixing_that_the_first_batches_do_not_show(block):
    """Without padding all of these treat rows one by one; the first replays can find nothing."""
    full, half, alike = torch.ones(3, 8, 4, dtype=torch.float64)
    half[::2, 2:] = 0
    alike[:, 3] = 0
    follow(tower(block), *(inputs(seed, mask=mask) for seed, mask in enumerate((full, full, half, alike, half, full))))


CHANGES = {
    "a number": lambda model: setattr(model, "scale", 3.0),
    "a layer's setting": lambda model: setattr(model.norm, "eps", 0.5),
    "a weight in place": lambda model: model.one.weight.detach()[2, 2].add_(1),  # which no sample has
    "a weight behind autograd's back": lambda model: model.one.weight.data.mul_(2),
    "another weight": lambda model: setattr(model.one, "weight", nn.Parameter(model.one.weight.detach() * 2)),
    "a weight's strides": lambda model: setattr(model.one.weight, "data", model.one.weight.data.t().contiguous().t()),
    "a buffer by what it is": lambda model: model.memory.copy_(model.memory.clone()),  # as DistributedDataParallel does
    "an optimizer's step": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True).step(),
    "a buffer by rows": lambda model: setattr(model, "shift", torch.full((1, 1, 6), 2.0, dtype=torch.float64)),
    "frozen weights": lambda model: model.one.requires_grad_(False),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(("between", "at"), [(False, 1), (True, 0), (True, 2)])
def test_what_changes_is_seen(change, between, at):
    """Between steps, and between the passes of one: of the first one, whose products are compared, and of a later."""
    model = tower(lambda s, x: s.two(s.norm(s.one(x) * s.scale + s.shift).relu()) + s.memory)
    model.scale, model.shift = 2.0, torch.ones(6, dtype=torch.float64)
    saved = follow(model, inputs(0), inputs(1), change=lambda m, number: number == at and change(m), between=between)
    assert saved > 0, "not shared again"


DROPS = {
    "dropout": lambda h: F.dropout(h, 0.4),
    "dropout in place": lambda h: F.dropout(h, 0.4, inplace=True),
    "alpha_dropout": lambda h: F.alpha_dropout(h, 0.4, training=True),
    "native_dropout": lambda h: torch.ops.aten.native_dropout(h, 0.4, True)[0],
    "rows": lambda h: h * h.new_empty((h.shape[0], 1, 1)).bernoulli_(0.6).div_(0.6),
    "normal_": lambda h: h + torch.empty_like(h).normal_(),
    # torch.rand(size) knows nothing of the batch, and must be drawn once all the same.
    "depth by row": lambda h: h + h.tanh() * (torch.rand(len(h), 1, 1) + 0.5).floor_() / 0.5,
    "depth by batch": lambda h: h * torch.rand(1, 1, 1),
    "common noise": lambda h: h + torch.rand(h.shape[1:]),
    "noise changed after use": lambda h: h + (noise := torch.rand(h.shape)) + noise.mul_(0.5),
}


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_draws_are_those_of_the_scoring_pass(drop, width):
    """What is drawn for a row tells the factor h' / h."""
    seen, factors = [], []

    def block(self, x):
        h = self.one(x)
        dropped = drop(h.clone())
        seen.append((h.detach().clone(), dropped.detach().clone()))
        return self.two(dropped)

    sift = Sift(tower(block), keep=3 / 8, check=False)
    sift.scorer.convention(inputs(width=width))
    for seed in range(3):
        seen.clear()
        sift(**inputs(seed, width=width)).backward()
        gross, kept = seen
        torch.testing.assert_close(kept, tuple(h[sift.last.indices] for h in gross), rtol=1e-12, atol=0)
        factors.append(tuple((gross[1] / gross[0]).flatten().tolist()))
    assert len(set(factors)) == 3, "the same draws at two steps"


ENDING = {
    "n of aten.randperm.default is not what it was": lambda s, x: s.two(s.one(x)[torch.randperm(len(x))]),
    # Masks are recorded after they were divided by 1 - p; where they are not handed out, the division must happen.
    "mat1 of aten.addmm.default is not what it was": lambda s, x: F.dropout(s.two((h := s.one(x)) - h.mean(0)), 0.5),
    "comes where": lambda s, x: s.two(torch.rand_like(x) if torch.is_grad_enabled() else torch.randn_like(x)),
    "TwoTensor is a tensor with operations of its own": lambda s, x: s.two(s.one(TwoTensor(x, x).sin().a)),
}


@pytest.mark.parametrize(("reason", "block"), ENDING.items())
def test_what_ends_the_sharing_and_says_why(reason, block, warnings_said):
    """A permutation of the batch, for one, is none of its rows: all that is drawn in training is drawn there."""
    model, reference = tower(block), tower(block)
    sift = Sift(model, keep=3 / 8)
    for seed in range(3):
        rows = sift.choose(inputs(seed))
        torch.manual_seed(seed)
        found = sift.forward_kept(rows)
        torch.manual_seed(seed)
        assert_same(found, reference(**rows), model, reference)
    assert reason in warnings_said()[0]


class Stack(nn.Module):
    """A stack of layers as transformers has them, whose head may change the last hidden states in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.config = types.SimpleNamespace(num_hidden_layers=3)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 3)

    def forward(self, x, labels=None):
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.change(x).mean(1))
        return types.SimpleNamespace(logits=logits, loss=None if labels is None else F.cross_entropy(logits, labels))


@pytest.mark.parametrize("change", [lambda h: h.mul_(2), lambda h: h.detach()[:, 0].zero_()[:, None] + h])
def test_a_head_that_changes_the_exits_output_in_place(change):
    """After the exit nothing is watched: what it does to recorded outputs must not get into the training pass."""
    model, reference = Stack().double(), Stack().double()
    sift = Sift(model, exit_layer=2)
    for seed in range(3):
        # In the first step not yet, so that what is handed out later is not compared.
        model.change = reference.change = change if seed else lambda h: h
        rows = sift.choose(inputs(seed))
        found, computed = counted(sift.forward_kept, rows)
        assert_same(found, reference(**rows).loss, model, reference)
        # Of four products the second layer's output is spoilt, the first one's is not; in the first step both compare.
        assert computed["addmm"] == (3 if seed else 4)
