"""Sift against a plain two-pass loop: the same rows, loss and gradients; and everything around it."""

import copy
import functools
import io
import logging
import math
import pickle

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from gsgd import scores as score_functions  # noqa: E402
from gsgd import selectors  # noqa: E402
from gsgd.sift import AutoExit, Sift  # noqa: E402
from gsgd.sift.shared_forward.capture import say_once  # noqa: E402

CAUSAL = ("gpt2", "llama")
MASKED = ("bert-mlm", "bert-pretraining", "roberta", "distilbert", "modernbert")
EXACT = {"scoring_mode": "eval"}
"""With dropout 0 the reference is then exact."""


def gradients(model):
    return {key: None if p.grad is None else p.grad.clone() for key, p in model.named_parameters()}


def assert_same_gradients(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if value is None:
            assert found[key] is None, key
        else:
            torch.testing.assert_close(found[key], value, msg=lambda text, key=key: f"{key}: {text}", **tolerance)


def rows_of(batch, rows):
    return {key: torch.stack([value[row] for row in rows]) for key, value in batch.items()}


def hardest(scores, k):
    """The k rows with the largest scores, ties to the earlier, in ascending order."""
    return sorted(sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k])


def count_calls(model):
    calls = []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    return calls


class Net(nn.Module):
    """A small model with both a protocol exit and BatchNorm; no transformers in it."""

    exit_layers = 2

    def __init__(self, seed=0, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.to(dtype)

    def early_logits(self, exit_layer, x):
        hidden = torch.relu(self.norm(self.first(x)))
        return self.head(hidden if exit_layer == 1 else hidden + self.second(hidden))

    def forward(self, x, labels=None):
        logits = self.early_logits(2, x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return transformers.modeling_outputs.ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


def net_batch(rows=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 2 + torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return {"x": x, "labels": torch.randint(3, (rows,), generator=generator)}


def squared_confidence(logits, labels):
    """A user's own score: the sum of squared probabilities, averaged over positions."""
    return -(logits.softmax(-1) ** 2).sum(-1).reshape(len(labels), -1).mean(-1)


class TestTwoPassReference:
    @pytest.mark.parametrize("kind", ["loss", "entropy", "own"])
    @pytest.mark.parametrize("exit_layer", [1, 3])
    def test_rows_loss_and_gradients(self, kind, exit_layer, name, build, make_batch, stack_of, truncated, row_scores):
        model, batch = build(name, dtype="float64"), make_batch(name, dtype="float64")
        short = truncated(model, stack_of(name), exit_layer).eval()
        reference = copy.deepcopy(model)

        inputs = {key: value for key, value in batch.items() if key not in ("labels", "next_sentence_label")}
        with torch.no_grad():
            predicted = short(**inputs)
        logits = predicted[0]
        if kind == "own":
            scores = squared_confidence(logits, batch["labels"]).tolist()
        else:
            scores = row_scores(logits, batch["labels"], kind, name in CAUSAL)
        if kind != "own" and name == "bert-pretraining":
            sentence = row_scores(predicted[1], batch["next_sentence_label"], kind)
            scores = [max(words, 0.0) + other for words, other in zip(scores, sentence, strict=True)]
        kept = hardest(scores, 4)
        loss = reference(**rows_of(batch, kept)).loss
        loss.backward()

        score = squared_confidence if kind == "own" else kind
        sift = Sift(model, exit_layer=exit_layer, keep=0.5, score=score, **EXACT)
        output = sift(**batch)
        output.loss.backward()

        assert sift.last.indices.tolist() == kept
        assert torch.equal(output.loss, loss)
        assert output[1].shape[0] == 4
        assert_same_gradients(gradients(model), gradients(reference), rtol=0, atol=0)
        assert sift.last.scores.shape == (8,)
        assert (sift.last.step, sift.last.selected, sift.last.gross, sift.last.kept) == (0, True, 8, 4)
        assert sift.last.selection_s > 0

    def test_random_keeps_the_drawn_rows_and_scores_nothing(self, name, build, make_batch):
        model, batch = build(name, dtype="float64"), make_batch(name, dtype="float64")
        reference = copy.deepcopy(model)
        calls = count_calls(model)
        sift = Sift(model, score="random", seed=3)
        loss = sift(**batch).loss
        loss.backward()
        kept = sift.last.indices.tolist()
        assert kept == sorted(set(kept))
        assert len(kept) == 4
        assert sift.last.scores is None
        assert len(calls) == 1
        expected = reference(**rows_of(batch, kept)).loss
        expected.backward()
        assert torch.equal(loss, expected)
        assert_same_gradients(gradients(model), gradients(reference), rtol=0, atol=0)

    def test_several_steps_of_training(self, build, make_batch, stack_of, truncated, row_scores):
        """Each step scores with the weights that the step before has left."""
        model = build("bert-mlm", dtype="float64")
        reference = copy.deepcopy(model)
        sift = Sift(model, exit_layer=1, **EXACT)
        optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (model, reference)]
        seen = set()
        for step in range(5):
            batch = make_batch("bert-mlm", seed=step % 2)
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            with torch.no_grad():
                logits = truncated(reference, stack_of("bert-mlm"), 1).eval()(**inputs).logits
            kept = hardest(row_scores(logits, batch["labels"], "loss"), 4)
            expected = reference(**rows_of(batch, kept)).loss
            expected.backward()
            loss = sift(**batch).loss
            loss.backward()
            assert sift.last.indices.tolist() == kept
            assert torch.equal(loss, expected)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            seen.add(tuple(kept))
        assert len(seen) > 1

    @pytest.mark.parametrize("kind", ["gpt2", "vit", "bert-mlm", "bert-classifier", "modernbert"])
    def test_the_last_layer_selects_by_the_exact_loss(self, kind, build, make_batch):
        """Ranked by the loss that Hugging Face gives for each row alone: OHEM, ordered SGD."""
        model, batch = build(kind), make_batch(kind)
        rows = [row for row in range(8) if (batch["labels"][row] != -100).any()]
        model.eval()
        with torch.no_grad():
            exact = {row: model(**rows_of(batch, [row])).loss.item() for row in rows}
        model.train()
        sift = Sift(model, exit_layer=4, keep=3 / 8, **EXACT)
        sift(**batch)
        assert sift.last.indices.tolist() == sorted(sorted(rows, key=lambda row: -exact[row])[:3])

    def test_the_default_scores_in_training_mode(self, build, make_batch):
        """As the paper's naive double pass: the dropout of the moment is in the scores."""
        model, batch = build("bert-mlm", dropout=0.3), make_batch("bert-mlm")
        sift = Sift(model)
        sift(**batch)
        first = sift.last.scores
        sift(**batch)
        assert not torch.equal(first, sift.last.scores)


class TestLabelledHead:
    @pytest.mark.parametrize("masked", MASKED)
    def test_same_loss_and_gradients(self, masked, build, make_batch):
        model, batch = build(masked, dtype="float64"), make_batch(masked)
        reference = copy.deepcopy(model)
        plain = Sift(reference, **EXACT)
        expected = plain(**batch)
        expected.loss.backward()
        sift = Sift(model, labelled_head=True, **EXACT)
        output = sift(**batch)
        output.loss.backward()
        assert torch.equal(sift.last.indices, plain.last.indices)
        assert output.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
        assert_same_gradients(gradients(model), gradients(reference), rtol=1e-10, atol=1e-12)

        labels = batch["labels"][sift.last.indices]
        assert output[1].shape == (1, int((labels != -100).sum()), 100)
        torch.testing.assert_close(output[1][0], expected[1][labels != -100], rtol=1e-12, atol=1e-12)
        assert not any(module._forward_hooks for module in model.modules())

    def test_on_steps_that_do_not_select_too(self, build, make_batch):
        model, batch = build("bert-mlm", dtype="float64"), make_batch("bert-mlm")
        expected = model(**batch).loss.item()
        output = Sift(model, labelled_head=True, start_step=5)(**batch)
        assert output.loss.item() == pytest.approx(expected, rel=1e-12)
        assert output.logits.shape[:2] == (1, int((batch["labels"] != -100).sum()))

    def test_a_classifier_has_no_positions_and_is_left_alone(self, build, make_batch):
        model, batch = build("bert-classifier"), make_batch("bert-classifier")
        assert Sift(model, labelled_head=True)(**batch).logits.shape == (4, 5)

    def test_a_batch_without_labels_gives_what_the_model_gives(self, build, make_batch):
        model, batch = build("bert-mlm"), make_batch("bert-mlm")
        batch["labels"] = torch.full_like(batch["labels"], -100)
        assert math.isnan(Sift(model, labelled_head=True)(**batch).loss.item())

    @pytest.mark.parametrize("causal", CAUSAL)
    def test_causal_models_are_refused(self, causal, build):
        with pytest.raises(ValueError, match="labelled_head=True is for masked language models"):
            Sift(build(causal), labelled_head=True)

    @pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
    def test_with_gradient_checkpointing(self, build, make_batch):
        """Recomputing the layers happens when the hook on the base model is gone."""
        model, batch = build("bert-mlm", dtype="float64"), make_batch("bert-mlm")
        reference = copy.deepcopy(model)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        Sift(reference, **EXACT)(**batch).loss.backward()
        Sift(model, labelled_head=True, **EXACT)(**batch).loss.backward()
        assert_same_gradients(gradients(model), gradients(reference), rtol=1e-10, atol=1e-12)


class TestRowsWithoutLabels:
    @pytest.mark.parametrize("kind", ["loss", "entropy"])
    @pytest.mark.parametrize("masked", ["bert-mlm", "gpt2"])
    def test_they_rank_last_and_fill_up(self, kind, masked, build, make_batch):
        model, batch = build(masked), make_batch(masked)
        batch["labels"][[0, 1, 2, 4, 7]] = -100
        for keep, expected in ((3 / 8, [3, 5, 6]), (5 / 8, [0, 1, 3, 5, 6])):
            sift = Sift(model, keep=keep, score=kind)
            assert math.isfinite(sift(**batch).loss.item())
            assert sift.last.indices.tolist() == expected
            assert torch.isfinite(sift.last.scores).all()
        assert sift.totals.bad_score_rows == 0

    @pytest.mark.parametrize("masked", ["bert-mlm", "gpt2"])
    def test_no_row_has_any(self, masked, build, make_batch):
        """No error: the first rows are kept, and the loss is what the model gives."""
        model, batch = build(masked), make_batch(masked)
        batch["labels"] = torch.full_like(batch["labels"], -100)
        sift = Sift(model)
        loss = sift(**batch).loss
        assert sift.last.indices.tolist() == [0, 1, 2, 3]
        assert loss.isnan() == model(**rows_of(batch, [0, 1, 2, 3])).loss.isnan()

    def test_unlabelled_parts_of_a_batch_scored_in_parts(self, build, make_batch):
        model, batch = build("bert-mlm", dtype="float64"), make_batch("bert-mlm")
        batch["labels"][:4] = -100
        sift = Sift(model, score_batch_size=2)
        sift(**batch)
        assert sift.last.indices.tolist() == [4, 5, 6, 7]


class TestBatchNorm:
    @pytest.mark.parametrize("mode", ["train", "eval", "frozen-batchnorm"])
    def test_running_statistics_are_updated_once_and_by_the_kept_rows(self, mode):
        model, batch = Net(), net_batch()
        reference = copy.deepcopy(model)
        sift = Sift(model, scoring_mode=mode)
        for step in range(1, 4):
            sift(**batch).loss.backward()
            reference(**rows_of(batch, sift.last.indices.tolist())).loss.backward()
            assert model.norm.num_batches_tracked == step
            # A product of more rows at once may round otherwise: what is shared comes from the gross batch's.
            for name in ("running_mean", "running_var"):
                found, wanted = (getattr(each.norm, name) for each in (model, reference))
                torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        assert_same_gradients(gradients(model), gradients(reference), rtol=1e-11, atol=1e-13)

    @pytest.mark.parametrize("mode", ["train", "eval", "frozen-batchnorm"])
    def test_statistics_the_user_has_frozen_stay(self, mode):
        model, batch = Net(), net_batch()
        model.norm.eval()
        before = copy.deepcopy(model.norm.state_dict())
        Sift(model, scoring_mode=mode)(**batch).loss.backward()
        assert not model.norm.training
        assert all(torch.equal(before[key], value) for key, value in model.norm.state_dict().items())


class TestWhenItSelects:
    def test_eval_mode_is_the_model(self, name, build, make_batch):
        model, batch = build(name, dropout=0.1).eval(), make_batch(name)
        expected = model(**batch)
        calls = count_calls(model)
        sift = Sift(model)
        output = sift(**batch)
        assert torch.equal(output.loss, expected.loss)
        assert torch.equal(output[1], expected[1])
        assert len(calls) == 1
        assert (sift.step, sift.last, sift.totals.gross_samples) == (0, None, 0)

    def test_eval_mode_needs_no_labels(self, build, make_batch):
        batch = make_batch("gpt2")
        del batch["labels"]
        assert Sift(build("gpt2").eval())(**batch).logits.shape == (8, 9, 100)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({"start_step": 3}, [False, False, False, True, True, True]),
            ({"end_step": 2}, [True, True, False, False, False, False]),
            ({"interrupt": 3}, [True, True, False, True, True, False]),
            ({"interrupt": lambda step: step in (0, 4)}, [False, True, True, True, False, True]),
            ({"start_step": 1, "end_step": 5, "interrupt": 2}, [False, False, True, False, True, False]),
            ({"accumulation_steps": 2, "start_step": 1, "end_step": 2}, [False, False, True, True, False, False]),
        ],
    )
    def test_the_schedule(self, arguments, expected):
        model, batch = Net(), net_batch()
        sift = Sift(model, **arguments)
        for call, selects in enumerate(expected):
            output = sift(**batch)
            assert sift.last.selected == selects
            assert sift.last.step == call // arguments.get("accumulation_steps", 1)
            assert len(output.logits) == sift.last.kept == (4 if selects else 8)
            assert sift.last.indices.tolist() == (sift.last.indices.tolist() if selects else list(range(8)))
            assert (sift.last.scores is None) == (not selects)
            assert selects == (sift.last.selection_s > 0)
        kept = sum(4 if selects else 8 for selects in expected)
        totals = sift.totals
        assert (totals.gross_samples, totals.backprop_samples) == (48, kept)
        assert (totals.selected_steps, totals.bad_score_rows, totals.idle_steps) == (sum(expected), 0, 0)

    def test_evaluation_in_between_counts_for_nothing(self):
        model, batch = Net(), net_batch()
        sift = Sift(model, start_step=2)
        selected = []
        for _ in range(4):
            model.eval()
            sift(**batch)
            model.train()
            sift(**batch)
            selected.append(sift.last.selected)
        assert selected == [False, False, True, True]

    def test_a_trainer_sets_the_step(self):
        sift = Sift(Net(), start_step=10, accumulation_steps=4)
        sift.step = 10
        sift(**net_batch())
        assert sift.last.selected
        assert sift.last.step == 10
        assert sift.step == 10

    def test_a_step_that_does_not_select_gives_the_models_loss_and_gradients(self, build, make_batch):
        model, batch = build("gpt2"), make_batch("gpt2")
        reference = copy.deepcopy(model)
        reference(**batch).loss.backward()
        Sift(model, start_step=1)(**batch).loss.backward()
        assert_same_gradients(gradients(model), gradients(reference), rtol=0, atol=0)

    def test_accumulation_equals_a_plain_loop_on_the_same_rows(self):
        model = Net()
        reference = copy.deepcopy(model)
        sift = Sift(model, accumulation_steps=3, **EXACT)
        for micro in range(3):
            (sift(**net_batch(seed=micro)).loss / 3).backward()
            (reference(**rows_of(net_batch(seed=micro), sift.last.indices.tolist())).loss / 3).backward()
            assert sift.last.step == 0
        assert sift.step == 1
        assert_same_gradients(gradients(model), gradients(reference), rtol=0, atol=0)


