"""The end of the exit layer at labelled positions only: the same scores, the same draws, and less work."""

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from gsgd.sift import Sift  # noqa: E402

IGNORED = -100
MLM = ("bert-mlm", "bert-pretraining", "roberta", "distilbert", "modernbert")
BEHIND_ATTENTION = 3
"""Products of a layer behind its attention: its output, and two of the feed-forward part."""


class Products(TorchDispatchMode):
    """Rows and widths of the products with weights that are carried out."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.addmm, torch.ops.aten.mm):
            self.shapes.append(tuple(output.shape))
        return output


def few_labels(batch, share=0.2):
    """The batch with labels at about a share of its positions, in the first row at none."""
    draw = torch.Generator().manual_seed(5)
    labels = batch["input_ids"].clone()
    labels[torch.rand(labels.shape, generator=draw) > share] = IGNORED
    labels[0] = IGNORED
    labels[batch["attention_mask"] == 0] = IGNORED
    return {**batch, "labels": labels}


def scores_of(model, batch, reuse, seed, **options):
    sift = Sift(model, reuse=reuse, **options)
    found = []
    for step in range(3):
        torch.manual_seed(seed + step)
        with Products() as products:
            sift.choose(batch)
        found.append(sift.last.scores)
    return found, products.shapes, sift


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("score", ["loss", "entropy"])
@pytest.mark.parametrize("one", [*MLM, "gpt2", "llama"])
def test_scores_are_those_of_a_full_pass(one, score, attention, build, make_batch):
    # Where scores are NaN anyway the batch is scored again, with other draws.
    dropout = 0.0 if one == "llama" or (one, attention) == ("modernbert", "eager") else 0.1
    model = build(one, dropout=dropout, dtype="float64", attn_implementation=attention)
    batch = few_labels(make_batch(one))
    for exit_layer in (1, 4):
        # ModernBERT's own attention, written out, makes NaN of a row whose window is all padding.
        options = {"exit_layer": exit_layer, "score": score, "on_bad_scores": "drop"}
        full, _, _ = scores_of(copy.deepcopy(model), batch, False, 0, **options)
        found, _, sift = scores_of(copy.deepcopy(model), batch, True, 0, **options)
        for one_step, wanted in zip(found, full, strict=True):
            torch.testing.assert_close(one_step, wanted, rtol=1e-12, atol=1e-12, equal_nan=True)
        assert not sift._findings.positions_meet


@pytest.mark.parametrize("one", MLM)
def test_products_behind_attention_are_carried_out_at_labelled_positions(one, build, make_batch):
    batch = few_labels(make_batch(one))
    labelled, positions = int((batch["labels"] != IGNORED).sum()), batch["labels"].numel()
    _, full, _ = scores_of(build(one), batch, False, 0, exit_layer=2)
    _, found, _ = scores_of(build(one), batch, True, 0, exit_layer=2)
    width = {shape[1] for shape in full}
    needed = batch["labels"] != IGNORED
    if one == "bert-pretraining":
        needed[:, 0] = True  # the pooler reads the first position, for the next sentence's loss
    at_exit = int(needed.sum())
    assert not {labelled, at_exit} & {positions, *width}
    head = sum(shape[0] == labelled for shape in full)
    expected = BEHIND_ATTENTION
    assert sum(shape[0] == at_exit for shape in found) == expected + (head if at_exit == labelled else 0)
    assert sum(shape[0] == positions for shape in found) == sum(shape[0] == positions for shape in full) - expected


@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
def test_where_nothing_is_to_be_saved_all_positions_are_computed(share, build, make_batch):
    batch = few_labels(make_batch("bert-mlm"), share)
    _, full, _ = scores_of(build("bert-mlm"), batch, False, 0)
    _, found, sift = scores_of(build("bert-mlm"), batch, True, 0)
    assert [shape for shape in found if shape[0] == batch["labels"].numel()] == [
        shape for shape in full if shape[0] == batch["labels"].numel()
    ]
    assert not sift._findings.attention


def less_the_mean(module, arguments, output):
    """Positions meet once more, behind the exit layer."""
    output.last_hidden_state = output.last_hidden_state - output.last_hidden_state.mean(1, keepdim=True)
    return output


def test_a_score_that_depends_on_other_positions_is_found_out(build, make_batch):
    batch = few_labels(make_batch("bert-mlm"))
    model = build("bert-mlm", dropout=0.0, dtype="float64")
    model.bert.register_forward_hook(less_the_mean)
    reference = copy.deepcopy(model)
    full, _, _ = scores_of(reference, batch, False, 0)
    found, _, sift = scores_of(model, batch, True, 0)
    for one_step, wanted in zip(found, full, strict=True):
        torch.testing.assert_close(one_step, wanted, rtol=1e-12, atol=1e-12)
    assert sift._findings.positions_meet
    rows = sift.choose(batch)
    loss = sift.forward_kept(rows).loss
    loss.backward()
    kept = {name: value[sift.last.indices] for name, value in batch.items()}
    wanted = reference(**kept).loss
    wanted.backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_what_is_nan_anyway_is_said_as_ever(build, make_batch):
    model, batch = build("bert-mlm"), few_labels(make_batch("bert-mlm"))
    sift = Sift(model)
    sift.choose(batch)
    with torch.no_grad():
        model.cls.predictions.transform.dense.bias.fill_(float("nan"))
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


class Biased(torch.nn.Linear):
    """A linear layer whose bias is one for each row, be it the same for all."""

    def forward(self, x):
        rows = x.flatten(0, -2)
        return torch.addmm(self.bias.expand(len(rows), -1).clone(), rows, self.weight.t()).view(*x.shape[:-1], -1)


def test_a_bias_of_all_positions_is_computed_in_full(build, make_batch):
    model, batch = build("bert-mlm"), few_labels(make_batch("bert-mlm"))
    dense = model.bert.encoder.layer[0].intermediate.dense
    biased = Biased(dense.in_features, dense.out_features)
    biased.load_state_dict(dense.state_dict())
    model.bert.encoder.layer[0].intermediate.dense = biased
    found, _, _ = scores_of(model, batch, True, 0, exit_layer=1)
    wanted, _, _ = scores_of(copy.deepcopy(model), batch, False, 0, exit_layer=1)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)
