"""The shared forward against two plain passes with the same draws, written out here.

The reference never sees the shared forward: it scores with a copy of the model cut by hand, takes down what dropout
draws in the layers up to the exit, and trains on the kept rows with those rows of the draws. Sift starts from the same
seed.
"""

import collections
import contextlib
import copy
import gc
import logging
import types
import weakref

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch.nn.functional as F  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from gsgd.sift import Sift  # noqa: E402
from gsgd.sift.shared_forward import recording as reuse_module  # noqa: E402

# ---- the reference ----


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
        if attn_mask is not None:
            weights = (
                weights.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else weights + attn_mask
            )
        return self.dropout(weights.softmax(-1).nan_to_num(0.0), dropout_p) @ v

    @contextlib.contextmanager
    def of(self, layer):
        """Takes down the draws until `layer` has run."""
        self.taken, self.recording = [], True
        hook = layer.register_forward_hook(lambda *_: setattr(self, "recording", False))
        try:
            yield
        finally:
            self.recording = False
            hook.remove()

    def give(self, rows):
        self.queue.extend(mask[rows] for mask in self.taken)


def take(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_gradients(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    assert any(float(value.abs().max()) > 1e-3 for value in wanted.values()), "nothing to compare"
    for name, value in wanted.items():
        scale = max(float(value.abs().max()), 1.0)
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture
def two_passes(truncated, row_scores, stack_of):
    """two_passes(model, batch, architecture, exit_layer, keep) -> (loss, gradients, kept rows)."""

    def run(model, batch, architecture, exit_layer, keep=4):
        stack, causal = stack_of(architecture), architecture in CAUSAL
        with pytest.MonkeyPatch.context() as patch:
            draws = Draws(patch)
            short = truncated(model, stack, exit_layer)
            with torch.no_grad(), draws.of(short.get_submodule(stack)[exit_layer - 1]):
                inputs = {name: value for name, value in batch.items() if "label" not in name}
                output = short(**inputs)
            logits = output.prediction_logits if "prediction_logits" in output else output.logits
            scores = torch.tensor(row_scores(logits.float(), batch["labels"], "loss", causal))
            if "next_sentence_label" in batch:
                sentence = row_scores(output.seq_relationship_logits, batch["next_sentence_label"], "loss")
                scores = scores.clamp(min=0) + torch.tensor(sentence)
            kept = scores.topk(keep).indices.sort().values
            draws.give(kept)
            model.zero_grad()
            loss = model(**take(batch, kept)).loss
            loss.backward()
            assert not draws.queue, "the training pass drew less than the scoring pass"
        return loss.detach(), gradients(model), kept.tolist()

    return run


@pytest.fixture
def warnings_said(caplog):
    """What was logged in the test, though other tests may have had it logged before."""
    reuse_module.say_once.cache_clear()
    name = "gsgd.sift.shared_forward.recording"
    caplog.set_level(logging.WARNING, logger=name)
    return lambda: [
        record.getMessage() for record in caplog.records if record.name == "gsgd.sift.shared_forward.recording"
    ]


class Computed(TorchDispatchMode):
    """Counts the operations that are really carried out; entered outside of Sift's own mode."""

    def __init__(self):
        super().__init__()
        self.calls = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[str(function.overloadpacket).removeprefix("aten.")] += 1
        return function(*args, **(kwargs or {}))


CAUSAL = ("gpt2", "llama")


# ---- every architecture ----


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("exit_layer", [1, 2, 4])
def test_loss_and_gradients_are_those_of_two_passes(
    name, exit_layer, attention, build, make_batch, two_passes, warnings_said
):
    model = build(name, dropout=0.1, dtype="float64", attn_implementation=attention)
    batch = make_batch(name, dtype="float64")
    if (name, attention) == ("modernbert", "eager"):
        del batch["attention_mask"]  # with it the model's own loss is NaN: a padded token sees no token
    reference = copy.deepcopy(model)
    sift = Sift(model, exit_layer=exit_layer)
    for seed in range(3):  # the first replay compares, later ones do not
        torch.manual_seed(seed)
        loss, wanted, kept = two_passes(reference, batch, name, exit_layer)
        torch.manual_seed(seed)
        model.zero_grad()
        with Computed() as computed:
            found = sift(**batch).loss
        found.backward()
        assert sift.last.indices.tolist() == kept
        torch.testing.assert_close(found.detach(), loss, rtol=1e-12, atol=0)
        assert_equal_gradients(gradients(model), wanted, 1e-12)
        if seed == 0:
            checking = computed.calls
    assert not warnings_said()
    products = ("addmm", "mm", "bmm", "baddbmm", "convolution", "native_layer_norm", "gelu")
    # At least six products in each shared layer; llama's are seven.
    assert sum(checking[one] - computed.calls[one] for one in products) >= 6 * exit_layer - 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("one", ["bert-mlm", "gpt2", "vit"])
def test_float32_and_autocast_up_to_the_kernels_rounding(dtype, one, build, make_batch, two_passes):
    model, batch = build(one, dropout=0.1), make_batch(one)
    reference = copy.deepcopy(model)
    sift = Sift(model, exit_layer=3)
    for seed in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            torch.manual_seed(seed)
            loss, wanted, kept = two_passes(reference, batch, one, 3)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            torch.manual_seed(seed)
            model.zero_grad()
            found = sift(**batch).loss
        found.backward()
        assert sift.last.indices.tolist() == kept
        tolerance = 2e-5 if dtype == "float32" else 3e-2
        torch.testing.assert_close(found.detach(), loss, rtol=tolerance, atol=0)
        assert_equal_gradients(gradients(model), wanted, tolerance)


@pytest.mark.parametrize("exit_layer", [1, 4])
@pytest.mark.parametrize("one", ["bert-mlm", "bert-pretraining"])
def test_labelled_head(one, exit_layer, build, make_batch, two_passes, warnings_said):
    """With the last layer as exit, the head's products are shared, too."""
    model, batch = build(one, dropout=0.1, dtype="float64"), make_batch(one)
    reference = copy.deepcopy(model)
    sift = Sift(model, exit_layer=exit_layer, labelled_head=True)
    for seed in range(3):
        torch.manual_seed(seed)
        loss, wanted, kept = two_passes(reference, batch, one, exit_layer)
        torch.manual_seed(seed)
        model.zero_grad()
        rows = sift.choose(batch)
        with Computed() as computed:
            found = sift.forward_kept(rows).loss
        found.backward()
        assert sift.last.indices.tolist() == kept
        torch.testing.assert_close(found.detach(), loss, rtol=1e-12, atol=0)
        assert_equal_gradients(gradients(model), wanted, 1e-12)
    assert not warnings_said()
    # Six in a layer that is not shared, and the exit layer's three behind attention, which are scored at labelled
    # positions only; the head's two, and the pooler and the next sentence, which are not scored.
    head = 0 if exit_layer == 4 else 2
    assert computed.calls["addmm"] == 6 * (4 - exit_layer) + 3 + head + 2 * (one == "bert-pretraining")


def test_ten_optimizer_steps_give_the_same_weights(build, make_batch, two_passes):
    model = build("bert-mlm", dropout=0.1, dtype="float64")
    reference = copy.deepcopy(model)
    sift = Sift(model, exit_layer=2)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (model, reference)]
    kept = set()
    for step in range(10):
        batch = make_batch("bert-mlm", seed=step)
        torch.manual_seed(step)
        two_passes(reference, batch, "bert-mlm", 2)
        torch.manual_seed(step)
        model.zero_grad()
        sift(**batch).loss.backward()
        kept.add(tuple(sift.last.indices.tolist()))
        for optimizer in optimizers:
            optimizer.step()
    assert len(kept) > 5
    for (name, found), wanted in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kept_padded", [False, True])
@pytest.mark.parametrize("one", ["bert-mlm", "gpt2", "llama"])
def test_padding_in_the_gross_batch_and_not_in_the_kept_rows(
    one, kept_padded, build, make_batch, two_passes, warnings_said
):
    """Models ask whether the mask is all ones, and build none then."""
    model, batch = build(one, dropout=0.1, dtype="float64"), make_batch(one)
    assert batch["attention_mask"].sum(1).tolist() == [9, 6, 9, 9, 9, 9, 9, 9]
    reference = copy.deepcopy(model)
    rows = torch.tensor([0, 1, 3, 6] if kept_padded else [0, 3, 4, 6])
    sift = Sift(model, exit_layer=2, select=lambda scores, k, rng: rows)
    for seed in range(2):
        torch.manual_seed(seed)
        with pytest.MonkeyPatch.context() as patch:
            # The same rows, whatever the reference's scores.
            patch.setattr(torch.Tensor, "topk", lambda self, k: types.SimpleNamespace(indices=rows))
            loss, wanted, _ = two_passes(reference, batch, one, 2)
        torch.manual_seed(seed)
        model.zero_grad()
        chosen = sift.choose(batch)
        with Computed() as computed:
            found = sift.forward_kept(chosen).loss
        found.backward()
        torch.testing.assert_close(found.detach(), loss, rtol=1e-12, atol=0)
        assert_equal_gradients(gradients(model), wanted, 1e-12)
    assert not warnings_said()
    assert computed.calls["addmm"] + computed.calls["mm"] <= 2 * 7 + 3 + 2, "nothing was shared"


def test_a_branch_on_a_mask_of_another_meaning_is_taken_as_the_kept_rows_say(warnings_said):
    """`mask.all()` of the gross batch stands only for a mask without zeros, not for any other question."""

    def block(self, x, attention_mask):
        return self.one(x) if bool((attention_mask == 0).all()) else self.two(x)

    model = tower(block)
    mask = torch.ones(8, 4, dtype=torch.int64)
    mask[:4] = 0
    batch = inputs(attention_mask=mask)
    follow(model, batch, rows=torch.tensor([0, 1, 2]))
    assert "for the gross batch" in warnings_said()[0]


# ---- selected rows ----


@pytest.mark.parametrize("rows", [[5], [0, 1, 2, 3, 4, 5, 6], [7, 2, 0], [3, 3, 6]])
def test_one_row_many_rows_in_any_order_and_twice(rows, build, make_batch):
    """`select` may return rows in any order (they are trained on in ascending order), and one of them twice."""
    rows = torch.tensor(rows)
    for one, labelled_head in (("bert-mlm", False), ("bert-mlm", True), ("gpt2", False)):
        model = build(one, dtype="float64")
        reference = copy.deepcopy(model)
        batch = make_batch(one)
        sift = Sift(
            model, exit_layer=4, keep=len(rows) / 8, select=lambda scores, k, rng: rows, labelled_head=labelled_head
        )
        for _ in range(2):
            model.zero_grad()
            reference.zero_grad()
            found = sift(**batch).loss
            found.backward()
            wanted = reference(**take(batch, rows.sort().values)).loss
            wanted.backward()
            torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-12, atol=0)
            assert_equal_gradients(gradients(model), gradients(reference), 1e-12)


