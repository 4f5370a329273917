"""Tokens chosen by their own losses: loss and gradient are those of the plain model on labels that were masked by hand.

What is masked comes from full logits and a cross-entropy written out here.
"""

import pickle

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from datasets import Dataset  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from gsgd.selectors import select_selective_backprop  # noqa: E402
from gsgd.sift import ReferenceLosses, Sift  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments, SiftTrainer  # noqa: E402

LAYERS, KEEP = 4, 0.4
CAUSAL = {"gpt2": True, "llama": True, "bert-mlm": False}


@pytest.fixture(params=CAUSAL)
def name(request):
    return request.param


def token_losses(model, batch, causal, *, kind="loss"):
    """(B, T) at the place of each label: its loss, or the entropy of its prediction, by full logits; NaN elsewhere."""
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double()
    labels, found = batch["labels"], torch.full(batch["labels"].shape, torch.nan, dtype=torch.float64)
    for row, place in torch.nonzero(labels != -100).tolist():
        if causal and place == 0:
            continue
        log_p = logits[row, place - causal].log_softmax(-1)
        found[row, place] = -log_p[labels[row, place]] if kind == "loss" else -(log_p.exp() * log_p).sum()
    return found


def masked_by_hand(batch, values, keep=KEEP):
    """The batch with the labels of the largest values alone."""
    numbers = values[~values.isnan()]
    cut = numbers.sort(descending=True).values[max(1, round(keep * len(numbers))) - 1]
    return {**batch, "labels": torch.where(values.nan_to_num(nan=-torch.inf) >= cut, batch["labels"], -100)}


def loss_and_gradient(model, call):
    model.zero_grad()
    loss = call().loss
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize("labelled_head", [False, True])
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("kind", ["loss", "entropy"])
@pytest.mark.parametrize("exit_layer", [2, LAYERS])
def test_it_is_the_plain_model_on_labels_masked_by_hand(
    name, kind, exit_layer, reuse, labelled_head, build, make_batch, stack_of, truncated
):
    model, batch = build(name, dtype="float64"), make_batch(name)
    values = token_losses(truncated(model, stack_of(name), exit_layer), batch, CAUSAL[name], kind=kind)
    expected = masked_by_hand(batch, values)
    sift = Sift(
        model, level="token", exit_layer=exit_layer, keep=KEEP, score=kind, reuse=reuse, labelled_head=labelled_head
    )
    kept = sift.choose(batch)
    assert torch.equal(kept["labels"], expected["labels"])
    assert all(torch.equal(kept[entry], batch[entry]) for entry in ("input_ids", "attention_mask"))
    assert torch.allclose(sift.last.scores, values[~values.isnan()], rtol=1e-9)
    assert torch.equal(sift.last.tokens, expected["labels"] != -100)
    loss, gradient = loss_and_gradient(model, lambda: sift.forward_kept(kept))
    assert bool(sift.totals.reused_operations) == reuse
    plain_loss, plain_gradient = loss_and_gradient(model, lambda: model(**expected))
    assert loss == pytest.approx(plain_loss, rel=1e-6)  # which transformers rounds to float32
    assert torch.allclose(gradient, plain_gradient, rtol=1e-6, atol=1e-9)
    of_kept = token_losses(model, expected, CAUSAL[name])
    assert loss == pytest.approx(float(of_kept[~of_kept.isnan()].mean()), rel=1e-6)


def test_at_keep_1_the_batch_is_as_it_is(name, build, make_batch):
    model, batch = build(name), make_batch(name)
    sift = Sift(model, level="token", exit_layer=1, keep=1.0)
    kept = sift.choose(batch)
    assert all(kept[entry] is value for entry, value in batch.items())
    assert sift.last.tokens is None
    loss, gradient = loss_and_gradient(model, lambda: sift.forward_kept(kept))
    plain_loss, plain_gradient = loss_and_gradient(model, lambda: model(**batch))
    assert loss == plain_loss
    assert torch.equal(gradient, plain_gradient)


def test_less_the_losses_of_a_reference(name, build, make_batch):
    """Rho-1: a token counts if the model's loss of it is far above another model's."""
    model, other, batch = build(name, dtype="float64"), build(name, dtype="float64", seed=5), make_batch(name)
    values = token_losses(model, batch, CAUSAL[name]) - token_losses(other, batch, CAUSAL[name])
    sift = Sift(model, level="token", exit_layer=LAYERS, keep=KEEP, reference_losses=ReferenceLosses(other))
    assert torch.equal(sift.choose(batch)["labels"], masked_by_hand(batch, values)["labels"])
    assert torch.allclose(sift.last.scores, values[~values.isnan()], rtol=1e-9, atol=1e-12)
    given = Sift(
        model,
        level="token",
        exit_layer=LAYERS,
        keep=KEEP,
        reference_losses=lambda rows: token_losses(other, rows, CAUSAL[name]),
    )
    assert torch.equal(given.choose(batch)["labels"], sift.choose(batch)["labels"])


