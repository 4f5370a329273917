"""`SiftTrainer` against a hand-written loop: losses, kept rows, final weights; its logs and its options."""

import dataclasses
import gc
import itertools
import json
import logging
import math
import os
import socket
import subprocess
import sys
import traceback
import types
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
F = torch.nn.functional

from gsgd.scores import margin  # noqa: E402
from gsgd.sift import SiftOptions  # noqa: E402
from gsgd.sift.huggingface.collator import MaskingCollator  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments, SiftMixin, SiftTrainer  # noqa: E402

LR = 0.2
CAUSAL = ("gpt2", "llama")


class Recording(SiftTrainer):
    """Notes per micro-batch: the gross batch, the loss that went backward, and what was selected."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.notes = []

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.notes.append((inputs, float(loss), self.sift.last))
        return loss


def stack(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def rows_of(batch):
    return [{name: value[row] for name, value in batch.items()} for row in range(len(batch["labels"]))]


def common(folder):
    """Arguments of a run without any help: plain SGD, so that a gradient of the wrong scale shows."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
        "optim": "sgd",
        "learning_rate": LR,
        "max_grad_norm": 0,
        "lr_scheduler_type": "constant",
        "weight_decay": 0,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "logging_steps": 1,
    }


@pytest.fixture
def train(tmp_path, make_batch):
    """train(model, name, sift, batches=6, **training arguments) -> the trainer, trained and recorded."""

    def run(model, name, sift=None, *, batches=6, trainer=Recording, resume=None, before=None, **options):
        rows = [row for seed in range(batches) for row in rows_of(make_batch(name, seed=seed))]
        extra = {key: options.pop(key) for key in ("eval_dataset", "data_collator", "callbacks") if key in options}
        arguments = transformers.TrainingArguments(**(common(tmp_path) | options))
        if sift is not None:
            extra["sift"] = sift
        made = trainer(model=model, args=arguments, train_dataset=rows, **({"data_collator": stack} | extra))
        if before is not None:
            before(made)
        made.train(resume_from_checkpoint=resume)
        return made

    return run