def test_all_rows_and_a_batch_of_one_row_are_not_scored(build, make_batch):
    model = build("bert-mlm")
    for sift, batch in ((Sift(model, keep=1.0), make_batch("bert-mlm")), (Sift(model), make_batch("bert-mlm", rows=1))):
        sift(**batch)
        assert not sift.last.selected
        assert sift.recorded_bytes == 0


@settings(max_examples=20)
@given(
    rows=st.integers(2, 7), width=st.integers(1, 8), keep=st.floats(0.05, 0.95), exit_layer=st.integers(1, 3),
    dropout=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 2**20), padded=st.booleans(),
)  # fmt: skip
def test_any_shape(rows, width, keep, exit_layer, dropout, seed, padded):
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=8, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    model = BertForMaskedLM(config).double().train()
    reference = copy.deepcopy(model)
    ids = torch.randint(20, (rows, width))
    mask = torch.ones_like(ids)
    if padded and width > 1:
        mask[torch.rand(rows) < 0.5, -1] = 0
    labels = torch.where(torch.rand(rows, width) < 0.5, ids, -100)
    labels[:, 0] = ids[:, 0]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    sift = Sift(model, exit_layer=exit_layer, keep=keep, labelled_head=seed % 2 == 0)
    for again in range(2):
        torch.manual_seed(again)
        model.zero_grad()
        found = sift(**batch).loss
        found.backward()
        if not sift.last.selected:
            return
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            draws = Draws(patch)
            torch.manual_seed(again)
            with draws.of(reference.bert.encoder.layer[exit_layer - 1]), contextlib.suppress(StopIteration):
                hook = reference.bert.encoder.layer[exit_layer - 1].register_forward_hook(stop)
                try:
                    reference(input_ids=ids, attention_mask=mask)
                finally:
                    hook.remove()
            kept = sift.last.indices
            draws.give(kept)
            if dropout and len(kept) == 1:
                # A single row needs no copy where several do, so its pass may differ, and draw on its own from there.
                return
            reference.zero_grad()
            with torch.enable_grad():
                wanted = reference(**take(batch, kept)).loss
                wanted.backward()
        torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-11, atol=1e-12)
        assert_equal_gradients(gradients(model), gradients(reference), 1e-11)


def stop(*_):
    raise StopIteration


# ---- models that mix rows, change in place, branch: a small one that does anything ----


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
        self.draw = torch.rand

    def features(self, **batch):
        self.calls += 1
        return self.block(self, **batch)

    def forward(self, labels=None, **batch):
        hidden = self.features(**batch)
        early = self.early(hidden.mean(1))
        return F.cross_entropy(early + self.late(self.three(hidden).tanh().mean(1)), labels)

    def early_logits(self, exit_layer, **batch):
        return self.early(self.features(**batch).mean(1))


def tower(block):
    torch.manual_seed(0)
    return Tower(block).double().train()


def inputs(seed=0, rows=8, width=4, **more):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, 6, generator=draw, dtype=torch.float64)
    return {"x": x, **more, "labels": torch.randint(3, (rows,), generator=draw)}


