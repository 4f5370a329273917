"""Whose rows take what was recorded, and when; how much memory that is, and that nothing of it stays."""

import contextlib
import copy
import gc
import weakref

import pytest
import torch
from passes import take

from gsgd.sift import Sift


@pytest.fixture
def made(build, make_batch):
    """made(exit_layer, ...) -> (model, a copy, Sift, batch)."""

    def make(exit_layer=2, **options):
        model = build("bert-mlm", dtype="float64")
        sift = Sift(model, exit_layer=exit_layer, **options)
        return model, copy.deepcopy(model), sift, make_batch("bert-mlm")

    return make


@pytest.mark.parametrize("head", [False, True])
def test_only_the_rows_chosen_last_take_what_was_captured(head, made, make_batch):
    model, reference, sift, one = made(4, labelled_head=head)
    two, three = (make_batch("bert-mlm", seed=seed) for seed in (1, 2))

    def equal(rows, run=sift.forward_kept):
        torch.testing.assert_close(run(rows).loss, reference(**rows).loss, rtol=1e-12, atol=0)

    old, new = sift.choose(one), sift.choose(two)
    equal(old)
    assert sift.captured_bytes == 0, "what cannot be used any more is let go"
    equal(new)
    sift.choose(two)
    equal(take(three, [0, 3]))
    rows = sift.choose(one)
    equal(dict(rows))
    equal(rows)  # a second time
    rows = sift.choose(one)
    rows["input_ids"][:, 3] = 7  # after it was scored
    equal(rows)
    rows = sift.choose(one)
    one["labels"][0, 2], one["labels"][5, 1:3] = 5, -100  # they tell where the kept rows' labels are
    equal(rows)
    for batch in (one, two):  # twice in a row, without a backward pass
        equal(sift.choose(batch))
    sift.choose(one)
    with torch.no_grad():
        model.eval()
        equal(two, lambda rows: sift(**rows))
    model.train()
    equal(sift.choose(three))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_captured_memory_is_what_shapes_say(dropout, build, make_batch):
    """Of each layer of B rows, T tokens, H wide, F in the middle, A heads, in float32:

    six products, five of H and one of F, and attention's H and A log-sum-exps. With dropout two masks of H a layer, one
    for the embeddings, and as attention is written out then, of A heads' T scores the softmax and a mask in place of
    the fused attention's H and A; its products, of 16 and 9 terms, are not kept.
    """
    sift = Sift(build("bert-mlm", dropout=dropout), exit_layer=2)
    sift.choose(make_batch("bert-mlm"))
    B, T, H, F, A = 8, 9, 32, 64, 2
    layer = 5 * H + F + (2 * A * T + 2 * H if dropout else H + A)
    assert sift.captured_bytes == 4 * B * T * (2 * layer + (H if dropout else 0))


@pytest.mark.parametrize("where", [None, 0, 1, 3])
def test_nothing_is_left_behind_whether_a_pass_ends_or_raises(where, made):
    """In a layer before the exit, at the exit, or after it."""
    model, _, sift, batch = made()
    layers = model.bert.encoder.layer

    def run(part, rows):
        with contextlib.ExitStack() as stack:
            if where is not None:
                stack.enter_context(pytest.raises(IndexError))
                stack.enter_context(layers[where].register_forward_hook(lambda *_: [][0]))
            part(rows)

    if where in (0, 1):
        run(sift.choose, batch)
        assert sift.captured_bytes == 0
    rows = sift.choose(batch)
    calls = sift._training_pass.shared.capture.segments[0].calls
    references = [weakref.ref(one) for call in calls for one in call.tensors()]
    assert len(references) > 10
    del calls
    gc.disable()  # counting references must do
    try:
        run(sift.forward_kept, rows)
        assert all(reference() is None for reference in references)
    finally:
        gc.enable()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert not any(module._forward_hooks for module in layers.modules())
    sift(**batch).loss.backward()
