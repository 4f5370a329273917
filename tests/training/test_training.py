"""A training step against a loop written out plainly; the clock, evaluation, quality and state around it."""

import contextlib
import copy
import gc
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gsgd.sift import KeepByAccuracy
from training import training as training_module
from training.data.order import Order
from training.optimization import build_scheduler, parameter_groups
from training.run.evaluation import evaluate_split, quality
from training.training import Training, build_sift

STEPS = 7


def learning_rate(step, values, total):
    """Of the schedule at step 0, 1, ...: warmup from 0, then down to 0 (linear) or on (constant)."""
    warmup = round(values.get("warmup_share", 0.0) * total)
    if step < warmup:
        return values["max_lr"] * step / warmup
    if values["schedule"] == "constant":
        return values["max_lr"]
    return values["max_lr"] * (total - step) / (total - warmup)


def one_cycle(step, max_lr, total):
    """(learning rate, beta1) of OneCycleLR with torch's defaults: 30% up from max/25, then down to max/250000."""

    def between(start, end, share):
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    top = 0.3 * total - 1
    if step <= top:
        return between(max_lr / 25, max_lr, step / top), between(0.95, 0.85, step / top)
    share = (step - top) / (total - 1 - top)
    return between(max_lr, max_lr / 25 / 1e4, share), between(0.85, 0.95, share)


def hardness(logits, labels, score):
    if score == "loss":
        return cross_entropy(logits, labels, reduction="none")
    if score == "entropy":
        return torch.distributions.Categorical(logits=logits).entropy()
    # Margin: what the best of the others lacks to the label's logit, in whichever unit; more is harder.
    others = logits.clone()
    others[torch.arange(len(labels)), labels] = -math.inf
    return others.max(dim=1).values - logits[torch.arange(len(labels)), labels]


def plain_loop(task, values, total, steps, autocast=contextlib.nullcontext):
    """Two passes, top half by the early prediction, AdamW: nothing of the package but the order of the rows."""
    seed, batch_size = values.get("seed", 0), values["batch_size"]
    method, accumulation = values["method"], values.get("accumulation_steps", 1)
    torch.manual_seed(seed)
    model = task.build_model().train()
    decayed = [p for p in model.parameters() if values.get("decay_all") or p.dim() >= 2]
    others = [p for p in model.parameters() if not (values.get("decay_all") or p.dim() >= 2)]
    groups = [{"params": decayed, "weight_decay": values["weight_decay"]}]
    groups += [{"params": others, "weight_decay": 0.0}] if others else []
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(values.get("beta1", 0.9), values.get("beta2", 0.999)))
    order, losses = Order(task.train_size, seed), []
    for step in range(steps):
        selects = method != "baseline" and values.get("start_step", 0) <= step < values.get("end_step", total)
        for group in optimizer.param_groups:
            if values["schedule"] == "one-cycle":
                group["lr"], beta1 = one_cycle(step, values["max_lr"], total)
                if values.get("cycle_momentum", True):
                    group["betas"] = (beta1, group["betas"][1])
            else:
                group["lr"] = learning_rate(step, values, total)
        for _ in range(accumulation):
            batch = task.training_batch(*order.take(round(batch_size / values["keep"]) if selects else batch_size))
            x, labels = batch["x"], batch["labels"]
            if selects:
                score, _, layer = method.partition("@")
                # Only the pass that trains updates the running statistics.
                statistics = {name: value.clone() for name, value in model.named_buffers()}
                with torch.no_grad(), autocast():
                    scores = hardness(model.early_logits(1 if layer == "1" else 2, x), labels, score)
                for name, value in model.named_buffers():
                    value.copy_(statistics[name])
                kept = np.sort(np.argsort(-scores.float().numpy(), kind="stable")[:batch_size])
                x, labels = x[kept], labels[kept]
            with autocast():
                loss = cross_entropy(model.early_logits(2, x).float(), labels)
            (loss / accumulation).backward()
            losses.append(loss.item())
        if values.get("clip_norm"):
            norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters()))
            for parameter in model.parameters():
                parameter.grad *= min(1.0, values["clip_norm"] / (norm + 1e-6))
        optimizer.step()
        optimizer.zero_grad()
    return model, losses