class TestHowManyRows:
    @pytest.mark.parametrize(
        ("keep", "rows", "expected"),
        [(0.5, 8, 4), (0.5, 7, 4), (0.5, 5, 2), (0.3, 8, 2), (0.01, 8, 1), (0.9, 8, 7), (0.5, 1, 1), (1 / 3, 9, 3)],
    )
    def test_max_of_one_and_the_rounded_share_in_ascending_order(self, keep, rows, expected):
        model = Net()
        model.norm.eval()
        for seed in range(5):
            sift = Sift(model, keep=keep)
            assert len(sift(**net_batch(rows, seed)).logits) == expected
            kept = sift.last.indices.tolist()
            assert kept == sorted(set(kept))
            assert len(kept) == sift.last.kept == expected

    @pytest.mark.parametrize("keep", [1, 1.0, 0.99])
    def test_keeping_all_scores_nothing(self, keep, build, make_batch):
        model, batch = build("vit"), make_batch("vit")
        calls = count_calls(model)
        sift = Sift(model, keep=keep)
        sift(**batch)
        assert sift.last.indices.tolist() == list(range(8))
        assert len(calls) == 1

    def test_a_batch_smaller_than_one_over_keep_keeps_its_hardest_row(self, build, make_batch):
        model, batch = build("vit"), make_batch("vit", rows=3)
        sift = Sift(model, keep=0.1, **EXACT)
        sift(**batch)
        assert sift.last.indices.tolist() == [int(sift.last.scores.argmax())]


