"""Sources of documents: local files in the hub's layouts, text files, and the hub through a stand-in."""

import gzip
import logging
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.text.documents import EMBEDDED, HubDataset, LocalFiles, parse_source


def read(name):
    return list(parse_source(str(name)).documents())


def bookcorpus(path, rows=2500):
    """One sentence a row, lower-case and tokenised by spaces, in a table with no other column."""
    sentences = [f"usually , he would be tearing around the living room , number {i} ." for i in range(rows)]
    pq.write_table(pa.table({"text": sentences}), path)
    return sentences


def wikipedia(path):
    texts = ["Anarchism is a philosophy. It is old.\n\nHistory\n\nIt began. Then it grew.", "Autism is a condition."]
    columns = {"id": ["12", "25"], "url": ["u", "v"], "title": ["Anarchism", "Autism"], "text": texts}
    pq.write_table(pa.table(columns), path)


def test_bookcorpus_layout_gives_runs_of_rows(tmp_path, caplog):
    sentences = bookcorpus(tmp_path / "0000.parquet")
    with caplog.at_level(logging.INFO):
        found = read(tmp_path / "0000.parquet")
    assert found == [sentences[:1000], sentences[1000:2000], sentences[2000:]]
    assert "one sentence a row" in caplog.text


def test_wikipedia_layout_gives_a_document_a_row(tmp_path):
    wikipedia(tmp_path / "train.parquet")
    assert read(tmp_path / "train.parquet") == [
        ["Anarchism is a philosophy.", "It is old.", "History", "It began.", "Then it grew."],
        ["Autism is a condition."],
    ]


def test_the_layout_can_be_said(tmp_path):
    sentences = bookcorpus(tmp_path / "a.parquet", rows=20)
    assert read(f"{tmp_path / 'a.parquet'}:documents") == [[sentence] for sentence in sentences]
    pq.write_table(pa.table({"title": ["x", "x", "x"], "text": ["one. Two.", "", "three."]}), tmp_path / "b.parquet")
    assert read(f"{tmp_path / 'b.parquet'}:sentences") == [["one. Two."], ["three."]]
    assert read(tmp_path / "b.parquet") == [["one.", "Two."], ["three."]]


def test_a_table_of_documents_without_other_columns_is_not_taken_for_sentences(tmp_path):
    pq.write_table(
        pa.table({"text": ["One is here. Two is there.", "Three. Four.", None, "Five"]}), tmp_path / "t.parquet"
    )
    assert read(tmp_path / "t.parquet") == [["One is here.", "Two is there."], ["Three.", "Four."], ["Five"]]


