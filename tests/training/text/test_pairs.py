"""Sentence pairs, on documents whose tokens are their own places, so that a span tells where it came from."""

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from training.text.pairs import build_pairs, sentence_pairs, truncate
from training.text.tokens import Tokens

ALARM = 1e-6
"""Chance that a correct implementation fails a stochastic check below, each of which is one two-sided test."""


def make_tokens(*documents):
    """Tokens of documents given as the lengths of their sentences."""
    lengths = np.concatenate(documents)
    return Tokens(
        name="made-up",
        ids=np.zeros(lengths.sum(), dtype=np.uint16),
        sentences=np.concatenate([[0], np.cumsum(lengths)]),
        documents=np.cumsum([0, *map(len, documents)]),
        hashes=np.arange(len(documents), dtype=np.uint64),
        about={},
    )


def build(tokens, documents=None, *, sequence_length=43, short_share=0.0, seed=0):
    documents = np.arange(len(tokens.documents) - 1) if documents is None else np.array(documents)
    rows = build_pairs(tokens, documents, sequence_length=sequence_length, short_share=short_share, seed=seed)
    # Plain integers: sums of the stored two-byte lengths may wrap.
    return rows["a"], rows["a_length"].astype(int), rows["b"], rows["b_length"].astype(int), rows["random"] == 1


def document_at(tokens, places):
    return np.searchsorted(tokens.sentences[tokens.documents], places, side="right") - 1


@pytest.fixture(scope="module")
def even():
    """Sentences of 4 tokens: ten make 40 = sequence_length - 3 exactly, so that nothing is ever truncated."""
    return make_tokens(*(np.full(n, 4) for n in (30000, 30000, 400, 7, 1)))


@pytest.fixture(scope="module")
def uneven():
    rng = np.random.default_rng(1)
    return make_tokens(*(rng.integers(1, 16, n) for n in (3000, 2000, 500, 3, 1, 60)))


def test_label_is_0_iff_b_follows_a(even):
    a, a_length, b, b_length, random = build(even, short_share=0.3)
    own, other = document_at(even, a), document_at(even, b)
    np.testing.assert_array_equal(own == other, ~random)
    np.testing.assert_array_equal((a + a_length)[~random], b[~random])
    np.testing.assert_array_equal(document_at(even, b + b_length - 1), other)
    assert 0.3 < random.mean() < 0.7


def test_random_b_are_whole_sentences_of_the_length_that_is_left(even):
    _, a_length, b, b_length, random = build(even)
    starts = even.sentences[:-1]
    assert np.isin(b, starts).all()
    end_of_document = even.sentences[even.documents[document_at(even, b) + 1]]
    np.testing.assert_array_equal(b_length[random], np.minimum(40 - a_length, end_of_document - b)[random])


def test_every_token_is_in_one_a_or_one_b_that_follows(even):
    a, a_length, b, b_length, random = build(even, short_share=0.3)
    seen = np.zeros(len(even.ids), dtype=int)
    for start, length in [*zip(a, a_length, strict=True), *zip(b[~random], b_length[~random], strict=True)]:
        seen[start : start + length] += 1
    assert (seen == 1).all()


def test_no_token_is_lost_but_by_truncation(uneven):
    a, a_length, b, b_length, random = build(uneven, short_share=0.3)
    assert (a_length >= 1).all()
    assert (b_length >= 1).all()
    assert (a_length + b_length <= 40).all()
    seen = np.zeros(len(uneven.ids) + 1, dtype=int)
    for start, length in [*zip(a, a_length, strict=True), *zip(b[~random], b_length[~random], strict=True)]:
        seen[start : start + length] += 1
    assert seen.max() == 1
    # A chunk, or A with its random B, exceeds its target by less than a sentence, so a full row loses at most 14.
    full = a_length + b_length == 40
    assert (seen[:-1] == 0).sum() <= 14 * full.sum()
    # What is not full was not truncated: its segments are whole sentences.
    whole = uneven.sentences
    for place in (a, a + a_length, b, b + b_length):
        assert np.isin(place[~full], whole).all()
    # And tokens between two rows are lost only beside a full one.
    order = np.argsort(a)
    end = np.where(random, a + a_length, b + b_length)
    gap = a[order][1:] - end[order][:-1]
    either_full = full[order][1:] | full[order][:-1] | (full & ~random)[order][:-1]
    assert (gap[~either_full] == 0).all()
    assert (gap >= 0).all()


def test_a_follows_its_true_next_also_when_truncated(uneven):
    a, a_length, b, _, random = build(uneven)
    own, other = document_at(uneven, a), document_at(uneven, b)
    np.testing.assert_array_equal(own == other, ~random)
    between = (b - a - a_length)[~random]
    assert ((between >= 0) & (between <= 14)).all()


def test_labels_are_balanced(even):
    """The first 3,000 rows of a document are fair coins: a two-sided binomial test at level `ALARM`.

    It misses a share of random rows beyond .5 +- .06 with probability below 1%.
    """
    *_, random = build(even)
    heads = int(random[:3000].sum())
    assert binom.ppf(ALARM / 2, 3000, 0.5) <= heads <= binom.isf(ALARM / 2, 3000, 0.5)


