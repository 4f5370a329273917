"""The check of scores against losses: silent where they are equal, both numbers where they are not, and no trace."""

import copy
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch._dynamo.testing import CompileCounter  # noqa: E402
from transformers.modeling_outputs import CausalLMOutput  # noqa: E402

from gsgd import scores  # noqa: E402
from gsgd.sift import Sift  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments, SiftTrainer  # noqa: E402
from gsgd.sift.measures import self_check  # noqa: E402
from gsgd.sift.measures.self_check import SelfCheck  # noqa: E402

WORDS = 40
LLAMA = {
    "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 1024,
}  # fmt: skip


@pytest.fixture
def checks(monkeypatch):
    """Forms of the batches that were checked, in order."""
    found, compare = [], SelfCheck._compare

    def watched(self, scorer, batch):
        found.append(scorer.form(batch))
        return compare(self, scorer, batch)

    monkeypatch.setattr(SelfCheck, "_compare", watched)
    return found


class Net(nn.Module):
    """A classifier with exits of its own; its loss is that of its last prediction, times `factor`."""

    exit_layers = 2

    def __init__(self, factor=1.0, features=4):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.head = nn.Linear(features, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.factor = factor

    def early_logits(self, exit_layer, x, noise=None):
        hidden = self.norm(self.first(x))
        return self.head(hidden if exit_layer == 1 else hidden.relu())

    def forward(self, x, labels, noise=None):
        logits = self.early_logits(2, x)
        return SimpleNamespace(loss=self.factor * F.cross_entropy(logits, labels), logits=logits)


def vectors(seed=0, rows=8, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(rows, 4, generator=draw).to(dtype), "labels": torch.randint(3, (rows,), generator=draw)}


class Written(transformers.LlamaPreTrainedModel):
    """A language model whose loss is written out, so that nothing can watch it."""

    def __init__(self, config):
        super().__init__(config)
        self.model = transformers.LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    shift = 1

    def logits(self, input_ids):
        return self.lm_head(self.model(input_ids=input_ids, use_cache=False).last_hidden_state)

    def of_labels(self, log_probabilities, labels):
        chosen = log_probabilities.gather(2, labels.clamp(min=0)[..., None])[..., 0]
        return (-chosen, labels != -100)

    def loss(self, logits, labels):
        length = labels.shape[1] - self.shift
        values, counts = self.of_labels(logits[:, :length].log_softmax(-1), labels[:, self.shift :])
        return (values * counts).sum() / counts.sum()

    def forward(self, input_ids=None, labels=None, **more):
        logits = self.logits(input_ids)
        return CausalLMOutput(loss=None if labels is None else self.loss(logits, labels), logits=logits)


class TwoAhead(Written):
    """Predicts the word after the next."""

    shift = 2


class ImageBeforeText(Written):
    """Returns predictions of three more positions in front, and knows that its labels have none there."""

    def logits(self, input_ids):
        return super().logits(F.pad(input_ids, (3, 0), value=5))

    def loss(self, logits, labels):
        return super().loss(logits[:, 3:], labels)


class ClassWeights(Written):
    def of_labels(self, log_probabilities, labels):
        values, counts = super().of_labels(log_probabilities, labels)
        return values, counts * (1.0 + labels.clamp(min=0) % 3)


class SumOfTokens(Written):
    def loss(self, logits, labels):
        values, counts = self.of_labels(logits[:, :-1].log_softmax(-1), labels[:, 1:])
        return (values * counts).sum()


class Smoothed(Written):
    def of_labels(self, log_probabilities, labels):
        values, counts = super().of_labels(log_probabilities, labels)
        return 0.9 * values - 0.1 * log_probabilities.mean(-1), counts


def language_model(model_class, std=0.3, seed=0):
    torch.manual_seed(seed)
    return model_class(transformers.LlamaConfig(**LLAMA, initializer_range=std)).train()


def text(rows=6, length=10, seed=1):
    ids = torch.randint(3, WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids.clone()}


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("gsgd")]


# ---- Equal ----


@pytest.mark.parametrize("score", ["loss", "entropy"])
def test_it_is_silent_where_scores_are_losses(name, score, build, make_batch, caplog, checks):
    model = build(name, dropout=0.1)
    sift = Sift(model, exit_layer=1, score=score, reuse=False)
    for seed in range(2):
        sift(**make_batch(name, seed=seed)).loss.backward()
    assert len(checks) == 1
    assert not said(caplog)


@pytest.mark.parametrize("shift", [0, 1])
def test_a_loss_that_cannot_be_watched_is_read_in_the_way_that_agrees(shift, checks):
    class Known(Written):
        pass

    Known.shift = shift
    sift = Sift(language_model(Known))
    sift(**text())
    assert sift.causal == bool(shift)
    assert len(checks) == 1