def follow(model, *batches, rows=None, share=None, change=None):
    """Sift's loss, gradients and buffers on batch after batch, against two plain passes of a copy of the model.

    All batches come twice: what was learnt of a pass is there when the next of its kind comes.

    `share`: whether the last training pass carries out fewer matrix products than the model's own.
    `change`: of the model and its copy, before each batch, with the batch's number.
    """
    reference = copy.deepcopy(model)
    options = {} if rows is None else {"select": lambda scores, k, rng: rows}
    sift = Sift(model, exit_layer=1, keep=3 / 8, **options)
    for number, batch in enumerate((*batches, *batches)):
        for m in (model, reference):
            m.zero_grad()
            if change is not None:
                change(m, number)
        chosen = sift.choose(batch)
        with Computed() as computed:
            found = sift.forward_kept(chosen)
        found.backward()
        with torch.no_grad():
            # Scoring leaves no trace in the model, whatever its forward writes down.
            logits = copy.deepcopy(reference).early_logits(1, **without(batch))
            scores = F.cross_entropy(logits, batch["labels"], reduction="none")
        kept = scores.topk(3).indices.sort().values if rows is None else rows
        assert sift.last.indices.tolist() == kept.tolist()
        with Computed() as plain:
            wanted = reference(**take(batch, kept))
        wanted.backward()
        torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-12, atol=1e-14)
        assert_equal_gradients(gradients(model), gradients(reference), 1e-12)
        for one, two in zip(model.buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
        assert sift.recorded_bytes == 0
    if share is not None:
        products = ("addmm", "mm", "bmm", "native_layer_norm", "gelu", "convolution")
        saved = sum(plain.calls[name] - computed.calls[name] for name in products)
        assert (saved > 0) == share, saved


def without(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


def mean_over_the_batch(self, x):
    return self.two(self.one(x) - self.one(x).mean(0))


def batchnorm_by_hand(self, x):
    h = self.one(x)
    return self.two((h - h.mean((0, 1))) / h.std((0, 1)))


def softmax_over_the_batch(self, x):
    return self.two(self.one(x).softmax(0))


def sequence_first(self, x):
    h = self.one(x.transpose(0, 1))  # (T, B, H), with T == B
    return self.two(h.cumsum(1)).transpose(0, 1)


def sequence_first_by_view(self, x):
    return self.two(self.one(x).reshape(x.shape[1], x.shape[0], -1).cumsum(0)).reshape(x.shape)


def sequence_first_in_place(self, x):
    h = (self.one(x) * 2).transpose_(0, 1)
    return self.two(h.cumsum(1)).transpose(0, 1)


def attention_over_the_batch(self, x):
    h = self.one(x).transpose(0, 1)
    return self.two((h @ h.transpose(1, 2)).softmax(-1) @ h).transpose(0, 1)


def products_of_rows_with_rows(self, x):
    h = self.one(x).flatten(1)
    return self.two(((h @ h.T).softmax(-1) @ h).view_as(x))


def layer_norm_of_the_whole_batch(self, x):
    return self.two(F.layer_norm(self.one(x), x.shape))


def rows_as_channels(self, x):
    h = self.one(x).flatten(1).unsqueeze(0)  # (1, B, C): an image without a batch to conv1d's eyes
    return self.two(F.avg_pool1d(h.transpose(1, 2), 3, 1, 1).transpose(1, 2)[0].view_as(x))


def numbered_rows(self, x):
    return self.two(self.one(x) + torch.arange(len(x), dtype=x.dtype)[:, None, None])


def numbered_rows_by_index(self, x):
    return self.two(self.one(x) + self.word(torch.arange(len(x)) % 5)[:, None])


def scaled_by_the_number_of_rows(self, x):
    return self.two(self.one(x) * torch.scalar_tensor(len(x), dtype=x.dtype))


def divided_by_the_number_of_rows(self, x):
    return self.two(self.one(x) / torch.ones(len(x), dtype=x.dtype).sum())


def weighted_by_the_number_of_rows(self, x):
    return self.two(self.one(x) * torch.ones(len(x), 1, 1, dtype=x.dtype).softmax(0))


def neighbours(self, x):
    return self.two(self.one(x) + x.roll(1, 0))


def reversed_rows(self, x):
    return self.two(self.one(x).flip(0)).flip(0) + self.two(x.flip(0))


def part_of_the_rows(self, x):
    h = self.one(x)
    return self.two(torch.cat([h[: len(h) // 2].relu(), h[len(h) // 2 :]]))


@pytest.mark.parametrize(
    "block",
    [
        mean_over_the_batch,
        batchnorm_by_hand,
        softmax_over_the_batch,
        sequence_first,
        sequence_first_by_view,
        sequence_first_in_place,
        attention_over_the_batch,
        products_of_rows_with_rows,
        layer_norm_of_the_whole_batch,
        rows_as_channels,
        numbered_rows,
        numbered_rows_by_index,
        scaled_by_the_number_of_rows,
        divided_by_the_number_of_rows,
        weighted_by_the_number_of_rows,
        neighbours,
        reversed_rows,
        part_of_the_rows,
    ],
)
def test_models_that_mix_rows_are_right_at_every_step(block):
    for width in (4, 8):
        follow(tower(block), *(inputs(seed, width=width) for seed in range(3)))


def normalised_by_the_padding_of_all(self, x, mask):
    return self.two(self.one(x) * mask.mean())


def by_the_mean_mask(self, x, mask):
    return self.two(self.one(x) * mask.mean(0)[None, :, None])


def sorted_by_length(self, x, mask):
    order = mask.sum(1).argsort(descending=True, stable=True)
    return self.two(self.one(x[order]).relu())[order.argsort()]


def sorted_by_length_in_python(self, x, mask):
    lengths = mask.sum(1).tolist()
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    back = sorted(range(len(order)), key=order.__getitem__)
    return self.two(self.one(x[order]).relu())[back]


def packed_tokens(self, x, mask):
    where = mask.bool()
    h = self.two(self.one(x[where]).relu())
    return torch.zeros_like(x).masked_scatter(where[..., None], h)


def longest_in_python(self, x, mask):
    longest = int(max(mask.sum(1).tolist()))
    return self.two(self.one(x[:, :longest]).relu())


def longest_as_scale(self, x, mask):
    return self.two(self.one(x) * torch.tensor(max(mask.sum(1).tolist()), dtype=x.dtype))


@pytest.mark.parametrize(
    "block",
    [
        normalised_by_the_padding_of_all,
        by_the_mean_mask,
        sorted_by_length,
        sorted_by_length_in_python,
        packed_tokens,
        longest_in_python,
        longest_as_scale,
    ],
)
def test_mixing_that_the_first_batches_do_not_show(block):
    """Without padding all of these treat rows one by one; the first replays can find nothing."""
    full = torch.ones(8, 4, dtype=torch.float64)
    half = full.clone()
    half[::2, 2:] = 0
    alike = full.clone()
    alike[:, 3] = 0
    follow(tower(block), *(inputs(seed, mask=mask) for seed, mask in enumerate((full, full, half, alike, half, full))))


def routed(self, x):
    """A mixture of experts: each sees the tokens that choose it, whose number may be a multiple of the rows'."""
    tokens = x.flatten(0, 1)
    expert = tokens[:, 0] > 0
    out = torch.zeros_like(tokens)
    for number, layer in enumerate((self.one, self.two)):
        where = torch.nonzero(expert == bool(number))[:, 0]
        out = out.index_add(0, where, layer(tokens[where]).relu())
    return self.norm(out.view_as(x))


def test_experts_that_get_as_many_tokens_as_rows_by_chance():
    """Of 32 tokens 16 go to each expert, of the kept rows' 12 tokens 6: sizes scale as rows do, the tokens do not."""
    odd = inputs(0)
    odd["x"][..., 0] = torch.linspace(-1.0, 5.0, 32, dtype=torch.float64).view(8, 4)
    even = inputs(1)
    signs = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]).repeat(4).view(8, 4)
    signs[0], signs[1] = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([-1.0, -1.0, 1.0, 1.0])
    even["x"][..., 0] = signs
    follow(tower(routed), odd, odd, even, even, rows=torch.tensor([0, 2, 3]))


# ---- state, Python, memory in place ----


def branch_on_data(self, x):
    h = self.one(x)
    return self.two(h.relu()) if bool(h.sum() > 0) else self.three(h.tanh())


def branch_on_the_number_of_rows(self, x):
    return self.two(self.one(x)) if len(x) == 8 else self.three(self.one(x))


def counting_calls(self, x):
    """Those that count: of a scoring pass nothing stays."""
    self.memory[0] += 1
    return self.two(self.one(x) * (1 + self.calls % 2))


def heeding_gradients(self, x):
    return self.two(self.one(x) * (1 + torch.is_grad_enabled()))


def heeding_gradients_in_a_tensor(self, x):
    return self.two(self.one(x) * torch.tensor(1.0 + torch.is_grad_enabled(), dtype=x.dtype))


def heeding_gradients_in_part_of_a_constant(self, x):
    scale = torch.ones(6, dtype=x.dtype)
    part = scale[:3]
    part.fill_(1.0 + torch.is_grad_enabled())
    return self.two(self.one(x) * scale)


def remembering(self, x):
    with torch.no_grad():
        self.memory.add_(x.mean((0, 1)))
    return self.two(self.one(x) + self.memory)


def remembering_by_a_view(self, x):
    with torch.no_grad():
        self.memory[:3] = x.mean((0, 1))[:3]
    return self.two(self.one(x) + self.memory)


@pytest.mark.parametrize(
    "block",
    [
        branch_on_data,
        branch_on_the_number_of_rows,
        counting_calls,
        heeding_gradients,
        heeding_gradients_in_a_tensor,
        heeding_gradients_in_part_of_a_constant,
        remembering,
        remembering_by_a_view,
    ],
)
def test_what_differs_between_the_passes_is_not_shared(block):
    follow(tower(block), *map(inputs, range(5)))


def attention(self, x, weights=lambda self, product: product.softmax(-1)):
    return weights(self, self.one(x) @ self.two(x).transpose(1, 2)) @ self.three(x)


def plainly_soft(self, product):
    return product.softmax(-1)


def scaled_and_masked(self, product):
    return ((product * 0.5).view(-1, 1, 4, 4) + torch.ones(4, 4, dtype=product.dtype)).softmax(-1).view(-1, 4, 4)


def scaled_by_a_weight(self, product):
    return (product * self.norm.weight.sum()).softmax(-1)


def masked_and_read(self, product):
    masked = product / 2 + torch.zeros(4, 4, dtype=product.dtype)
    return masked.softmax(-1) + masked.tanh()


def broadcast_and_another_type(self, product):
    return (product + torch.zeros(2, 1, 1, 1, dtype=product.dtype)).float().softmax(-1).double()[0]


def read_before(self, product):
    return product.tanh() + product.softmax(-1)


def read_behind(self, product):
    return product.softmax(-1) + product.tanh()


def read_by_a_view(self, product):
    return product.softmax(-1) + product.view(-1, 4, 4).tanh()


def read_as_a_number(self, product):
    return product.softmax(-1) * (2 if bool(product.sum() > 0) else 1)


def changed_in_place(self, product):
    return product.add_(1).softmax(-1)


def changed_behind(self, product):
    return product.softmax(-1) + product.mul_(2)


def third_training_pass(self):
    """Not the scoring pass before it, which does not count and has the same number."""
    return self.calls == 3 and torch.is_grad_enabled()


def another_function_the_third_time(self, product):
    return product.sigmoid() if third_training_pass(self) else product.softmax(-1)


def another_function_after_a_view(self, product):
    product = product.view(-1, 1, 4, 4)
    return (product.sigmoid() if third_training_pass(self) else product.softmax(-1)).view(-1, 4, 4)


def two_at_a_time(self, product):
    other = self.late.weight @ self.late.weight.T  # no batch in it
    again = product @ product.transpose(1, 2)
    return product.softmax(-1) + again.softmax(-1) * other.sum()


def two_and_one_read_otherwise(self, product):
    again = self.word.weight[:4].expand(len(product), 4, 6) @ self.word.weight[:4].T @ product
    return product.softmax(-1) + (again.sigmoid() if third_training_pass(self) else again.softmax(-1))


def masked(self, product):
    return product.masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


@pytest.mark.parametrize(
    "weights",
    [
        *(read_before, read_behind, read_by_a_view, read_as_a_number, changed_in_place, changed_behind),
        *(another_function_the_third_time, another_function_after_a_view, two_at_a_time, two_and_one_read_otherwise),
        *(masked, scaled_by_a_weight, masked_and_read, broadcast_and_another_type),
    ],
)
def test_a_product_that_others_read_has_its_values(weights):
    model = tower(lambda self, x: attention(self, x, weights))
    follow(model, *map(inputs, range(5)))


@pytest.mark.parametrize("value", [2.0, 3.0])
def test_a_buffer_that_is_written_to_between_the_passes_counts_by_its_values(value):
    """As DistributedDataParallel does before every pass, with what the buffers are already."""
    model = tower(lambda self, x: self.two(self.one(x) * self.memory))
    model.memory.fill_(2.0)
    reference = copy.deepcopy(model)
    reference.memory.fill_(value)
    sift = Sift(model)
    for seed in range(3):
        model.zero_grad()
        reference.zero_grad()
        model.memory.fill_(2.0)
        rows = sift.choose(inputs(seed))
        model.memory.copy_(torch.full((6,), value))
        with Computed() as computed:
            found = sift.forward_kept(rows)
        found.backward()
        wanted = reference(**rows)
        wanted.backward()
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
        assert_equal_gradients(gradients(model), gradients(reference), 1e-12)
    assert computed.calls["addmm"] == (2 if value == 2 else 4)


def in_place(self, x):
    h = self.one(x)
    h += x
    h.mul_(2).relu_()
    return self.norm(self.two(h).add_(h))


def in_place_through_views(self, x):
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


def filled_sequence_first(self, x):
    h = torch.zeros(x.shape[1], x.shape[0], x.shape[2], dtype=x.dtype)
    h.transpose(0, 1).copy_(self.one(x))
    return self.two(h.cumsum(0)).transpose(0, 1)


def filled_by_the_mean(self, x):
    h = torch.zeros(6, dtype=x.dtype)
    h.copy_(x.mean((0, 1)))
    return self.two(self.one(x) + h)


def twice(self, x):
    return self.one(self.one(self.one(x).relu()).relu())


def tied(self, x):
    return self.one(x) @ self.one.weight + self.two(x)


def views(self, x):
    a, b, c = self.one(x).chunk(3, dim=-1)
    h = torch.stack([a, b, c], dim=2).flatten(2).transpose(1, 2).contiguous().transpose(1, 2)
    return self.two(h.unsqueeze(1).expand(-1, 2, -1, -1).mean(1)).reshape(x.shape)


def chained_constants(self, x):
    scale = torch.ones(6, dtype=x.dtype)
    for _ in range(60):
        scale = 0.5 * (scale + scale)  # as a tree, 2^60 operations
    return self.two(self.one(x) * scale)


def einsum(self, x):
    return torch.einsum("bti,ji->btj", self.one(x), self.two.weight) + torch.einsum("bti,bsi->bts", x, x).sum(-1, True)


def whole_numbers(self, x):
    codes = (x * 4).to(torch.int64)
    return self.two(self.one(x) + (codes @ codes.transpose(1, 2)).sum(-1, True).to(x.dtype).tanh())


SHARED = [
    in_place,
    in_place_through_views,
    filled_in_parts,
    twice,
    tied,
    views,
    chained_constants,
    einsum,
    whole_numbers,
]


@pytest.mark.parametrize("block", [*SHARED, filled_sequence_first, filled_by_the_mean])
def test_operations_in_place_views_and_weights_used_twice(block):
    # width 8: as many tokens as rows
    for width in (4, 8):
        follow(tower(block), *(inputs(seed, width=width) for seed in range(3)), share=block in SHARED or None)


def test_not_a_number_is_no_reason_to_compute(warnings_said):
    model = tower(lambda self, x: self.two(self.one(x) * torch.tensor(float("nan"), dtype=x.dtype)))
    sift = Sift(model, score=lambda logits, labels: labels.double())
    for seed in range(2):
        rows = sift.choose(inputs(seed))
        with Computed() as computed:
            assert sift.forward_kept(rows).isnan()
    assert computed.calls["addmm"] == 2  # the first three of five are shared
    assert not warnings_said()


def test_tensors_with_operations_of_their_own_are_left_alone(warnings_said):
    from torch.testing._internal.two_tensor import TwoTensor

    def block(self, x):
        return self.two(self.one(TwoTensor(x, x).sin().a))

    follow(tower(block), inputs(0), inputs(1))
    assert "TwoTensor is a tensor with operations of its own" in warnings_said()[0]


class Scaled(Tower):
    """Whose first block heeds numbers, a buffer, a flag, and weights that tests put others in place of."""

    def __init__(self):
        super().__init__(Scaled.scaled)
        self.scale, self.power, self.flag = 2.0, 2, True
        self.register_buffer("rows", torch.ones(8, 1, 1))
        self.register_buffer("shift", torch.ones(6))

    def scaled(self, x):
        h = self.norm(self.one(x) * self.scale + self.shift).pow(self.power)
        return self.two(h.clamp(min=0.0) if self.flag else h) + self.memory


def put(name, value):
    return lambda model: setattr(model, name, value)


def another_weight(model):
    model.one.weight = nn.Parameter(model.one.weight.detach() * 2)


def other_data(model):
    model.one.weight.data = model.one.weight.detach() * 2


def frozen(model):
    model.one.requires_grad_(False)


def tied_weights(model):
    model.two.weight = model.one.weight


def stored_otherwise(model):
    model.one.weight.data = model.one.weight.detach().t().contiguous().t()


def in_place(change):
    def changed(model):
        with torch.no_grad():
            change(model)

    return changed


CHANGES = {
    "a number": put("scale", 3.0),
    "a number of another type": put("scale", torch.tensor(3.0, dtype=torch.float64)),
    "a power": put("power", 3),
    "a flag": put("flag", False),
    "a layer's setting": lambda model: setattr(model.norm, "eps", 0.5),
    "a weight in place": in_place(lambda model: model.one.weight.mul_(2)),
    "another weight": another_weight,
    "a weight's data": other_data,
    "a weight's strides": stored_otherwise,
    "a weight for another": tied_weights,
    "a buffer in place": in_place(lambda model: model.shift.add_(1)),
    "a buffer of other sizes": lambda model: setattr(model, "shift", torch.full((4, 6), 2.0, dtype=torch.float64)),
    "a buffer by rows": lambda model: setattr(model, "shift", torch.full((1, 1, 6), 2.0, dtype=torch.float64)),
    "a layer": lambda model: setattr(model, "norm", nn.Identity()),
    "frozen weights": frozen,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("at", [1, 3, 4, 7])
def test_what_changes_between_steps_is_seen(change, at):
    """Whether what was learnt before is of one pass, of both, or used already."""
    torch.manual_seed(0)
    model = Scaled().double().train()

    def changed(model, number):
        if number == at:
            change(model)

    follow(model, *(inputs(seed) for seed in range(5)), change=changed)


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_constant_that_is_no_longer_the_same_for_all_rows(at):
    """Its entries were looked at to tell, and are others now: what was found so is not remembered."""
    model = tower(lambda self, x: self.two(self.one(x) + torch.arange(len(x))[:, None, None] * self.shift))
    model.register_buffer("shift", torch.zeros(1, dtype=torch.float64))

    def changed(model, number):
        if number == at:
            model.shift.fill_(1.0)

    follow(model, *(inputs(seed) for seed in range(4)), change=changed)


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_scoring_that_changes_while_training_does_not(at):
    model = tower(lambda self, x: self.two(self.one(x) * (2.0 if torch.is_grad_enabled() else self.scoring)))

    def changed(model, number):
        model.scoring = 2.0 if number < at else 3.0

    follow(model, *(inputs(seed) for seed in range(4)), change=changed)


def written_from_neighbours(self, x):
    h = self.one(x)
    h[:, 0] = h.roll(1, self.dim)[:, 1]
    return self.two(h)


@pytest.mark.parametrize("at", [1, 2, 3, 5])
@pytest.mark.parametrize("first", [0, 1])
def test_what_is_written_into_rows_comes_from_other_rows_only_in_some_steps(first, at):
    """Who reads the whole of it sees no other call than before."""

    def changed(model, number):
        model.dim = first if number < at else 1 - first

    follow(tower(written_from_neighbours), *(inputs(seed) for seed in range(4)), change=changed)


def test_what_no_longer_mixes_rows_is_shared_again():
    model = tower(written_from_neighbours)
    sift, counts = Sift(model, exit_layer=1), []
    for step in range(6):
        model.dim = int(step > 2)
        rows = sift.choose(inputs(step))
        with Computed() as computed:
            sift.forward_kept(rows)
        counts.append(computed.calls["addmm"])
    # Of five products the block's two and the early head's; while rows mix, its first.
    assert (counts[2], counts[-1]) == (4, 2)


def test_branches_taken_in_turn():
    def block(self, x):
        h = self.one(x)
        h = h.relu() if float(x.detach().sum()) > 0 else h.tanh() * 2
        return self.two(h)

    # One row decides, so that gross batch and kept rows may differ, too.
    batches = [inputs(seed) for seed in range(6)]
    for number, batch in enumerate(batches):
        batch["x"] = batch["x"] * 0.1 + (1.0 if number % 3 else -1.0)
    follow(tower(block), *batches)


# ---- draws ----


class Tape:
    """Draws; in the reference's second pass gives again what the first drew: its rows, or all of it."""

    def __init__(self):
        self.drawn, self.rows = [], None

    def __call__(self, shape, by_row):
        if self.rows is None:
            value = torch.rand(shape, dtype=torch.float64)
            self.drawn.append((value.clone(), by_row))
            return value
        value, by_row = self.drawn.pop(0)
        return value[self.rows] if by_row else value


def plainly(shape, by_row):
    return torch.rand(shape, dtype=torch.float64)


def stochastic_depth_by_row(self, x):
    keep = self.draw((len(x), 1, 1), True) + 0.5
    return self.two(x + self.one(x) * keep.floor_() / 0.5)


def stochastic_depth_by_batch(self, x):
    keep = (self.draw((1, 1, 1), False) + 0.5).floor()
    return self.two(x + self.one(x) * keep / 0.5)


def layer_drop(self, x):
    h = x
    for layer in (self.one, self.two, self.one, self.two):
        if float(self.draw((), False)) > 0.5:
            h = layer(h).relu()
    return self.two(h)


def common_noise(self, x):
    return self.two(self.one(x) + self.draw(tuple(x.shape[1:]), False))


def noise_changed_after_use(self, x):
    noise = self.draw(tuple(x.shape), True)
    h = self.one(x * noise)
    noise.mul_(0.5)
    return self.two(h + noise)


def noise_for_all_entries(self, x):
    return self.two(self.one(x) + self.draw(tuple(x.shape), True))


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize(
    "block",
    [
        *(stochastic_depth_by_row, stochastic_depth_by_batch, layer_drop, common_noise),
        *(noise_for_all_entries, noise_changed_after_use),
    ],
)
def test_draws_by_size_are_those_of_the_scoring_pass(block, width):
    """torch.rand(size) knows nothing of the batch, and must be drawn once all the same."""
    model = tower(block)
    model.draw = plainly
    reference = copy.deepcopy(model)
    sift = Sift(model, keep=3 / 8)
    for seed in range(12):
        batch = inputs(seed, width=width)
        torch.manual_seed(seed)
        model.zero_grad()
        found = sift(**batch)
        found.backward()
        tape = reference.draw = Tape()
        torch.manual_seed(seed)
        with torch.no_grad():
            reference.early_logits(1, **without(batch))
        tape.rows = sift.last.indices
        reference.zero_grad()
        wanted = reference(**take(batch, sift.last.indices))
        wanted.backward()
        torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-12, atol=1e-14)
        assert_equal_gradients(gradients(model), gradients(reference), 1e-12)


@pytest.mark.parametrize(
    "drop",
    [
        lambda h: F.dropout(h, 0.4),
        lambda h: F.dropout(h, 0.4, inplace=True),
        lambda h: F.dropout1d(h, 0.4),
        lambda h: F.alpha_dropout(h, 0.4, training=True),
        lambda h: h * torch.empty_like(h).bernoulli_(0.6),
        lambda h: h * torch.bernoulli(torch.full_like(h, 0.6)),
        lambda h: h * h.new_empty((h.shape[0], 1, 1)).bernoulli_(0.6).div_(0.6),
        lambda h: torch.ops.aten.native_dropout(h, 0.4, True)[0],
        lambda h: h * torch.rand_like(h),
        lambda h: h + torch.empty_like(h).normal_(),
    ],
)
def test_every_way_to_drop(drop):
    """What is dropped in a row depends on the row's entry of the draw: the factor h' / h tells it."""
    seen = []

    def block(self, x):
        h = self.one(x)
        dropped = drop(h.clone())
        seen.append((h.detach().clone(), dropped.detach().clone()))
        return self.two(dropped)

    model = tower(block)
    sift = Sift(model, keep=3 / 8, check=False)
    sift.scorer.reading(inputs(0))
    before = None
    for seed in range(3):
        seen.clear()
        loss = sift(**inputs(seed))
        loss.backward()
        (h_gross, gross), (h, dropped) = seen
        torch.testing.assert_close(h, h_gross[sift.last.indices], rtol=1e-12, atol=0)
        torch.testing.assert_close(dropped, gross[sift.last.indices], rtol=1e-12, atol=0)
        mask = (gross / h_gross).flatten()[:6]
        assert before is None or not torch.equal(mask, before), "the same draws at two steps"
        before = mask


def test_draws_that_cannot_be_cut_end_the_sharing(warnings_said):
    """A permutation of the batch is none of its rows."""
    model = tower(lambda self, x: self.two(self.one(x)[torch.randperm(len(x))]))
    sift = Sift(model, keep=3 / 8)
    reference = copy.deepcopy(model)
    for seed in range(3):
        torch.manual_seed(seed)
        model.zero_grad()
        rows = sift.choose(inputs(seed))
        torch.manual_seed(100 + seed)
        found = sift.forward_kept(rows)
        found.backward()
        # All that was drawn in training was drawn there: the reference draws the same.
        torch.manual_seed(100 + seed)
        reference.zero_grad()
        wanted = reference(**rows)
        wanted.backward()
        torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-12, atol=1e-14)
        assert_equal_gradients(gradients(model), gradients(reference), 1e-12)
    assert "n of aten.randperm.default is not what it was" in warnings_said()[0]


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


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.mul_(2),
        lambda h: h.view(-1).mul_(2).view_as(h),
        lambda h: h.detach().mul_(2).add(h),
        lambda h: h[:, 0].zero_()[:, None] + h,
        lambda h: torch.relu_(h),
    ],
)
def test_a_head_that_changes_the_exits_output_in_place(change):
    """After the exit nothing is watched: what it does to recorded outputs must not get into the training pass."""
    model = Stack(change).double()
    reference = copy.deepcopy(model)
    sift = Sift(model, exit_layer=2)
    for seed in range(3):
        batch = inputs(seed)
        model.zero_grad()
        reference.zero_grad()
        rows = sift.choose(batch)
        with Computed() as computed:
            found = sift.forward_kept(rows).loss
        found.backward()
        wanted = reference(**rows).loss
        wanted.backward()
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
        assert_equal_gradients(gradients(model), gradients(reference), 1e-12)
    assert computed.calls["addmm"] == 3, "the second layer's output is spoilt, the first one's is not"


def test_dropout_after_what_mixes_rows_keeps_its_scale():
    """Masks are recorded after they were divided by 1 - p; where they are not handed out, the division must happen."""
    zeros = []

    def block(self, x):
        h = self.one(x)
        h = self.two(h - h.mean(0))
        kept = F.dropout(torch.ones_like(h), 0.5)
        zeros.append(kept.unique().tolist())
        return h * kept

    sift = Sift(tower(block))
    for seed in range(3):
        sift(**inputs(seed)).backward()
    assert all(values == [0.0, 2.0] for values in zeros)


def test_the_same_seed_gives_the_same_run_and_a_resumed_one_goes_on(build, make_batch):
    def run(steps, sift=None, model=None, state=None):
        model = build("bert-mlm", dropout=0.2) if model is None else model
        sift = Sift(model, exit_layer=2, seed=3) if sift is None else sift
        losses = []
        for step in steps:
            model.zero_grad()
            loss = sift(**make_batch("bert-mlm", seed=step)).loss
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(0.01 * p.grad)
            losses.append(loss.item())
        return losses, model, sift

    torch.manual_seed(5)
    whole, *_ = run(range(6))
    torch.manual_seed(5)
    first, model, sift = run(range(3))
    saved = sift.state_dict(), copy.deepcopy(model), torch.get_rng_state()
    resumed = Sift(saved[1], exit_layer=2, seed=99)
    resumed.load_state_dict(saved[0])
    torch.set_rng_state(saved[2])
    second, *_ = run(range(3, 6), resumed, saved[1])
    assert first + second == whole  # bit for bit


# ---- whose rows, and when ----


def test_only_the_rows_chosen_last_take_what_was_recorded(build, make_batch):
    model = build("bert-mlm", dtype="float64")
    reference = copy.deepcopy(model)
    sift = Sift(model, exit_layer=4)

    def equal(found, rows):
        torch.testing.assert_close(found.loss, reference(**rows).loss, rtol=1e-12, atol=0)

    batches = [make_batch("bert-mlm", seed=seed) for seed in range(3)]
    old, new = sift.choose(batches[0]), sift.choose(batches[1])
    equal(sift.forward_kept(old), old)
    assert sift.recorded_bytes == 0, "what cannot be used any more is let go"
    equal(sift.forward_kept(new), new)
    other = take(batches[2], [0, 3])
    sift.choose(batches[1])
    equal(sift.forward_kept(other), other)
    rows = sift.choose(batches[0])
    equal(sift.forward_kept(dict(rows)), rows)
    equal(sift.forward_kept(rows), rows)  # a second time
    rows = sift.choose(batches[0])
    rows["input_ids"][:, 3] = 7  # after it was scored
    equal(sift.forward_kept(rows), rows)
    for batch in batches[:2]:  # twice in a row, without a backward pass
        found = sift(**batch)
        equal(found, take(batch, sift.last.indices))
    sift.choose(batches[0])
    with torch.no_grad():
        model.eval()
        equal(sift(**batches[1]), batches[1])
    model.train()
    equal(sift(**batches[2]), take(batches[2], sift.last.indices))


@pytest.mark.parametrize("change", ["optimizer", "copy_", "fused"])
def test_weights_that_changed_since_scoring_are_not_overlooked(change, build, make_batch, warnings_said):
    """The loss is that of the weights as they are now."""
    model, batch = build("bert-mlm", dtype="float64"), make_batch("bert-mlm")
    reference = copy.deepcopy(model)
    sift = Sift(model, exit_layer=2)
    sift(**batch).loss.backward()
    rows = sift.choose(batch)
    if change == "copy_":
        other = build("bert-mlm", dtype="float64", seed=1).state_dict()
        model.load_state_dict(other)
    else:
        torch.optim.AdamW(model.parameters(), lr=0.01, fused=change == "fused").step()
    reference.load_state_dict(model.state_dict())
    model.zero_grad()
    found = sift.forward_kept(rows).loss
    found.backward()
    wanted = reference(**rows).loss
    wanted.backward()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    assert_equal_gradients(gradients(model), gradients(reference), 1e-12)
    assert "is not what it was" in warnings_said()[0]


def test_choosing_in_inference_mode_makes_two_passes(build, make_batch, warnings_said):
    model, batch = build("bert-mlm", dtype="float64"), make_batch("bert-mlm")
    sift = Sift(model, exit_layer=2)
    with torch.inference_mode():
        rows = sift.choose(batch)
    rows = {name: value.clone() for name, value in rows.items()}
    torch.testing.assert_close(sift.forward_kept(rows).loss, model(**rows).loss, rtol=1e-12, atol=0)
    assert "inference mode" in warnings_said()[0]


def test_labels_that_changed_since_scoring_are_not_taken_for_the_scored_ones(build, make_batch):
    """With the head shared, which positions of the gross batch are labelled tells where the kept rows' are."""
    model, batch = build("bert-mlm", dtype="float64"), make_batch("bert-mlm")
    sift = Sift(model, exit_layer=4, labelled_head=True)
    for _ in range(2):
        rows = sift.choose(batch)
        batch["labels"][0, 2] = 5
        batch["labels"][5, 1:3] = -100
        torch.testing.assert_close(sift.forward_kept(rows).loss, model(**rows).loss, rtol=1e-12, atol=0)


def test_without_gradients_nothing_is_handed_out_and_nothing_is_wrong(build, make_batch):
    model, batch = build("bert-mlm", dtype="float64"), make_batch("bert-mlm")
    sift = Sift(model, exit_layer=2)
    rows = sift.choose(batch)
    with torch.no_grad():
        torch.testing.assert_close(sift.forward_kept(rows).loss, model(**rows).loss, rtol=1e-12, atol=0)


# ---- memory, exceptions ----


def test_recorded_memory_is_what_shapes_say(build, make_batch):
    """Of each layer of B rows, T tokens, H wide, F in the middle, A heads, in float32:

    six products: query, key, value, attention's output H each, F, and H again; attention: H, and A log-sum-exps;
    activations and norms are computed again.
    """
    model, batch = build("bert-mlm"), make_batch("bert-mlm")
    sift = Sift(model, exit_layer=2)
    assert sift.recorded_bytes == 0
    rows = sift.choose(batch)
    B, T, H, F_, A = 8, 9, 32, 64, 2
    layer = 5 * H + F_ + (H + A)
    assert sift.recorded_bytes == 4 * B * T * 2 * layer
    sift.forward_kept(rows)
    assert sift.recorded_bytes == 0


def test_dropout_masks_are_the_only_more(build, make_batch):
    """With dropout attention is written out: two masks of H a layer and one for the embeddings; of A heads' T scores

    the softmax and a mask, in place of the fused attention's H and A. Products of 16 and 9 terms are not kept.
    """
    model, batch = build("bert-mlm", dropout=0.1), make_batch("bert-mlm")
    sift = Sift(model, exit_layer=1)
    sift.choose(batch)
    B, T, H, F_, A = 8, 9, 32, 64, 2
    layer = 5 * H + F_ + (A * T + A * T) + 2 * H
    assert sift.recorded_bytes == 4 * B * T * (layer + H)


def recorded(sift):
    return [
        weakref.ref(output)
        for segment in sift._shared.recording.segments
        for call in segment.calls
        for output in call.outputs or ()
        if isinstance(output, torch.Tensor)
    ]


def test_memory_is_released_in_the_training_pass(build, make_batch):
    model, batch = build("bert-mlm", dropout=0.1), make_batch("bert-mlm")
    sift = Sift(model, exit_layer=2)
    rows = sift.choose(batch)
    references = recorded(sift)
    assert len(references) > 20
    gc.disable()  # counting references must do
    try:
        output = sift.forward_kept(rows)
        assert sum(reference() is not None for reference in references) == 0
    finally:
        gc.enable()
    output.loss.backward()
    del output
    assert all(not layer._forward_hooks for layer in model.bert.encoder.layer)


@pytest.mark.parametrize("where", [0, 1, 3])
def test_an_exception_in_either_pass_leaves_nothing_behind(where, build, make_batch):
    model, batch = build("bert-mlm", dropout=0.1), make_batch("bert-mlm")
    sift = Sift(model, exit_layer=2)
    layer = model.bert.encoder.layer[where]
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}

    def failing(*_):
        raise RuntimeError("in the middle")

    if where < 2:
        hook = layer.register_forward_hook(failing)
        with pytest.raises(RuntimeError, match="in the middle"):
            sift.choose(batch)
        hook.remove()
        assert sift.recorded_bytes == 0
    rows = sift.choose(batch)
    references = recorded(sift)
    hook = layer.register_forward_hook(failing)
    with pytest.raises(RuntimeError, match="in the middle"):
        sift.forward_kept(rows)
    hook.remove()
    gc.collect()
    assert sift.recorded_bytes == 0
    assert all(reference() is None for reference in references)
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == hooks
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    sift(**batch).loss.backward()


