"""A small model that does anything, and its steps against two plain passes of a copy."""

import copy

import torch
import torch.nn.functional as F
from passes import assert_same, counted, take
from torch import nn

from gsgd.sift import Sift


class Tower(nn.Module):
    """Two blocks with an exit after the first, which is any function of (self, x)."""

    exit_layers = 2

    def __init__(self, block, width=6):
        super().__init__()
        self.block = block
        self.one, self.two, self.three = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.early, self.late = nn.Linear(width, 3), nn.Linear(width, 3)
        self.word = nn.Embedding(5, width)
        self.register_buffer("memory", torch.zeros(width))
        self.calls = 0

    def features(self, **batch):
        self.calls += 1
        return self.block(self, **batch)

    def forward(self, labels=None, **batch):
        hidden = self.features(**batch)
        early = self.early(hidden.mean(1))
        return F.cross_entropy(early + self.late(self.three(hidden).tanh().mean(1)), labels)

    def early_logits(self, exit_layer, **batch):
        return self.early(self.features(**batch).mean(1))


def tower(block, **attributes):
    torch.manual_seed(0)
    model = Tower(block).double().train()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def inputs(seed=0, rows=8, width=4, **more):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, 6, generator=draw, dtype=torch.float64)
    return {"x": x, **more, "labels": torch.randint(3, (rows,), generator=draw)}


def without(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


def follow(model, *batches, rows=None, share=None, change=None, between=False):
    """Sift's loss, gradients and buffers on batch after batch, all of them twice, against two plain passes of a copy.

    Args:
        share: whether the last training pass carries out fewer matrix products than the model's own.
        change: of the model and its copy, with the batch's number: before it is scored, or `between` the passes.
    """
    reference = copy.deepcopy(model)
    select = {} if rows is None else {"select": lambda scores, k, rng: rows}
    sift = Sift(model, exit_layer=1, keep=3 / 8, **select)
    for number, batch in enumerate((*batches, *batches)):
        if change is not None and not between:
            change(model, number), change(reference, number)
        chosen = sift.choose(batch)
        with torch.no_grad():
            # Scoring leaves no trace in the model, whatever its forward writes down.
            logits = copy.deepcopy(reference).early_logits(1, **without(batch))
        scores = F.cross_entropy(logits, batch["labels"], reduction="none")
        kept = scores.topk(3).indices.sort().values if rows is None else rows
        assert sift.last.indices.tolist() == kept.tolist()
        if change is not None and between:
            change(model, number), change(reference, number)
        found, computed = counted(sift.forward_kept, chosen)
        wanted, plain = counted(reference, **take(batch, kept))
        assert_same(found, wanted, model, reference)
        for one, two in zip(model.buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
        assert sift.recorded_bytes == 0
    if share is not None:
        saved = sum(plain[name] - computed[name] for name in ("addmm", "mm", "bmm"))
        assert (saved > 0) == share, saved
