"""Average precision against its definition, threshold by threshold."""

import numpy as np
import pytest
import torch

from training.metrics.average_precision import AveragePrecision


def by_definition(odds, positive):
    """The sum over distinct thresholds, falling, of the gain in recall times the precision there."""
    found, recall = 0.0, 0.0
    for threshold in sorted(set(odds), reverse=True):
        taken = odds >= threshold
        hits = (taken & positive).sum()
        found += (hits / positive.sum() - recall) * hits / taken.sum()
        recall = hits / positive.sum()
    return found


@pytest.mark.parametrize("of_class", [0, 2])
def test_of_several_batches_and_classes(of_class):
    rng = np.random.default_rng(0)
    # Log odds of one class against the rest are told apart to a thousandth: logits on a coarser grid tie or differ.
    logits = np.zeros((200, 3))
    logits[:, of_class] = rng.integers(-30, 30, 200) / 10
    labels = np.where(rng.random(200) < 1 / (1 + np.exp(1 - logits[:, of_class])), of_class, 1)
    measured = AveragePrecision(of_class)
    for part in np.array_split(np.arange(200), 7):
        measured.add(torch.from_numpy(logits[part]), torch.from_numpy(labels[part]))
    expected = by_definition(logits[:, of_class], labels == of_class)
    assert measured.value() == pytest.approx(expected, abs=1e-12)


def test_of_perfect_and_of_useless_ranks():
    labels = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    for odds, expected in ((labels * 1e6, 1.0), (labels * 0.0, 0.1), (labels * -1e6, 0.1)):
        measured = AveragePrecision(1)
        measured.add(torch.stack([torch.zeros(10), odds.float()], dim=1), labels)
        assert measured.value() == pytest.approx(expected, abs=1e-12)


def test_the_thresholds_place_does_not_count():
    """Other than accuracy: a constant added to all log odds changes nothing."""
    rng = np.random.default_rng(1)
    odds, labels = rng.integers(-300, 300, 500) / 100, rng.integers(2, size=500)
    values = []
    for shift in (0.0, 7.0, -7.0):
        measured = AveragePrecision(1)
        logits = np.stack([np.zeros(500), odds + shift + 5e-4], axis=1)
        measured.add(torch.from_numpy(logits), torch.from_numpy(labels))
        values.append(measured.value())
    assert values[1:] == pytest.approx(values[:1] * 2, abs=1e-12)


def test_without_a_row_of_the_class_there_is_none():
    measured = AveragePrecision(1)
    measured.add(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="the held-out rows have none of class 1"):
        measured.value()