def test_a_rule_that_raises_leaves_nothing_behind(build, make_batch):
    def select(scores, k, rng):
        raise RuntimeError("no rule")

    sift = Sift(build("bert-mlm"), select=select)
    with pytest.raises(RuntimeError, match="no rule"):
        sift(**make_batch("bert-mlm"))
    assert sift.recorded_bytes == 0
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


# ---- what stays two passes, and what wraps a model ----


def equal_without_reuse(build_model, batches, warnings_said=None, tolerance=1e-12, **options):
    """Losses and gradients with and without sharing; no dropout."""
    model, reference = build_model(), build_model()
    sift, plain = Sift(model, exit_layer=2, **options), Sift(reference, exit_layer=2, reuse=False, **options)
    for batch in batches:
        for m in (model, reference):
            m.zero_grad()
        found, wanted = sift(**batch).loss, plain(**batch).loss
        found.backward()
        wanted.backward()
        assert sift.last.indices.tolist() == plain.last.indices.tolist()
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=0)
        assert_equal_gradients(gradients(model), gradients(reference), tolerance)
    return sift


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scoring_mode": "eval"}, "scoring_mode='eval' scores another function"),
        ({"score_batch_size": 3}, "score_batch_size bounds the memory"),
    ],
)
def test_options_that_need_two_passes(options, reason, build, make_batch, warnings_said):
    batches = [make_batch("bert-mlm", seed=seed) for seed in range(3)]
    equal_without_reuse(lambda: build("bert-mlm", dtype="float64"), batches, **options)
    assert [reason in text for text in warnings_said()] == [True], "said once"


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_of_transformers(reentrant, build, make_batch, warnings_said):
    def checkpointed():
        model = build("bert-mlm", dtype="float64")
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": reentrant})
        return model

    equal_without_reuse(checkpointed, [make_batch("bert-mlm", seed=seed) for seed in range(2)])
    assert "activation checkpointing" in warnings_said()[0]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # while scoring, of the reentrant kind
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_of_a_models_own(reentrant, drops, warnings_said):
    """No flag says so; the hooks on saved tensors do, or the missing gradients, and what is drawn is drawn once."""
    seen = []

    def inner(self, h):
        factor = F.dropout(torch.ones_like(h), 0.5, training=drops)
        seen.append(factor)
        return self.two(h) * factor

    def block(self, x):
        return self.norm(checkpoint(inner, self, self.one(x), use_reentrant=reentrant))

    model = tower(block)
    if not drops:
        follow(model, *map(inputs, range(3)))
        return
    sift = Sift(model, keep=3 / 8)
    for seed in range(3):
        sift(**inputs(seed)).backward()
        _, forward, again = seen[-3:]
        assert len(forward) == 3
        assert torch.equal(forward, again), "the backward pass drew anew"
    assert warnings_said()


