"""What is computed where no value can be looked at, on the CPU: its numbers against those of the CPU's own way.

`gsgd.host.holds` says of every tensor that it lies on a device. Only learning looks at values then, as it does there.
"""

import functools
import logging
import warnings

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from gsgd import host, scores, selectors  # noqa: E402
from gsgd.sift import Scorer, Sift, SiftOptions  # noqa: E402
from gsgd.sift.scoring_pass import forward, padded_positions, row_losses  # noqa: E402
from gsgd.sift.scoring_pass.padded_positions import PositionsPerRow  # noqa: E402

NAN, INF = float("nan"), float("inf")
SCORES = {
    "loss": scores.cross_entropy,
    "smoothed": functools.partial(scores.cross_entropy, label_smoothing=0.1),
    "entropy": scores.entropy,
    "margin": scores.margin,
    "gradient norm": scores.gradient_norm_bound,
}
FORM = (("labels", "torch.int64", 2),)


@pytest.fixture
def on_device(monkeypatch):
    """on_device(): from here on tensors count as a device's."""
    return lambda: monkeypatch.setattr(host, "holds", lambda array: False)


@pytest.fixture(params=["every position", "as many as have labels"])
def taken(request, monkeypatch):
    if request.param != "every position":
        monkeypatch.setattr(padded_positions, "ALL_AT_MOST", 0)
    return request.param


def scored(model, batch, kind, exit_layer=2):
    scorer = Scorer(model, SiftOptions(score=kind, scoring_mode="eval"))
    return scorer, scorer.scores(batch, exit_layer)


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("one", ["bert-mlm", "modernbert", "distilbert", "gpt2", "llama", "bert-pretraining"])
def test_scores_are_those_of_the_cpus_own_way(one, kind, taken, build, make_batch, on_device):
    """Padded rows, prompts, a row without labels; of `bert-pretraining` the sum of two losses."""
    if one == "bert-pretraining" and kind == "smoothed":
        pytest.skip("smoothing is outside of a model that adds up its losses itself")
    model, batch = build(one, dtype="float64"), make_batch(one)
    _, expected = scored(model, batch, SCORES[kind])
    on_device()
    scorer, found = scored(model, batch, SCORES[kind])
    assert len(set(expected.tolist())) == 8
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    if kind != "smoothed":  # which no model's own loss is, so that the head runs on all positions
        assert bool(scorer.positions._learnt) == (taken != "every position")


@pytest.mark.parametrize("kind", ["loss", "margin"])
@pytest.mark.parametrize("one", ["bert-mlm", "gpt2", "bert-pretraining"])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_parts_of_a_few_rows_give_the_same(one, kind, rows, taken, build, make_batch, on_device, monkeypatch):
    model, batch = build(one, dtype="float64"), make_batch(one)
    _, expected = scored(model, batch, SCORES[kind])
    on_device()
    monkeypatch.setattr(forward, "ON_DEVICE_AT_ONCE", rows * 100 * 9)
    monkeypatch.setattr(row_losses, "ON_DEVICE_AT_ONCE", 500)
    head, seen = model.get_output_embeddings() or model.cls.predictions.decoder, []
    scorer, found = scored(model, batch, SCORES[kind])
    head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:-1].numel()))
    torch.testing.assert_close(scorer.scores(batch, 2), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert len(seen) == -(-8 // rows)
    assert sum(seen) == 8 * 9


def test_no_row_has_a_label(build, make_batch, taken, on_device):
    model, batch = build("bert-mlm"), make_batch("bert-mlm")
    scorer, _ = scored(model, batch, "loss")
    on_device()
    batch["labels"] = torch.full_like(batch["labels"], -100)
    assert (scorer.scores(batch, 2) == torch.finfo(torch.float32).min).all()


def other_tasks():
    common = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 100, (6, 9), generator=draw)
    starts, ends = (torch.randint(9, (6,), generator=draw) for _ in range(2))
    words = torch.where(torch.rand(6, 9, generator=draw) < 0.5, ids % 4, -100)
    bert = hf.BertConfig(vocab_size=100, num_labels=4, **common)
    sound = hf.Wav2Vec2Config(
        **common, vocab_size=20, conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, mask_time_prob=0.0, ctc_zero_infinity=True,
    )  # fmt: skip
    marks = torch.randint(1, 20, (6, 5), generator=draw)
    marks[3, 3:] = -100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return {
            "question answering": (
                hf.BertForQuestionAnswering(hf.BertConfig(vocab_size=100, **common)),
                {"input_ids": ids, "start_positions": starts, "end_positions": ends},
            ),
            "tokens": (hf.BertForTokenClassification(bert), {"input_ids": ids, "labels": words}),
            "sequences": (hf.BertForSequenceClassification(bert), {"input_ids": ids, "labels": ids[:, 0] % 4}),
            "connectionist": (
                hf.Wav2Vec2ForCTC(sound),
                {"input_values": torch.randn(6, 400, generator=draw), "labels": marks},
            ),
        }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["question answering", "tokens", "sequences", "connectionist"])
