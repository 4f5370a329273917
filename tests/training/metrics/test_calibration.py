"""The expected calibration error against a loop over rows, bin by bin."""

import math

import numpy as np
import pytest
import torch

from training.metrics.calibration import BINS, Calibration


def by_hand(probabilities, labels):
    """Equation 3 of Guo et al. 2017 as it is printed: bins ((m - 1) / M, m / M]."""
    error, total = 0.0, len(labels)
    for m in range(1, BINS + 1):
        rows = [i for i, row in enumerate(probabilities) if (m - 1) / BINS < max(row) <= m / BINS]
        if rows:
            accuracy = sum(int(np.argmax(probabilities[i])) == labels[i] for i in rows) / len(rows)
            confidence = sum(max(probabilities[i]) for i in rows) / len(rows)
            error += len(rows) / total * abs(accuracy - confidence)
    return error


@pytest.mark.parametrize("sizes", [[200], [150, 50], [1] * 200])
def test_against_a_loop_over_bins(sizes):
    rng = np.random.default_rng(3)
    logits = 2 * rng.normal(size=(200, 7))
    labels = rng.integers(7, size=200)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = Calibration()
    for rows in np.split(np.arange(200), np.cumsum(sizes)[:-1]):
        found.add(torch.from_numpy(logits[rows]), torch.from_numpy(labels[rows]))
    assert found.error() == pytest.approx(by_hand(probabilities, labels), abs=1e-6)


def test_bins_end_where_they_say():
    """A confidence of 8/15 belongs to the eighth bin, a sure one to the last."""
    found = Calibration()
    found.add(torch.tensor([[math.log(8 / 15), math.log(7 / 15)], [50.0, 0.0]]), torch.tensor([0, 0]))
    assert found.sums[0].nonzero().flatten().tolist() in ([7, BINS - 1], [8, BINS - 1])  # 8/15 is no float
    assert found.sums[0].sum() == 2


def test_a_sure_and_wrong_classifier_is_at_1_a_right_one_at_0():
    logits = torch.tensor([[99.0, 0.0], [0.0, 99.0]])
    right, wrong = Calibration(), Calibration()
    right.add(logits, torch.tensor([0, 1]))
    wrong.add(logits, torch.tensor([1, 0]))
    assert (right.error(), wrong.error()) == (0.0, 1.0)


def test_of_nothing_there_is_none():
    assert Calibration().error() is None