class TestNeverSilentlyIdle:
    """A step that is to select and cannot says why, once, counts, and trains on what is right."""

    @staticmethod
    def said(caplog):
        return [record.getMessage() for record in caplog.records if "a step selects nothing" in record.getMessage()]

    @pytest.fixture(autouse=True)
    def _anew(self):
        say_once.cache_clear()

    @pytest.mark.parametrize(
        ("options", "rows", "reason"),
        [
            ({}, 1, "a batch of one row: use a larger batch and fewer accumulation steps"),
            ({"keep": 0.9}, 4, "keep = 0.9 of 4 rows is 4: use a larger batch or a smaller keep"),
        ],
    )
    def test_nothing_to_choose_between(self, options, rows, reason, build, make_batch, caplog):
        sift = Sift(build("gpt2"), **options)
        for seed in range(3):
            sift(**make_batch("gpt2", rows=rows, seed=seed)).loss.backward()
        assert self.said(caplog) == [f"a step selects nothing and trains on its whole batch: {reason}"]
        totals = sift.totals
        assert (totals.idle_steps, totals.selected_steps, totals.backprop_samples) == (3, 0, 3 * rows)
        sift(**make_batch("gpt2")).loss.backward()
        assert (totals.idle_steps, totals.selected_steps) == (3, 1)

    @pytest.mark.parametrize("sign", ["position_ids", "cu_seq_lens_q"])
    def test_sequences_packed_into_one_row_that_see_each_other(self, sign, build, caplog):
        """With a mask of tokens attention crosses from one to the other: they are no documents to choose from."""
        ids = torch.arange(3, 15).unsqueeze(0)
        signs = {"position_ids": torch.arange(6).repeat(2).unsqueeze(0), "cu_seq_lens_q": torch.tensor([0, 6, 12])}
        sift = Sift(build("llama"))
        sift(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids), **{sign: signs[sign]})
        (text,) = self.said(caplog)
        assert "its sequences are packed into one row in a way that does not keep them apart" in text
        assert sift.totals.idle_steps == 1

    def test_two_rows_before_batchnorm(self, caplog):
        """As the last batch of an epoch may be: plain training takes it, and one row it would not."""
        sift = Sift(Net())
        for rows in (8, 8, 3, 2):
            sift(**net_batch(rows)).loss.backward()
        assert sift.last.indices.tolist() == [0, 1]
        assert not sift.last.selected
        assert "BatchNorm needs 2 rows to train on" in self.said(caplog)[0]
        assert (sift.totals.idle_steps, sift.totals.selected_steps, sift.totals.backprop_samples) == (1, 3, 12)

    def test_what_was_not_to_select_is_not_idle(self, caplog):
        for options in ({"keep": 1.0}, {"start_step": 9}, {"interrupt": lambda step: True}):
            sift = Sift(Net(), **options)
            sift(**net_batch())
            assert sift.totals.idle_steps == 0
        assert self.said(caplog) == []