def early_logits(model, name, batch, exit_layer):
    """The model's own head on the representation after `exit_layer` layers, from the model's hidden states."""
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    states = model.base_model(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == 5
    if name == "gpt2":
        return model.lm_head(model.transformer.ln_f(states[exit_layer]))
    if name == "llama":
        return model.lm_head(model.model.norm(states[exit_layer]))
    return model.cls(states[exit_layer])


def kept_rows(scores, keep):
    """The rows with the largest scores, in ascending order."""
    order = sorted(range(len(scores)), key=lambda row: -scores[row])
    return sorted(order[: max(1, round(keep * len(scores)))])


def positions(logits, labels, name):
    """(predictions, targets) of the labelled positions."""
    if name in CAUSAL:
        logits, labels = logits[:, :-1], labels[:, 1:]
    labelled = labels != -100
    return logits[labelled], labels[labelled]


def plain_loop(model, name, windows, row_scores, *, start_step=0, keep=0.5, exit_layer=1, score=None):
    """Two passes written out; a window is the micro-batches of one optimizer step.

    Returns (loss per step, kept rows per micro-batch). The loss is that of the plain Trainer on the kept rows: the
    mean over all positions of the window where the model divides by their number, else the mean of the means.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    losses, chosen = [], []
    for step, window in enumerate(windows):
        kept = []
        for batch in window:
            rows = list(range(len(batch["labels"])))
            if step >= start_step:
                with torch.no_grad():
                    logits = (score or early_logits)(model, name, batch, exit_layer)
                rows = kept_rows(row_scores(logits, batch["labels"], "loss", name in CAUSAL), keep)
            chosen.append(rows)
            kept.append({key: value[rows] for key, value in batch.items()})
        total = 0.0
        number = sum(len(positions(b["labels"][..., None], b["labels"], name)[1]) for b in kept)
        for batch in kept:
            logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
            predictions, targets = positions(logits, batch["labels"], name)
            if name in CAUSAL:
                loss = F.cross_entropy(predictions, targets, reduction="sum") / number
            else:
                loss = F.cross_entropy(predictions, targets) / len(kept)
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, chosen


def windows_of(trainer, accumulation, per_epoch):
    """The gross micro-batches the trainer saw, in groups of `accumulation`, the last of an epoch smaller."""
    seen = [inputs for inputs, _, _ in trainer.notes]
    epochs = [seen[start : start + per_epoch] for start in range(0, len(seen), per_epoch)]
    return [epoch[start : start + accumulation] for epoch in epochs for start in range(0, per_epoch, accumulation)]


def assert_same_weights(model, other, tolerance=1e-5):
    pairs = list(zip(model.named_parameters(), other.parameters(), strict=True))
    assert pairs
    for (name, one), two in pairs:
        assert torch.allclose(one, two, rtol=0, atol=tolerance), (name, float((one - two).abs().max()))


@pytest.mark.parametrize("start_step", [0, 1])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("name", ["bert-mlm", "gpt2", "llama"])
def test_equals_a_plain_loop(name, accumulation, start_step, build, train, row_scores):
    """6 micro-batches an epoch, so that with 4 per step the second step of each epoch has 2 of them."""
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = train(
        model,
        name,
        SiftArguments(start_step=start_step),
        num_train_epochs=2,
        gradient_accumulation_steps=accumulation,
    )
    windows = windows_of(trainer, accumulation, 6)
    assert [len(window) for window in windows] == ([1] * 12 if accumulation == 1 else [4, 2, 4, 2])
    reference = build(name)
    losses, chosen = plain_loop(reference, name, windows, row_scores, start_step=start_step)

    assert [last.indices.tolist() for _, _, last in trainer.notes] == chosen
    steps = [step for step, window in enumerate(windows) for _ in window]
    assert [last.step for _, _, last in trainer.notes] == steps
    assert [last.selected for _, _, last in trainer.notes] == [step >= start_step for step in steps]
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.allclose(logged, losses, rtol=0, atol=1e-5)
    assert_same_weights(model, reference)
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    why = "shared: " if accumulation == 1 else "two passes: captured passes of all micro-batches would be in memory"
    assert trainer.sift.totals.sharing.startswith(why)


def test_random_numbers_are_drawn_as_in_a_plain_loop(build, train, row_scores, truncated, stack_of):
    """With dropout: scoring draws for the layers it runs, training for its own, and nothing else draws."""

    def seeded(trainer):
        trainer.add_callback(Seed())

    class Seed(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            torch.manual_seed(100 + state.global_step)

    model = build("bert-mlm", dropout=0.1)
    trainer = train(model, "bert-mlm", gradient_accumulation_steps=2, before=seeded)

    reference = build("bert-mlm", dropout=0.1)
    expected = []
    windows = windows_of(trainer, 2, 6)
    optimizer = torch.optim.SGD(reference.parameters(), lr=LR)
    for step, window in enumerate(windows):
        torch.manual_seed(100 + step)
        kept = []
        for batch in window:
            with torch.no_grad():
                short = truncated(reference, stack_of("bert-mlm"), 1)
                logits = short(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            rows = kept_rows(row_scores(logits, batch["labels"], "loss"), 0.5)
            kept.append({key: value[rows] for key, value in batch.items()})
        for batch in kept:
            loss = reference(**batch).loss / 2
            loss.backward()
            expected.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert [loss for _, loss, _ in trainer.notes] == pytest.approx(expected, abs=1e-5)
    assert_same_weights(model, reference)


HEEDS = {"bert-mlm": False, "roberta": False, "distilbert": False, "modernbert": True, "gpt2": True, "llama": True}
"""Whether the loss divides by num_items_in_batch: does `forward` pass **kwargs on to its loss function?"""


@pytest.mark.parametrize("name", HEEDS)
def test_the_gradient_has_one_scale_however_the_model_counts(name, build, train, make_batch):
    """Four equal micro-batches in one step must give the step of a single one, whatever the model makes of kwargs."""
    batch, models = make_batch(name), []
    for accumulation in (1, 4):
        models.append(build(name))
        trainer = train(
            models[-1],
            name,
            batches=4,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            data_collator=lambda features: {key: value.clone() for key, value in batch.items()},
        )
        assert trainer.model_accepts_loss_kwargs is HEEDS[name]
    assert not torch.equal(*(next(iter(one.parameters())) for one in (models[0], build(name))))
    assert_same_weights(*models)


@pytest.mark.parametrize(("name", "said"), [("gpt2", False), ("bert-mlm", True)])
def test_what_a_model_says_of_its_loss_is_believed(name, said, build, train):
    model = build(name)
    model.accepts_loss_kwargs = said
    assert train(model, name, batches=1).model_accepts_loss_kwargs is said


@pytest.mark.parametrize("name", ["bert-mlm", "gpt2"])
def test_batches_without_labels_decide_nothing(name, build, train, make_batch):
    model, batch = build(name), make_batch(name)
    trainer = train(model, name, max_steps=0, num_train_epochs=0)
    trainer.model_accepts_loss_kwargs = True
    unlabelled = batch | {"labels": torch.full_like(batch["labels"], -100)}
    assert trainer._learn_loss_scale(model, [unlabelled]) is False
    assert trainer.model_accepts_loss_kwargs is True
    assert trainer._learn_loss_scale(model, [unlabelled, batch]) is True
    assert trainer.model_accepts_loss_kwargs is HEEDS[name]
    assert model.training


def test_evaluation_is_the_trainers_own(build, train, make_batch):
    held_out = make_batch("bert-mlm", seed=50)
    model = build("bert-mlm")
    trainer = train(model, "bert-mlm", eval_dataset=rows_of(held_out), per_device_eval_batch_size=8)
    totals, last = dataclasses.replace(trainer.sift.totals), trainer.sift.last
    state = torch.get_rng_state()
    found = trainer.evaluate()["eval_loss"]
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        logits = model.eval()(held_out["input_ids"], attention_mask=held_out["attention_mask"]).logits
    predictions, targets = positions(logits, held_out["labels"], "bert-mlm")
    assert found == pytest.approx(float(F.cross_entropy(predictions, targets)), abs=1e-6)
    assert trainer.sift.totals == totals
    assert trainer.sift.last is last


def test_training_does_not_depend_on_when_it_is_evaluated(build, train, make_batch):
    runs = []
    for options in ({}, {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}):
        model = build("bert-mlm", dropout=0.1)
        trainer = train(
            model, "bert-mlm", num_train_epochs=2, eval_dataset=rows_of(make_batch("bert-mlm", seed=50)), **options
        )
        runs.append([loss for _, loss, _ in trainer.notes])
    assert runs[0] == runs[1]


def test_scores_under_bf16_are_the_prepared_models(build, train, row_scores):
    """The scores of a bfloat16 run, and gradients for every weight after them."""
    model = build("bert-mlm")
    trainer = train(model, "bert-mlm", batches=1, bf16=True, learning_rate=0.0)
    (inputs, loss, last), reference = trainer.notes[0], build("bert-mlm")
    with torch.no_grad():
        single = row_scores(early_logits(reference, "bert-mlm", inputs, 1), inputs["labels"], "loss")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = row_scores(early_logits(reference, "bert-mlm", inputs, 1), inputs["labels"], "loss")
            kept = {key: value[last.indices] for key, value in inputs.items()}
            expected = float(reference(**kept).loss)
    found = last.scores.tolist()
    labelled = [row for row in range(8) if math.isfinite(single[row])]
    assert max(abs(found[row] - half[row]) for row in labelled) < 1e-5
    assert max(abs(found[row] - single[row]) for row in labelled) > 1e-3
    assert loss == pytest.approx(expected, abs=1e-5)


class Protocol(torch.nn.Module):
    """Says itself how it exits early, so that scoring does not pass through the prepared model's forward."""

    exit_layers = 2

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = torch.nn.Linear(9, 9), torch.nn.Linear(9, 100)

    def early_logits(self, exit_layer, input_ids, attention_mask):
        hidden = input_ids.float() / 100
        return self.head(hidden if exit_layer == 1 else self.body(hidden))

    def forward(self, input_ids, attention_mask, labels=None):
        logits = self.early_logits(2, input_ids, attention_mask)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_scores_of_a_model_with_its_own_exits_are_under_bf16_too(train):
    def classes(features):
        batch = stack(features)
        return batch | {"labels": batch["input_ids"][:, 0]}

    trainer = train(Protocol(), "bert-mlm", batches=1, bf16=True, learning_rate=0.0, data_collator=classes)
    inputs, _, last = trainer.notes[0]
    reference = Protocol()
    expected = {}
    for half in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = reference.head(inputs["input_ids"].float() / 100)
        expected[half] = F.cross_entropy(logits.float(), inputs["labels"], reduction="none")
    assert torch.allclose(last.scores, expected[True], rtol=0, atol=1e-6)
    assert (last.scores - expected[False]).abs().max() > 1e-4


def test_bf16_trains_every_weight(build, train):
    """A weight cast for scoring and taken from autocast's cache would get no gradient."""
    model, start = build("bert-mlm"), build("bert-mlm").state_dict()
    train(model, "bert-mlm", bf16=True)
    unused = ("position_ids", "token_type_ids")
    still = [key for key, value in model.state_dict().items() if torch.equal(value, start[key])]
    assert [key for key in still if not key.endswith(unused)] == []


def test_the_head_on_labelled_positions_trains_the_same(build, train):
    models = {labelled: build("bert-mlm") for labelled in (False, True)}
    losses, seen = {}, {False: [], True: []}
    for labelled, model in models.items():
        model.bert.encoder.layer[3].register_forward_hook(lambda *_, to=seen[labelled]: to.append("all"))
        model.cls.register_forward_hook(
            lambda module, given, output, to=seen[labelled]: to.append(given[0].shape[:2]) if to else None
        )
        trainer = train(
            model, "bert-mlm", SiftArguments(labelled_head=labelled), batches=4, gradient_accumulation_steps=2
        )
        losses[labelled] = [loss for _, loss, _ in trainer.notes]
    # What the head was given in each training pass, which alone comes after the last layer.
    shapes = {key: [after for before, after in itertools.pairwise(one) if before == "all"] for key, one in seen.items()}
    labelled = [int((inputs["labels"][last.indices] != -100).sum()) for inputs, _, last in trainer.notes]
    assert shapes[False][-4:] == [(4, 9)] * 4
    assert shapes[True][-4:] == [(1, number) for number in labelled]
    assert losses[True] == pytest.approx(losses[False], abs=1e-6)
    assert_same_weights(*models.values())


def test_logs(build, train):
    trainer = train(build("bert-mlm"), "bert-mlm", logging_steps=3, gradient_accumulation_steps=2, num_train_epochs=2)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["gross_samples"] for entry in entries] == [48, 96]
    assert [entry["kept_samples"] for entry in entries] == [24, 48]
    assert [entry["bad_score_rows"] for entry in entries] == [0, 0]
    for number, entry in enumerate(entries):
        notes = trainer.notes[6 * number : 6 * number + 6]
        # A row without labels has no score that a quantile could count.
        scores = torch.cat([last.scores[(inputs["labels"] != -100).any(dim=1)] for inputs, _, last in notes]).numpy()
        assert 40 < len(scores) < 48
        for share in (10, 50, 90):
            assert entry[f"score_q{share}"] == pytest.approx(float(np.percentile(scores, share)), abs=1e-6)
        assert entry["selection_s"] == pytest.approx(sum(last.selection_s for _, _, last in notes) / 3)
        assert min(entry[name] for name in ("selection_s", "forward_s", "backward_s")) > 0
        assert entry["step_s"] > entry["selection_s"] + entry["forward_s"] + entry["backward_s"]
        assert entry["gross_samples_per_s"] == pytest.approx(16 / entry["step_s"])
        assert entry["kept_samples_per_s"] == pytest.approx(8 / entry["step_s"])
    final = trainer.state.log_history[-1]
    assert final["train_gross_samples"] == 96
    assert final["train_kept_samples"] == 48
    mean = sum(entry["step_s"] for entry in entries) / 2
    assert final["train_step_s"] == pytest.approx(mean)
    assert final["train_kept_samples_per_s"] == pytest.approx(8 / mean)