def test_the_cut_of_a_chunk_is_uniform(even):
    """Of ten sentences A has 1..9, equally often: chi-square over 3,000 rows, level `ALARM`."""
    _, a_length, *_ = build(even)
    counts = np.bincount(a_length[:3000] // 4, minlength=10)[1:]
    assert counts.sum() == 3000
    assert len(counts) == 9
    assert chisquare(counts).pvalue > ALARM


def test_random_segments_come_from_all_other_documents_alike():
    """Chi-square over the other 4 of 5 equal documents, for each of the 5: all at level `ALARM` / 5."""
    tokens = make_tokens(*[np.full(5000, 4)] * 5)
    a, _, b, _, random = build(tokens)
    own, other = document_at(tokens, a)[random], document_at(tokens, b)[random]
    for document in range(5):
        counts = np.bincount(other[own == document], minlength=5)
        assert counts[document] == 0
        assert chisquare(np.delete(counts, document)).pvalue > ALARM / 5


def test_share_of_short_rows(even):
    """Targets are uniform on 2..40 for a tenth of rows; a chunk has ceil(target / 4) sentences.

    A row with label 0 has a chunk of 2 or more, so of the 39 short targets 36 can have it and 32 of these give less
    than 40 tokens: a share (.1 * 32/39) / (.9 + .1 * 36/39) = .083 of such rows, tested over the first 1,800 of
    each of two documents at level `ALARM`; half or twice that share is missed with probability below 1e-6.
    """
    a, a_length, _, b_length, random = build(even, short_share=0.1)
    own, totals = document_at(even, a), a_length + b_length
    totals = np.concatenate([totals[~random & (own == document)][:1800] for document in (0, 1)])
    assert len(totals) == 3600
    share = (0.1 * 32 / 39) / (0.9 + 0.1 * 36 / 39)
    assert binom.ppf(ALARM / 2, 3600, share) <= (totals < 40).sum() <= binom.isf(ALARM / 2, 3600, share)
    lengths = np.bincount(totals[totals < 40] // 4, minlength=10)
    assert lengths[:2].sum() == 0
    assert (lengths[2:] > 0).all()


def test_without_short_rows_only_ends_of_documents_are_short(even):
    _, a_length, _, b_length, random = build(even)
    assert ((a_length + b_length)[~random] < 40).sum() <= 5


def remove_one_by_one(a, b, longest):
    while a + b > longest:
        if a > b:
            a -= 1
        else:
            b -= 1
    return a, b


@pytest.mark.parametrize("longest", [40, 41])
def test_truncation_takes_tokens_from_the_longer_one_by_one(longest):
    rng = np.random.default_rng(0)
    a_length, b_length = rng.integers(1, 90, (2, 2000))
    a, b = np.full(2000, 1000), np.full(2000, 5000)
    new_a, short_a, new_b, short_b = truncate(a, a_length, b, b_length, longest, np.random.default_rng(1))
    expected = [remove_one_by_one(x, y, longest) for x, y in zip(a_length.tolist(), b_length.tolist(), strict=True)]
    assert list(zip(short_a.tolist(), short_b.tolist(), strict=True)) == expected
    assert ((new_a >= 1000) & (new_a + short_a <= 1000 + a_length)).all()
    assert ((new_b >= 5000) & (new_b + short_b <= 5000 + b_length)).all()
    # Each of the removed tokens is from the front with probability 1/2.
    front, removed = int((new_a - 1000 + new_b - 5000).sum()), int((a_length - short_a + b_length - short_b).sum())
    assert binom.ppf(ALARM / 2, removed, 0.5) <= front <= binom.isf(ALARM / 2, removed, 0.5)


def test_only_the_given_documents_are_used(uneven):
    a, a_length, b, b_length, _ = build(uneven, [5, 1, 3])
    for place in (a, a + a_length - 1, b, b + b_length - 1):
        assert set(document_at(uneven, place).tolist()) == {1, 3, 5}


def test_sentences_longer_than_a_row():
    tokens = make_tokens(np.array([100, 70000, 3]), np.array([90000, 2, 200]))
    a, a_length, b, b_length, random = build(tokens)
    assert (a_length + b_length <= 40).all()
    assert (np.minimum(a_length, b_length) >= 1).all()
    np.testing.assert_array_equal(document_at(tokens, a) == document_at(tokens, b), ~random)


def test_pairs_are_a_function_of_the_seed(uneven):
    first, again, other = (np.stack(build(uneven, seed=seed)[:2])[:, :100] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_cached_pairs_are_the_built_ones_and_found_again(uneven, tmp_path, monkeypatch):
    arguments = {"sequence_length": 43, "short_share": 0.1, "seed": 0}
    built = build_pairs(uneven, np.arange(6), **arguments)
    first = sentence_pairs(uneven, np.arange(6), **arguments, cache=tmp_path)
    assert isinstance(first, np.memmap)
    np.testing.assert_array_equal(first, built)
    for change in ({"sequence_length": 50}, {"short_share": 0.2}, {"seed": 1}):
        changed = sentence_pairs(uneven, np.arange(6), **(arguments | change), cache=tmp_path)
        assert not np.array_equal(changed, first)
    assert len(sentence_pairs(uneven, np.arange(5), **arguments, cache=tmp_path)) < len(first)
    monkeypatch.delattr("training.text.pairs.build_pairs")
    np.testing.assert_array_equal(sentence_pairs(uneven, np.arange(6), **arguments, cache=tmp_path), first)


def test_bad_arguments(uneven):
    with pytest.raises(ValueError, match=r"at least 2 documents.*there are 1"):
        build(uneven, [3])
    with pytest.raises(ValueError, match="sequence_length = 7 must be"):
        build(uneven, sequence_length=7)
    with pytest.raises(ValueError, match=r"short_share = 1.5 must lie in \[0, 1\]"):
        build(uneven, short_share=1.5)