class TestScoringInParts:
    @pytest.mark.parametrize("part", [1, 3, 8, 100])
    def test_same_scores(self, part, name, build, make_batch):
        model, batch = build(name, dtype="float64"), make_batch(name, dtype="float64")
        whole, parts = Sift(model, **EXACT), Sift(model, score_batch_size=part, **EXACT)
        whole(**batch)
        parts(**batch)
        torch.testing.assert_close(parts.last.scores, whole.last.scores, rtol=1e-10, atol=1e-12)
        assert torch.equal(parts.last.indices, whole.last.indices)

    def test_no_part_is_larger_than_asked(self):
        model, sizes = Net(), []
        own = lambda logits, labels: sizes.append(len(logits)) or logits[:, 0].detach()  # noqa: E731
        Sift(model, score=own, score_batch_size=3)(**net_batch())
        assert sizes == [3, 3, 2]


class TestBadScores:
    SCORES = torch.tensor([0.1, float("nan"), 0.3, 0.2, float("inf"), 0.9, float("-inf"), 0.5])

    def sift(self, policy, scores=None, **arguments):
        found = self.SCORES if scores is None else scores
        return Sift(Net(), score=lambda logits, labels: found, on_bad_scores=policy, **arguments)

    def test_raise_names_row_value_and_remedy(self):
        remedy = 'on_bad_scores="drop", "keep-all" or "last"'
        with pytest.raises(ValueError, match=rf"scores\[1\] is nan at step 0: .*{remedy}"):
            self.sift("raise")(**net_batch())

    def test_the_step_in_the_message_is_the_optimizers(self):
        sift = self.sift("raise", accumulation_steps=2)
        sift.step = 7
        with pytest.raises(ValueError, match="at step 7"):
            sift(**net_batch())
        with pytest.raises(ValueError, match="at step 7"):
            sift(**net_batch())
        with pytest.raises(ValueError, match="at step 8"):
            sift(**net_batch())

    def test_drop_selects_among_the_rest_warns_and_counts(self, caplog):
        sift = self.sift("drop")
        with caplog.at_level(logging.WARNING, logger="gsgd"):
            output = sift(**net_batch())
        assert sift.last.indices.tolist() == [2, 3, 5, 7]
        assert len(output.logits) == 4
        assert sift.totals.bad_score_rows == 3
        assert "scores[1] is nan at step 0: scores must be finite (3 rows)" in caplog.text

    def test_drop_keeps_fewer_where_fewer_are_left(self):
        scores = torch.full((8,), float("nan"))
        scores[[2, 6]] = 1.0
        sift = self.sift("drop", scores)
        sift(**net_batch())
        assert sift.last.indices.tolist() == [2, 6]
        assert sift.last.kept == 2
        assert sift.totals.backprop_samples == 2

    def test_drop_with_none_left_trains_on_all(self):
        sift = self.sift("drop", torch.full((8,), float("nan")))
        sift(**net_batch())
        assert sift.last.indices.tolist() == list(range(8))
        assert sift.totals.bad_score_rows == 8

    def test_keep_all_trains_on_the_whole_batch_warns_and_counts(self, caplog):
        sift = self.sift("keep-all")
        with caplog.at_level(logging.WARNING, logger="gsgd"):
            sift(**net_batch())
            sift(**net_batch())
        assert sift.last.indices.tolist() == list(range(8))
        assert sift.totals.bad_score_rows == 6
        assert sift.totals.backprop_samples == 16
        assert len(caplog.records) == 2

    def test_last_ranks_them_last_and_warns_and_counts_at_the_next_step(self, caplog):
        sift = self.sift("last", keep=0.75)
        with caplog.at_level(logging.WARNING, logger="gsgd"):
            sift(**net_batch())
        # 0.9, 0.5, 0.3, 0.2, 0.1, and of the bad ones the first.
        assert sift.last.indices.tolist() == [0, 1, 2, 3, 5, 7]
        assert sift.last.scores[6] == float("-inf")
        assert (sift.totals.bad_score_rows, caplog.records) == (0, [])
        with caplog.at_level(logging.WARNING, logger="gsgd"):
            sift(**net_batch())
        assert sift.totals.bad_score_rows == 3
        assert "scores[1] is nan at step 0: scores must be finite (3 rows)" in caplog.text
        assert sift.state_dict()["totals"]["bad_score_rows"] == 6

    @pytest.mark.parametrize("policy", ["drop", "keep-all", "last"])
    def test_finite_scores_are_no_business_of_theirs(self, policy, caplog):
        sift = self.sift(policy, torch.arange(8.0))
        sift(**net_batch())
        assert sift.last.indices.tolist() == [4, 5, 6, 7]
        assert sift.totals.bad_score_rows == 0
        assert not caplog.records

    @pytest.mark.parametrize("kind", ["loss", "entropy"])
    def test_a_model_that_overflows_is_found_out(self, kind, build, make_batch):
        model, batch = build("bert-mlm"), make_batch("bert-mlm")
        with torch.no_grad():
            model.cls.predictions.decoder.bias.fill_(float("nan"))
        with pytest.raises(ValueError, match=r"scores\[0\] is nan at step 0"):
            Sift(model, score=kind)(**batch)