# ---- Different ----


@pytest.mark.parametrize("model_class", [TwoAhead, ImageBeforeText, ClassWeights, SumOfTokens, Smoothed])
def test_what_is_not_the_loss_is_refused_with_both_numbers(model_class):
    model, batch = language_model(model_class), text()
    with pytest.raises(ValueError, match=f"the scores of {model_class.__name__} are not its losses") as error:
        Sift(model)(**batch)
    text_of_it = str(error.value)
    numbers = r"row (\d) of the batch has the score (\S+) at the last exit, but its loss is (\S+?)[,. ]"
    found = re.search(numbers, text_of_it)
    assert found or re.search(r"it cannot be scored so \((.*)\)", text_of_it), text_of_it
    if found:
        assert float(found[2]) != float(found[3])
    for part in ("Assumed were: ", "label names labels", "ignored label -100", "Pass a callable, score=(logits, label"):
        assert part in text_of_it
    assert "position t predicts label t + 1" in text_of_it or "labels are not shifted" in text_of_it
    assert "without the loss functions of torch.nn.functional" in text_of_it
    assert "check=False" in text_of_it
    Sift(model, check=False)(**batch)


def test_the_number_beside_the_score_is_the_models_own_loss_of_the_row():
    model, batch = Net(factor=1.5), vectors()
    with pytest.raises(ValueError, match="the scores of Net are not its losses") as error:
        Sift(model)(**batch)
    row, score, loss = re.search(r"row (\d) .* score (\S+) .* loss is (\S+?)\. ", str(error.value)).groups()
    model.eval()
    own = model(**{name: value[[int(row)]] for name, value in batch.items()}).loss.item()
    assert float(loss) == pytest.approx(own, rel=1e-5)
    assert float(score) == pytest.approx(own / 1.5, rel=1e-5)


@pytest.mark.parametrize("model_class", [TwoAhead, ImageBeforeText, ClassWeights])
def test_before_training_a_wrong_reading_shows(model_class):
    """Each prediction of 512 is about as good as any other, with losses near log 40 = 3.69."""
    model, batch = language_model(model_class, std=0.02), text(rows=2, length=512)
    assert model(**batch).loss.item() == pytest.approx(np.log(WORDS), rel=0.02)
    with pytest.raises(ValueError, match="are not its losses"):
        Sift(model)(**text(length=512))


@pytest.mark.parametrize("shift", [0, 1])
def test_before_training_the_right_shift_is_found(shift):
    class Known(Written):
        pass

    Known.shift = shift
    sift = Sift(language_model(Known, std=0.02), exit_layer=2, scoring_mode="eval")
    batch = text(length=512)
    sift(**batch)
    assert sift.causal == bool(shift)
    sift.model.eval()
    alone = [sift.model(**{name: value[[row]] for name, value in batch.items()}).loss.item() for row in range(6)]
    assert sift.last.scores.tolist() == pytest.approx(alone, rel=1e-5)


# ---- When ----


def test_it_is_made_at_the_first_step_that_selects_and_once_more(checks):
    sift = Sift(Net(), start_step=3, interrupt=2)
    found = []
    for step in range(300):
        before = len(checks)
        sift(**vectors(step))
        if len(checks) > before:
            found.append(step)
    selecting = [step for step in range(3, 300) if (step + 1) % 2]
    assert found == [selecting[0], selecting[100]]


def test_a_model_that_changes_its_loss_is_found_at_the_second_check():
    model = Net()
    sift = Sift(model)
    for step in range(100):
        model.factor = 1.0 if step < 50 else 2.0
        sift(**vectors(step))
    with pytest.raises(ValueError, match="the scores of Net are not its losses"):
        sift(**vectors(100))


def test_another_form_of_batch_is_checked_and_other_lengths_are_not(checks):
    sift = Sift(language_model(Written))
    batches = [
        (text(), True),
        (text(rows=4), False),
        (text(length=14), False),
        (text(rows=9, length=5), False),
        (text() | {"attention_mask": torch.ones(6, 10, dtype=torch.int64)}, True),
        (text() | {"attention_mask": torch.ones(6, 10, dtype=torch.bool)}, True),
        (text() | {"attention_mask": torch.ones(6, 7, dtype=torch.int64)[:, :1].expand(6, 10)}, False),
        (text() | {"position_ids": torch.arange(10).expand(6, 10)}, True),
        (text(), False),
    ]
    for batch, checked in batches:
        before = len(checks)
        sift(**batch)
        assert (len(checks) > before) == checked
    assert len(set(checks)) == len(checks) == 4