def test_bad_scores_are_counted_in_the_log(build, train, caplog):
    def score(logits, labels):
        values = torch.arange(len(labels), dtype=torch.float32)
        values[1] = float("nan")
        return values

    with caplog.at_level(logging.WARNING, "gsgd"):
        trainer = train(build("bert-mlm"), "bert-mlm", SiftArguments(score=score, on_bad_scores="drop"), batches=3)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["bad_score_rows"] for entry in entries] == [1, 2, 3]
    assert all(1 not in last.indices for _, _, last in trainer.notes)
    assert "scores must be finite" in caplog.text
    assert all(math.isfinite(entry["score_q90"]) for entry in entries)


def test_what_each_timer_covers(build, train, make_batch, monkeypatch):
    """By a clock that goes on only where this test says: 1 a batch fetched, 2 a scoring, 4 a forward, 8 a backward
    pass, 16 an optimizer step, 1000 an evaluation or a checkpoint. Hooks sit on a layer that scoring does not reach.
    """
    now = [0.0]
    monkeypatch.setattr("gsgd.sift.timing.time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def go_on(seconds):
        now[0] += seconds

    def collate(features):
        go_on(1)
        return stack(features)

    def score(logits, labels):
        go_on(2)
        return torch.arange(len(labels), dtype=torch.float32)

    class Slow(Recording):
        def evaluation_loop(self, *args, **kwargs):
            go_on(1000)
            return super().evaluation_loop(*args, **kwargs)

        def _save_rng_state(self, *args, **kwargs):
            go_on(1000)
            return super()._save_rng_state(*args, **kwargs)

    class Steps(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, *args, **kwargs):
            go_on(16)

        def on_log(self, *args, **kwargs):
            go_on(1000)

    model = build("bert-mlm")
    model.bert.encoder.layer[3].register_forward_hook(lambda *_: go_on(4))
    model.bert.encoder.layer[3].output.dense.weight.register_hook(lambda gradient: go_on(8))
    trainer = train(
        model,
        "bert-mlm",
        SiftArguments(score=score),
        trainer=Slow,
        data_collator=collate,
        callbacks=[Steps()],
        gradient_accumulation_steps=2,
        eval_dataset=rows_of(make_batch("bert-mlm", seed=50)),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
    )
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    names = ("selection_s", "forward_s", "backward_s")
    assert [[entry[name] for name in names] for entry in entries] == [[4, 8, 16]] * 3
    # accelerate fetches one batch ahead, and before the first step the model is asked twice how it scales its loss.
    assert [entry["step_s"] for entry in entries] == [3 + 28 + 16 + 8, 2 + 28 + 16, 1 + 28 + 16]
    final = trainer.state.log_history[-1]
    assert final["train_step_s"] == pytest.approx((55 + 46 + 45) / 3)
    assert final["train_gross_samples_per_s"] == pytest.approx(48 / (55 + 46 + 45))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")  # its use of NumPy and protobuf
def test_tensorboard(build, train, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = train(build("bert-mlm"), "bert-mlm", batches=2, report_to=["tensorboard"])
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in ("selection_s", "forward_s", "backward_s", "gross_samples", "kept_samples", "score_q50"):
        written = [event.value for event in events.Scalars(f"train/{name}")]
        assert written == pytest.approx([entry[name] for entry in entries], rel=1e-6)


def test_operations_are_counted_for_kept_rows_and_scoring(build, train):
    """6 per weight and token that is trained on, 2 per weight of the cut model and token that is scored."""
    flops = {}
    for score in ("random", "loss"):
        trainer = train(build("bert-mlm"), "bert-mlm", SiftArguments(score=score), batches=2)
        flops[score] = trainer.state.total_flos
    model = build("bert-mlm")
    tokens = 2 * 8 * 9
    whole = sum(p.numel() for key, p in model.named_parameters() if "embeddings." not in key)
    layer = sum(p.numel() for p in model.bert.encoder.layer[0].parameters())
    norms_of_embeddings = 2 * 32  # transformers leaves out embedding tables only
    whole += norms_of_embeddings
    decoder_tied = model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert decoder_tied
    assert flops["random"] == 6 * whole * tokens // 2
    assert flops["loss"] - flops["random"] == 2 * (whole - 3 * layer) * tokens


class OtherTrainer(transformers.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = 2 * super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        return (loss, None) if return_outputs else loss


class OtherSift(SiftMixin, OtherTrainer):
    pass


def test_any_trainer_selects_by_the_mixin(build, make_batch, tmp_path):
    """Its own loss is what it trains on, of the rows that are kept."""
    rows = rows_of(make_batch("bert-mlm"))
    losses = {}
    for kind, options in ((SiftTrainer, {}), (OtherSift, {"check": False})):
        torch.manual_seed(0)
        trainer = kind(
            build("bert-mlm", dropout=0.0),
            transformers.TrainingArguments(**common(tmp_path) | {"max_steps": 1, "logging_steps": 1}),
            train_dataset=rows,
            data_collator=stack,
            sift=SiftArguments(exit_layer=2, **options),
        )
        trainer.train()
        assert trainer.sift.totals.backprop_samples == 4
        losses[kind] = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert losses[OtherSift] == pytest.approx(2 * losses[SiftTrainer], rel=1e-3)


def test_a_resumed_or_repeated_run_begins_with_fresh_counters(build, train):
    trainer = train(build("bert-mlm"), "bert-mlm", batches=2)
    trainer.train()
    assert trainer.sift.totals.gross_samples == 16
    assert [last.step for _, _, last in trainer.notes] == [0, 1, 0, 1]
    assert trainer._meters.steps == 2
    assert len(trainer.notes) == 4


@pytest.mark.parametrize("ours", [False, True])
def test_hugging_faces_masking_is_reported_and_ours_is_not(ours, build, train, caplog):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(5, 100))]
    tokenizer = transformers.BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})
    collator = MaskingCollator(tokenizer) if ours else transformers.DataCollatorForLanguageModeling(tokenizer)
    with caplog.at_level(logging.WARNING, "gsgd"):
        trainer = train(
            build("bert-mlm"),
            "bert-mlm",
            data_collator=collator,
            before=lambda trainer: setattr(trainer, "train_dataset", [{"input_ids": list(range(5, 20))}] * 16),
        )
    assert len(trainer.notes) == 2
    assert caplog.text.count("draws from") == (0 if ours else 1)
    assert caplog.text.count("DataCollatorForLanguageModeling draws from the global generator") == (0 if ours else 1)