class TestBadInput:
    def test_nothing(self):
        with pytest.raises(ValueError, match="no tensor with rows; it holds: nothing"):
            Sift(Net())()

    def test_no_rows(self):
        with pytest.raises(ValueError, match="the batch has 0 rows"):
            Sift(Net())(x=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))

    def test_tensors_disagree_in_length(self):
        with pytest.raises(ValueError, match="same number of rows, but have: x 4, labels 3"):
            Sift(Net())(x=torch.zeros(4, 4), labels=torch.zeros(3, dtype=torch.long))

    def test_a_refused_batch_is_not_counted(self):
        sift = Sift(Net())
        with pytest.raises(ValueError, match="same number"):
            sift(x=torch.zeros(4, 4), labels=torch.zeros(3, dtype=torch.long))
        assert (sift.step, sift.totals.gross_samples, sift.last) == (0, 0, None)

    def test_labels_are_missing(self):
        with pytest.raises(ValueError, match="scoring needs `labels` in the batch, which holds: x"):
            Sift(Net())(x=net_batch()["x"])

    @pytest.mark.parametrize("exit_layer", [5, 100])
    def test_exit_layer(self, exit_layer, build):
        with pytest.raises(ValueError, match=r"exit_layer = .* must be a whole number in 1\.\.4, the model's layers"):
            Sift(build("bert-mlm"), exit_layer=exit_layer)

    @pytest.mark.parametrize("exit_layer", [0, -1, 1.0, True, None])
    def test_exit_layer_that_is_no_whole_number(self, exit_layer, build):
        with pytest.raises(ValueError, match=rf"exit_layer = {exit_layer} must be a whole number in 1\.\.layers, or"):
            Sift(build("bert-mlm"), exit_layer=exit_layer)

    def test_weights_that_have_no_shape_yet(self):
        model = Net()
        model.second = nn.LazyLinear(6, dtype=torch.float64)
        with pytest.raises(ValueError, match=r"weights without a shape yet \(second.weight, second.bias\): call it"):
            Sift(model)
        model(net_batch()["x"])
        Sift(model)(**net_batch())

    def test_exit_layer_of_the_protocol(self):
        with pytest.raises(ValueError, match=r"exit_layer = 3 must be a whole number in 1\.\.2"):
            Sift(Net(), exit_layer=3)

    def test_a_model_without_exits(self):
        with pytest.raises(ValueError, match=r"Linear has no stack of layers to exit from.*gsgd\.sift\.EarlyExit"):
            Sift(nn.Linear(2, 2))

    def test_a_model_without_exits_can_still_be_the_random_control(self):
        Sift(nn.Linear(2, 2), score="random")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"keep": 0}, r"keep = 0 must lie in \(0, 1\]"),
            ({"keep": 1.5}, r"keep = 1\.5 must"),
            ({"keep": -0.5}, r"keep = -0\.5 must"),
            ({"keep": float("nan")}, r"keep = nan must"),
            ({"keep": True}, r"keep = True must"),
            ({"keep": "half"}, r"keep = 'half' must"),
            ({"score": "los"}, r'score = \'los\' must be "loss", "entropy", "last-seen", "random" or a callable'),
            ({"scoring_mode": "test"}, "scoring_mode = 'test' must be one of: train, eval, frozen-batchnorm"),
            ({"scope": "world"}, "scope = 'world' must be one of: rank, global"),
            ({"on_bad_scores": "ignore"}, "on_bad_scores = 'ignore' must be one of: raise, drop, keep-all, last"),
            ({"accumulation_steps": 0}, "accumulation_steps = 0 must be a whole number of at least 1"),
            ({"accumulation_steps": 1.5}, r"accumulation_steps = 1\.5 must"),
            ({"score_batch_size": 0}, "score_batch_size = 0 must be a whole number of at least 1"),
            ({"score_batch_size": True}, "score_batch_size = True must"),
            ({"start_step": -1}, "start_step = -1 must"),
            ({"start_step": 3, "end_step": 2}, "end_step = 2 must be a whole number of at least 3"),
            ({"interrupt": 1}, "interrupt = 1 must"),
        ],
    )
    def test_arguments_out_of_range_are_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Sift(Net(), **arguments)

    def test_something_else_than_a_model(self):
        with pytest.raises(ValueError, match=r"model is a str but must be a torch\.nn\.Module"):
            Sift("bert-base-uncased")

    @pytest.mark.parametrize(
        ("returned", "message"),
        [
            ([0, 1, 2, 3], r"<lambda> returned list, but must return a tensor of k indices, torch\.int64 \(4,\)"),
            (torch.tensor([0, 1]), r"<lambda> returned torch\.int64 \(2,\)"),
            (torch.tensor([0.0, 1.0, 2.0, 3.0]), r"<lambda> returned torch\.float32 \(4,\)"),
            (torch.tensor([True] * 4), r"<lambda> returned torch\.bool \(4,\)"),
            (torch.tensor([0, 1, 1, 2]), r"<lambda> returned the row 1 more than once, but must return 4 rows"),
            (torch.tensor([0, 1, 2, 8]), r"<lambda> returned the row 8, but rows must lie in 0\.\.7"),
            (torch.tensor([0, 1, -1, 2]), r"<lambda> returned the row -1, but rows must lie in 0\.\.7"),
        ],
    )
    def test_a_rule_that_returns_something_else(self, returned, message):
        with pytest.raises(ValueError, match=message):
            Sift(Net(), select=lambda scores, k, rng: returned)(**net_batch())


