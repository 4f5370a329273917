"""The task end to end, on documents whose words tell them apart; the model and its judge by hand."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from training.config import build
from training.text import TextSettings, TextTask
from training.text.task import build_bert

LENGTH = 48
OWN = 200
"""Words of each document, see `conftest`."""
DOT = 1012
ALARM = 1e-6
"""Chance that a correct implementation fails one of the stochastic checks below."""
SMALL = {"sequence_length": LENGTH, "layers": 1, "hidden_size": 16, "heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


@pytest.fixture(scope="module")
def documents(make_documents):
    return make_documents(60, sentences=80)


@pytest.fixture(scope="module")
def make_task(folder, documents, write_parquet):
    path = write_parquet(folder / "documents.parquet", documents)

    def make(seed=0, **changes):
        options = {"data": (path,), "validation_share": 0.2, "test_share": 0.1, "cache_dir": str(folder)} | SMALL
        return TextTask(TextSettings(**(options | changes)), seed)

    return make


@pytest.fixture(scope="module")
def task(make_task):
    return make_task()


def all_rows(task, epoch=0):
    return task.training_batch(np.arange(task.train_size), epoch)


def unmasked(batch):
    return torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])


def joined(batches):
    batches = list(batches)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.fixture(scope="module")
def document_of_id(words):
    """The document that a token id is from, -1 for the full stop and special tokens."""
    table = np.full(30522, -1)
    for place, (_, number) in enumerate(words[: 60 * OWN]):
        table[number] = place // OWN
    return table


def documents_in(batch, document_of_id):
    return set(document_of_id[unmasked(batch).numpy()].ravel().tolist()) - {-1}


def test_a_batch_is_laid_out_as_bert_has_it(task, words, documents, document_of_id):
    ids = dict(words)
    batch = all_rows(task)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels", "next_sentence_label"}
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert batch["input_ids"].shape == (task.train_size, LENGTH)
    flat = [[token for sentence in d for token in [*(ids[word] for word in sentence), DOT]] for d in documents]
    streams = [" ".join(map(str, tokens)) for tokens in flat]
    for row, segments, attention, label in zip(
        unmasked(batch).tolist(),
        batch["token_type_ids"].tolist(),
        batch["attention_mask"].tolist(),
        batch["next_sentence_label"].tolist(),
        strict=True,
    ):
        first, second = (place for place, token in enumerate(row) if token == 102)
        size = second + 1
        assert row[0] == 101
        assert attention == [1] * size + [0] * (LENGTH - size)
        assert segments == [0] * (first + 1) + [1] * (second - first) + [0] * (LENGTH - size)
        assert row[size:] == [0] * (LENGTH - size)
        a, b = row[1:first], row[first + 1 : second]
        origin = [{document_of_id[token] for token in part if token != DOT} for part in (a, b)]
        if label == 0 and origin[0] and origin[1]:
            assert origin[0] == origin[1]
            stream = streams[origin[0].pop()].split()
            text_a, text_b = " ".join(map(str, a)), " ".join(map(str, b))
            assert " ".join(stream).find(text_b) > " ".join(stream).find(text_a) >= 0
        elif origin[0] and origin[1]:
            assert origin[0].isdisjoint(origin[1])
    assert 0.3 < batch["next_sentence_label"].double().mean() < 0.7


def test_a_row_is_the_same_in_every_batch(task):
    whole = all_rows(task, epoch=3)
    rows = np.array([5, 0, 17])
    part = task.training_batch(rows, 3)
    assert all(torch.equal(part[name], whole[name][rows]) for name in whole)


def test_masking_rate_and_its_independence_across_epochs(task):
    """Of n eligible tokens, .15 are predicted in an epoch, .15^2 in both of two, .15^3 in all of three: each count
    within its binomial bounds at level `ALARM`; with n > 20,000 these are within .013 of the shares, and
    masks that stay for two epochs give .15 where .0225 is due."""
    epochs = [all_rows(task, epoch) for epoch in range(3)]
    plain = unmasked(epochs[0])
    for batch in epochs[1:]:
        assert torch.equal(unmasked(batch), plain)
    eligible = ~torch.isin(plain, torch.tensor([0, 101, 102]))
    predicted = [batch["labels"] != -100 for batch in epochs]
    assert not any((chosen & ~eligible).any() for chosen in predicted)
    # Equal rows are masked alike: only one of them is a draw.
    _, first = np.unique(plain.numpy(), axis=0, return_index=True)
    total = int(eligible[first].sum())
    assert total > 20_000
    for share, chosen in (
        (0.15, predicted[0]),
        (0.15, predicted[1]),
        (0.15**2, predicted[0] & predicted[1]),
        (0.15**2, predicted[1] & predicted[2]),
        (0.15**3, predicted[0] & predicted[1] & predicted[2]),
    ):
        count = int(chosen[first].sum())
        assert binom.ppf(ALARM / 2, total, share) <= count <= binom.isf(ALARM / 2, total, share)


def test_mask_share_is_the_settings(make_task):
    batch = all_rows(make_task(mask_share=0.4))
    eligible = ~torch.isin(unmasked(batch), torch.tensor([0, 101, 102]))
    share = ((batch["labels"] != -100) & eligible).sum() / eligible.sum()
    assert 0.38 < share < 0.42


def test_no_document_is_in_two_splits(task, document_of_id):
    found = {split: documents_in(joined(task.held_out(split, 64)), document_of_id) for split in ("validation", "test")}
    found["train"] = documents_in(all_rows(task), document_of_id)
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 60
    assert {split: len(chosen) for split, chosen in found.items()} == task.description["documents"]


def test_adding_documents_moves_none(task, folder, make_task, make_documents, write_parquet, document_of_id):
    added = write_parquet(folder / "added.parquet", make_documents(20, first=60))
    larger = make_task(data=(added, *task.settings.data))
    assert larger.description["documents"]["train"] > task.description["documents"]["train"]
    for split in ("validation", "test"):
        before = documents_in(joined(task.held_out(split, 64)), document_of_id)
        assert documents_in(joined(larger.held_out(split, 64)), document_of_id) == before


def test_held_out_rows_are_the_same_for_all_seeds_and_epochs(task, make_task):
    first = joined(task.held_out("validation", 7))
    task.training_batch(np.arange(3), 5)
    other = make_task(seed=3)
    for again in (task.held_out("validation", 64), other.held_out("validation", 7)):
        again = joined(again)
        assert all(torch.equal(again[name], first[name]) for name in first)
    assert len(first["labels"]) == task.description["rows"]["validation"]
    ours, theirs = (t.training_batch(np.arange(20), 0)["input_ids"] for t in (task, other))
    assert not torch.equal(ours, theirs)


def test_validation_rows_are_capped_evenly(task, make_task):
    whole = joined(task.held_out("validation", 64))["input_ids"]
    capped = joined(make_task(max_validation_rows=10).held_out("validation", 64))["input_ids"]
    assert len(capped) == 10
    places = [int(torch.nonzero((whole == row).all(1))[0]) for row in capped]
    steps = np.diff(places)
    assert places[0] == 0
    assert steps.max() - steps.min() <= 1
    assert places[-1] + steps.max() + 1 >= len(whole)


def test_validation_data_of_its_own_is_not_trained_on(folder, make_task, make_documents, write_parquet, document_of_id):
    # Two of the training documents, and two new ones.
    mixed = make_documents(2, sentences=80) + make_documents(2, sentences=80, first=70, seed=2)
    task = make_task(validation_data=(write_parquet(folder / "own.parquet", mixed),))
    # The generator draws document after document, so the first two are those of `documents`.
    held_out = documents_in(joined(task.held_out("validation", 64)), document_of_id)
    trained = documents_in(all_rows(task), document_of_id)
    assert held_out == {0, 1}
    assert trained.isdisjoint({0, 1})
    assert task.description["documents"]["validation"] == 4
    assert task.description["documents"]["train"] + task.description["documents"]["test"] == 58
    assert task.description["validation_sources"][0]["documents"] == 4


def test_a_smaller_vocabulary_keeps_the_most_frequent_training_tokens(task, make_task):
    smaller = make_task(vocab_limit=105)
    assert smaller.vocab_size == 105
    kept = smaller.kept_ids.tolist()
    assert kept[:5] == [0, 100, 101, 102, 103]
    tokens, counts = task._tokens["train"], Counter()
    for document in range(60):
        first, last = (tokens.sentences[tokens.documents[document + i]] for i in (0, 1))
        held_out = tokens.hashes[document] / 2**64
        if 0.2 <= held_out < 0.9:
            counts.update(tokens.ids[first:last].tolist())
    assert kept[5:] == sorted(counts, key=lambda token: (-counts[token], token))[:100]

    before, after = unmasked(all_rows(task)), unmasked(all_rows(smaller))
    translated = torch.tensor([kept.index(t) if t in kept else 1 for t in range(30522)])[before]
    assert torch.equal(after, translated)
    labels = all_rows(smaller)["labels"]
    assert not torch.isin(labels, torch.arange(5)).any()
    assert labels.max() <= 104
    assert smaller.build_model().get_input_embeddings().num_embeddings == 105
    assert make_task(vocab_limit=40000).vocab_size == 30522


def test_judge_counts_masked_tokens_only(monkeypatch):
    monkeypatch.setattr("training.text.task._JUDGED_AT_ONCE", 3)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 6, 9)).astype(np.float32)
    labels = np.where(rng.random((4, 6)) < 0.5, rng.integers(9, size=(4, 6)), -100)
    labels[1] = -100
    expected_loss, expected_correct = 0.0, 0
    for row, column in np.argwhere(labels != -100):
        line, label = logits[row, column].astype(np.float64), labels[row, column]
        expected_loss += np.log(np.exp(line).sum()) - line[label]
        expected_correct += int(line.argmax() == label)
    batch = {"labels": torch.from_numpy(labels)}
    output = SimpleNamespace(prediction_logits=torch.from_numpy(logits))
    correct, loss, total = TextTask.judge(None, output, batch)
    assert int(correct) == expected_correct > 0
    assert float(loss) == pytest.approx(expected_loss, rel=1e-6)
    assert int(total) == (labels != -100).sum()
    nothing = TextTask.judge(None, output, {"labels": torch.full((4, 6), -100)})
    assert [float(value) for value in nothing] == [0, 0, 0]


def test_judge_agrees_with_the_models_own_loss(task):
    torch.manual_seed(0)
    model = task.build_model().eval()
    batch = next(iter(task.held_out("validation", 16)))
    with torch.no_grad():
        output = model(**batch)
        next_sentence = torch.nn.functional.cross_entropy(output.seq_relationship_logits, batch["next_sentence_label"])
    _, loss, total = task.judge(output, batch)
    # The training loss is the sum of the two means (Appendix F).
    assert float(loss / total + next_sentence) == pytest.approx(float(output.loss), rel=1e-5)


def test_the_default_model_is_the_papers():
    with torch.device("meta"):
        model = build_bert(TextSettings())
    vocabulary, hidden, inner, layers, positions = 30522, 768, 3072, 12, 512
    embeddings = (vocabulary + positions + 2) * hidden + 2 * hidden
    layer = 4 * (hidden + 1) * hidden + (hidden + 1) * inner + (inner + 1) * hidden + 4 * hidden
    heads = 2 * (hidden + 1) * hidden + 2 * hidden + vocabulary + 2 * (hidden + 1)
    assert sum(p.numel() for p in model.parameters()) == embeddings + layers * layer + heads == 110_106_428
    config = model.config
    assert config.hidden_act == "gelu"
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1
    assert config.num_attention_heads == 12


def test_sizes_of_the_model_are_the_settings(make_task):
    config = make_task(dropout=0.3).build_model().config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (1, 16, 2)
    assert (config.intermediate_size, config.max_position_embeddings, config.vocab_size) == (32, LENGTH, 30522)
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.3


def test_the_embedded_text_works_at_once(tmp_path):
    task = TextTask(TextSettings(sequence_length=128, test_share=0.05, cache_dir=str(tmp_path)), 0)
    assert sum(task.description["documents"].values()) == 178
    assert task.train_size > 5000
    for split in ("validation", "test"):
        assert sum(len(batch["labels"]) for batch in task.held_out(split, 32)) >= 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "data = .. must have at least 1 item"),
        ({"data": 3}, "data = 3 must be a valid tuple"),
        ({"validation_data": ("",)}, "validation_data = '' must have at least 1 character"),
        ({"sequence_length": 7}, "sequence_length = 7 must be greater than or equal to 8"),
        ({"layers": 0}, "layers = 0 must be greater than or equal to 1"),
        ({"layers": 2.5}, "layers = 2.5 must be a valid integer"),
        ({"hidden_size": 770}, "hidden_size = 770 must be a multiple of heads = 12"),
        ({"dropout": 1.0}, "dropout = 1.0 must be less than 1"),
        ({"mask_share": 0}, "mask_share = 0 must be greater than 0"),
        ({"short_share": -0.1}, "short_share = -0.1 must be greater than or equal to 0"),
        ({"validation_share": 0.6, "test_share": 0.4}, "must together be less than 1"),
        ({"vocab_limit": 5}, "vocab_limit = 5 must be 0 .off., or more than the 5 special"),
        ({"max_validation_rows": -1}, "max_validation_rows = -1"),
        ({"validation_share": "a"}, "validation_share = 'a' must be a valid number"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        build("x", {"task": "bert", **changes})


def test_settings_can_be_written_as_lists():
    assert TextSettings(data=["a", "b"]).data == ("a", "b")
    assert dataclasses.replace(TextSettings(), layers=3).layers == 3


def test_bad_calls(make_task, task):
    with pytest.raises(ValueError, match="seed = -1 must be"):
        make_task(seed=-1)
    with pytest.raises(ValueError, match="split = 'train' must be one of: validation, test"):
        task.held_out("train", 8)
    with pytest.raises(ValueError, match="batch_size = 0"):
        task.held_out("test", 0)
    with pytest.raises(ValueError, match="the test split is empty: set test_share"):
        make_task(test_share=0.0).held_out("test", 8)
    with pytest.raises(ValueError, match=r"the validation split: .* at least 2 documents"):
        make_task(validation_share=0.0001)
    with pytest.raises(IndexError):
        task.training_batch(np.array([task.train_size]), 0)


def test_the_description_says_nothing_of_where_files_lie(tmp_path):
    path = tmp_path / "deep" / "books.txt"
    path.parent.mkdir()
    path.write_text("\n\n\n".join(f"A first sentence {n}. A second one {n}." for n in range(40)))
    settings = TextSettings(
        data=(str(path), "embedded"), validation_share=0.2, sequence_length=16, cache_dir=str(tmp_path / "cache")
    )
    described = TextTask(settings, 0).description
    assert [source["source"] for source in described["sources"]] == ["books.txt", "embedded"]
    assert str(tmp_path) not in str(described)