LINEAR = {"schedule": "linear", "max_lr": 0.02, "weight_decay": 0.3, "keep": 0.5, "batch_size": 8}
VARIANTS = {
    "baseline": {"method": "baseline"},
    "loss at the first exit": {"method": "loss@1"},
    "loss at the last exit": {"method": "loss@last"},
    "entropy": {"method": "entropy@1"},
    "margin": {"method": "margin@1"},
    "another share": {"method": "loss@1", "keep": 0.3, "batch_size": 6},
    "selection in the middle only": {"method": "loss@1", "start_step": 2, "end_step": 5},
    "warmup": {"method": "loss@1", "warmup_share": 0.4},
    "warmup, then constant": {"method": "baseline", "warmup_share": 0.4, "schedule": "constant"},
    "one-cycle": {"method": "loss@1", "schedule": "one-cycle"},
    "one-cycle without momentum": {"method": "loss@1", "schedule": "one-cycle", "cycle_momentum": False},
    "accumulation": {"method": "loss@1", "accumulation_steps": 3, "batch_size": 4},
    "accumulation and selection from step 3": {"method": "loss@1", "accumulation_steps": 2, "start_step": 3},
    "clipping": {"method": "loss@1", "clip_norm": 0.05},
    "no BatchNorm": {"method": "loss@1", "batch_normalised": False},
    "decay of all": {"method": "loss@1", "decay_all": True},
    "momenta": {"method": "baseline", "beta1": 0.5, "beta2": 0.8, "seed": 4},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_are_those_of_a_plain_loop(tiny, tiny_module, accelerator, variant):
    values = {**LINEAR, **VARIANTS[variant]}
    config = tiny(**values, dropout=0.0)
    # 48 rows: the epoch ends in between.
    task = tiny_module.TinyTask(
        tiny_module.TinySettings(rows=48, dropout=0.0, batch_normalised=config.data.batch_normalised),
        config.training.seed,
    )
    training = Training(config, task, accelerator, 10)
    for _ in range(STEPS):
        training.train_step()
    expected, losses = plain_loop(task, values, 10, STEPS)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(
            training.model.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert training.mean_loss() == pytest.approx(np.mean(losses), rel=1e-5)
    assert training.step == STEPS


def test_variants_can_be_told_apart(tiny_module, accelerator):
    """Each of them ends elsewhere, so that none is tested by the code of another."""

    def end(values):
        settings = tiny_module.TinySettings(rows=48, dropout=0.0, batch_normalised=values.get("batch_normalised", True))
        model, _ = plain_loop(tiny_module.TinyTask(settings, 0), {**LINEAR, **values}, 10, STEPS)
        return model.first.weight.detach().numpy().tobytes()

    ends = {name: end(values) for name, values in VARIANTS.items()}
    assert len(set(ends.values())) == len(VARIANTS)


def test_bf16_is_autocast_in_both_passes(tiny, tiny_module, make_accelerator):
    values = {**LINEAR, "method": "loss@1"}
    config = tiny(**values, precision="bf16", dropout=0.0)
    task = tiny_module.TinyTask(config.data, 0)
    training = Training(config, task, make_accelerator(mixed_precision="bf16"), 10)
    first = task.training_batch(*Order(64, 0).take(16))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = training.model.early_logits(1, first["x"])
    training.train_step()
    assert logits.dtype == torch.bfloat16
    in_bf16 = cross_entropy(logits.float(), first["labels"], reduction="none")
    torch.testing.assert_close(training.sift.last.scores.float(), in_bf16, rtol=0, atol=1e-6)
    for _ in range(2):
        training.train_step()
    expected, _ = plain_loop(task, values, 10, 3, lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    exact, _ = plain_loop(task, values, 10, 3)
    found = training.model.first.weight
    assert found.dtype == torch.float32
    # At a learning rate of .02 three steps move a weight by up to .06; float32 ends elsewhere.
    torch.testing.assert_close(found, expected.first.weight, rtol=0, atol=2e-4)
    assert not torch.allclose(found, exact.first.weight, rtol=0, atol=2e-4)


def test_random_keeps_half_and_scores_nothing(tiny, tiny_module, accelerator):
    config = tiny(method="random")
    training = Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 10)
    for _ in range(5):
        training.train_step()
        assert training.sift.last.scores is None
        assert (training.sift.last.gross, training.sift.last.kept) == (16, 8)
    assert (training.sift.totals.gross_samples, training.sift.totals.backprop_samples) == (80, 40)


def test_samples_are_counted_with_accumulation_and_a_start(tiny, tiny_module, accelerator):
    config = tiny(method="loss@1", start_step=2, accumulation_steps=2)
    training = Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 10)
    for _ in range(5):
        training.train_step()
    # 5 steps of 2 micro-batches of 8; in 3 of them 16 are drawn.
    assert training.sift.totals.backprop_samples == 5 * 2 * 8
    assert training.sift.totals.gross_samples == 2 * 2 * 8 + 3 * 2 * 16


def test_weight_decay_groups(tiny):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3))
    model[2].weight.requires_grad_(False)
    config = tiny(weight_decay=0.1).training
    assert [(len(g["params"]), g["weight_decay"]) for g in parameter_groups(model, config)] == [(1, 0.1), (4, 0.0)]
    config = tiny(weight_decay=0.1, decay_all=True).training
    assert [(len(g["params"]), g["weight_decay"]) for g in parameter_groups(model, config)] == [(5, 0.1)]