def test_other_losses(task, taken, on_device):
    model, batch = other_tasks()[task]
    model = model.double().train()
    batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    _, expected = scored(model, batch, "loss")
    on_device()
    _, found = scored(model, batch, "loss")
    assert len(set(expected.tolist())) == 6
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_with_class_weights(name, smoothing, weighted, reduction, on_device):
    """An ignored label of the model's own, and of one row no other."""
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(5 * 4, 7, generator=draw, dtype=torch.float64)
    labels = torch.randint(7, (5, 4), generator=draw)
    labels[1] = 3
    options = {"ignore_index": 3, "reduction": reduction}
    options |= {"weight": torch.rand(7, generator=draw, dtype=torch.float64)} if weighted else {}
    options |= {"label_smoothing": smoothing} if name == "cross_entropy" else {}
    found = []
    for place in (lambda: None, on_device):
        place()
        with row_losses.RowLosses(5) as losses:
            inputs = logits if name == "cross_entropy" else logits.log_softmax(1)
            found.append((getattr(torch.nn.functional, name)(inputs, labels.view(-1), **options), losses.labelled))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


# ---- Values that are bad ----


class Net(torch.nn.Module):
    exit_layers = 1

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def early_logits(self, exit_layer, x):
        return self.weight * x

    def forward(self, x, labels=None):
        logits = self.early_logits(1, x)
        return hf.modeling_outputs.SequenceClassifierOutput(
            loss=torch.nn.functional.cross_entropy(logits, labels), logits=logits
        )


def net_batch(bad=(), value=NAN):
    """Row r is the harder, the larger r is."""
    x = torch.stack([torch.arange(8.0), torch.zeros(8), torch.zeros(8)], dim=1)
    x[list(bad)] = value
    return {"x": x, "labels": torch.full((8,), 2)}


def test_a_bad_score_is_raised_at_the_next_step_with_its_own(on_device):
    on_device()
    sift = Sift(Net(), check=False)
    for _ in range(3):
        sift(**net_batch())
    sift(**net_batch(bad=(5, 6)))
    assert sift.last.indices.tolist() == [2, 3, 4, 7]
    remedy = 'on_bad_scores="drop", "keep-all" or "last" trains on'
    with pytest.raises(ValueError, match=rf"^scores\[5\] is nan at step 3: scores must be finite; {remedy}$"):
        sift(**net_batch())
    assert sift.step == 4
    sift(**net_batch())
    assert sift.last.indices.tolist() == [4, 5, 6, 7]


def test_the_step_is_the_optimizers(on_device):
    on_device()
    sift = Sift(Net(), check=False, accumulation_steps=2)
    sift.step = 7
    sift(**net_batch())
    sift(**net_batch(bad=[0]))
    with pytest.raises(ValueError, match=r"scores\[0\] is nan at step 7"):
        sift(**net_batch())


@pytest.mark.parametrize("value", [INF, -INF])
def test_infinite_scores_are_named_by_their_value(value, on_device):
    on_device()
    sift = Sift(Net(), check=False, score=lambda logits, labels: logits[:, 0])
    sift(**net_batch(bad=[1], value=value))
    with pytest.raises(ValueError, match=rf"scores\[1\] is {value} at step 0"):
        sift(**net_batch())


@pytest.mark.parametrize(
    "look",
    [
        pytest.param(lambda sift: sift.state_dict(), id="state_dict"),
        pytest.param(lambda sift: (sift.model.eval(), sift(**net_batch())), id="eval"),
        pytest.param(lambda sift: sift.finish_checks(), id="finish_checks"),
    ],
)
def test_nothing_is_written_or_judged_before_scores_were_looked_at(look, on_device):
    on_device()
    sift = Sift(Net(), check=False)
    sift(**net_batch(bad=[2]))
    with pytest.raises(ValueError, match=r"scores\[2\] is nan at step 0"):
        look(sift)
    look(sift)  # once is enough


@pytest.mark.parametrize("policy", ["drop", "keep-all"])
def test_policies_that_wait(policy, on_device):
    on_device()
    sift = Sift(Net(), check=False, on_bad_scores=policy)
    sift(**net_batch(bad=[7]))
    assert sift.last.indices.tolist() == ([3, 4, 5, 6] if policy == "drop" else list(range(8)))
    assert sift.totals.bad_score_rows == 1


def test_whole_numbers_are_finite(on_device):
    on_device()
    sift = Sift(Net(), check=False, score=lambda logits, labels: torch.arange(8))
    sift(**net_batch())
    assert sift.last.indices.tolist() == [4, 5, 6, 7]
    sift.finish_checks()


@pytest.mark.parametrize("one", ["bert-mlm", "gpt2", "bert-pretraining"])
@pytest.mark.parametrize("label", [100, -1, 10**6])
def test_a_bad_label_gives_a_bad_score(one, label, taken, build, make_batch, on_device):
    model, batch = build(one, dtype="float64"), make_batch(one)
    scorer, expected = scored(model, batch, "loss")
    on_device()
    scorer, _ = scored(model, batch, "loss")
    labels = batch["labels"].clone()
    place = int((labels[4, 1:] != -100).nonzero()[0]) + 1
    labels[4, place] = label
    found = scorer.scores({**batch, "labels": labels}, 2)
    assert found.isnan().tolist() == [row == 4 for row in range(8)]
    torch.testing.assert_close(found[[*range(4), *range(5, 8)]], expected[[*range(4), *range(5, 8)]])


@pytest.mark.parametrize("one", ["bert-mlm", "gpt2"])
def test_a_nan_where_no_label_is_leaves_scores_alone(one, taken, build, make_batch, on_device):
    model, batch = build(one, dtype="float64"), make_batch(one)
    batch["labels"][:, -1] = -100
    on_device()
    scorer, expected = scored(model, batch, "loss")

    def spoil(module, arguments, output):
        output["last_hidden_state"] = output["last_hidden_state"].clone()
        output["last_hidden_state"][:, -1] = NAN

    hook = model.base_model.register_forward_hook(spoil)
    torch.testing.assert_close(scorer.scores(batch, 2), expected, rtol=0, atol=0)
    hook.remove()


# ---- More labels than were expected ----


def test_positions_that_are_taken():
    positions = PositionsPerRow()
    labels = torch.tensor([[-100, 5, -100, 6], [-100, -100, -100, -100], [1, 2, 3, -100]]).repeat(1, 10)
    found = positions.of(FORM, labels, ignored=-100, classes=10**9)
    # 30 + 4 sqrt(30), rounded up to a multiple of 8, is more than there are.
    assert (len(found.rows), found.labels.tolist()) == (3 * 40, labels.tolist())
    positions.learn(FORM, 40, 4)
    found = positions.of(FORM, labels, ignored=-100, classes=10**9)
    assert found.labels.tolist() == [[5, 6] * 8, [-100] * 16, [1, 2, 3] * 5 + [1]]
    assert torch.equal(labels[found.rows, found.columns].view(3, 16)[[0, 2]], found.labels[[0, 2]])
    assert found.rows.tolist() == [0] * 16 + [1] * 16 + [2] * 16
    ((form, length, taken, most),) = [(one.form, one.length, one.taken, int(one.most)) for one in positions.fullest()]
    assert (form, length, taken, most) == (FORM, 40, 16, 30)
    assert positions.fullest() == []


@pytest.mark.parametrize(
    ("most", "of", "length", "expected"),
    [
        (100, 512, 512, 144),  # 100 + 4 sqrt(100) = 140
        (400, 512, 512, 504),  # 400 * 5 / 4
        (100, 512, 256, 144),
        (100, 512, 1024, 264),  # of twice the length: 200 + 4 sqrt(200)
        (511, 512, 512, 512),
        (0, 512, 512, 8),
        (1, 4, 4, 4),
    ],
)
def test_how_many_positions_of_a_row_are_taken(most, of, length, expected):
    positions = PositionsPerRow()
    positions.learn(FORM, of, most)
    assert positions.taken(FORM, length) == expected


@pytest.fixture
def long_batch():
    """long_batch(labels of a row): 8 rows of 64 tokens."""

    def make(number):
        ids = torch.arange(8 * 64).reshape(8, 64) % 97 + 3
        return {"input_ids": ids, "labels": ids.where(torch.arange(64) % 64 < number, -100)}

    return make


@pytest.mark.parametrize("labelled_head", [False, True])
def test_a_row_with_more_labels_than_expected(labelled_head, build, long_batch, on_device, monkeypatch, caplog):
    model = build("bert-mlm", dtype="float64")
    exact = Scorer(model, SiftOptions(scoring_mode="eval")).scores(long_batch(40), 1)
    on_device()
    monkeypatch.setattr(padded_positions, "ALL_AT_MOST", 0)
    sift = Sift(model, check=False, reuse=False, scoring_mode="eval", labelled_head=labelled_head)
    sift(**long_batch(4))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="gsgd"):
        sift(**long_batch(40))  # 4 + 4 sqrt(4), so 16 are scored
        assert not torch.allclose(sift.last.scores, exact)
        assert caplog.records == []
        for _ in range(2):
            sift(**long_batch(40))
            torch.testing.assert_close(sift.last.scores, exact, rtol=1e-12, atol=1e-12)
    assert [record.getMessage() for record in caplog.records] == [
        "a row of step 1 has 40 labels, of which the first 16 were scored; from now on more are"
    ]


def test_too_many_labels_on_steps_that_do_not_select(build, long_batch, on_device, monkeypatch, caplog):
    model = build("bert-mlm")
    on_device()
    monkeypatch.setattr(padded_positions, "ALL_AT_MOST", 0)
    sift = Sift(model, check=False, reuse=False, labelled_head=True, start_step=10)
    for number in (4, 40, 40):
        sift(**long_batch(number))
    assert "a row of step 1 has 40 labels, of which the first 16 were scored" in caplog.text
    assert len(sift(**long_batch(40)).logits[0]) == 8 * 64


# ---- The training pass ----


@pytest.mark.parametrize("exit_layer", [1, 4])
def test_a_labelled_head_has_the_same_loss_and_gradients(exit_layer, taken, build, make_batch, on_device):
    batch, found = make_batch("bert-mlm"), []
    for place in (lambda: None, on_device):
        place()
        model = build("bert-mlm", dtype="float64")
        sift = Sift(model, exit_layer=exit_layer, labelled_head=True, reuse=False)
        loss = sift(**batch).loss
        loss.backward()
        found.append((sift.last.indices, loss.detach(), [weight.grad for weight in model.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score": "random"},
        {"select": selectors.select_random},
        {"select": selectors.select_online_batch},
        {"select": selectors.select_selective_backprop},
        {"select": functools.partial(selectors.trim, share=0.2, select=selectors.select_random)},
        {"select": lambda found, k, rng: torch.arange(k)},
        {"score_batch_size": 3},
        {"labelled_head": True, "exit_layer": 4},
        {"reuse": False},
    ],
)
def test_the_same_rows_are_kept(options, build, make_batch, on_device):
    batch, found = make_batch("bert-mlm"), []
    for place in (lambda: None, on_device):
        place()
        sift = Sift(build("bert-mlm", dtype="float64"), **options)
        rows = []
        for seed in range(3):
            sift(**make_batch("bert-mlm", seed=seed))
            rows.append(sift.last.indices.tolist())
        found.append(rows)
    assert found[0] == found[1]
    assert len(batch["labels"]) == 8