def test_parts_of_a_batch_give_the_scores_of_the_whole(name, build, make_batch):
    model, batch = build(name, dtype="float64"), make_batch(name)
    scores = []
    for rows in (None, 1, 3):  # of a row without labels, too
        sift = Sift(model, level="token", exit_layer=2, keep=KEEP, score_batch_size=rows)
        sift.choose(batch)
        scores.append(sift.last.scores)
    assert torch.allclose(scores[0], scores[1], rtol=1e-9)
    assert torch.allclose(scores[0], scores[2], rtol=1e-9)


@pytest.mark.parametrize("options", [{"score": "random"}, {"select": select_selective_backprop}, {"random_share": 0.5}])
def test_other_rules_keep_as_many(options, build, make_batch):
    model, batch = build("gpt2"), make_batch("gpt2")
    there = batch["labels"][:, 1:] != -100
    sift = Sift(model, level="token", exit_layer=1, keep=KEEP, **options)
    hardest = Sift(model, level="token", exit_layer=1, keep=KEEP).choose(batch)["labels"]
    kept = sift.choose(batch)["labels"]
    assert int((kept != -100).sum()) == round(KEEP * int(there.sum()))
    assert bool((kept[:, 1:] == -100)[~there].all())
    assert not torch.equal(kept, hardest)


def test_what_is_counted(build, make_batch):
    model, batch = build("llama"), make_batch("llama")
    labels = int((batch["labels"][:, 1:] != -100).sum())
    sift = Sift(model, level="token", exit_layer=1, keep=KEEP, start_step=1)
    for _ in range(3):
        sift(**batch)
    assert sift.totals.gross_samples == sift.totals.backprop_samples == 3 * 8
    assert sift.totals.gross_tokens == 3 * labels
    assert sift.totals.backprop_tokens == labels + 2 * round(KEEP * labels)
    again = pickle.loads(pickle.dumps(sift))
    again.load_state_dict(sift.state_dict())
    assert torch.equal(again.choose(batch)["labels"], sift.choose(batch)["labels"])


def test_a_batch_without_labels_of_tokens_is_trained_on_as_it_is(build, make_batch):
    batch = make_batch("bert-mlm")
    batch["labels"] = torch.full_like(batch["labels"], -100)
    sift = Sift(build("bert-mlm"), level="token", exit_layer=1, keep=KEEP, check=False)
    assert sift.choose(batch)["labels"] is batch["labels"]
    assert sift.totals.idle_steps == 1


class Own(nn.Module):
    """A model that says itself how it exits; labels are not shifted."""

    exit_layers = 2

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Embedding(20, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 20)

    def early_logits(self, exit_layer, input_ids):
        hidden = self.layers[0](input_ids)
        return self.head(hidden if exit_layer == 1 else torch.tanh(self.layers[1](hidden)))

    def forward(self, input_ids, labels):
        logits = self.early_logits(2, input_ids)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return {"loss": loss, "logits": logits}


def test_a_model_with_exits_of_its_own():
    model, rng = Own(), torch.Generator().manual_seed(1)
    tokens = torch.randint(20, (4, 6), generator=rng)
    batch = {"input_ids": tokens, "labels": torch.where(torch.rand(4, 6, generator=rng) < 0.3, -100, tokens.flip(0))}
    logits = model.early_logits(1, tokens).detach()
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="none").view(4, 6)
    kept = Sift(model, level="token", exit_layer=1, keep=KEEP).choose(batch)
    values = torch.where(batch["labels"] == -100, torch.nan, losses.double())
    assert torch.equal(kept["labels"], masked_by_hand(batch, values)["labels"])


def test_documents_in_a_pack_are_scored_as_they_are_trained_on(build):
    """Losses in a pack are those of its documents one by one; the share is of the pack's labels."""
    model, rng = build("llama", dtype="float64", use_cache=False), torch.Generator().manual_seed(3)
    found = [torch.randint(3, 100, (length,), generator=rng) for length in (5, 9, 3, 7)]
    tokens = torch.cat(found).unsqueeze(0)
    positions = torch.cat([torch.arange(len(one)) for one in found]).unsqueeze(0)
    batch = {"input_ids": tokens, "position_ids": positions, "labels": tokens.masked_fill(positions == 0, -100)}
    alone = [{"input_ids": one[None], "attention_mask": torch.ones(1, len(one)), "labels": one[None]} for one in found]
    values = torch.cat([token_losses(model, each, True) for each in alone], dim=1)
    sift = Sift(model, level="token", exit_layer=LAYERS, keep=KEEP)
    kept = sift.choose(batch)
    assert torch.equal(kept["labels"], masked_by_hand(batch, values)["labels"])
    assert torch.allclose(sift.last.scores, values[~values.isnan()], rtol=1e-9)
    assert sift.totals.gross_tokens == 24 - 4


