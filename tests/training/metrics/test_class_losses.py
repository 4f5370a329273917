"""Losses by class, against means by hand."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch.nn.functional import cross_entropy

from training.metrics.class_losses import ClassLosses


def test_the_mean_is_that_of_rows_with_these_classes():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 4, generator=generator)
    labels = torch.randint(3, (60,), generator=generator)  # no row of class 3
    found = ClassLosses()
    for part in (slice(0, 25), slice(25, 60)):
        found.add(logits[part], labels[part])
    losses = cross_entropy(logits.double(), labels, reduction="none")
    assert found.mean(labels.numpy()) == pytest.approx(float(losses.mean()), rel=1e-6)
    ones, twos = (float(losses[labels == each].mean()) for each in (1, 2))
    assert found.mean(np.array([2, 1, 2, 2, 3])) == pytest.approx((ones + 3 * twos) / 4, rel=1e-6)
    assert found.mean(np.array([3, 3])) is None


def test_there_is_no_mean_of_nothing():
    assert ClassLosses().mean(np.array([0, 1])) is None
    assert ClassLosses().mean(np.empty(0, np.int64)) is None