# Tracing looks at the hidden states' gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_layers_after_the_exit_are_compiled_and_the_others_shared(build, make_batch, warnings_said):
    compiled = collections.Counter()

    def backend(graph, example_inputs):
        compiled["graphs"] += 1

        def run(*args):
            compiled["calls"] += 1
            return graph.forward(*args)

        return run

    def build_model(compile_them=True):
        model = build("bert-mlm", dtype="float64")
        if compile_them:
            for layer in model.bert.encoder.layer[2:]:
                layer.compile(backend=backend, dynamic=False)
        return model

    torch._dynamo.reset()
    model, reference = build_model(), build_model(False)
    sift = Sift(model, exit_layer=2)
    for seed in range(3):
        batch = make_batch("bert-mlm", seed=seed)
        compiled["calls"] = 0
        rows = sift.choose(batch)
        model.zero_grad()
        found = sift.forward_kept(rows).loss
        found.backward()
        reference.zero_grad()
        wanted = reference(**rows).loss
        wanted.backward()
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
        assert_equal_gradients(gradients(model), gradients(reference), 1e-12)
        assert compiled["calls"] >= 2, "the layers after the exit ran uncompiled"
    assert not warnings_said()
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look at it
@pytest.mark.parametrize("part", ["every layer", "the embeddings", "the first layer, wrapped"])
def test_parts_compiled_up_to_the_exit_make_two_passes(part, build, make_batch, warnings_said):
    model, reference, batch = build("bert-mlm"), build("bert-mlm"), make_batch("bert-mlm")
    layers = model.bert.encoder.layer
    if part == "the first layer, wrapped":
        layers[0] = torch.compile(layers[0], backend="eager")
    for module in {"every layer": layers, "the embeddings": [model.bert.embeddings]}.get(part, []):
        module.compile(backend="eager")
    sift, plain = Sift(model, exit_layer=2), Sift(reference, exit_layer=2, reuse=False)
    for _ in range(2):
        found, wanted = sift(**batch).loss, plain(**batch).loss
        torch.testing.assert_close(found, wanted)
        found.backward()
        wanted.backward()
        for one, two in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad)
    assert "parts of the model up to the exit" in warnings_said()[0]