@pytest.mark.parametrize("schedule", ["one-cycle", "linear", "constant"])
@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_schedules_last_as_long_as_the_run(tiny, schedule, total):
    """Short ones, too; the decaying ones are low at the last step."""
    settings = tiny(schedule=schedule, max_lr=1.0, warmup_share=0.5).training
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_scheduler(optimizer, settings, total)
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert max(rates) <= 1.0 + 1e-12
    if total == 10 and schedule != "constant":
        assert rates[-1] < 0.21


def test_gross_batches_larger_than_the_training_set(tiny, tiny_module, accelerator):
    config = tiny(method="loss@1", batch_size=40)
    with pytest.raises(
        ValueError, match="a gross batch has 80 rows, but the training set 64: lower batch_size or raise keep"
    ):
        Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 10)


def test_an_exit_that_the_model_has_not(tiny, tiny_module, accelerator):
    config = tiny(method="loss@3")
    with pytest.raises(ValueError, match=r"exit_layer = 3 must be a whole number in 1\.\.2"):
        Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 10)


def test_the_engine_has_the_runs_settings(tiny, tiny_module):
    config = tiny(
        method="entropy@last",
        start_share=0.25,
        end_share=0.5,
        scoring_mode="eval",
        accumulation_steps=3,
        score_batch_size=5,
        keep=0.25,
    )
    sift = build_sift(tiny_module.TinyModel(config.data), config.training, 100, 100)
    assert (sift.exit_layer, sift.keep, sift.scoring_mode) == (2, 0.25, "eval")
    assert (sift.schedule.start_step, sift.schedule.end_step) == (25, 50)
    assert (sift.accumulation_steps, sift.score_batch_size) == (3, 5)


# ---- Evaluation ----


@pytest.mark.parametrize("batch_size", [1, 7, 20, 100])
def test_evaluation_is_the_mean_over_predictions(tiny, tiny_module, accelerator, batch_size):
    config = tiny(evaluation_batch_size=batch_size, dropout=0.5)
    task = tiny_module.TinyTask(config.data, 0)
    training = Training(config, task, accelerator, 10)
    training.train_step()
    state = {name: value.clone() for name, value in training.model.state_dict().items()}
    accuracy, loss = evaluate_split(training, "test")
    assert training.model.training
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, state[name])
    x, labels = torch.from_numpy(task.x[84:104]), torch.from_numpy(task.labels[84:104])
    with torch.no_grad():
        logits = training.model.eval()(x).logits
    assert accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()), abs=1e-12)
    assert loss == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-6)


