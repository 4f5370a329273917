import hashlib
import shutil

import numpy as np
import pytest
from transformers import AutoTokenizer, BertTokenizer

from training.text.wordpieces import SHIPPED, most_frequent, renumbering, tokenizer, vocabulary_size

TEXTS = [
    "Call me Ishmael. Some years ago--never mind how long precisely!",
    "NAÏVE café, déjà-vu; unbelievableness 3,141.59 $5 e-mail@x.org",
    "漢字 and кириллица, tabs\tand\u200bzero-width \U0001f600",
    "",
]


def test_the_shipped_vocabulary_is_bert_base_uncased():
    digest = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert digest.startswith("07eced37")
    assert digest.endswith("2038a3")
    assert vocabulary_size() == len(tokenizer()) == 30522


def test_known_ids():
    # As printed in BERT's documentation and model cards.
    assert tokenizer()("Hello world!").input_ids == [101, 7592, 2088, 999, 102]
    assert tokenizer().convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 100, 101, 102, 103]


def test_it_is_transformers_own_tokenizer_of_that_vocabulary(tmp_path):
    shutil.copy(SHIPPED, tmp_path / "vocab.txt")
    own = BertTokenizer.from_pretrained(tmp_path)
    assert len(own) == 30522
    made = tokenizer(tmp_path)
    assert made(TEXTS).input_ids == own(TEXTS).input_ids == tokenizer()(TEXTS).input_ids


def test_it_can_be_saved_and_loaded_by_transformers(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS).input_ids == tokenizer()(TEXTS).input_ids


def test_bad_vocabularies(tmp_path):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for entries, message in (
        ([*special, "a", "b", "a"], "holds 'a' more than once"),
        ([*special[:3], "a"], r"lacks \[SEP\], \[MASK\]"),
        (["a", *special], r"must begin with \[PAD\].*'a'"),
        ([*special, *(f"w{i}" for i in range(65532))], "65,537 entries, but at most 65,536"),
    ):
        (tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n")
        with pytest.raises(ValueError, match=message):
            tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"no vocabulary at .*nowhere"):
        tokenizer(tmp_path / "nowhere")


def test_most_frequent_keeps_special_tokens_first_and_breaks_ties_by_id():
    counts = np.array([0, 9, 3, 7, 3, 8, 3])
    np.testing.assert_array_equal(most_frequent(counts, 5, np.array([0, 3])), [0, 3, 1, 5, 2])
    np.testing.assert_array_equal(most_frequent(counts, 99, np.array([0, 3])), [0, 3, 1, 5, 2, 4, 6])
    np.testing.assert_array_equal(renumbering(np.array([0, 3, 1, 5, 2]), 7, unknown_id=3), [0, 2, 4, 1, 1, 3, 1])
    with pytest.raises(ValueError, match="limit = 2 must be more than the 2 special"):
        most_frequent(counts, 2, np.array([0, 3]))