@pytest.mark.parametrize("how", ["torch.compile", "model.compile"])
def test_a_compiled_model_makes_two_passes(how, build, make_batch, warnings_said):
    def build_model():
        model = build("bert-mlm", dtype="float64")
        if how == "torch.compile":
            return torch.compile(model, backend="eager")
        model.compile(backend="eager")
        return model

    torch._dynamo.reset()
    equal_without_reuse(build_model, [make_batch("bert-mlm", seed=seed) for seed in range(2)])
    assert "torch.compile runs the whole model" in warnings_said()[0]
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")  # by peft's own calls
def test_adapters_are_shared(build, make_batch, warnings_said):
    peft = pytest.importorskip("peft")

    def build_model():
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=["query", "value"], lora_dropout=0.0, init_lora_weights=False)
        return peft.get_peft_model(build("bert-mlm", dtype="float64"), config)

    equal_without_reuse(build_model, [make_batch("bert-mlm", seed=seed) for seed in range(3)])
    assert not warnings_said()


def test_a_scaled_loss(build, make_batch):
    """A gradient scaler multiplies the loss only; its first backward pass overflows, and it skips that step."""
    models = [build("bert-mlm") for _ in range(2)]
    sifts = [Sift(model, exit_layer=2, reuse=reuse) for model, reuse in zip(models, (True, False), strict=True)]
    for model, sift in zip(models, sifts, strict=True):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            scaler.scale(sift(**make_batch("bert-mlm", seed=step)).loss).backward()
            scaler.step(optimizer)
            scaler.update()
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("around", ["nothing", "scoring", "both", "all steps"])
def test_accelerate_in_bf16(around, build, make_batch, warnings_said):
    """Its autocast lives on the prepared model's forward, which the scoring view takes over; a loop may add its own."""
    accelerate = pytest.importorskip("accelerate")
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # the process has one, of whichever test came first
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    models = [accelerator.prepare(build("bert-mlm")) for _ in range(2)]
    sifts = [Sift(model, exit_layer=2, reuse=reuse) for model, reuse in zip(models, (True, False), strict=True)]
    counts = []

    def autocast(*where):
        return accelerator.autocast() if around in where else contextlib.nullcontext()

    with autocast("all steps"):
        for step in range(3):
            batch = make_batch("bert-mlm", seed=step)
            losses = []
            for model, sift in zip(models, sifts, strict=True):
                model.zero_grad()
                with autocast("both"):
                    with autocast("scoring"):
                        rows = sift.choose(batch)
                    with Computed() as computed:
                        loss = sift.forward_kept(rows).loss
                with torch.autocast("cpu", enabled=False):
                    accelerator.backward(loss)
                losses.append(loss.detach())
                counts.append(computed.calls["addmm"])
            torch.testing.assert_close(*losses, rtol=2e-2, atol=0)
            assert_equal_gradients(gradients(models[0]), gradients(models[1]), 3e-2)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert (counts[-2], counts[-1]) == (2 * 6 + 3 + 2, 4 * 6 + 2)
    assert not warnings_said()