def test_language_models_are_judged_as_with_all_their_logits(tiny, tiny_module, accelerator):
    """Evaluation cuts the head to labelled positions; a plain pass does not."""
    from transformers import BertConfig, BertForPreTraining

    config = tiny(evaluation_batch_size=4)
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(50, size=(10, 12)))
    labels = torch.where(torch.from_numpy(rng.random((10, 12))) < 0.2, ids, -100)

    class Task(tiny_module.TinyTask):
        def build_model(self):
            return BertForPreTraining(BertConfig(**small, intermediate_size=32, max_position_embeddings=12))

        def held_out(self, split, batch_size):
            for first in range(0, 10, batch_size):
                part = slice(first, first + batch_size)
                yield {"input_ids": ids[part], "labels": labels[part], "next_sentence_label": ids[part, 0] % 2}

        def judge(self, output, batch):
            where = batch["labels"] != -100
            logits, wanted = output.prediction_logits[where], batch["labels"][where]
            return (logits.argmax(-1) == wanted).sum(), cross_entropy(logits, wanted, reduction="sum"), where.sum()

    training = Training(config, Task(config.data, 0), accelerator, 10)
    accuracy, loss = evaluate_split(training, "validation")
    where = labels != -100
    with torch.no_grad():
        logits = training.model.eval()(input_ids=ids).prediction_logits[where]
    assert accuracy == pytest.approx(float((logits.argmax(-1) == labels[where]).double().mean()), abs=1e-12)
    assert loss == pytest.approx(float(cross_entropy(logits, labels[where])), rel=1e-5)


# ---- Quality ----


def everything(training):
    weights = [value.clone() for value in training.model.state_dict().values()]
    return [
        *weights,
        torch.get_rng_state(),
        training.sift.generator.get_state(),
        training.sift.totals,
        training.batches.order.state_dict(),
    ]


@pytest.mark.parametrize("scoring_mode", ["train", "eval", "frozen-batchnorm"])
def test_quality_touches_nothing(tiny, tiny_module, accelerator, scoring_mode):
    config = tiny(method="loss@1", quality_batches=3, scoring_mode=scoring_mode)
    training = Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 10)
    training.train_step()
    before = [value.clone() if isinstance(value, torch.Tensor) else str(value) for value in everything(training)]
    modes = [module.training for module in training.model.modules()]
    first, second = quality(training), quality(training)
    assert first == second
    after = [value if isinstance(value, torch.Tensor) else str(value) for value in everything(training)]
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(before, after, strict=True))
    assert modes == [module.training for module in training.model.modules()]
    assert all(parameter.grad is None for parameter in training.model.parameters())


def test_quality_is_the_mean_over_its_batches(tiny, tiny_module, accelerator):
    config = tiny(method="loss@1", quality_batches=2, scoring_mode="eval", dropout=0.0, seed=5)
    task = tiny_module.TinyTask(config.data, 0)
    training = Training(config, task, accelerator, 10)
    training.train_step()
    order, overlaps = Order(64, 6), []
    model = training.model.eval()
    for _ in range(2):
        batch = task.training_batch(*order.take(16))
        kept = []
        for layer in (1, 2):
            losses = cross_entropy(model.early_logits(layer, batch["x"]), batch["labels"], reduction="none")
            kept.append(set(np.argsort(-losses.detach().numpy())[:8].tolist()))
        overlaps.append(len(kept[0] & kept[1]) / 8)
    model.train()
    overlap, correlation = quality(training)
    assert overlap == pytest.approx(np.mean(overlaps))
    assert -1 <= correlation <= 1


def test_the_last_exit_is_its_own_best_judge(tiny, tiny_module, accelerator):
    config = tiny(method="loss@last", quality_batches=2, scoring_mode="eval")
    training = Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 10)
    assert quality(training) == (1.0, pytest.approx(1.0))


@pytest.mark.parametrize("method", ["baseline", "random"])
def test_no_scores_no_quality(tiny, tiny_module, accelerator, method):
    config = tiny(method=method, quality_batches=2)
    assert quality(Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 10)) == (None, None)


# ---- State ----


