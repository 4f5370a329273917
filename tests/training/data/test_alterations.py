"""Altered training sets: a long tail's published sizes, wrong labels counted, copies under numbers of their own."""

import numpy as np
import pytest

from training.data.alterations import AlterationSettings, altered, long_tailed_sizes, with_wrong_labels

LABELS = np.arange(3000) % 3
ROWS = np.arange(0, 3000, 2)
"""500 rows of each class."""


def test_the_tail_of_long_tailed_cifar_10():
    """The sizes that are published of CIFAR-10-LT at 100:1, in all 12,406 rows."""
    found = long_tailed_sizes(np.full(10, 5000), 100.0)
    assert found.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_a_tail_takes_no_more_than_there_is_and_leaves_no_class_out():
    assert long_tailed_sizes(np.array([100, 5, 100, 100]), 1000.0).tolist() == [100, 5, 1, 1]


def test_a_long_tail_keeps_rows_as_they_are():
    found = altered(AlterationSettings(imbalance=25), LABELS, ROWS, 3)
    assert np.bincount(found.labels).tolist() == [500, 100, 20]
    assert found.description["class_sizes"] == [500, 100, 20]
    assert (found.labels == LABELS[found.rows]).all()
    assert set(found.rows) < set(ROWS)
    assert len(set(found.rows)) == 620
    other = altered(AlterationSettings(imbalance=25, alteration_seed=1), LABELS, ROWS, 3)
    assert set(other.rows) != set(found.rows)


def test_so_many_labels_of_each_class_are_wrong():
    found = altered(AlterationSettings(wrong_labels=0.2), LABELS, ROWS, 3)
    assert (found.rows == ROWS).all()
    wrong = found.labels != LABELS[ROWS]
    assert np.bincount(LABELS[ROWS][wrong]).tolist() == [100, 100, 100]
    assert found.description["wrong_labels"] == 300


def test_wrong_labels_are_uniform_over_the_other_classes():
    rows = np.arange(20_000)
    found = with_wrong_labels(np.full(20_000, 2), rows, 0.5, 5, 0)
    counts = np.bincount(found, minlength=5)
    assert counts[2] == 10_000
    # 2,500 expected of each, standard error 43; six of them: a false alarm has a probability of 1e-8.
    assert (abs(np.delete(counts, 2) - 2500) < 260).all()


def test_a_rows_wrong_label_is_the_same_among_other_rows():
    """What a row gets depends on its number: of the rows that are wrong in both, all have the same label."""
    rows = np.arange(1000)
    every = with_wrong_labels(np.zeros(1000, dtype=np.int64), rows, 0.5, 4, 3)
    some = with_wrong_labels(np.zeros(400, dtype=np.int64), rows[:400], 0.5, 4, 3)
    both = (every[:400] > 0) & (some > 0)
    assert both.sum() > 100
    assert (every[:400][both] == some[both]).all()


def test_copies_have_numbers_of_their_own():
    found = altered(AlterationSettings(copies=3), LABELS, ROWS, 3)
    assert np.unique(found.rows, return_counts=True)[1].tolist() == [3] * 1500
    assert (found.labels == LABELS[found.rows]).all()
    assert len(set(found.draws)) == 4500
    assert (found.draws[:1500] == ROWS).all()  # the first of each draws as it would alone
    assert found.description["distinct_rows"] == 1500


def test_copies_of_a_wrong_label_are_wrong_alike():
    found = altered(AlterationSettings(wrong_labels=0.5, copies=2), LABELS, ROWS, 3)
    assert (found.labels[:1500] == found.labels[1500:]).all()


def test_the_content_says_what_was_altered():
    kinds = [
        AlterationSettings(),
        AlterationSettings(imbalance=2),
        AlterationSettings(wrong_labels=0.1),
        AlterationSettings(wrong_labels=0.1, alteration_seed=1),
        AlterationSettings(copies=2),
    ]
    digests = [altered(settings, LABELS, ROWS, 3).content("of the data") for settings in kinds]
    assert digests[0] == "of the data"
    assert len(set(digests)) == len(digests)
    again = [altered(settings, LABELS, ROWS, 3).content("of the data") for settings in kinds]
    assert digests == again


def test_one_class_has_no_tail_and_no_wrong_labels():
    for values in ({"imbalance": 2}, {"wrong_labels": 0.1}):
        name = next(iter(values))
        with pytest.raises(ValueError, match=f"{name} = .* needs at least 2 classes, but the data have 1"):
            altered(AlterationSettings(**values), np.zeros(9, dtype=np.int64), np.arange(9), 1)