class TestRules:
    RULES = (
        selectors.select_top_k,
        selectors.select_random,
        selectors.select_online_batch,
        selectors.select_selective_backprop,
        functools.partial(selectors.trim, share=0.25),
        functools.partial(selectors.trim, share=0.25, select=selectors.select_random),
    )

    @pytest.mark.parametrize("rule", RULES)
    def test_any_rule_of_gsgd_selects_as_it_does_by_itself(self, rule):
        sift = Sift(Net(), select=rule, seed=11)
        generator = torch.Generator().manual_seed(11)
        for seed in range(3):
            sift(**net_batch(seed=seed))
            expected = sorted(rule(sift.last.scores, 4, generator).tolist())
            assert sift.last.indices.tolist() == expected

    def test_one_of_ones_own(self):
        easiest = lambda scores, k, rng: torch.argsort(scores)[:k]  # noqa: E731
        sift = Sift(Net(), select=easiest)
        sift(**net_batch())
        assert sift.last.indices.tolist() == hardest((-sift.last.scores).tolist(), 4)

    def test_the_seed_decides_what_a_rule_draws(self):
        def run(seed):
            sift = Sift(Net(), score="random", seed=seed)
            kept = []
            for _ in range(6):
                sift(**net_batch())
                kept.append(sift.last.indices.tolist())
            return kept

        assert run(1) == run(1)
        assert run(1) != run(2)
        assert len({tuple(rows) for rows in run(1)}) > 1

    def test_drawing_leaves_the_global_generator_alone(self):
        model = Net()
        torch.manual_seed(5)
        before = torch.get_rng_state()
        Sift(model, score="random")(**net_batch())
        assert torch.equal(torch.get_rng_state(), before)

    def test_random_draws_every_row_equally_often(self):
        """800 draws of 4 of 8: each row 400 times, standard deviation 14.1; 71 off has a chance of 8 * 5e-7."""
        sift, counts = Sift(nn.Linear(1, 1), score="random"), torch.zeros(8)
        batch = {"x": torch.zeros(8, 1)}
        for _ in range(800):
            sift.choose(batch)
            counts[sift.last.indices] += 1
        assert (counts - 400).abs().max() < 71


class TestState:
    def run(self, sift, steps):
        kept = []
        for step in range(steps):
            sift(**net_batch(seed=step))
            kept.append(sift.last.indices.tolist())
        return kept

    def test_a_run_continues_from_a_saved_state(self):
        arguments = {"score": "random", "start_step": 2, "interrupt": 4, "seed": 4}
        whole = Sift(Net(), **arguments)
        expected = self.run(whole, 10)
        first = Sift(Net(), **arguments)
        self.run(first, 5)
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second = Sift(Net(), **(arguments | {"seed": 99}))
        second.load_state_dict(torch.load(file, weights_only=True))
        assert second.step == 5
        assert self.run(second, 5) == expected[5:]
        assert second.totals == whole.totals

    def test_a_saved_state_does_not_follow_the_run(self):
        sift = Sift(Net(), score="random")
        state = sift.state_dict()
        self.run(sift, 3)
        fresh = Sift(Net(), score="random", seed=50)
        fresh.load_state_dict(state)
        assert fresh.step == 0
        assert fresh.totals.gross_samples == 0
        assert self.run(fresh, 3) == self.run(Sift(Net(), score="random"), 3)

    def used(self, seed=0):
        """An engine with all that it may hold, in the middle of a run: readings, a moving exit, what is shared."""
        rule = AutoExit(level=0.6, every=2, first=2)
        options = {"auto": rule, "meter_every": 2, "select": selectors.select_online_batch, "seed": 5}
        sift = Sift(Net(seed), exit_layer="auto", **options)
        self.train(sift, range(5))
        sift.choose(net_batch(seed=5))
        assert sift.captured_bytes > 0
        return sift

    def train(self, sift, steps):
        found = []
        optimizer = torch.optim.SGD(sift.model.parameters(), lr=0.1)
        for step in steps:
            loss = sift(**net_batch(seed=step)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append((loss.item(), sift.exit_layer, sift.last.indices.tolist(), sift.last.scores.tolist()))
        return found

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda sift: pickle.loads(pickle.dumps(sift))])
    def test_a_copy_of_a_used_engine_goes_on_as_the_engine_would(self, duplicate):
        sift = self.used()
        other = duplicate(sift)
        assert other.model is not sift.model
        assert other.scorer.model is other.model
        assert (other.captured_bytes, other.totals, other.step) == (0, sift.totals, 6)
        assert other.last.indices.tolist() == sift.last.indices.tolist()
        assert repr(other.readings) == repr(sift.readings)
        assert (other.auto.history, other.options) == (sift.auto.history, sift.options)
        expected = self.train(sift, range(6, 12))
        assert self.train(other, range(6, 12)) == expected
        assert len({tuple(rows) for _, _, rows, _ in expected}) > 1
        assert other.totals == sift.totals
        assert repr(other.readings) == repr(sift.readings)
        assert len(sift.readings) == 6

    def test_a_copy_and_the_engine_do_not_meet(self):
        sift = self.used()
        other = copy.deepcopy(sift)
        before = repr(vars(other.totals)), other.generator.get_state(), other.exit_layer, len(other.readings)
        self.train(sift, range(6, 9))
        assert repr(vars(other.totals)) == before[0]
        assert torch.equal(other.generator.get_state(), before[1])
        assert (other.exit_layer, len(other.readings)) == before[2:]

    @pytest.mark.parametrize("kind", ["bert-pretraining", "gpt2"])
    def test_a_copy_of_an_engine_around_transformers(self, kind, build, make_batch):
        sift = Sift(build(kind, dtype="float64"), exit_layer=2, meter_every=1)
        sift(**make_batch(kind)).loss.backward()
        for other in (copy.deepcopy(sift), pickle.loads(pickle.dumps(sift))):
            loss = other(**make_batch(kind, seed=1)).loss
            loss.backward()
            again = copy.deepcopy(sift)
            expected = again(**make_batch(kind, seed=1)).loss
            assert loss.item() == expected.item()
            assert torch.equal(other.last.indices, again.last.indices)
            assert len(other.readings) == 2

    def test_what_lacks_is_named(self):
        with pytest.raises(ValueError, match="the state lacks generator, totals: it is not of a Sift"):
            Sift(Net()).load_state_dict({"calls": 3})

    def test_the_models_state_dict_and_modules_stay(self, name, build, make_batch):
        model = build(name)
        names = [key for key, _ in model.named_modules()]
        before = {key: value.clone() for key, value in model.state_dict().items()}
        sift = Sift(model)
        sift(**make_batch(name)).loss.backward()
        assert not isinstance(sift, nn.Module)
        assert [key for key, _ in model.named_modules()] == names
        assert list(model.state_dict()) == list(before)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert all(module.training for module in model.modules())