@pytest.mark.parametrize(
    "values",
    [
        {"method": "loss@1"},
        {"method": "random"},
        {"method": "last-seen", "start_step": 3},
        {"method": "loss@1", "accumulation_steps": 2},
        {"method": "proxy", "start_step": 3, "accumulation_steps": 2},
        {"method": "corrected@1", "accumulation_steps": 2},
        {"method": "probe@1", "start_step": 3, "accumulation_steps": 2},
        {"method": "predicted@1", "random_share": 0.25},
        {"method": "class-balanced", "start_step": 3},
        {"method": "loss@last", "cheaper": "bf16"},
        {"method": "last-seen", "accumulation_steps": 2},
        {"method": "random", "keep_schedule": "0:1.0,4:0.5,9:0.25"},
        {"method": "last-seen", "keep": 0.25, "draw": 16, "start_step": 4},
    ],
)
def test_a_state_goes_on_bitwise(tiny, tiny_module, accelerator, values):
    """Dropout, a rule that draws, running statistics, momenta, schedule, and the order in mid-epoch."""
    config = tiny(**values, select="selective-backprop", schedule="one-cycle", max_lr=0.1)
    task = tiny_module.TinyTask(config.data, 0)

    def go(training, steps):
        for _ in range(steps):
            training.train_step()
        return training

    whole = go(Training(config, task, accelerator, 20), 13)
    state = go(Training(config, task, accelerator, 20), 5).state_dict()
    resumed = Training(config, task, accelerator, 20)
    go(resumed, 2)
    resumed.load_state_dict(state)
    go(resumed, 8)
    if values["method"] == "last-seen":
        assert torch.equal(whole.sift.named_rows.seen.seen_at, resumed.sift.named_rows.seen.seen_at)
    if values["method"] == "proxy":
        weight = resumed.sift.source.network.layer.weight
        assert torch.equal(whole.sift.source.network.layer.weight, weight)
    if values["method"] == "corrected@1":
        errors = resumed.sift.source.errors.table.losses
        assert torch.equal(whole.sift.source.errors.table.losses, errors)
    if values["method"] in ("probe@1", "predicted@1"):
        assert torch.equal(whole.sift.source.head.weight, resumed.sift.source.head.weight)
        assert float(whole.sift.source.head.weight.detach().abs().sum()) > 0
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert whole.sift.totals == resumed.sift.totals
    assert whole.batches.order.state_dict() == resumed.batches.order.state_dict()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"draw": 12, "keep": 0.25, "start_step": 2, "end_step": 4},
            [(12, 12)] * 2 + [(12, 3)] * 2 + [(12, 12)] * 2,
        ),
        ({"keep_schedule": "0:1.0,2:0.5,4:0.25", "batch_size": 4}, [(4, 4)] * 2 + [(8, 4)] * 2 + [(16, 4)] * 2),
    ],
    ids=["a fixed gross batch, in and out of the window", "a table of shares"],
)
def test_what_is_drawn_and_kept(tiny, tiny_module, accelerator, values, expected):
    config = tiny(method="random", **values)
    training = Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 6)
    found = []
    for _ in range(6):
        training.train_step()
        found.append((training.sift.last.gross, training.sift.last.kept))
    assert found == expected


