"""References and comparisons: draws taken down and given again, what is computed, and a small model of any kind."""

import collections
import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gsgd.sift import Sift

MLM = ("bert-mlm", "bert-pretraining", "roberta", "distilbert", "modernbert")


class Draws(TorchDispatchMode):
    """Takes down what dropout draws until `layer` has run; with `rows`, hands out those of it, then draws anew."""

    def __init__(self, layer):
        super().__init__()
        self.masks, self.rows, self.recording = collections.deque(), None, True
        layer.register_forward_hook(lambda *_: setattr(self, "recording", False))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        drawn = function is torch.ops.aten.bernoulli_.float
        if drawn and self.rows is not None and self.masks:
            return args[0].copy_(self.masks.popleft()[self.rows])
        output = function(*args, **(kwargs or {}))
        if drawn and self.recording:
            self.masks.append(output.clone())
        return output


class Computed(TorchDispatchMode):
    """Counts the operations that are really carried out, and the rows of products; entered outside of Sift's mode."""

    def __init__(self):
        super().__init__()
        self.calls, self.rows = collections.Counter(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output, name = function(*args, **(kwargs or {})), function.overloadpacket.__name__
        self.calls[name] += 1
        if name in ("addmm", "mm"):
            self.rows.append(len(output))
        return output


def take(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def counted(run, *args, **kwargs):
    """(loss, what was computed for it)."""
    with Computed() as computed:
        output = run(*args, **kwargs)
    return output if isinstance(output, torch.Tensor) else output.loss, computed.calls


def assert_same(found, wanted, model, reference, tolerance=1e-12):
    """Equal losses, and gradients that are equal relative to the largest of their tensor, or to 1."""
    torch.testing.assert_close(found.detach(), wanted.detach(), rtol=tolerance, atol=tolerance / 100)
    for one, loss in ((model, found), (reference, wanted)):
        one.zero_grad()
        loss.backward()
    mine, other = ({n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (model, reference))
    assert max(float(value.abs().max()) for value in other.values()) > 1e-3, "nothing to compare"
    for name, value in other.items():
        scale = tolerance * max(float(value.abs().max()), 1.0)
        torch.testing.assert_close(mine.pop(name), value, rtol=tolerance, atol=scale, msg=lambda m, n=name: f"{n}: {m}")
    assert not mine


class Tower(nn.Module):
    """Two blocks with an exit after the first, which is any function of (self, x)."""

    exit_layers = 2

    def __init__(self, block):
        super().__init__()
        self.block = block
        self.one, self.two, self.three = (nn.Linear(6, 6) for _ in range(3))
        self.norm = nn.LayerNorm(6)
        self.early, self.late = nn.Linear(6, 3), nn.Linear(6, 3)
        self.register_buffer("memory", torch.zeros(6))

    def forward(self, labels=None, **batch):
        hidden = self.block(self, **batch)
        early = self.early(hidden.mean(1))
        return F.cross_entropy(early + self.late(self.three(hidden).tanh().mean(1)), labels)

    def early_logits(self, exit_layer, labels=None, **batch):
        return self.early(self.block(self, **batch).mean(1))


def tower(block):
    torch.manual_seed(0)
    return Tower(block).double().train()


def inputs(seed=0, width=4, **more):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(8, width, 6, generator=draw, dtype=torch.float64)
    return {"x": x, **more, "labels": torch.randint(3, (8,), generator=draw)}


def follow(model, *batches, change=lambda model, number: None, between=False):
    """Sift's loss, gradients and buffers on batch after batch, all of them twice, against two plain passes of a copy.

    Returns how many products the last training pass saves. `change` is called with the model, or its copy, and the
    batch's number: before the batch is scored, or `between` the passes.
    """
    reference = copy.deepcopy(model)
    sift = Sift(model, exit_layer=1, keep=3 / 8)
    for number, batch in enumerate((*batches, *batches)):
        if not between:
            change(model, number), change(reference, number)
        chosen = sift.choose(batch)
        with torch.no_grad():
            logits = copy.deepcopy(reference).early_logits(1, **batch)  # scoring leaves no trace in the model
        kept = F.cross_entropy(logits, batch["labels"], reduction="none").topk(3).indices.sort().values
        assert sift.last.indices.tolist() == kept.tolist()
        if between:
            change(model, number), change(reference, number)
        found, computed = counted(sift.forward_kept, chosen)
        wanted, plain = counted(reference, **take(batch, kept))
        assert_same(found, wanted, model, reference)
        torch.testing.assert_close(list(model.buffers()), list(reference.buffers()), rtol=1e-12, atol=1e-14)
        assert sift.captured_bytes == 0
    return sum(plain[name] - computed[name] for name in ("addmm", "mm", "bmm", "baddbmm"))