def test_prose_ends_paragraphs_at_one_blank_line_and_documents_at_two(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text(
        "\ufeff\n\n\nChapter one\n\nIt was\nlate. Very late.\n\n \n\nChapter two\n\nMorning.\n\n", encoding="utf-8"
    )
    expected = [["Chapter one", "It was late.", "Very late."], ["Chapter two", "Morning."]]
    assert read(path) == expected
    with gzip.open(tmp_path / "prose.txt.gz", "wt", encoding="utf-8") as file:
        file.write(path.read_text(encoding="utf-8-sig"))
    assert read(tmp_path / "prose.txt.gz") == expected


def test_one_sentence_a_line_ends_documents_at_a_blank_line(tmp_path):
    path = tmp_path / "books.txt"
    path.write_text("he left . She stayed .\nit rained .\n\n\nanother book .\n")
    assert read(f"{path}:sentences") == [["he left . She stayed .", "it rained ."], ["another book ."]]


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("Third.")
    (tmp_path / "b.txt").write_text("Second.")
    (tmp_path / "notes.md").write_text("Not this.")
    wikipedia(tmp_path / "a.parquet")
    assert [document[0] for document in read(tmp_path)] == [
        "Anarchism is a philosophy.",
        "Autism is a condition.",
        "Second.",
        "Third.",
    ]


def test_the_embedded_text_is_moby_dick_and_speeches():
    documents = read("embedded")
    assert len(documents) == 178
    assert documents[0][:1] == ["Call me Ishmael."]
    assert documents[136][0] == "This last few months has not been an easy time for any of us."


@pytest.mark.parametrize(
    ("name", "dataset", "config", "revision"),
    [
        ("bookcorpus", "bookcorpus/bookcorpus", None, "refs/convert/parquet"),
        ("bookcorpus@main", "bookcorpus/bookcorpus", None, "main"),
        ("wikimedia/wikipedia:20231101.en", "wikimedia/wikipedia", "20231101.en", "main"),
        ("wikimedia/wikipedia:20231101.en@b04c8d1:documents", "wikimedia/wikipedia", "20231101.en", "b04c8d1"),
    ],
)
def test_names_of_the_hub(name, dataset, config, revision, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = parse_source(name)
    assert isinstance(source, HubDataset)
    assert (source.dataset, source.config, source.revision) == (dataset, config, revision)
    assert parse_source(name).identity() == source.identity()
    assert source.identity() != parse_source("other/" + name.split("/")[-1]).identity()


def test_a_path_goes_before_a_name_of_the_hub_and_embedded_before_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("bookcorpus", "embedded"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("Mine.")
    assert isinstance(parse_source("bookcorpus"), LocalFiles)
    assert parse_source("embedded").files == (EMBEDDED,)
    assert isinstance(parse_source("./embedded"), LocalFiles)


@pytest.mark.parametrize("streamed", ["bookcorpus", "wikimedia/wikipedia:20231101.en"])
def test_the_hub_is_streamed_as_local_files_of_its_layout_are_read(streamed, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "train.parquet"
    bookcorpus(path) if streamed == "bookcorpus" else wikipedia(path)
    load, asked = datasets.load_dataset, []

    def load_local(dataset, config, **options):
        asked.append((dataset, config, options))
        return load("parquet", data_files=str(path), split="train", streaming=True, cache_dir=str(tmp_path / "hf"))

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    source = parse_source(streamed)
    assert list(source.documents()) == read(path)
    options = {"revision": source.revision, "split": "train", "streaming": True}
    assert asked == [(source.dataset, source.config, options)]


def test_a_hub_out_of_reach_is_an_error_with_the_remedy(monkeypatch):
    class Stub:
        @staticmethod
        def load_dataset(*arguments, **options):
            raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", Stub)
    with pytest.raises(ValueError, match=r"no/where.*ConnectionError: no route.*parquet files by their path"):
        read("no/where")


def test_a_hub_dataset_without_text_is_an_error(monkeypatch):
    class Stub:
        @staticmethod
        def load_dataset(*arguments, **options):
            return [{"image": 1}]

    monkeypatch.setitem(sys.modules, "datasets", Stub)
    with pytest.raises(ValueError, match="no column `text`, but: image"):
        read("some/images")


def test_a_missing_datasets_package_is_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="needs the package datasets: install it"):
        read("wikimedia/wikipedia:20231101.en")


def test_bad_sources_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "image.png").write_bytes(b"")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"text" * 100)[:-12])
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "columns.parquet")
    pq.write_table(pa.table({"text": [1]}), tmp_path / "numbers.parquet")
    for name, message in {
        "gone.parquet": "does not exist",
        "empty": "a folder without any",
        "image.png": "must end in one of .parquet",
        "broken.parquet": "cannot be read as parquet",
        "latin.txt": "must be UTF-8",
        "cut.txt.gz": "is no whole gzip file",
        "columns.parquet": "must have a column `text`, but it has: body",
        "numbers.parquet": "must hold strings, not int64",
    }.items():
        with pytest.raises(ValueError, match=message):
            read(tmp_path / name)
    with pytest.raises(ValueError, match="'two words' does not exist"):
        parse_source("two words")
    with pytest.raises(ValueError, match="'' does not exist"):
        parse_source("")