def test_the_masks_of_evaluation_do_not_change_with_the_epoch(build, train, make_batch):
    class Epochs(transformers.TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            seen.append(masking.epoch)

    seen = []
    masking = MaskingCollator(mask_token_id=4, vocab_size=100, special_token_ids=[0, 1, 2, 3, 4])
    held_out = rows_of(make_batch("bert-mlm", seed=50))
    trainer = train(
        build("bert-mlm"),
        "bert-mlm",
        batches=2,
        data_collator=masking,
        num_train_epochs=3,
        callbacks=[Epochs()],
        eval_dataset=held_out,
        eval_strategy="epoch",
        learning_rate=0.0,
    )
    assert seen == [0, 1, 2]
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 3
    assert len(set(losses)) == 1
    labels = [inputs["labels"] for inputs, _, _ in trainer.notes]
    assert len({tuple(epoch.flatten().tolist()) for epoch in labels}) == 6


def test_readings_are_logged_and_change_nothing(build, train):
    """Read at steps 0, 2, ... of 7, logged after steps 3 and 6: means of the readings of 0 and 2, and of 4."""
    models = [build("bert-mlm", dropout=0.1) for _ in range(2)]
    plain, metered = (
        train(model, "bert-mlm", SiftArguments(meter_every=every), batches=7, logging_steps=3)
        for model, every in zip(models, (0, 2), strict=True)
    )
    assert_same_weights(*models)
    readings = metered.sift.readings
    assert [reading.step for reading in readings] == [0, 2, 4, 6]
    logs = [entry for entry in metered.state.log_history if "loss" in entry]
    for entry, (start, end) in zip(logs, ((0, 2), (2, 3)), strict=True):
        overlaps = [reading.overlap for reading in readings[start:end]]
        assert entry["meters_overlap"] == pytest.approx(sum(overlaps) / len(overlaps))
        assert {name.removeprefix("meters_") for name in entry if name.startswith("meters_")} == {
            field.name for field in dataclasses.fields(readings[0])
        } - {"step", "exit_layer", "rows", "kept"}
    assert 0 < logs[0]["meter_s"] < logs[1]["meter_s"] <= metered.sift.meter_s
    assert not any(name.startswith("meter") for entry in plain.state.log_history for name in entry)


def test_arguments_are_the_options_of_sift():
    options = {entry.name: entry.default for entry in dataclasses.fields(SiftOptions)}
    assert {entry.name: entry.default for entry in dataclasses.fields(SiftArguments)} == options
    assert SiftArguments(score=margin).score is margin
    with pytest.raises(ValueError, match="accumulation_steps = 2 is the Trainer's to say"):
        SiftArguments(accumulation_steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, r"keep = 0 must lie in \(0, 1\]"),
        ({"score": "margin"}, "score = 'margin'"),
        ({"exit_layer": 0}, "exit_layer = 0"),
        ({"start_step": -1}, "start_step = -1"),
        ({"start_step": 5, "end_step": 4}, "end_step = 4"),
        ({"interrupt": 1}, "interrupt = 1"),
        ({"scoring_mode": "test"}, "scoring_mode = 'test'"),
        ({"scope": "world"}, "scope = 'world'"),
        ({"on_bad_scores": "ignore"}, "on_bad_scores = 'ignore'"),
        ({"score_batch_size": 0}, "score_batch_size = 0"),
    ],
)
def test_bad_arguments_are_refused_before_there_is_a_model(options, message):
    with pytest.raises(ValueError, match=message):
        SiftArguments(**options)


