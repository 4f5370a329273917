"""Documents whose tokens are known without a tokenizer: each has words of its own."""

import importlib.util

import numpy as np
import pytest

if any(importlib.util.find_spec(package) is None for package in ("torch", "transformers", "pyarrow")):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def words():
    """Entries of the vocabulary that are tokens by themselves, with their ids: lower-case words of plain letters."""
    from training.text.wordpieces import SHIPPED

    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    return [(line, number) for number, line in enumerate(lines) if line.isascii() and line.isalpha() and len(line) > 2]


@pytest.fixture(scope="session")
def make_documents(words):
    """`make(count)`: document d is [sentence, ...], a sentence a list of words; no two documents share a word."""

    def make(count, sentences=40, seed=0, own=200, first=0):
        rng = np.random.default_rng(seed)
        documents = []
        for number in range(first, first + count):
            mine = [word for word, _ in words[number * own : (number + 1) * own]]
            assert len(mine) == own
            documents.append([list(rng.choice(mine, rng.integers(2, 9))) for _ in range(sentences)])
        return documents

    return make


@pytest.fixture(scope="session")
def write_parquet():
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(path, documents):
        """One document a row, its sentences capitalised and ended, beside a title as Wikipedia has."""
        text = [" ".join(" ".join(s).capitalize() + "." for s in document) for document in documents]
        table = {"id": [str(i) for i in range(len(text))], "title": ["title"] * len(text), "text": text}
        pq.write_table(pa.table(table), path)
        return str(path)

    return write