def test_scoring_in_another_precision_is_not_taken_for_the_training_pass(build, make_batch, warnings_said):
    model, reference, batch = build("bert-mlm"), build("bert-mlm"), make_batch("bert-mlm")
    sift = Sift(model, exit_layer=2)
    for _ in range(2):
        model.zero_grad()
        reference.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            rows = sift.choose(batch)
        found = sift.forward_kept(rows).loss
        found.backward()
        wanted = reference(**rows).loss
        wanted.backward()
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
        assert_equal_gradients(gradients(model), gradients(reference), 1e-6)
    assert "training shares only a part" in warnings_said()[0]


def test_trainer_with_and_without_sharing_gives_the_same_weights(build, make_batch, tmp_path, warnings_said):
    from transformers import TrainingArguments

    from gsgd.sift.trainer import SiftArguments, SiftTrainer

    batch = make_batch("bert-mlm", rows=32)
    del batch["attention_mask"]  # with padding in one batch of four, its kind of pass would be compared once more
    rows = [{name: value[row] for name, value in batch.items()} for row in range(32)]

    def train(reuse, accumulation=1, **options):
        model = build("bert-mlm", dtype="float64")
        arguments = TrainingArguments(
            str(tmp_path), max_steps=4, per_device_train_batch_size=8 // accumulation, report_to=[], save_strategy="no",
            gradient_accumulation_steps=accumulation, use_cpu=True, disable_tqdm=True, learning_rate=1e-3, seed=0,
        )  # fmt: skip
        trainer = SiftTrainer(
            model=model, args=arguments, train_dataset=rows, sift=SiftArguments(exit_layer=2, reuse=reuse, **options)
        )
        with Computed() as computed:
            trainer.train()
        assert trainer.sift.totals.selected_steps == 4 * accumulation
        return model.state_dict(), computed.calls["addmm"]

    for options in ({}, {"labelled_head": True}):
        (found, fewer), (wanted, more) = train(True, **options), train(False, **options)
        # Two layers of six products, less three behind the last attention, in three of four steps: in the first they
        # are compared.
        assert more - fewer == 3 * (2 * 6 - 3)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-8)
    assert not warnings_said()
    train(True, accumulation=2)
    assert [text for text in warnings_said() if "micro-batches" in text], "it did not say why"
