"""Draws that a reference takes down and gives again, counts of what is computed, and comparisons."""

import collections
import contextlib

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode


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
    assert mine.keys() == other.keys()
    assert any(float(value.abs().max()) > 1e-3 for value in other.values()), "nothing to compare"
    for name, value in other.items():
        scale = max(float(value.abs().max()), 1.0)
        torch.testing.assert_close(
            mine[name], value, rtol=tolerance, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )
