"""Scores of a gross batch against a loop over rows and positions, on every architecture and at every exit."""

import copy
import weakref
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from gsgd import scores as score_functions  # noqa: E402
from gsgd.sift import Scorer, SiftOptions  # noqa: E402
from gsgd.sift.scoring_pass import forward  # noqa: E402
from gsgd.sift.scoring_pass.head_positions import positions_only  # noqa: E402
from gsgd.sift.scoring_pass.labels import shifts_by_name  # noqa: E402

CAUSAL = ("gpt2", "llama")
MASKED = ("bert-mlm", "bert-pretraining", "roberta", "distilbert", "modernbert")
LEAST = torch.finfo(torch.float32).min
BY_NAME = {"loss": score_functions.cross_entropy, "entropy": score_functions.entropy}


def score_rows(model, batch, *, exit_layer, score, mode):
    return Scorer(model, SiftOptions(score=score, scoring_mode=mode)).scores(batch, exit_layer)


def score(model, batch, *, exit_layer=2, kind="loss", mode="eval"):
    return score_rows(model, batch, exit_layer=exit_layer, score=BY_NAME.get(kind, kind), mode=mode)


def learned(model, batch, *, kind="loss", mode="eval"):
    """A scorer that knows how the model reads such labels: to learn it takes passes that a test would count."""
    scorer = Scorer(model, SiftOptions(score=BY_NAME.get(kind, kind), scoring_mode=mode))
    if scorer.built_in:
        scorer.convention(batch)
    return scorer


@torch.no_grad()
def outputs(model, batch):
    return model(**{key: value for key, value in batch.items() if key not in ("labels", "next_sentence_label")})


def full_logits(model, batch):
    return outputs(model, batch)[0]  # of BertForPreTraining, too, the first are the vocabulary's


def with_least(values):
    return torch.tensor([LEAST if value == float("-inf") else value for value in values], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["loss", "entropy"])
def test_scores_equal_a_loop_over_rows_and_positions(kind, name, build, make_batch, stack_of, truncated, row_scores):
    """Row 2 has no label (of language models), row 1 is padded; the reference runs the head on every position."""
    model, batch = build(name, dropout=0.1, dtype="float64"), make_batch(name, dtype="float64")
    for j in (1, 2, 3, 4):
        output = outputs(truncated(model, stack_of(name), j).eval(), batch)
        expected = row_scores(output[0], batch["labels"], kind, name in CAUSAL)
        if name == "bert-pretraining":  # its loss is the sum of two, of which a row without masked words has one
            sentence = row_scores(output[1], batch["next_sentence_label"], kind)
            expected = [max(words, 0.0) + other for words, other in zip(expected, sentence, strict=True)]
        found = score(model, batch, exit_layer=j, kind=kind)
        assert found.dtype == torch.float64
        labelled = [row for row, value in enumerate(expected) if value != float("-inf")]
        torch.testing.assert_close(found[labelled], torch.tensor(expected).double()[labelled], rtol=1e-6, atol=1e-9)
        assert len(set(found.tolist())) == 8  # all rows apart, so the comparison says something
        if name not in ("vit", "bert-classifier", "bert-pretraining"):
            assert labelled == [0, 1, 3, 4, 5, 6, 7]
            assert found[2] == LEAST


@pytest.mark.parametrize("kind", ["loss", "entropy"])
@pytest.mark.parametrize("masked", MASKED)
def test_the_vocabulary_head_runs_on_labelled_positions_only(
    masked, kind, build, make_batch, stack_of, truncated, row_scores
):
    """Counted at its last matrix; the scores are those of the full head, which a callable around the score runs."""
    model, batch = build(masked, dtype="float64"), make_batch(masked)
    widths = []
    scorer = learned(model, batch, kind=kind)
    head = model.get_output_embeddings() or model.cls.predictions.decoder
    hook = head.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[:-1].numel()))
    on_labelled = scorer.scores(batch, 2)
    on_all = score(model, batch, kind=lambda logits, labels: BY_NAME[kind](logits, labels))
    hook.remove()
    if masked == "bert-pretraining":
        output = outputs(truncated(model, stack_of(masked), 2).eval(), batch)
        on_all += torch.tensor(row_scores(output[1], batch["next_sentence_label"], kind), dtype=torch.float64)
    assert widths == [int((batch["labels"] != -100).sum()), batch["labels"].numel()]
    rows = [0, 1, 3, 4, 5, 6, 7]
    torch.testing.assert_close(on_labelled[rows], on_all[rows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("at_once", [1, 100, 599, 1000, 10**9])
@pytest.mark.parametrize("one", [*MASKED, *CAUSAL])
def test_the_head_in_parts_gives_the_same_scores(one, at_once, build, make_batch, monkeypatch):
    """A part of at most `at_once` logits at a time (of 100 words, so 5 positions in 599), and the base model once."""
    model, batch = build(one, dropout=0.1, dtype="float64"), make_batch(one)
    labels = batch["labels"][:, 1:] if one in CAUSAL else batch["labels"]
    positions = int((labels != -100).sum())
    functions = [score_functions.cross_entropy, score_functions.entropy, score_functions.margin]

    scorers = [learned(model, batch, kind=kind, mode="train") for kind in functions]

    def run(limit, scorer):
        monkeypatch.setattr(forward, "LOGITS_AT_ONCE", limit)
        torch.manual_seed(3)  # the layers' dropout; the heads have none
        return scorer.scores(batch, 3)

    whole = [run(10**9, scorer) for scorer in scorers]
    assert all(len(set(values.tolist())) == 8 for values in whole)
    sizes, calls = [], []
    head = model.get_output_embeddings() or model.cls.predictions.decoder
    hooks = [
        head.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel())),
        model.base_model.register_forward_hook(lambda *_: calls.append(1)),
    ]
    for scorer, expected in zip(scorers, whole, strict=True):
        sizes.clear()
        calls.clear()
        torch.testing.assert_close(run(at_once, scorer), expected, rtol=1e-12, atol=1e-12)
        assert sum(sizes) == 100 * positions
        if one == "bert-pretraining":  # whose losses are summed by the model itself, so that rows stay whole
            most = int((labels != -100).sum(dim=1).max())
            assert max(sizes) <= max(at_once, 100 * most)
            assert (len(sizes) > 1) == (at_once < 100 * positions)
        else:
            assert max(sizes) <= max(at_once, 100)
            assert len(sizes) == -(-positions // max(at_once // 100, 1))
        assert len(calls) == 1
    for hook in hooks:
        hook.remove()
    assert model.base_model is getattr(model, model.base_model_prefix)


def test_logits_in_memory_are_bounded_by_the_parts(build, make_batch, monkeypatch):
    """Every tensor as wide as the vocabulary is small, and they are gone before the next part has its own."""
    model, batch = build("bert-mlm"), make_batch("bert-mlm", rows=16)
    monkeypatch.setattr(forward, "LOGITS_AT_ONCE", 500)
    scorer = learned(model, batch)
    alive, most = [], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            made = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(made, torch.Tensor) and made.shape[-1:] == (100,) and made.is_floating_point():
                alive.append(weakref.ref(made.untyped_storage()))
                storages = {found.data_ptr(): found.nbytes() for ref in alive if (found := ref()) is not None}
                most.append(sum(storages.values()))
            return output

    head = model.get_output_embeddings()
    with Watch():
        scorer.scores(batch, 2)
    assert int((batch["labels"] != -100).sum()) > 40
    # Logits, the labelled ones of them, and what the score makes of these: without the label, shifted, exponentiated.
    # The head's weight shows transposed, as (32, 100), and its bias is looked at.
    weights = sum(weight.untyped_storage().nbytes() for weight in head.parameters())
    assert max(most) <= 5 * 4 * 500 + weights


def test_a_head_that_reads_more_of_its_base_models_output(build, make_batch, monkeypatch):
    """Whatever the base model returned beside the hidden states is there for every part."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=100, hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1, max_position_embeddings=32,
        attention_dropout=0.0,
    )  # fmt: skip
    model, batch = MixtralForCausalLM(config).train(), make_batch("llama")
    found = []
    for limit in (10**9, 500):
        monkeypatch.setattr(forward, "LOGITS_AT_ONCE", limit)
        found.append(score(model, batch, exit_layer=4))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_pretraining_is_scored_by_its_own_loss_of_masked_words_and_next_sentence(build, make_batch):
    """At the last layer; a row without masked words, whose own loss is NaN, by that of its next sentence."""
    model, batch = build("bert-pretraining", dtype="float64"), make_batch("bert-pretraining")
    found = score(model, batch, exit_layer=4)
    model.eval()
    for row in (0, 1, 3, 4, 5, 6, 7):
        alone = {key: value[row : row + 1] for key, value in batch.items()}
        assert float(found[row]) == pytest.approx(model(**alone).loss.item(), rel=1e-9)
    sentence = outputs(model, batch).seq_relationship_logits[2]
    expected = nn.functional.cross_entropy(sentence, batch["next_sentence_label"][2])
    assert float(found[2]) == pytest.approx(expected.item(), rel=1e-9)


def test_pretraining_without_next_sentences_is_a_masked_language_model(build, make_batch):
    model, batch = build("bert-pretraining", dtype="float64"), make_batch("bert-pretraining")
    plain = build("bert-mlm", dtype="float64")
    shared = {key: value for key, value in model.state_dict().items() if key in plain.state_dict()}
    assert set(plain.state_dict()) <= set(shared)
    plain.load_state_dict(shared)
    without = {key: value for key, value in batch.items() if key != "next_sentence_label"}
    expected = score(plain, without)
    assert len(set(expected.tolist())) == 8
    found = score(model, batch, kind=lambda logits, labels: score_functions.cross_entropy(logits, labels))
    rows = [0, 1, 3, 4, 5, 6, 7]
    torch.testing.assert_close(found[rows], expected[rows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", CAUSAL)
def test_a_causal_score_is_the_models_own_loss_of_the_row(causal, build, make_batch):
    """At the last layer the score of a row is the loss that Hugging Face gives for that row alone."""
    model, batch = build(causal, dtype="float64"), make_batch(causal)
    found = score(model, batch, exit_layer=4)
    model.eval()
    for row in (0, 1, 3, 4, 5, 6, 7):
        alone = {key: value[row : row + 1] for key, value in batch.items()}
        # transformers computes this loss in float32, whatever the model.
        assert float(found[row]) == pytest.approx(model(**alone).loss.item(), rel=1e-6)


@pytest.mark.parametrize("causal", CAUSAL)
def test_the_first_label_of_a_causal_row_counts_for_nothing(causal, build, make_batch):
    model, batch = build(causal), make_batch(causal)
    only_first = torch.full_like(batch["labels"], -100)
    only_first[:, 0] = 7
    assert torch.equal(score(model, batch | {"labels": only_first}), torch.full((8,), LEAST))


@pytest.mark.parametrize("kind", ["loss", "entropy"])
def test_a_batch_without_any_label_scores_all_rows_alike(kind, build, make_batch):
    for name in ("bert-mlm", "gpt2"):
        model, batch = build(name), make_batch(name)
        batch["labels"] = torch.full_like(batch["labels"], -100)
        assert torch.equal(score(model, batch, kind=kind), torch.full((8,), LEAST))


@pytest.mark.parametrize("kind", ["loss", "entropy"])
def test_pretraining_without_any_masked_word_is_scored_by_next_sentences(
    kind, build, make_batch, stack_of, truncated, row_scores
):
    model, batch = build("bert-pretraining"), make_batch("bert-pretraining")
    batch["labels"] = torch.full_like(batch["labels"], -100)
    output = outputs(truncated(model, stack_of("bert-pretraining"), 2).eval(), batch)
    expected = row_scores(output[1], batch["next_sentence_label"], kind)
    assert score(model, batch, kind=kind).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("function", [score_functions.margin, score_functions.gradient_norm_bound])
def test_scores_of_gsgd_equal_themselves_on_each_row(function, build, make_batch, stack_of, truncated):
    model, batch = build("bert-mlm", dtype="float64"), make_batch("bert-mlm")
    logits = full_logits(truncated(model, stack_of("bert-mlm"), 2).eval(), batch)
    found = score(model, batch, kind=function)
    for row in (0, 1, 3, 4, 5, 6, 7):
        labelled = batch["labels"][row] != -100
        expected = function(logits[row][labelled], batch["labels"][row][labelled]).mean()
        assert float(found[row]) == pytest.approx(float(expected), rel=1e-9)


def test_a_callable_sees_the_full_logits_and_the_labels_of_the_batch(build, make_batch, stack_of, truncated):
    seen = []

    def own(logits, labels):
        seen.append((logits, labels))
        return logits.mean(dim=(1, 2))

    for name in ("bert-mlm", "gpt2"):
        model, batch = build(name), make_batch(name)
        found = score(model, batch, kind=own)
        logits, labels = seen.pop()
        expected = full_logits(truncated(model, stack_of(name), 2).eval(), batch)
        assert torch.equal(logits, expected)
        assert torch.equal(found, expected.mean(dim=(1, 2)))
        assert torch.equal(labels, batch["labels"])
        assert not logits.requires_grad


@pytest.mark.parametrize("kind", ["bert-mlm", "gpt2", "vit"])
def test_a_callable_of_three_arguments_gets_the_batch(kind, build, make_batch):
    model, seen = build(kind), []
    batch = make_batch(kind) | {"reference_loss": torch.arange(8.0)}

    def own(logits, labels, batch):
        seen.append(batch)
        return batch["reference_loss"] * 2

    assert torch.equal(score(model, batch, kind=own), 2 * torch.arange(8.0))
    assert seen[0].keys() == batch.keys()
    assert all(torch.equal(seen[0][key], value) for key, value in batch.items())


def test_a_callable_with_a_third_argument_of_its_own_keeps_its_default(build, make_batch):
    def own(logits, labels, power=3):
        return logits.mean(dim=1) ** power

    model, batch = build("vit"), make_batch("vit")
    torch.testing.assert_close(score(model, batch, kind=own), score(model, batch, kind=lambda z, y: z.mean(dim=1) ** 3))


class TestStateStays:
    """Scoring leaves the model as it was, whatever the mode, also when it fails."""

    class Net(nn.Module):
        exit_layers = 1

        def __init__(self, fails=False):
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 1)
            self.norm, self.frozen, self.plain = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)
            self.untracked = nn.BatchNorm1d(3, track_running_stats=False)
            self.dropout, self.fails = nn.Dropout(0.5), fails

        modes: ClassVar[list] = []  # a list that the model held would be put back as it was

        def early_logits(self, exit_layer, x):
            self.modes.append((self.training, self.norm.training, self.dropout.training))
            if self.fails:
                raise RuntimeError("out of memory")
            return self.dropout(self.untracked(self.plain(self.frozen(self.norm(self.conv(x)))))).mean(dim=2)

    @staticmethod
    def describe(model):
        flags = [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()]
        return flags, {key: value.clone() for key, value in model.state_dict().items()}

    @pytest.mark.parametrize(
        ("mode", "modes"),
        [
            ("train", (True, True, True)),
            ("eval", (False, False, False)),
            ("frozen-batchnorm", (True, False, True)),
        ],
    )
    @pytest.mark.parametrize("fails", [False, True])
    def test_modes_and_running_statistics(self, mode, modes, fails):
        torch.manual_seed(0)
        model = self.Net(fails).train()
        model.frozen.eval()  # the user's own choice
        self.Net.modes.clear()
        before = self.describe(model)
        batch = {"x": 5 + torch.randn(4, 2, 6), "labels": torch.tensor([0, 1, 2, 0])}
        arguments = {"exit_layer": 1, "score": BY_NAME["loss"], "mode": mode}
        if fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                score_rows(model, batch, **arguments)
        else:
            score_rows(model, batch, **arguments)
        assert model.modes == [modes]
        after = self.describe(model)
        assert before[0] == after[0]
        assert all(torch.equal(before[1][key], after[1][key]) for key in before[1])

    def test_train_mode_normalises_by_the_batch_and_frozen_by_the_running_statistics(self):
        torch.manual_seed(0)
        model = self.Net().train()
        model.dropout.p = 0.0
        with torch.no_grad():
            model.norm.running_mean += 3.0
        batch = {"x": 5 + torch.randn(4, 2, 6), "labels": torch.tensor([0, 1, 2, 0])}
        own, by_mode = (lambda logits, labels: logits[:, 0]), {}
        for mode in ("train", "eval", "frozen-batchnorm"):
            by_mode[mode] = score_rows(model, batch, exit_layer=1, score=own, mode=mode)
        reference = copy.deepcopy(model)
        assert torch.equal(by_mode["train"], reference.early_logits(1, batch["x"])[:, 0])
        reference = copy.deepcopy(model).eval()
        assert torch.equal(by_mode["eval"], reference.early_logits(1, batch["x"])[:, 0])
        assert torch.equal(by_mode["frozen-batchnorm"], by_mode["eval"])
        assert not torch.allclose(by_mode["train"], by_mode["eval"])

    def test_no_hook_is_left_behind(self, build, make_batch):
        model, batch = build("bert-mlm"), make_batch("bert-mlm")
        score(model, batch)
        with pytest.raises(ValueError, match="labels"):
            score(model, batch | {"labels": batch["labels"].clamp(min=500)})
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("asked", [{}, {"use_cache": True}, {"use_cache": False}])
def test_scoring_keeps_no_keys_and_values(asked, causal, build, make_batch):
    model, batch, caches = build(causal), make_batch(causal), []
    assert model.config.use_cache
    scorer = learned(model, batch)
    model.base_model.register_forward_hook(lambda module, inputs, output: caches.append(output.past_key_values))
    scorer.scores(batch | asked, 2)
    assert caches[-1:] == [None]
    assert set(caches) == {None}


def test_train_mode_keeps_dropout_and_eval_mode_drops_it(build, make_batch):
    model, batch = build("bert-mlm", dropout=0.3), make_batch("bert-mlm")
    assert not torch.equal(score(model, batch, mode="train"), score(model, batch, mode="train"))
    assert torch.equal(score(model, batch, mode="eval"), score(model, batch, mode="eval"))


@pytest.mark.parametrize("kind", ["multi-label", "regression"])
def test_what_is_no_classification_is_scored_by_the_models_own_loss(kind, build, make_batch):
    torch.manual_seed(0)
    model = build("bert-classifier", dtype="float64", num_labels=1 if kind == "regression" else 5)
    labels = torch.rand(8, dtype=torch.float64) if kind == "regression" else (torch.rand(8, 5) < 0.4).double()
    batch = make_batch("bert-classifier") | {"labels": labels}
    found = score(model, batch, exit_layer=4)
    model.eval()
    expected = [model(**{key: value[[row]] for key, value in batch.items()}).loss.item() for row in range(8)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


class TestErrors:
    def test_labels_are_missing(self, build, make_batch):
        batch = make_batch("bert-mlm")
        del batch["labels"]
        with pytest.raises(ValueError, match="scoring needs `labels` in the batch, which holds: input_ids, att"):
            score(build("bert-mlm"), batch)

    @pytest.mark.parametrize("returned", [torch.zeros(8, 1), torch.zeros(7), torch.tensor(1.0), 0.5, None])
    def test_a_callable_returns_another_shape(self, returned, build, make_batch):
        with pytest.raises(ValueError, match=r"must be one number per row, \(8,\)"):
            score(build("vit"), make_batch("vit"), kind=lambda logits, labels: returned)

    def test_labels_that_the_model_cannot_read_are_its_own_error(self, build, make_batch):
        """One number a row for five classes."""
        batch = make_batch("bert-classifier") | {"labels": torch.rand(8)}
        with pytest.raises(ValueError, match="Target size"):
            score(build("bert-classifier"), batch)

    @pytest.mark.parametrize("function", ["entropy", score_functions.margin])
    def test_a_score_that_needs_classes_refuses_what_has_none(self, function, build, make_batch):
        batch = make_batch("bert-classifier") | {"labels": torch.rand(8)}
        with pytest.raises(ValueError, match="needs the probabilities of classes, but the model's loss is mse_loss"):
            score(build("bert-classifier", num_labels=1), batch, kind=function)

    def test_a_regression_with_its_own_score(self, build, make_batch):
        batch = make_batch("bert-classifier") | {"labels": torch.rand(8, 5)}
        found = score(build("bert-classifier"), batch, kind=lambda z, y: ((z - y) ** 2).mean(dim=1))
        assert found.shape == (8,)

    def test_a_tuple_output_names_the_remedy(self, build, make_batch):
        """For a callable, which needs the logits; a built-in score can do with the loss."""
        model, batch = build("vit"), make_batch("vit")
        with pytest.raises(ValueError, match="return_dict=True"):
            score(model, batch | {"return_dict": False}, kind=lambda logits, labels: logits[:, 0])
        torch.testing.assert_close(score(model, batch | {"return_dict": False}), score(model, batch))

    def test_a_model_without_a_head(self, build, make_batch):
        with pytest.raises(ValueError, match="must have a head"):
            score(build("vit").vit, make_batch("vit"))

    def test_a_label_out_of_range_is_named(self, build, make_batch):
        batch = make_batch("vit")
        batch["labels"][3] = 9
        with pytest.raises(ValueError, match=r"labels\[3\] is 9 but must be in 0\.\.4"):
            score(build("vit"), batch)

    def test_positions_need_a_base_model(self):
        with (
            pytest.raises(ValueError, match="Linear has no base model below its head"),
            positions_only(nn.Linear(1, 1), torch.tensor([0]), torch.tensor([0])),
        ):
            pass


class TestCausal:
    def test_architectures(self, name, build):
        assert shifts_by_name(build(name)) == (name in CAUSAL)

    def test_a_subclass_predicts_as_its_parent(self):
        class Mine(transformers.GPT2LMHeadModel):
            pass

        config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9, bos_token_id=1, eos_token_id=1)
        assert shifts_by_name(Mine(config))

    def test_a_classifier_on_a_causal_base_is_none(self):
        config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9, bos_token_id=1, eos_token_id=1)
        assert not shifts_by_name(transformers.GPT2ForSequenceClassification(config))

    def test_a_model_without_a_config_is_none(self):
        assert not shifts_by_name(nn.Linear(1, 1))