def test_a_wrong_form_is_refused_when_it_comes():
    class Heedless(Net):
        def forward(self, x, labels, noise=None):
            logits = self.early_logits(2, x)
            return SimpleNamespace(loss=F.cross_entropy(logits + (0 if noise is None else noise), labels))

    sift = Sift(Heedless(), rows=["noise"])
    sift(**vectors())
    noise = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="the scores of Heedless are not its losses"):
        sift(**vectors(), noise=noise)


def test_a_batch_that_cannot_be_decided_is_followed_by_one_that_can(checks):
    """Losses of rows without labels are NaN."""
    model, unlabelled = language_model(TwoAhead), text()
    unlabelled["labels"][:] = -100
    sift = Sift(model)
    sift(**unlabelled)
    with pytest.raises(ValueError, match="the scores of TwoAhead"):
        sift(**text())
    assert len(checks) == 2


def test_a_batch_of_one_row_is_not_scored_and_not_checked(checks):
    sift = Sift(Net())
    sift(**vectors())
    sift.model.norm.eval()
    sift(**vectors(rows=1))
    assert len(checks) == 1


def test_nothing_is_checked_where_nothing_is_scored(checks):
    for options in ({"score": "random"}, {"keep": 1.0}, {"start_step": 5}, {"check": False}):
        Sift(Net(factor=3.0), **options)(**vectors())
    model = Net(factor=3.0).eval()
    model.norm.eval()
    Sift(model)(**vectors())
    assert checks == []


def test_a_callable_is_never_checked(checks):
    calls = []
    model = language_model(TwoAhead)
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    sift = Sift(model, score=lambda logits, labels: logits.logsumexp(-1).mean(-1))
    sift(**text())
    assert checks == []
    assert len(calls) == 2  # scoring and training
    for score in (scores.margin, scores.gradient_norm_bound):  # of gsgd's own it is known what they are
        with pytest.raises(ValueError, match="are not its losses"):
            Sift(language_model(TwoAhead), score=score)(**text())


def test_a_model_without_a_loss_is_trained_with_a_warning(caplog):
    class Silent(Net):
        def forward(self, x, labels):
            return self.early_logits(2, x)

    sift = Sift(Silent())
    for step in range(3):
        sift(**vectors(step))
    assert [one for one in said(caplog) if "returns no loss" in one] == [
        "Silent returns no loss, so that scores cannot be checked against it; check=False leaves the check out"
    ]


# ---- How exactly ----


@pytest.mark.parametrize(
    ("dtype", "factor", "refused"),
    [
        (torch.float32, 1.001, True),
        (torch.float64, 1.001, True),
        (torch.float32, 1.00002, False),
        (torch.bfloat16, 1.008, False),
        (torch.bfloat16, 1.1, True),
        (torch.float16, 1.008, False),
        (torch.float16, 1.1, True),
    ],
)
def test_what_rounding_explains(dtype, factor, refused):
    model, batch = Net(factor).to(dtype), vectors(dtype=dtype)
    if not refused:
        Sift(model)(**batch)
        return
    with pytest.raises(ValueError, match="are not its losses"):
        Sift(model)(**batch)


@pytest.mark.parametrize("kind", ["bert-mlm", "gpt2", "vit", "modernbert"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_models_in_half_precision_and_under_autocast(kind, dtype, build, make_batch, checks, caplog):
    model, batch = build(kind, dtype=dtype), make_batch(kind, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "float32"):
        Sift(model, reuse=False)(**batch)
    assert len(checks) == 1
    assert not said(caplog)


def test_autocast_around_the_step_makes_nothing_less_exact():
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match="are not its losses"),
    ):
        Sift(Net(1.001))(**vectors())


# ---- No trace ----


