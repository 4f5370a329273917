"""The end of the exit layer at labelled positions only: the same scores, the same draws, and less work."""

import copy

import pytest
import torch
from passes import Computed, assert_same, take

from gsgd.sift import Sift

IGNORED = -100
MLM = ("bert-mlm", "bert-pretraining", "roberta", "distilbert", "modernbert")
BEHIND_ATTENTION = 3
"""Products of a layer behind its attention: its output, and two of the feed-forward part."""


def few_labels(batch, share=0.2):
    """The batch with labels at about a share of its positions, in the first row at none."""
    draw = torch.Generator().manual_seed(5)
    labels = batch["input_ids"].clone()
    labels[torch.rand(labels.shape, generator=draw) > share] = IGNORED
    labels[0] = IGNORED
    labels[batch["attention_mask"] == 0] = IGNORED
    return {**batch, "labels": labels}


def scores_of(model, batch, reuse, **options):
    """(scores of three steps, rows of the last one's products, Sift) of a copy of the model."""
    sift, found = Sift(copy.deepcopy(model), reuse=reuse, **options), []
    for step in range(3):
        torch.manual_seed(step)
        with Computed() as computed:
            sift.choose(batch)
        found.append(sift.last.scores)
    return torch.stack(found), [shape[0] for shape in computed.shapes], sift


def assert_same_scores(model, batch, tolerance=1e-12, **options):
    """Of a recorded pass and a plain one; returns what `scores_of` says of both but the scores."""
    found, *rest = scores_of(model, batch, True, **options)
    wanted, *plain = scores_of(model, batch, False, **options)
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    return *rest, plain[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("score", ["loss", "entropy"])
@pytest.mark.parametrize("one", [*MLM, "gpt2", "llama"])
def test_scores_are_those_of_a_full_pass(one, score, attention, build, make_batch):
    # Where scores are NaN anyway the batch is scored again, with other draws.
    dropout = 0.0 if one == "llama" or (one, attention) == ("modernbert", "eager") else 0.1
    model = build(one, dropout=dropout, dtype="float64", attn_implementation=attention)
    for exit_layer in (1, 4):
        # ModernBERT's own attention, written out, makes NaN of a row whose window is all padding.
        options = {"exit_layer": exit_layer, "score": score, "on_bad_scores": "drop"}
        _, sift, _ = assert_same_scores(model, few_labels(make_batch(one)), **options)
        assert not sift._findings.positions_meet


@pytest.mark.parametrize("one", MLM)
def test_products_behind_attention_are_carried_out_at_labelled_positions(one, build, make_batch):
    batch = few_labels(make_batch(one))
    needed, positions = batch["labels"] != IGNORED, batch["labels"].numel()
    labelled = int(needed.sum())
    if one == "bert-pretraining":
        needed[:, 0] = True  # the pooler reads the first position, for the next sentence's loss
    at_exit = int(needed.sum())
    found, _, full = assert_same_scores(build(one), batch, 1e-5, exit_layer=2)
    assert len({labelled, positions, 8, 32, 64, 100}) == 6
    head = full.count(labelled) if at_exit == labelled else 0
    assert found.count(at_exit) == BEHIND_ATTENTION + head
    assert found.count(positions) == full.count(positions) - BEHIND_ATTENTION


@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
def test_where_nothing_is_to_be_saved_all_positions_are_computed(share, build, make_batch):
    batch = few_labels(make_batch("bert-mlm"), share)
    found, sift, full = assert_same_scores(build("bert-mlm"), batch, 1e-5)
    assert found.count(batch["labels"].numel()) == full.count(batch["labels"].numel())
    assert not sift._findings.attention


def less_the_mean(module, arguments, output):
    """Positions meet once more, behind the exit layer."""
    output.last_hidden_state = output.last_hidden_state - output.last_hidden_state.mean(1, keepdim=True)
    return output


def test_a_score_that_depends_on_other_positions_is_found_out(build, make_batch):
    batch = few_labels(make_batch("bert-mlm"))
    reference = build("bert-mlm", dtype="float64")
    reference.bert.register_forward_hook(less_the_mean)
    _, sift, _ = assert_same_scores(reference, batch)
    assert sift._findings.positions_meet
    found = sift.forward_kept(sift.choose(batch)).loss
    assert_same(found, reference(**take(batch, sift.last.indices)).loss, sift.model, reference)


def test_what_is_nan_anyway_is_said_as_ever(build, make_batch):
    model, batch = build("bert-mlm"), few_labels(make_batch("bert-mlm"))
    sift = Sift(model)
    sift.choose(batch)
    model.cls.predictions.transform.dense.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="scores"):
        sift.choose(batch)
    assert not sift._findings.positions_meet


def test_batches_of_other_shapes_are_scored_as_in_a_full_pass(build, make_batch):
    model = build("bert-mlm", dtype="float64")
    sift, plain = Sift(model), Sift(model, reuse=False)
    for rows, width in ((8, 9), (8, 9), (6, 9), (8, 5), (12, 6), (8, 9)):
        batch = {name: value[:rows, :width] for name, value in few_labels(make_batch("bert-mlm", rows=12)).items()}
        sift.choose(batch)
        plain.choose(batch)
        torch.testing.assert_close(sift.last.scores, plain.last.scores, rtol=1e-12, atol=1e-12)


def test_a_bias_of_all_positions_is_computed_in_full(build, make_batch):
    model = build("bert-mlm")
    dense = model.bert.encoder.layer[0].intermediate.dense
    # One for each position, be it the same for all.
    dense.forward = lambda x: torch.addmm(
        dense.bias.expand(x[..., 0].numel(), -1).clone(), x.flatten(0, -2), dense.weight.t()
    ).view(*x.shape[:-1], -1)
    assert_same_scores(model, few_labels(make_batch("bert-mlm")), 1e-5, exit_layer=1)
