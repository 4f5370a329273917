"""The reducible loss: an exit's losses less a reference's, row by row."""

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from small_training import CLASSES, OneExit, hardest, losses_by_hand  # noqa: E402

from gsgd.sift import ReducibleLoss, Sift  # noqa: E402

ROWS, GROSS = 20, 8


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randperm(ROWS, generator=generator)[:GROSS]
    labels = torch.randint(CLASSES, (GROSS,), generator=generator)
    return {"x": torch.randn(GROSS, 5, generator=generator), "labels": labels, "id": ids}


def losses(net, batch):
    return losses_by_hand(net.layer(batch["x"]), batch["labels"])


def test_a_table_of_losses_by_ids(batch):
    net, table = OneExit(), torch.rand(ROWS).tolist()
    sift = Sift(net, score=ReducibleLoss(table), exit_layer=1, data_rows=ROWS, keep=0.5)
    sift.choose(batch)
    expected = [loss - table[name] for loss, name in zip(losses(net, batch), batch["id"].tolist(), strict=True)]
    assert sift.last.scores.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert sift.last.indices.tolist() == hardest(expected, 4)
    assert sift.last.indices.tolist() != hardest(losses(net, batch), 4)


def test_a_callable_with_the_batch_needs_no_ids(batch):
    net, reference = OneExit(), OneExit(seed=1)
    seen = []

    def of_reference(rows):
        seen.append(torch.is_grad_enabled())
        return F.cross_entropy(reference(rows["x"])["logits"], rows["labels"], reduction="none")

    sift = Sift(net, score=ReducibleLoss(of_reference), exit_layer=1, keep=0.5)
    del batch["id"]
    sift.choose(batch)
    expected = [one - other for one, other in zip(losses(net, batch), losses(reference, batch), strict=True)]
    assert sift.last.scores.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert seen == [False]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ([], r"reference has shape \(0,\) but must be \(rows,\)"),
        (torch.zeros(2, 2), r"reference has shape \(2, 2\)"),
        ([0.0, float("inf")], r"reference\[1\] is inf, but must be finite"),
        ("losses", r"reference is a str but must be \(rows,\) losses, or callable"),
    ],
)
def test_what_is_no_reference(reference, message):
    with pytest.raises(ValueError, match=message):
        ReducibleLoss(reference)


def test_ids_beyond_the_table_and_callables_of_another_shape(batch):
    sift = Sift(OneExit(), score=ReducibleLoss(torch.zeros(3)), exit_layer=1, data_rows=ROWS)
    with pytest.raises(ValueError, match=r"id \d+ must lie in 0\.\.2"):
        sift.choose(batch)
    sift = Sift(OneExit(), score=ReducibleLoss(lambda rows: torch.zeros(2)), exit_layer=1)
    with pytest.raises(ValueError, match=r"the reference returned \(2,\), but must return one loss a row, \(8,\)"):
        sift.choose(batch)