class TestPrecision:
    @pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
    @pytest.mark.parametrize("kind", ["bert-mlm", "gpt2", "vit"])
    def test_a_model_of_any_dtype(self, dtype, kind, build, make_batch, stack_of, truncated, row_scores):
        model, batch = build(kind, dtype=dtype), make_batch(kind, dtype=dtype)
        short, reference = truncated(model, stack_of(kind), 2).eval(), copy.deepcopy(model)
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        with torch.no_grad():
            scores = row_scores(short(**inputs).logits, batch["labels"], "loss", kind == "gpt2")
        sift = Sift(model, exit_layer=2, **EXACT)
        loss = sift(**batch).loss
        loss.backward()
        assert sift.last.scores.dtype == (torch.float64 if dtype == "float64" else torch.float32)
        found = [value for value in sift.last.scores.tolist() if value > -1e30]
        # Half precision: the head sees other shapes here and there, which rounds its sums otherwise.
        tolerance = 3e-2 if dtype == "bfloat16" else 1e-5
        assert found == pytest.approx([value for value in scores if value > -1e30], rel=tolerance)
        if dtype != "bfloat16":
            assert sift.last.indices.tolist() == hardest(scores, 4)
        expected = reference(**rows_of(batch, sift.last.indices.tolist())).loss
        expected.backward()
        assert torch.equal(loss, expected)
        assert_same_gradients(gradients(model), gradients(reference), rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("kind", ["bert-mlm", "gpt2", "vit"])
    def test_gradients_survive_scoring_inside_the_users_autocast(self, dtype, kind, build, make_batch):
        """The cast weights that autocast keeps are those of a pass without gradients (pytorch #112583)."""
        model, batch = build(kind), make_batch(kind)
        reference = copy.deepcopy(model)
        sift = Sift(model, **EXACT)
        with torch.autocast("cpu", dtype=dtype):
            loss = sift(**batch).loss
        loss.backward()
        with torch.autocast("cpu", dtype=dtype):
            expected = reference(**rows_of(batch, sift.last.indices.tolist())).loss
        expected.backward()
        assert torch.equal(loss, expected)
        assert all(p.grad is not None for key, p in model.named_parameters() if "pooler" not in key)
        assert_same_gradients(gradients(model), gradients(reference), rtol=0, atol=0)

    def test_the_scoring_pass_runs_in_the_users_precision_and_fills_no_cache(self):
        model, seen = Net(dtype=torch.float32), []
        batch = net_batch() | {"x": net_batch()["x"].float()}

        def own(logits, labels):
            seen.append((logits.dtype, torch.is_autocast_cache_enabled()))
            return logits[:, 0].float()

        with torch.autocast("cpu", dtype=torch.bfloat16):
            Sift(model, score=own)(**batch)
        # torch 2.13 gives the training pass its gradients even if scoring has filled the cache; others did not.
        assert seen == [(torch.bfloat16, False)]

    def test_autocasts_cache_works_on_after_scoring(self):
        """Twice the same model in one block: the second time, weights come from the cache, as without Sift."""
        model, batch = Net(dtype=torch.float32), net_batch() | {"x": net_batch()["x"].float()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            Sift(model)(**batch)
            assert torch.is_autocast_cache_enabled()
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16

    def test_float16_with_a_gradient_scaler(self, build, make_batch):
        model, batch = build("bert-mlm"), make_batch("bert-mlm")
        reference = copy.deepcopy(model)
        sift = Sift(model, **EXACT)
        kept = []

        def train(trained, forward):
            optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            for step in range(3):
                with torch.autocast("cpu", dtype=torch.float16):
                    loss = forward(step)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()

        def selecting(step):
            loss = sift(**batch).loss
            kept.append(sift.last.indices.tolist())
            return loss

        before = copy.deepcopy(model.state_dict())
        train(model, selecting)
        train(reference, lambda step: reference(**rows_of(batch, kept[step])).loss)
        assert not torch.equal(before["cls.predictions.decoder.bias"], model.cls.predictions.decoder.bias)
        for (key, found), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=key)


# Tracing GPT-2, dynamo looks at `.grad` of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
class TestCompile:
    """Compiling takes its time for each layer: there is one after the exit."""

    @pytest.mark.parametrize("kind", ["bert-mlm", pytest.param("gpt2", marks=pytest.mark.slow), "vit"])
    @pytest.mark.parametrize("in_place", [False, True])
    def test_same_rows_and_loss_as_uncompiled(self, kind, in_place, build, make_batch):
        torch.compiler.reset()
        model = build(kind, layers=3)
        reference = Sift(copy.deepcopy(model), exit_layer=2, **EXACT)
        if in_place:
            model.compile(backend="eager")
            sift = Sift(model, exit_layer=2, **EXACT)
        else:
            sift = Sift(torch.compile(model, backend="eager"), exit_layer=2, **EXACT)
        for seed in (0, 1):
            batch = make_batch(kind, seed=seed)
            loss, expected = sift(**batch).loss, reference(**batch).loss
            loss.backward()
            expected.backward()
            assert torch.equal(sift.last.indices, reference.last.indices)
            assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert_same_gradients(gradients(model), gradients(reference.model), rtol=1e-5, atol=1e-7)

    def test_with_the_head_on_labelled_positions(self, build, make_batch):
        """The hook comes and goes between compiled calls, with another number of positions each time."""
        torch.compiler.reset()
        model = build("bert-mlm", layers=2)
        reference = copy.deepcopy(model)
        compiled = torch.compile(model, backend="eager")
        plain, labelled = Sift(compiled, **EXACT), Sift(compiled, labelled_head=True, **EXACT)
        for seed, sift in enumerate((plain, labelled, labelled, plain, labelled)):
            batch = make_batch("bert-mlm", seed=seed)
            output = sift(**batch)
            expected = reference(**rows_of(batch, sift.last.indices.tolist())).loss
            assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
            assert len(output.logits) == (4 if sift is plain else 1)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
class TestGradientCheckpointing:
    @pytest.mark.parametrize("reentrant", [False, True])
    @pytest.mark.parametrize("kind", ["bert-mlm", "gpt2", "vit", "llama"])
    def test_same_gradients_and_no_warning(self, kind, reentrant, build, make_batch, caplog):
        model, batch = build(kind, dtype="float64"), make_batch(kind, dtype="float64")
        model.config.use_cache = False  # transformers would say so itself
        reference = copy.deepcopy(model)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            model.enable_input_require_grads()
        runs = []
        layer = next(m for _, m in model.named_modules() if hasattr(m, "gradient_checkpointing") and m is not model)
        layer.register_forward_pre_hook(lambda *_: runs.append(torch.is_grad_enabled()))
        # Dropout is 0, so training mode is exact, too; in eval mode the layers would not checkpoint anyway.
        plain = Sift(reference, exit_layer=2, scoring_mode="train")
        expected = plain(**batch).loss
        expected.backward()
        sift = Sift(model, exit_layer=2, scoring_mode="train")
        transformers_logger = logging.getLogger("transformers")
        transformers_logger.addHandler(caplog.handler)
        try:
            loss = sift(**batch).loss
            loss.backward()
        finally:
            transformers_logger.removeHandler(caplog.handler)
        assert torch.equal(sift.last.indices, plain.last.indices)
        assert loss.item() == expected.item()
        assert_same_gradients(gradients(model), gradients(reference), rtol=1e-10, atol=1e-12)
        records = [record for record in caplog.records if record.name.startswith("transformers")]
        assert not [record for record in records if "checkpoint" in record.getMessage()]
        assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        assert runs[0] is False  # scoring ran this layer once, without gradients


# peft 0.21 asks transformers 5.23 for attributes that the latter has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
class TestPeft:
    @pytest.mark.parametrize("kind", ["gpt2", "bert-classifier"])
    def test_adapters_train_on_the_rows_that_the_adapted_model_finds_hardest(self, kind, build, make_batch, row_scores):
        peft = pytest.importorskip("peft")
        targets, fan = (["c_attn"], True) if kind == "gpt2" else (["query", "value"], False)
        task = "CAUSAL_LM" if kind == "gpt2" else "SEQ_CLS"
        config = peft.LoraConfig(
            target_modules=targets, fan_in_fan_out=fan, task_type=task, init_lora_weights=False, r=4
        )
        torch.manual_seed(0)
        model = peft.get_peft_model(build(kind), config)
        model.train()
        reference, batch = copy.deepcopy(model), make_batch(kind)
        layers = reference.get_base_model()
        if kind == "gpt2":
            layers.transformer.h = nn.ModuleList(list(layers.transformer.h)[:2])
        else:
            layers.bert.encoder.layer = nn.ModuleList(list(layers.bert.encoder.layer)[:2])
        with torch.no_grad():
            logits = reference.eval()(**{key: value for key, value in batch.items() if key != "labels"}).logits
        whole = copy.deepcopy(model)
        sift = Sift(model, exit_layer=2, **EXACT)
        loss = sift(**batch).loss
        loss.backward()
        kept = hardest(row_scores(logits, batch["labels"], "loss", kind == "gpt2"), 4)
        assert sift.last.indices.tolist() == kept
        expected = whole(**rows_of(batch, kept)).loss
        expected.backward()
        assert torch.equal(loss, expected)
        assert_same_gradients(gradients(model), gradients(whole), rtol=0, atol=0)
        assert any("lora" in key and p.grad is not None for key, p in model.named_parameters())


class TestCalledAsTheModelIs:
    def test_hidden_states_are_the_models(self, build, make_batch):
        model, batch = build("bert-mlm"), make_batch("bert-mlm")
        reference = copy.deepcopy(model)
        sift = Sift(model, exit_layer=2, **EXACT)
        found = sift(**batch, output_hidden_states=True).hidden_states
        rows = rows_of(batch, sift.last.indices.tolist())
        expected = reference(**rows, output_hidden_states=True).hidden_states
        assert len(found) == len(expected) == 5
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    def test_what_is_no_tensor_is_passed_on(self, build, make_batch):
        output = Sift(build("gpt2"))(**make_batch("gpt2"), use_cache=False)
        assert output.past_key_values is None

    def test_a_batch_encoding_works(self, build, make_batch):
        batch = transformers.BatchEncoding(make_batch("bert-mlm"))
        assert Sift(build("bert-mlm"))(**batch).logits.shape[0] == 4

    def test_choose_and_forward_kept_are_the_two_halves_of_a_call(self, build, make_batch):
        model, batch = build("gpt2"), make_batch("gpt2")
        whole, halves = Sift(model, **EXACT), Sift(model, **EXACT)
        rows = halves.choose(batch)
        assert {key: len(value) for key, value in rows.items()} == dict.fromkeys(batch, 4)
        assert torch.equal(halves.forward_kept(rows).loss, whole(**batch).loss)

    def test_the_batch_stays_whole(self, build, make_batch):
        batch = make_batch("gpt2")
        before = {key: value.clone() for key, value in batch.items()}
        Sift(build("gpt2"))(**batch)
        assert all(torch.equal(batch[key], value) for key, value in before.items())

    def test_every_score_of_gsgd_can_be_passed(self, build, make_batch):
        for function in (score_functions.margin, score_functions.gradient_norm_bound, score_functions.cross_entropy):
            sift = Sift(build("gpt2"), score=function, **EXACT)
            sift(**make_batch("gpt2"))
            assert sift.last.indices.tolist() == hardest(sift.last.scores.tolist(), 4)
