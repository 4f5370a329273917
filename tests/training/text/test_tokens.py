"""Tokenised text against the tokenizer called sentence by sentence, and its cache."""

import itertools
import os

import numpy as np
import pytest

from training.text.documents import LocalFiles, parse_source
from training.text.tokens import tokenize
from training.text.wordpieces import SHIPPED, tokenizer


def documents_of(tokens):
    return [
        [tokens.ids[a:b].tolist() for a, b in itertools.pairwise(ends)]
        for first, last in itertools.pairwise(tokens.documents)
        for ends in [tokens.sentences[first : last + 1]]
    ]


def test_ids_are_those_of_the_tokenizer(tmp_path, monkeypatch):
    # Small calls, so that documents end up in several.
    monkeypatch.setattr("training.text.tokens.SENTENCES_PER_CALL", 3)
    # A zero-width space alone is a sentence without tokens; the third document has no other.
    (tmp_path / "a.txt").write_text(
        "Call me Ishmael. Some years ago.\n\n\u200b\n\nUnbelievableness!\n\n\nTwo. Three. Four.\n"
    )
    (tmp_path / "b.txt").write_text("\u200b\n\n\nLast one.", encoding="utf-8")
    tokens = tokenize(
        [parse_source(str(tmp_path)), parse_source(str(tmp_path / "b.txt"))], vocabulary=None, cache=tmp_path
    )
    expected = [["Call me Ishmael.", "Some years ago.", "Unbelievableness!"], ["Two.", "Three.", "Four."]]
    expected += [["Last one."], ["Last one."]]
    own = tokenizer()
    assert documents_of(tokens) == [[own(s, add_special_tokens=False).input_ids for s in d] for d in expected]
    assert tokens.ids.dtype == np.uint16
    assert all(
        isinstance(array, np.memmap) for array in (tokens.ids, tokens.sentences, tokens.documents, tokens.hashes)
    )
    assert [source["documents"] for source in tokens.about["sources"]] == [3, 1]
    assert sum(source["tokens"] for source in tokens.about["sources"]) == len(tokens.ids)
    assert tokens.hashes[2] == tokens.hashes[3]
    assert len(set(tokens.hashes.tolist())) == 3


def test_a_document_has_the_same_hash_wherever_it_stands(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\n\nTwo is\nwrapped.\n\n\nThree.")
    (tmp_path / "b.txt").write_text("Three.\n\n\nNew.\n\n\nTwo is wrapped.")
    a, b = (
        tokenize([parse_source(str(tmp_path / n))], vocabulary=None, cache=tmp_path).hashes for n in ("a.txt", "b.txt")
    )
    assert (a[2], a[1]) == (b[0], b[2])


class Unreadable(LocalFiles):
    def documents(self):
        raise AssertionError("read again")


def test_equal_inputs_are_not_read_again(tmp_path):
    (tmp_path / "a.txt").write_text("One. Two.")
    source = parse_source(str(tmp_path / "a.txt"))
    first = tokenize([source], vocabulary=None, cache=tmp_path / "cache")
    again = tokenize([Unreadable(source.name, source.files)], vocabulary=None, cache=tmp_path / "cache")
    assert again.name == first.name
    np.testing.assert_array_equal(again.ids, first.ids)
    assert again.about == first.about


def test_the_cache_is_not_used_when_its_inputs_change(tmp_path):
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("One. Two.")
    other.write_text("Three.")
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_bytes(SHIPPED.read_bytes())

    def ask(*names, vocabulary=None):
        sources = [parse_source(str(name)) for name in names]
        return tokenize(sources, vocabulary=vocabulary, cache=tmp_path / "cache")

    first = ask(path)
    assert ask(path, vocabulary=vocabulary).name == first.name  # the same vocabulary elsewhere
    names = [first.name, ask(path, other).name, ask(other, path).name, ask(f"{path}:sentences").name]

    stat = path.stat()
    path.write_text("One. Ten.")  # as long, and at the same time
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = ask(path)
    assert changed.ids.tolist() != first.ids.tolist()
    path.write_text("One. Eleven.")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    names += [changed.name, ask(path).name]

    vocabulary.write_text(SHIPPED.read_text(encoding="utf-8") + "newword\n", encoding="utf-8")
    names.append(ask(path, vocabulary=vocabulary).name)
    assert len(set(names)) == len(names)


def test_a_source_without_text_is_an_error_and_is_not_cached(tmp_path):
    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "a.txt").write_text("One.")
    for names in (["blank.txt"], ["a.txt", "blank.txt"]):
        with pytest.raises(ValueError, match=r"blank.txt' holds no text"):
            tokenize([parse_source(str(tmp_path / n)) for n in names], vocabulary=None, cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
