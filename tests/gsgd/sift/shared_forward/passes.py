"""References and comparisons: draws taken down and given again, what is computed, and a small model of any kind."""

import collections
import contextlib
import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gsgd.sift import Sift


class Draws:
    """Stands for torch's dropout: takes down what it draws, then hands out rows of it, then draws anew."""

    def __init__(self, monkeypatch):
        self.taken, self.queue, self.recording = [], collections.deque(), False
        monkeypatch.setattr(F, "dropout", self.dropout)
        monkeypatch.setattr(F, "scaled_dot_product_attention", self.attention)

    def dropout(self, x, p=0.5, training=True, inplace=False):
        if not training or p == 0:
            return x
        if self.queue:
            return x * self.queue.popleft()
        mask = torch.empty_like(x).bernoulli_(1 - p) / (1 - p)
        if self.recording:
            self.taken.append(mask)
        return x * mask

    def attention(self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        if enable_gqa:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        weights = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            weights = weights.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            weights = weights + attn_mask
        return self.dropout(weights.softmax(-1).nan_to_num(0.0), dropout_p) @ v

    @contextlib.contextmanager
    def of(self, layer):
        """Takes down the draws until `layer` has run."""
        self.taken, self.recording = [], True
        with layer.register_forward_hook(lambda *_: setattr(self, "recording", False)):
            yield

    def give(self, rows):
        self.queue.extend(mask[rows] for mask in self.taken)


class Computed(TorchDispatchMode):
    """Counts the operations that are really carried out; entered outside of Sift's own mode.

    `shapes` are those of the results of products with weights.
    """

    def __init__(self):
        super().__init__()
        self.calls, self.shapes = collections.Counter(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function.overloadpacket).removeprefix("aten.")
        self.calls[name] += 1
        output = function(*args, **(kwargs or {}))
        if name in ("addmm", "mm"):
            self.shapes.append(tuple(output.shape))
        return output


def take(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def loss_of(output):
    return output if isinstance(output, torch.Tensor) else output.loss


def counted(run, *args, **kwargs):
    """(loss, what was computed for it)."""
    with Computed() as computed:
        loss = loss_of(run(*args, **kwargs))
    return loss, computed.calls


def train(sift, batch):
    """(loss, what the training pass computed, kept rows) of one step."""
    rows = sift.choose(batch)
    return *counted(sift.forward_kept, rows), rows


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


def follow(model, *batches, rows=None, change=None, between=False):
    """Sift's loss, gradients and buffers on batch after batch, all of them twice, against two plain passes of a copy.

    Returns how many matrix products the last training pass saves. `change` is called with the model, or its copy, and
    the batch's number: before the batch is scored, or `between` the passes.
    """
    reference = copy.deepcopy(model)
    sift = Sift(model, exit_layer=1, keep=3 / 8, **({} if rows is None else {"select": lambda scores, k, rng: rows}))

    def changed(now, number):
        if change is not None and now:
            change(model, number), change(reference, number)

    for number, batch in enumerate((*batches, *batches)):
        changed(not between, number)
        chosen = sift.choose(batch)
        with torch.no_grad():
            # Scoring leaves no trace in the model, whatever its forward writes down.
            logits = copy.deepcopy(reference).early_logits(1, **without(batch))
        scores = F.cross_entropy(logits, batch["labels"], reduction="none")
        kept = scores.topk(3).indices.sort().values if rows is None else rows
        assert sift.last.indices.tolist() == kept.tolist()
        changed(between, number)
        found, computed = counted(sift.forward_kept, chosen)
        wanted, plain = counted(reference, **take(batch, kept))
        assert_same(found, wanted, model, reference)
        for one, two in zip(model.buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
        assert sift.recorded_bytes == 0
    return sum(plain[name] - computed[name] for name in ("addmm", "mm", "bmm", "baddbmm"))
