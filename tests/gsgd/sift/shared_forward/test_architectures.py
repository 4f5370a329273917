"""Loss and gradients of every architecture against two plain passes with the same draws: see `two_passes`."""

import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from passes import assert_same, take, train

from gsgd.sift import Sift

MLM = ("bert-mlm", "bert-pretraining", "roberta", "distilbert", "modernbert")


def batches_of(make_batch, name, number, **options):
    return [make_batch(name, seed=seed, **options) for seed in range(number)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("exit_layer", [1, 2, 4])
def test_loss_and_gradients(name, exit_layer, attention, build, make_batch, steps, warnings_said):
    model = build(name, dropout=0.1, dtype="float64", attn_implementation=attention)
    batches = batches_of(make_batch, name, 3, dtype="float64")
    for batch in batches if (name, attention) == ("modernbert", "eager") else ():
        del batch["attention_mask"]  # with it the model's own loss is NaN: a padded token sees no token
    # The first training pass compares what it is handed, later ones do not.
    first, *_, last = steps(model, name, batches, exit_layer)
    assert not warnings_said()
    # Where few positions are labelled, the exit layer's products behind attention are scored at these only.
    each, behind = {"gpt2": 4, "modernbert": 4, "llama": 7}.get(name, 6), 3 if name in MLM else 0
    assert sum(first[one] - last[one] for one in ("addmm", "mm")) == each * exit_layer - behind


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("one", ["bert-mlm", "gpt2", "vit"])
def test_float32_and_autocast_up_to_the_kernels_rounding(dtype, one, build, make_batch, steps):
    context = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    tolerance = 2e-5 if dtype == "float32" else 3e-2
    batches = batches_of(make_batch, one, 2)
    assert len(list(steps(build(one, dropout=0.1), one, batches, 3, tolerance=tolerance, context=context))) == 2


@pytest.mark.parametrize("exit_layer", [1, 4])
@pytest.mark.parametrize("one", ["bert-mlm", "bert-pretraining"])
def test_labelled_head(one, exit_layer, build, make_batch, steps, warnings_said):
    """With the last layer as exit, the head's products are shared, too."""
    model = build(one, dropout=0.1, dtype="float64")
    *_, last = steps(model, one, batches_of(make_batch, one, 3), exit_layer, labelled_head=True)
    assert not warnings_said()
    # Six in a layer that is not shared, and the exit layer's three behind attention, which are scored at labelled
    # positions only; the head's two, and the pooler and the next sentence, which are not scored.
    assert last["addmm"] == 6 * (4 - exit_layer) + 3 + 2 * (exit_layer < 4) + 2 * (one == "bert-pretraining")


def test_ten_optimizer_steps_give_the_same_weights(build, make_batch, steps):
    model, reference = (build("bert-mlm", dropout=0.1, dtype="float64") for _ in range(2))
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (model, reference)]
    batches = batches_of(make_batch, "bert-mlm", 10)
    for _ in steps(model, "bert-mlm", batches, 2, reference=reference, tolerance=1e-9):
        for optimizer in optimizers:
            optimizer.step()
    for (name, found), wanted in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("rows", [[0, 1, 3, 6], [0, 3, 4, 6]], ids=["padded", "full"])
@pytest.mark.parametrize("one", ["bert-mlm", "gpt2", "llama"])
def test_padding_in_the_gross_batch_and_not_in_the_kept_rows(one, rows, build, make_batch, steps, warnings_said):
    """Models ask whether the mask is all ones, and build none then."""
    batches = batches_of(make_batch, one, 2)
    assert batches[0]["attention_mask"].sum(1).tolist() == [9, 6, 9, 9, 9, 9, 9, 9]
    model = build(one, dropout=0.1, dtype="float64")
    *_, last = steps(model, one, batches, 2, rows=torch.tensor(rows))
    assert not warnings_said()
    assert last["addmm"] + last["mm"] <= 2 * 7 + 3 + 2, "nothing was shared"


@pytest.mark.parametrize("rows", [[5], [0, 1, 2, 3, 4, 5, 6], [7, 2, 0], [3, 3, 6]])
@pytest.mark.parametrize(("one", "head"), [("bert-mlm", False), ("bert-mlm", True), ("gpt2", False)])
def test_one_row_many_rows_in_any_order_and_twice(one, head, rows, build, make_batch):
    """`select` may return rows in any order (they are trained on in ascending order), and one of them twice."""
    model, reference, rows = build(one, dtype="float64"), build(one, dtype="float64"), torch.tensor(rows)
    select = {"select": lambda scores, k, rng: rows}
    sift = Sift(model, exit_layer=4, keep=len(rows) / 8, labelled_head=head, **select)
    for batch in batches_of(make_batch, one, 2):
        wanted = reference(**take(batch, rows.sort().values)).loss
        assert_same(sift(**batch).loss, wanted, model, reference)


def test_all_rows_and_a_batch_of_one_row_are_not_scored(build, make_batch):
    model = build("bert-mlm")
    for sift, batch in ((Sift(model, keep=1.0), make_batch("bert-mlm")), (Sift(model), make_batch("bert-mlm", rows=1))):
        sift(**batch)
        assert not sift.last.selected
        assert sift.recorded_bytes == 0


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(2, 7), width=st.integers(1, 8), keep=st.floats(0.05, 0.95), exit_layer=st.integers(1, 3),
    dropout=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 2**20), padded=st.booleans(),
)  # fmt: skip
def test_any_shape(rows, width, keep, exit_layer, dropout, seed, padded, build, two_passes):
    small = {"hidden_size": 8, "num_hidden_layers": 3, "intermediate_size": 12, "vocab_size": 20}
    model, reference = (build("bert-mlm", dropout=dropout, dtype="float64", seed=seed, **small) for _ in range(2))
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
        found, _, _ = train(sift, batch)
        # A single row needs no copy where several do, so its pass may differ, and draw on its own from there.
        if not sift.last.selected or (dropout and len(sift.last.indices) == 1):
            return
        torch.manual_seed(again)
        wanted, _ = two_passes(reference, batch, "bert-mlm", exit_layer, sift.last.indices)
        assert_same(found, wanted, model, reference, 1e-11)
