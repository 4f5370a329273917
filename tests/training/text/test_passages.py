"""Passages by hand: where they start, whose they are, how they are split, and what the model is given."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from training.text.passage_task import PassageTask
from training.text.passages import cut_into_passages, labelled_documents
from training.text.settings import PassageSettings

LENGTH = 10
SHARES = {"test_share": 0.2, "validation_share": 0.2}
SMALL = {"sequence_length": LENGTH, "layers": 2, "hidden_size": 16, "heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def written(tmp_path_factory, make_documents):
    """Six documents of which each has words of its own, by three authors."""
    path = tmp_path_factory.mktemp("passages") / "books.parquet"
    documents = make_documents(6, sentences=60)
    texts = [" ".join(word for sentence in document for word in sentence) for document in documents]
    titles = ["Eliot A", "Eliot B", "Hardy A", "Hardy B", "Hardy C", "Woolf A"]
    pq.write_table(pa.table({"title": titles, "text": texts}), path)
    return path, texts


@pytest.fixture(scope="module")
def task_of(written, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")

    def make(**changes):
        values = {
            "data": str(written[0]),
            "cache_dir": str(folder),
            "test_share": 0.2,
            "validation_share": 0.2,
            **SMALL,
        }
        return PassageTask(PassageSettings(**(values | changes)), 0)

    return make


def rows_of(batches, task):
    """(words of each passage, its class), of all batches."""
    ids = torch.cat([batch["input_ids"] for batch in batches])
    labels = torch.cat([batch["labels"] for batch in batches])
    return ids, labels


def every(task):
    return [
        task.training_batch(np.arange(task.train_size), 0),
        *task.held_out("validation", 7),
        *task.held_out("test", 7),
    ]


def test_passages_do_not_overlap_and_fill_each_document():
    class Tokens:
        sentences = np.array([0, 3, 7, 12, 14])
        documents = np.array([0, 2, 3, 4])  # of 7, 5 and 2 tokens

    starts, documents = cut_into_passages(Tokens, 3)
    assert starts.tolist() == [0, 3, 7]
    assert documents.tolist() == [0, 0, 1]


def test_every_passage_is_of_the_class_of_its_words(task_of, written, words):
    task = task_of(max_held_out_rows=0)
    number = dict(words)
    document_of = {number[word]: place for place, text in enumerate(written[1]) for word in text.split()}
    ids, labels = rows_of(every(task), task)
    assert (ids[:, 0] == 101).all()  # [CLS] and [SEP] of bert-base-uncased
    assert (ids[:, -1] == 102).all()
    for passage, label in zip(ids[:, 1:-1].tolist(), labels.tolist(), strict=True):
        assert {document_of[each] for each in passage} == {label}
    # All passages, each once: a document of n words has n // 8.
    assert len(ids) == sum(len(text.split()) // (LENGTH - 2) for text in written[1])
    assert len(torch.unique(ids, dim=0)) == len(ids)


def test_classes_are_what_the_pattern_finds(task_of):
    task = task_of(label_pattern="^[A-Z][a-z]+")
    assert task.description["class_names"] == ["Eliot", "Hardy", "Woolf"]
    assert task.num_labels == 3
    whole = task_of()
    assert whole.num_labels == 6
    assert whole.description["content"] != task.description["content"]


def test_shares_are_held_out_of_each_class(task_of):
    task = task_of(max_held_out_rows=0)
    held = {split: rows_of(list(task.held_out(split, 9)), task)[1].bincount() for split in ("validation", "test")}
    train = task.training_batch(np.arange(task.train_size), 0)["labels"].bincount()
    total = train + held["validation"] + held["test"]
    assert held["test"].tolist() == [int(0.2 * size + 0.5) for size in total.tolist()]
    assert held["validation"].tolist() == [int(0.2 * size + 0.5) for size in (total - held["test"]).tolist()]


def test_limits_and_alterations(task_of):
    task = task_of(max_held_out_rows=5, train_limit=12, copies=3)
    assert [len(batch["labels"]) for batch in task.held_out("test", 9)] == [5]
    batch = task.training_batch(np.arange(task.train_size), 0)
    assert len(batch["labels"]) == 36
    assert batch["labels"].bincount().tolist() == [6] * 6
    assert len(torch.unique(batch["input_ids"], dim=0)) == 12
    with pytest.raises(ValueError, match="train_limit = 9999 but there are"):
        task_of(train_limit=9999)


def test_a_smaller_vocabulary_keeps_the_most_frequent_words(task_of):
    task = task_of(vocab_limit=50)
    ids, _ = rows_of(every(task), task)
    assert task.vocab_size == 50
    assert ids.max() < 50
    assert (ids == 1).any()  # [UNK]
    assert task.build_model().config.vocab_size == 50


def test_the_model_reads_the_batches(task_of):
    task = task_of()
    torch.manual_seed(0)
    model = task.build_model().eval()
    batch = task.training_batch(np.arange(5), 0)
    output = model(**batch)
    assert output.logits.shape == (5, 6)
    expected = -output.logits.log_softmax(1)[torch.arange(5), batch["labels"]]
    correct, loss, count = task.judge(output, batch)
    torch.testing.assert_close(loss, expected.sum())
    torch.testing.assert_close(output.loss, expected.mean())
    assert (correct, count) == ((output.logits.argmax(1) == batch["labels"]).sum(), 5)


def test_documents_without_text_have_no_name(tmp_path):
    path = tmp_path / "books.parquet"
    pq.write_table(pa.table({"title": ["a", None, "b", None], "text": ["one two", " \n", "three", None]}), path)
    found = labelled_documents(str(path), label_column="title")
    assert found.class_names == ("a", "b")
    assert found.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({"name": ["a", "b"], "text": ["x", "y"]}, {}, "label_column = 'title' is not among its columns name, text"),
        ({"title": ["a", None], "text": ["x", "y"]}, {}, "column title: a document has no name"),
        ({"title": ["a", "a"], "text": ["x", "y"]}, {}, "must have documents of at least 2 classes, but has 1"),
        ({"title": [0.5, 1.5], "text": ["x", "y"]}, {}, "column title: names are of type double"),
        (
            {"title": ["a", "b"], "text": ["x", "y"]},
            {"label_pattern": "a"},
            "label_pattern = 'a' finds nothing in the title 'b'",
        ),
    ],
)
def test_what_cannot_be_labelled_is_refused(tmp_path, columns, changes, message):
    path = tmp_path / "books.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ValueError, match=message):
        labelled_documents(str(path), **({"label_column": "title"} | changes))


def test_only_tables_are_read(tmp_path):
    (tmp_path / "book.txt").write_text("words")
    with pytest.raises(ValueError, match="must be embedded, a parquet file, or a folder of parquet files"):
        labelled_documents(str(tmp_path / "book.txt"), label_column="title")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_share": 0.0}, "validation_share = 0 leaves nothing to validate on"),
        ({"validation_share": 0.6, "test_share": 0.5}, "must together be less than 1, to leave passages to train on"),
        ({"label_pattern": "("}, r"label_pattern = '\(' must be a regular expression"),
        ({"heads": 7}, "hidden_size = 768 must be a multiple of heads = 7"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        PassageSettings(**changes)


def test_a_proxy_scores_passages_by_its_own_losses(task_of):
    from gsgd.sift import Proxy, Sift

    task = task_of(proxy_size=8)
    torch.manual_seed(0)
    model, proxy = task.build_model(), task.build_proxy().eval()
    batch = task.training_batch(np.arange(6), 0)
    losses = -proxy(**batch).logits.log_softmax(1)[torch.arange(6), batch["labels"]]
    sift = Sift(model, score=Proxy(proxy, lr=1e-3), keep=0.5)
    sift(**batch)
    assert sorted(sift.last.indices.tolist()) == sorted(losses.argsort(descending=True)[:3].tolist())
