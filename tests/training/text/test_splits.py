import numpy as np
from scipy.stats import binom

from training.text.documents import parse_source
from training.text.splits import split_documents, token_counts, without
from training.text.tokens import tokenize


def test_every_document_has_one_split_of_about_the_asked_share(tmp_path):
    """10,000 documents: each share within its binomial bounds at level 1e-6 (.05 +- .011)."""
    (tmp_path / "many.txt").write_text("\n\n\n".join(f"Document {i}." for i in range(10000)))
    tokens = tokenize([parse_source(str(tmp_path / "many.txt"))], vocabulary=None, cache=tmp_path)
    parts = split_documents(tokens.hashes, validation_share=0.05, test_share=0.1)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(10000))
    for split, share in {"validation": 0.05, "test": 0.1}.items():
        assert binom.ppf(5e-7, 10000, share) <= len(parts[split]) <= binom.isf(5e-7, 10000, share)


def test_adding_documents_moves_none(tmp_path):
    old = [f"Old document {i}." for i in range(400)]
    new = [f"New document {i}." for i in range(300)]
    mixed = [text for pair in zip(new, old, strict=False) for text in pair] + old[300:]
    found = {}
    for name, texts in {"old": old, "mixed": mixed}.items():
        (tmp_path / f"{name}.txt").write_text("\n\n\n".join(texts))
        tokens = tokenize([parse_source(str(tmp_path / f"{name}.txt"))], vocabulary=None, cache=tmp_path)
        parts = split_documents(tokens.hashes, validation_share=0.3, test_share=0.2)
        found[name] = {texts[i]: split for split, chosen in parts.items() for i in chosen}
    assert set(found["old"].values()) == {"train", "validation", "test"}
    assert found["old"] == {text: split for text, split in found["mixed"].items() if text.startswith("Old")}


def test_no_shares_hold_out_nothing():
    hashes = np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64)
    parts = split_documents(hashes, validation_share=0, test_share=0)
    assert [len(parts[split]) for split in ("train", "validation", "test")] == [4, 0, 0]


def test_equal_documents_are_taken_out_and_tokens_counted(tmp_path):
    (tmp_path / "a.txt").write_text("The sea.\n\n\nThe ship. The sea.\n\n\nThe whale.")
    tokens = tokenize([parse_source(str(tmp_path / "a.txt"))], vocabulary=None, cache=tmp_path)
    np.testing.assert_array_equal(without(tokens, np.array([0, 2]), tokens.hashes[1:]), [0])
    counts = token_counts(tokens, np.array([0, 1]), 30522)
    # the 1996, sea 2712, ship 2911, whale 13156, . 1012
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == {1996: 3, 2712: 2, 2911: 1, 1012: 3}