def test_shares_by_accuracy_are_drawn_and_resumed(tiny, tiny_module, accelerator, monkeypatch):
    """With a low first level, which the net reaches; what is drawn for a step follows what was decided before it."""
    rule = KeepByAccuracy(levels=((0.0, 0.5), (0.05, 0.25)), every=3, batches=2)
    monkeypatch.setattr("training.settings.KeepByAccuracy", lambda: rule)
    config = tiny(method="random", keep_schedule="accuracy", batch_size=4)
    task = tiny_module.TinyTask(config.data, 0)

    def go(training, steps):
        found = []
        for _ in range(steps):
            training.train_step()
            found.append((training.sift.last.gross, training.sift.last.kept))
        return found

    whole = Training(config, task, accelerator, 9)
    found = go(whole, 9)
    assert found == [(4, 4)] * 4 + [(16, 4)] * 5
    cut = Training(config, task, accelerator, 9)
    go(cut, 4)
    state = cut.state_dict()  # with the global generator, which a new training seeds
    resumed = Training(config, task, accelerator, 9)
    resumed.load_state_dict(state)
    assert go(resumed, 5) == found[4:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_reading_ahead_changes_nothing(tiny, tiny_module, accelerator):
    """What a GPU's run does: the next batch is prepared during the step. Its size changes where selection begins."""
    config = tiny(method="loss@1", start_step=4, end_step=9)
    task = tiny_module.TinyTask(config.data, 0)
    here, ahead, resumed = (Training(config, task, accelerator, 20) for _ in range(3))
    with ThreadPoolExecutor(1) as reader:
        ahead.batches.reader = resumed.batches.reader = reader
        for number in range(13):
            torch.manual_seed(number)
            here.train_step()
            torch.manual_seed(number)
            ahead.train_step()
            assert ahead.state_dict()["order"] == here.state_dict()["order"]
            if number == 6:
                state = copy.deepcopy(ahead.state_dict())
        resumed.train_step()
        resumed.load_state_dict(state)
        for number in range(7, 13):
            torch.manual_seed(number)
            resumed.train_step()
    for name, value in here.model.state_dict().items():
        assert torch.equal(value, ahead.model.state_dict()[name]), name
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_the_mean_loss_does_not_depend_on_where_a_run_was_interrupted(tiny, tiny_module, accelerator):
    """Losses are logged in groups, which an interruption cuts elsewhere: the mean since the evaluation is the same."""
    config = tiny(dropout=0.0)
    task = tiny_module.TinyTask(config.data, 0)

    def mean(logs):
        training = Training(config, task, accelerator, 40)
        for step in range(1, 31):
            training.train_step()
            if step in logs:
                training.mean_loss()
        return training.loss_since_evaluation()

    found = {mean(logs) for logs in ({7, 14, 21, 28, 30}, {7, 11, 14, 21, 28, 30}, {30}, set(range(1, 31)))}
    assert len(found) == 1


def test_a_checkpoint_of_more_processes_is_refused(tiny, tiny_module, accelerator):
    config = tiny()
    training = Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 10)
    state = training.state_dict()
    state["ranks"] = state["ranks"] * 2
    with pytest.raises(
        ValueError, match=r"of 2 processes, but there are 1: resume with as many, or begin anew with --overwrite"
    ):
        training.load_state_dict(state)


# ---- The clock ----


def test_the_clock_counts_what_is_between_start_and_stop(tiny, tiny_module, accelerator, monkeypatch):
    import training.training as module

    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    config = tiny(method="loss@1")
    training = Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 10)
    training.start_clock()
    now[0] = 3.0
    training.stop_clock()
    now[0] = 10.0
    training.stop_clock()
    training.start_clock()
    now[0] = 14.0
    training.stop_clock()
    assert training.wall_clock_s == 7.0


def test_selection_forward_and_backward_are_parts_of_the_whole(tiny, tiny_module, accelerator):
    config = tiny(method="loss@1")
    training = Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 10)
    training.start_clock()
    for _ in range(5):
        training.train_step()
    training.stop_clock()
    parts = training.seconds
    assert set(parts) == {"selection_s", "forward_s", "backward_s"}
    assert all(value > 0 for value in parts.values())
    assert sum(parts.values()) < training.wall_clock_s


@pytest.mark.parametrize("method", ["baseline", "random", "loss@1", "last-seen"])
def test_steps_leave_nothing_behind(tiny, accelerator, monkeypatch, method):
    """A run that nobody asks for its losses or times, as one with a single evaluation, must not grow with its steps."""
    monkeypatch.setattr(training_module, "LOSSES_APART", 4)
    config = tiny(method=method)
    run = Training(config, config.build_task(), accelerator, 200)

    def tensors_after(steps):
        for _ in range(steps):
            run.train_step()
        gc.collect()
        return sum(isinstance(found, torch.Tensor) for found in gc.get_objects())

    before = tensors_after(24)
    # Four losses make one, and three more make four: 39 steps are 13 times round.
    assert tensors_after(39) == before
