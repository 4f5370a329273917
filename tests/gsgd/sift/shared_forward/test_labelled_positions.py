"""The end of the exit layer at labelled positions only: the same scores, the same draws, and less work."""

import copy

import pytest
import torch
from passes import MLM, Computed, assert_same, take

from gsgd.sift import Sift

IGNORED = -100
BEHIND_ATTENTION = 3  # products of a layer: attention's output, and two of the feed-forward part


@pytest.fixture
def few_labels(make_batch):
    """few_labels(name, share): a batch with labels at about a share of its positions, in the first row at none."""

    def make(name="bert-mlm", share=0.2, rows=8):
        batch = make_batch(name, rows=rows)
        draw = torch.Generator().manual_seed(5)
        labelled = (torch.rand(batch["input_ids"].shape, generator=draw) <= share) & (batch["attention_mask"] == 1)
        labelled[0] = False
        return {**batch, "labels": torch.where(labelled, batch["input_ids"], IGNORED)}

    return make


def assert_same_scores(model, *batches, tolerance=1e-12, **options):
    """Of recorded passes and plain ones; returns the Sift that records, and of both the rows of the last products."""
    sifts = [Sift(copy.deepcopy(model), reuse=reuse, **options) for reuse in (True, False)]
    for step, batch in enumerate(batches if len(batches) > 1 else batches * 3):
        products = []
        for sift in sifts:
            torch.manual_seed(step)
            with Computed() as computed:
                sift.choose(batch)
            products.append(computed.rows)
        found, wanted = (sift.last.scores for sift in sifts)
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    return sifts[0], *products


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("score", ["loss", "entropy"])
@pytest.mark.parametrize("one", [*MLM, "gpt2", "llama"])
def test_scores_are_those_of_a_full_pass(one, score, attention, build, few_labels):
    # Where scores are NaN anyway the batch is scored again, with other draws.
    dropout = 0.0 if one == "llama" or (one, attention) == ("modernbert", "eager") else 0.1
    model = build(one, dropout=dropout, dtype="float64", attn_implementation=attention)
    for exit_layer in (1, 4):
        # ModernBERT's own attention, written out, makes NaN of a row whose window is all padding.
        options = {"exit_layer": exit_layer, "score": score, "on_bad_scores": "drop"}
        sift, _, _ = assert_same_scores(model, few_labels(one), **options)
        assert not sift._training_pass.findings.positions_meet


@pytest.mark.parametrize(("one", "share"), [*((one, 0.2) for one in MLM), *(("bert-mlm", s) for s in (0.0, 0.8, 1.0))])
def test_products_behind_attention_are_carried_out_at_labelled_positions(one, share, build, few_labels):
    """Where few are labelled; the head on them takes the number of labelled ones in any case."""
    batch = few_labels(one, share)
    needed, positions = batch["labels"] != IGNORED, batch["labels"].numel()
    labelled = int(needed.sum())
    if one == "bert-pretraining":
        needed[:, 0] = True  # the pooler reads the first position, for the next sentence's loss
    at_exit, saved = int(needed.sum()), BEHIND_ATTENTION * (share == 0.2)
    sift, found, full = assert_same_scores(build(one), batch, tolerance=1e-5, exit_layer=2)
    assert len({labelled, positions, 8, 32, 64, 100}) == 6
    head = full.count(labelled) if at_exit == labelled else 0
    assert found.count(at_exit) == saved + head
    assert found.count(positions) == full.count(positions) - saved
    assert bool(sift._training_pass.findings.attention) == bool(saved)


def test_a_score_that_depends_on_other_positions_is_found_out(build, few_labels):
    batch, reference = few_labels(), build("bert-mlm", dtype="float64")

    def less_the_mean(module, arguments, output):  # positions meet once more, behind the exit layer
        output.last_hidden_state = output.last_hidden_state - output.last_hidden_state.mean(1, keepdim=True)
        return output

    reference.bert.register_forward_hook(less_the_mean)
    sift, _, _ = assert_same_scores(reference, batch)
    assert sift._training_pass.findings.positions_meet
    found = sift.forward_kept(sift.choose(batch)).loss
    assert_same(found, reference(**take(batch, sift.last.indices)).loss, sift.model, reference)


def test_what_is_nan_anyway_is_said_as_ever(build, few_labels):
    model, batch = build("bert-mlm"), few_labels()
    sift = Sift(model)
    sift.choose(batch)
    model.cls.predictions.transform.dense.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="scores"):
        sift.choose(batch)
    assert not sift._training_pass.findings.positions_meet


def test_batches_of_other_shapes_are_scored_as_in_a_full_pass(build, few_labels):
    shapes, batch = ((8, 9), (8, 9), (6, 9), (8, 5), (12, 6), (8, 9)), few_labels(rows=12)
    batches = [{name: value[:rows, :width] for name, value in batch.items()} for rows, width in shapes]
    assert_same_scores(build("bert-mlm", dtype="float64"), *batches)


def test_a_bias_of_all_positions_is_computed_in_full(build, few_labels):
    model = build("bert-mlm")
    dense = model.bert.encoder.layer[0].intermediate.dense

    def forward(x):
        every = dense.bias.expand(x[..., 0].numel(), -1).clone()  # one for each position, be it the same for all
        return torch.addmm(every, x.flatten(0, -2), dense.weight.t()).unflatten(0, x.shape[:-1])

    dense.forward = forward
    assert_same_scores(model, few_labels(), tolerance=1e-5, exit_layer=1)