@pytest.mark.parametrize("labelled_head", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_trainer_counts_the_kept_tokens(build, make_batch, tmp_path, micro_batches, labelled_head):
    """Weights are those of the plain Trainer on labels masked by hand, its `num_items_in_batch` included."""
    batches = [make_batch("gpt2", seed=seed) for seed in range(2 * micro_batches)]

    def trained(trainer_class, given, **more):
        rows = [{name: value[row] for name, value in batch.items()} for batch in given for row in range(8)]
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            gradient_accumulation_steps=micro_batches,
            max_steps=2,
            logging_steps=1,
            learning_rate=1e-2,
            train_sampling_strategy="sequential",
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = trainer_class(
            model=build("gpt2", dtype="float64"), args=arguments, train_dataset=Dataset.from_list(rows), **more
        )
        trainer.train()
        return trainer, torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])

    chosen = []

    class Noting(SiftTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            if model.training:
                chosen.append(({name: inputs[name].clone() for name in batches[0]}, kwargs["num_items_in_batch"]))
            return super().compute_loss(model, inputs, *args, **kwargs)

    options = SiftArguments(level="token", exit_layer=2, keep=KEEP, labelled_head=labelled_head)
    ours, weights = trained(Noting, batches, sift=options)
    for step in range(2):
        window = chosen[step * micro_batches : (step + 1) * micro_batches]
        counted = sum(int((rows["labels"] != -100).sum()) for rows, _ in window)
        assert {int(items) for _, items in window} == {counted}
    first = [masked_by_hand(batch, token_losses(cut_after_two(build), batch, True)) for batch in batches]
    assert all(torch.equal(first[at]["labels"], chosen[at][0]["labels"]) for at in range(micro_batches))
    plain, plain_weights = trained(transformers.Trainer, [rows for rows, _ in chosen])
    assert torch.allclose(weights, plain_weights, rtol=1e-7, atol=1e-9)
    losses = [[entry["loss"] for entry in each.state.log_history[:-1]] for each in (ours, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    last = ours.state.log_history[-2]
    assert last["kept_tokens"] == sum(int((rows["labels"] != -100).sum()) for rows, _ in chosen)
    assert last["kept_samples"] == last["gross_samples"] == 2 * micro_batches * 8


def cut_after_two(build):
    model = build("gpt2", dtype="float64")
    model.transformer.h = model.transformer.h[:2]
    return model


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_head_runs_on_kept_tokens_only(name, build, make_batch):
    """Operations of the training pass, counted: what is left out is the head's at the positions that do not count."""
    model, batch = build(name), make_batch(name)
    width, classes = model.lm_head.weight.shape[1], model.lm_head.weight.shape[0]
    counted = {}
    for labelled_head in (False, True):
        sift = Sift(model, level="token", exit_layer=1, keep=KEEP, labelled_head=labelled_head, reuse=False)
        kept = sift.choose(batch)
        with FlopCounterMode(display=False) as counter:
            sift.forward_kept(kept).loss.backward()
        counted[labelled_head] = counter.get_total_flops()
    positions, left = batch["labels"].numel(), int((kept["labels"] != -100).sum())
    # Forward, and backward by the weights and by what goes in; one position more stands for the shift.
    saved = 3 * 2 * (positions - left - 1) * width * classes
    assert counted[False] - counted[True] == saved > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score": "last-seen", "data_rows": 9}, 'score = "last-seen", which keeps one loss a row'),
        ({"score": lambda logits, labels: logits[:, 0, 0]}, "a callable score, which gives one number a row"),
        ({"scope": "global"}, 'scope = "global", which deals rows out to ranks'),
        ({"keep_tokens": True}, "keep_tokens=True, which counts the tokens of whole documents"),
        ({"exit_layer": "auto"}, 'exit_layer = "auto", which goes by the rows'),
        ({"meter_every": 5}, "meter_every = 5, which measures scores of rows"),
        ({"log_rows": "rows"}, "log_rows, which logs which rows are trained on"),
        ({"batchnorm": "gross"}, 'batchnorm = "gross", which is for rows that are dropped'),
        ({"compile": True}, "compile = True, which makes graphs of scores of rows"),
    ],
)
def test_options_that_are_of_rows_are_refused(build, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='level = "token" does not go with ' + said):
        Sift(build("gpt2"), level="token", **options)


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("bert-classifier", {}, r"whose labels are \(B, T\) tokens, but `labels` is torch.int64 \(8,\)"),
        ("bert-pretraining", {}, "needs a loss that is the mean over labels, but that of BertForPreTraining"),
        ("gpt2", {"shift_labels": torch.zeros(8, 9, dtype=torch.int64)}, "the batch has shift_labels, too"),
        ("gpt2", {"labels": torch.zeros(8, 9)}, r"but `labels` is torch.float32 \(8, 9\)"),
    ],
)
def test_batches_that_are_not_of_tokens_are_refused(kind, change, said, build, make_batch):
    with pytest.raises(ValueError, match=said):
        Sift(build(kind), level="token", exit_layer=1).choose({**make_batch(kind), **change})


@pytest.mark.parametrize("losses", [torch.zeros(8, 8), None, torch.zeros(8)])
def test_losses_of_a_reference_of_another_shape_are_refused(losses, build, make_batch):
    sift = Sift(build("gpt2"), level="token", exit_layer=1, reference_losses=lambda batch: losses)
    with pytest.raises(ValueError, match=r"reference_losses returned .* but must return a tensor \(8, 9\)"):
        sift.choose(make_batch("gpt2"))
