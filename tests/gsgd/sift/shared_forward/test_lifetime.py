"""Whose rows take what was recorded, and when; how much memory that is, and that nothing of it stays."""

import gc
import weakref

import pytest
import torch
from passes import assert_same, counted, take, train

from gsgd.sift import Sift


@pytest.fixture
def made(build, make_batch):
    """made(exit_layer, ...) -> (model, a copy, Sift, batch)."""

    def make(exit_layer=2, **options):
        model, reference = (build("bert-mlm", dtype="float64") for _ in range(2))
        return model, reference, Sift(model, exit_layer=exit_layer, **options), make_batch("bert-mlm")

    return make


def test_only_the_rows_chosen_last_take_what_was_recorded(made, make_batch):
    model, reference, sift, _ = made(4)
    one, two, three = (make_batch("bert-mlm", seed=seed) for seed in range(3))

    def equal(found, rows):
        torch.testing.assert_close(found.loss, reference(**rows).loss, rtol=1e-12, atol=0)

    def trained(rows):
        equal(sift.forward_kept(rows), rows)

    old, new = sift.choose(one), sift.choose(two)
    trained(old)
    assert sift.recorded_bytes == 0, "what cannot be used any more is let go"
    trained(new)
    sift.choose(two)
    trained(take(three, [0, 3]))
    rows = sift.choose(one)
    trained(dict(rows))
    trained(rows)  # a second time
    rows = sift.choose(one)
    rows["input_ids"][:, 3] = 7  # after it was scored
    trained(rows)
    for batch in (one, two):  # twice in a row, without a backward pass
        equal(sift(**batch), take(batch, sift.last.indices))
    sift.choose(one)
    with torch.no_grad():
        model.eval()
        equal(sift(**two), two)
    model.train()
    equal(sift(**three), take(three, sift.last.indices))


@pytest.mark.parametrize("change", ["copy_", "optimizer", "fused"])
def test_weights_that_changed_since_scoring_are_not_overlooked(change, made, build, warnings_said):
    model, reference, sift, batch = made()
    sift(**batch).loss.backward()
    rows = sift.choose(batch)
    if change == "copy_":
        model.load_state_dict(build("bert-mlm", dtype="float64", seed=1).state_dict())
    else:
        torch.optim.AdamW(model.parameters(), lr=0.01, fused=change == "fused").step()
    reference.load_state_dict(model.state_dict())
    assert_same(sift.forward_kept(rows).loss, reference(**rows).loss, model, reference)
    assert "is not what it was" in warnings_said()[0]


def test_labels_that_changed_since_scoring_are_not_taken_for_the_scored_ones(made):
    """With the head shared, which positions of the gross batch are labelled tells where the kept rows' are."""
    _, reference, sift, batch = made(4, labelled_head=True)
    for _ in range(2):
        rows = sift.choose(batch)
        batch["labels"][0, 2] = 5
        batch["labels"][5, 1:3] = -100
        torch.testing.assert_close(sift.forward_kept(rows).loss, reference(**rows).loss, rtol=1e-12, atol=0)


def test_without_gradients_nothing_is_handed_out(made):
    _, reference, sift, batch = made()
    with torch.no_grad():
        found, computed, rows = train(sift, batch)
        wanted, plain = counted(reference, **rows)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    assert computed["addmm"] == plain["addmm"]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_recorded_memory_is_what_shapes_say(dropout, build, make_batch):
    """Of each layer of B rows, T tokens, H wide, F in the middle, A heads, in float32:

    six products: query, key, value, attention's output H each, F, and H again; attention: H, and A log-sum-exps;
    activations and norms are computed again. With dropout two masks of H a layer and one for the embeddings, and as
    attention is written out then, of A heads' T scores the softmax and a mask in place of the fused attention's H and
    A; its products, of 16 and 9 terms, are not kept.
    """
    sift = Sift(build("bert-mlm", dropout=dropout), exit_layer=2)
    assert sift.recorded_bytes == 0
    rows = sift.choose(make_batch("bert-mlm"))
    B, T, H, F, A = 8, 9, 32, 64, 2
    layer = 5 * H + F + (2 * A * T + 2 * H if dropout else H + A)
    assert sift.recorded_bytes == 4 * B * T * (2 * layer + (H if dropout else 0))
    sift.forward_kept(rows)
    assert sift.recorded_bytes == 0


def recorded(sift):
    calls = [call for segment in sift._shared.recording.segments for call in segment.calls]
    return [weakref.ref(one) for call in calls for one in call.outputs or () if isinstance(one, torch.Tensor)]


def test_memory_is_released_in_the_training_pass(made):
    model, _, sift, batch = made()
    rows = sift.choose(batch)
    references = recorded(sift)
    assert len(references) > 10
    gc.disable()  # counting references must do
    try:
        output = sift.forward_kept(rows)
        assert [reference() for reference in references] == [None] * len(references)
    finally:
        gc.enable()
    output.loss.backward()
    assert all(not layer._forward_hooks for layer in model.bert.encoder.layer)


@pytest.mark.parametrize("where", [0, 1, 3])
def test_an_exception_in_either_pass_leaves_nothing_behind(where, made):
    model, _, sift, batch = made()
    layer = model.bert.encoder.layer[where]
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}

    def failing(run, *arguments):
        with layer.register_forward_hook(lambda *_: [][0]), pytest.raises(IndexError):
            run(*arguments)
        gc.collect()
        assert sift.recorded_bytes == 0
        assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
        assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == hooks

    if where < 2:
        failing(sift.choose, batch)
    rows = sift.choose(batch)
    references = recorded(sift)
    failing(sift.forward_kept, rows)
    assert all(reference() is None for reference in references)
    sift(**batch).loss.backward()


def test_a_rule_that_raises_leaves_nothing_behind(made):
    _, _, sift, batch = made(select=lambda scores, k, rng: [][0])
    with pytest.raises(IndexError):
        sift(**batch)
    assert sift.recorded_bytes == 0
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