@pytest.mark.parametrize(
    ("sift", "options", "message"),
    [
        ({"keep": 0.5}, {}, "sift is a dict but must be SiftArguments"),
        (SiftArguments(exit_layer=5), {}, r"exit_layer = 5 must be a whole number in 1\.\.4"),
        (SiftArguments(labelled_head=True), {"label_smoothing_factor": 0.1}, "labelled_head=True needs the model's"),
    ],
)
def test_bad_trainers_are_refused_before_training(sift, options, message, build, train):
    with pytest.raises(ValueError, match=message):
        train(build("bert-mlm"), "bert-mlm", sift, **options)


# ---- Two processes: this file run as a script imports the libraries once and forks them ----

RUNS = {"bert-mlm rank": ("bert-mlm", "rank"), "gpt2 rank": ("gpt2", "rank"), "gpt2 global": ("gpt2", "global")}


def worker(base):
    """Trains each of RUNS on this rank's share of the rows, and leaves what it saw and the weights it ended with."""
    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    for label, (name, scope) in RUNS.items():
        saved = torch.load(base / f"{name}.pt", weights_only=True)
        arguments = transformers.TrainingArguments(
            **(
                common(base / label)
                | {"gradient_accumulation_steps": 2, "ddp_backend": "gloo", "save_strategy": "epoch"}
                | {"logging_strategy": "epoch", "logging_steps": 500}
            )
        )
        config = getattr(transformers, saved["config_class"]).from_json_file(base / f"{name}.json")
        model = getattr(transformers, saved["model_class"])(config)
        model.load_state_dict(saved["weights"])
        trainer = Recording(
            model=model,
            args=arguments,
            train_dataset=rows_of(saved["rows"]),
            data_collator=stack,
            sift=SiftArguments(scope=scope, start_step=1),
        )
        trainer.train()
        # A copy that continues from the file of each rank: what it loads, it would select with.
        trainer._load_sift(str(base / label / f"checkpoint-{trainer.state.global_step}"))
        found = {
            "seen": [inputs for inputs, _, _ in trainer.notes],
            "kept": [last.indices for _, _, last in trainer.notes],
            "weights": trainer.model.state_dict(),
            "loaded": trainer.sift.state_dict(),
            "logged": json.dumps(trainer.state.log_history),
        }
        torch.save(found, base / f"{label} {rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    base = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(builder, batches):
        for name in ("bert-mlm", "gpt2"):
            model = builder(name)
            rows = [batches(name, seed=seed) for seed in range(8)]
            torch.save(
                {
                    "weights": model.state_dict(),
                    "rows": {key: torch.cat([row[key] for row in rows]) for key in rows[0]},
                    "model_class": type(model).__name__,
                    "config_class": type(model.config).__name__,
                },
                base / f"{name}.pt",
            )
            model.config.to_json_file(base / f"{name}.json")
        done = subprocess.run(
            [sys.executable, __file__, str(base)],
            env=os.environ
            | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return base

    made = []

    def once(builder, batches):
        if not made:
            made.append(start(builder, batches))
        return made[0]

    return once


@pytest.mark.parametrize("label", RUNS)
def test_two_processes_equal_a_plain_loop_on_all_their_rows(label, ranks, build, make_batch, row_scores):
    base, (name, scope) = ranks(build, make_batch), RUNS[label]
    found = [torch.load(base / f"{label} {rank}.pt", weights_only=True) for rank in range(2)]
    pairs = list(zip(*(one["seen"] for one in found), strict=True))
    assert len(pairs) == 4
    if scope == "global":
        # All ranks' rows of a micro-batch are one batch to select from. The loss is a sum over all positions, so it
        # does not matter which rank trained on which row.
        pairs = [({key: torch.cat([one[key], two[key]]) for key in one},) for one, two in pairs]
    windows = [[*pairs[0], *pairs[1]], [*pairs[2], *pairs[3]]]
    reference = build(name)
    _, chosen = plain_loop(reference, name, windows, row_scores, start_step=1)
    kept = zip(*(one["kept"] for one in found), strict=True)
    if scope == "global":
        assert all(torch.equal(one, two) for one, two in kept)
        assert [rows.tolist() for rows in found[0]["kept"][2:]] == chosen[2:]
    else:
        assert [rows.tolist() for pair in kept for rows in pair] == chosen
    for one in found:
        copy = build(name)
        copy.load_state_dict(one["weights"])
        assert_same_weights(copy, reference)


@pytest.mark.parametrize("label", RUNS)
def test_two_processes_write_a_state_each_and_log_for_both(label, ranks, build, make_batch):
    base = ranks(build, make_batch)
    found = [torch.load(base / f"{label} {rank}.pt", weights_only=True) for rank in range(2)]
    names = {path.name for path in (base / label / "checkpoint-2").iterdir()}
    assert {"sift_0.pt", "sift_1.pt", "rng_state_0.pth", "rng_state_1.pth"} <= names
    assert set(json.loads((base / label / "checkpoint-2" / "files.json").read_text())) == names - {
        "files.json",
        "trainer_state.json",
    }
    states = [one["loaded"] for one in found]
    assert [state["calls"] for state in states] == [4, 4]
    # Ranks that select together draw alike, others do not.
    assert torch.equal(states[0]["generator"], states[1]["generator"]) == label.endswith("global")
    for one in found:
        entry = json.loads(one["logged"])[0]
        assert entry["gross_samples"] == 64
        assert entry["kept_samples"] == 48
        assert entry["gross_samples_per_s"] == pytest.approx(32 / entry["step_s"])
    first, second = (json.loads(one["logged"])[0] for one in found)
    assert {key for key in first if first[key] != second[key]} == set()


def fork(rank, base):
    """The process that is this rank."""
    process = os.fork()
    if process:
        return process
    code = 0
    try:
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
        worker(base)
        # An interpreter that ends while gloo's threads still run is sometimes aborted.
        torch.distributed.destroy_process_group()
    except Exception:
        traceback.print_exc()
        code = 1
    # After an error without waiting for the other rank.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    # Each run begins with a collection of garbage, which takes longer than its steps where all modules are searched.
    gc.freeze()
    processes = [fork(rank, Path(sys.argv[1])) for rank in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    sys.exit(0 if codes == [0, 0] else f"the ranks ended with {codes}")


class OfItsOwnBatches:
    """A loss that takes batches of any form: a tuple, or with the model's inputs nested."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        ids, labels = inputs if isinstance(inputs, (tuple, list)) else (inputs["x"]["input_ids"], inputs["labels"])
        assert len(ids) == len(labels)
        return model(input_ids=ids, labels=labels).loss


class OwnPlain(OfItsOwnBatches, transformers.Trainer):
    pass


class OwnSift(OfItsOwnBatches, SiftTrainer):
    pass


@pytest.mark.parametrize("form", ["tuple", "nested"])
def test_batches_of_any_form_with_a_loss_that_takes_them(form, build, train):
    """As the plain Trainer takes them: with all rows kept the weights are its own; at random half of them is kept."""

    def collate(rows):
        batch = stack(rows)
        ids, labels = batch["input_ids"], batch["labels"]
        return (ids, labels) if form == "tuple" else {"x": {"input_ids": ids}, "labels": labels}

    options = {"data_collator": collate, "remove_unused_columns": False, "batches": 2}
    plain, whole, half = (build("bert-classifier") for _ in range(3))
    train(plain, "bert-classifier", trainer=OwnPlain, **options)
    train(whole, "bert-classifier", SiftArguments(keep=1.0), trainer=OwnSift, **options)
    assert_same_weights(plain, whole)
    trainer = train(half, "bert-classifier", SiftArguments(score="random"), trainer=OwnSift, **options)
    assert (trainer.sift.totals.selected_steps, trainer.sift.totals.backprop_samples) == (2, 8)


def test_all_that_the_collator_makes_of_samples_is_cut(tmp_path, build):
    """Lists, arrays and nested things, under names of the samples' or the collator's own; four class weights are whole.

    The loss looks up which sample each row is, so every entry must be of the same rows.
    """
    ids = torch.arange(3, 51).reshape(12, 4)
    seen = []

    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, number):
            return {"input_ids": ids[number], "labels": torch.tensor(number % 3), "name": f"row {number}"}

    def collate(samples):
        numbers = [int(sample["name"].removeprefix("row ")) for sample in samples]
        return {
            "input_ids": torch.stack([sample["input_ids"] for sample in samples]),
            "labels": torch.stack([sample["labels"] for sample in samples]),
            "name": [sample["name"] for sample in samples],
            "number": np.array(numbers),
            "extra": {"halves": [number / 2 for number in numbers], "ids": [sample["input_ids"] for sample in samples]},
            "class_weights": torch.tensor([0.1, 0.2, 0.3, 0.4]),
        }

    class Looking(SiftTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            rows = [int((ids == row).all(1).nonzero()[0]) for row in inputs["input_ids"]]
            assert inputs["name"] == [f"row {row}" for row in rows]
            assert inputs["number"].tolist() == rows
            assert inputs["extra"]["halves"] == [row / 2 for row in rows]
            assert [entry.tolist() for entry in inputs["extra"]["ids"]] == [ids[row].tolist() for row in rows]
            assert len(inputs["class_weights"]) == 4
            seen.append(rows)
            return model(input_ids=inputs["input_ids"], labels=inputs["labels"]).loss

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=2, remove_unused_columns=False,
        report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Looking(
        model=build("bert-classifier"), args=arguments, train_dataset=Samples(), data_collator=collate,
        sift=SiftArguments(exit_layer=1),
    )  # fmt: skip
    trainer.train()
    assert [len(rows) for rows in seen if len(rows) > 1] == [2, 2]  # the others are rows alone, of the self-check
    assert trainer.sift.totals.backprop_samples == 4