class Restless(Net):
    """Draws in every pass, also in eval mode, and writes down what it sees."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))
        self.calls, self.notes = 0, []

    def early_logits(self, exit_layer, x, noise=None):
        self.calls += 1
        self.notes.append(len(x))
        self.seen += x.mean(0)
        drawn = torch.rand(()), torch.rand(()), random.random(), np.random.rand()  # noqa: NPY002
        return super().early_logits(exit_layer, x) + 0 * sum(float(one) for one in drawn)


def test_model_and_generators_are_as_without():
    """Of the check and of readings nothing is left: the same draws, buffers, weights, rows."""
    found = []
    for check in (True, False):
        torch.manual_seed(3)
        model = Restless()
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        sift = Sift(model, check=check, meter_every=2 * check)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rows = []
        for step in range(3):
            if not check and step == 0:
                sift.scorer.convention(vectors())
            sift(**vectors(step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            rows.append(sift.last.indices.tolist())
        state = {name: value.clone() for name, value in model.state_dict().items()}
        global_draws = random.random(), np.random.rand()  # noqa: NPY002
        rows.append(global_draws)
        found.append((state, rows, torch.get_rng_state(), model.calls, model.notes, sift.generator.get_state()))
    (state, rows, torchs, *notes, own), (other, same_rows, others, *same_notes, same_own) = found
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert rows == same_rows
    assert torch.equal(torchs, others)
    assert notes == same_notes == [3, [4, 4, 4]]
    assert torch.equal(own, same_own)


def test_to_learn_how_labels_are_read_leaves_no_trace():
    model, batch = Restless(), vectors()
    before = copy.deepcopy(model.state_dict()), torch.get_rng_state(), model.training
    Sift(model).scorer.convention(batch)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before[0].items())
    assert torch.equal(torch.get_rng_state(), before[1])
    assert (model.calls, model.notes, model.training) == (0, [], before[2])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_precision_of_products_is_put_back():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        Sift(Net())(**vectors())
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_is_not_compiled_again(in_place, build, make_batch):
    """Frames compiled over some steps, with the check and without."""
    counts = []
    for check in (True, False):
        torch.compiler.reset()
        counter, model = CompileCounter(), build("vit")
        if in_place:
            model.compile(backend=counter)
        sift = Sift(model if in_place else torch.compile(model, backend=counter), check=check)
        for seed in range(3):
            sift(**make_batch("vit", seed=seed)).loss.backward()
        counts.append(counter.frame_count)
    assert counts[0] == counts[1] > 0


# ---- The Trainer ----


class Rows(torch.utils.data.Dataset):
    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(next(iter(self.batch.values())))

    def __getitem__(self, row):
        return {name: value[row] for name, value in self.batch.items()}


class Differs(SiftTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        return 2 * model(**inputs).loss


class Agrees(SiftTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        return F.cross_entropy(model(**inputs).logits, labels)


@pytest.fixture
def train(tmp_path, build, make_batch):
    def run(trainer_class, sift=None, batch=None, model=None, **arguments):
        settings = {"max_steps": 2, "per_device_train_batch_size": 4, "report_to": "none", "save_strategy": "no"}
        trainer = trainer_class(
            model=model or build("bert-classifier"),
            args=transformers.TrainingArguments(
                output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, **(settings | arguments)
            ),
            train_dataset=Rows(batch or make_batch("bert-classifier")),
            sift=sift or SiftArguments(scoring_mode="eval"),
        )
        trainer.train()
        return trainer

    return run


def test_a_trainer_whose_loss_is_another_is_refused(train):
    with pytest.raises(
        ValueError, match="the scores of BertForSequenceClassification are not its losses: row"
    ) as error:
        train(Differs)
    score, loss = re.search(r"score (\S+) .* loss is (\S+?)\. ", str(error.value)).groups()
    assert float(loss) == pytest.approx(2 * float(score), rel=1e-4)
    assert train(Differs, SiftArguments(check=False)).sift.totals.selected_steps == 2


def test_a_trainer_whose_loss_is_the_same_is_not(train, checks):
    assert train(Agrees).sift.totals.selected_steps == 2
    assert train(SiftTrainer).sift.totals.selected_steps == 2
    assert len(checks) == 2


def test_a_smoothed_loss_is_scored_smoothed(train, checks):
    trainer = train(SiftTrainer, SiftArguments(exit_layer=4, scoring_mode="eval"), label_smoothing_factor=0.2)
    assert len(checks) == 1
    assert trainer.sift.options.label_smoothing == 0.2


def test_labels_of_question_answering(train, checks):
    torch.manual_seed(0)
    model = transformers.BertForQuestionAnswering(
        transformers.BertConfig(
            vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            initializer_range=0.3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip
    batch = {
        "input_ids": text(8)["input_ids"],
        "start_positions": torch.arange(8),
        "end_positions": torch.arange(8) + 1,
    }
    names = ["start_positions", "end_positions"]
    arguments = {"label_names": names, "learning_rate": 0.0, "max_steps": 1}
    trainer = train(SiftTrainer, SiftArguments(exit_layer=2, scoring_mode="eval"), batch, model, **arguments)
    assert trainer.sift.options.label_names == tuple(names)
    assert len(checks) == 1
    model.eval()
    own = [model(**{name: value[[row]] for name, value in batch.items()}).loss.item() for row in range(8)]
    for score in trainer.sift.last.scores.tolist():
        assert min(abs(score - one) for one in own) < 1e-4


def test_the_default_numbers():
    assert (self_check.AGAIN, self_check.TOLERANCE, self_check.TOLERANCE_HALF) == (100, 1e-4, 2e-2)
