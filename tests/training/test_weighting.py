"""Weighted losses: against formulas row by row; the methods of a run, their weights, and that they are resumed."""

import math

import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import SequenceClassifierOutput

from training.run import train
from training.sampled import SampledOrder
from training.settings import TrainingSettings
from training.training import Training
from training.weighting import hard_weights, label_losses, reweighted, row_means

FOCAL, POWER = TrainingSettings(method="focal", focal_gamma=1.5), TrainingSettings(method="loss-power", loss_power=0.5)


@pytest.fixture
def output():
    torch.manual_seed(0)
    logits = (3 * torch.randn(5, 4)).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0])
    return SequenceClassifierOutput(loss=cross_entropy(logits, labels), logits=logits), labels


@pytest.mark.parametrize("settings", [FOCAL, POWER])
def test_weights_and_gradient_row_by_row(output, settings):
    output, labels = output
    losses = label_losses(output, labels)
    weights = hard_weights(losses, labels, settings)
    by_hand = []
    for z, y in zip(output.logits.detach().double(), labels, strict=True):
        p = float(torch.softmax(z, 0)[y])
        by_hand.append((1 - p) ** 1.5 if settings is FOCAL else math.sqrt(-math.log(p)))
    expected = [5 * weight / sum(by_hand) for weight in by_hand]
    assert weights.tolist() == pytest.approx(expected, rel=1e-4)
    assert not weights.requires_grad
    loss = reweighted(output.loss, losses, weights, labels)
    each = cross_entropy(output.logits, labels, reduction="none")
    plain = sum(weight * one for weight, one in zip(expected, each, strict=True)) / 5
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-4)
    (found,) = torch.autograd.grad(loss, output.logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(plain, output.logits)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_positions_without_labels_weigh_nothing():
    logits = torch.randn(2, 3, 4)
    labels = torch.tensor([[0, -100, 2], [-100, -100, -100]])
    losses = label_losses({"logits": logits}, labels)
    weights = hard_weights(losses, labels, FOCAL)
    assert weights[labels == -100].tolist() == [0] * 4
    assert float(weights.sum()) == pytest.approx(2)
    assert row_means(weights, labels).tolist() == pytest.approx([1, 0])
    assert row_means(losses, labels)[0] == pytest.approx(float(losses[0, [0, 2]].mean()))


def test_where_all_is_learnt_all_weigh_alike():
    labels = torch.tensor([0, 1])
    assert hard_weights(torch.zeros(2), labels, FOCAL).tolist() == [1, 1]


def test_without_an_exponent_it_is_plain_training(tiny, tiny_module, accelerator):
    def trained(**values):
        config = tiny(**values)
        training = Training(config, tiny_module.TinyTask(config.data, 0), accelerator, 6)
        for _ in range(6):
            training.train_step()
        return training.model.state_dict()

    plain = trained(method="baseline")
    for values in ({"method": "focal", "focal_gamma": 0.0}, {"method": "loss-power", "loss_power": 0.0}):
        found = trained(**values)
        assert all(torch.allclose(value, found[name], atol=1e-6) for name, value in plain.items())
    other = trained(method="focal")
    assert not torch.allclose(plain["last.weight"], other["last.weight"], atol=1e-4)


METHODS = {
    "focal": {},
    "loss-power": {},
    "infobatch": {"prune": 0.5, "batch_size": 4},
    "importance": {"keep": 0.5},
}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_state_goes_on_bitwise(tiny, tiny_module, accelerator, method, ahead):
    """Over several epochs, infobatch's last one of all rows; `ahead`: as on a GPU a batch is read during the step."""
    from concurrent.futures import ThreadPoolExecutor

    config = tiny(method=method, **METHODS[method])
    task = tiny_module.TinyTask(config.data, 0)

    def new():
        training = Training(config, task, accelerator, 32)
        training.batches.reader = ThreadPoolExecutor(1) if ahead else None
        return training

    def go(training, steps):
        for _ in range(steps):
            training.train_step()
        return training

    whole = go(new(), 32)
    for stop in (5, 29):
        state = go(new(), stop).state_dict()
        resumed = new()
        resumed.load_state_dict(state)
        go(resumed, 32 - stop)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), (name, stop)
    if whole.batches.sampled is not None:
        assert whole.batches.sampled.sampler.step == 32
        assert whole.batches.sampled.sampler.seen.share_seen > 0.5


@pytest.mark.parametrize("method", METHODS)
def test_weights_stand_in_the_log(tiny, accelerator, tmp_path, method):
    config = tiny(method=method, log_rows=True, **METHODS[method])
    outcome = train(config, tmp_path / "run", accelerator=accelerator, task=config.build_task())
    assert outcome.status == "finished"
    rows = pq.read_table(tmp_path / "run" / "rows" / "rank-0-part-000000.parquet").to_pylist()
    size = config.training.batch_size
    assert len(rows) == 24 * size
    assert all(row["kept"] and row["loss"] >= 0 for row in rows)
    weights = [row["weight"] for row in rows]
    if method == "infobatch":
        assert set(weights) == {1.0, 2.0}
        assert set(weights[-2 * size :]) == {1.0}, "the end of a run trains on all rows"
    else:
        assert len(set(weights)) > 24
    if method in ("focal", "loss-power"):
        means = [sum(weights[begin : begin + size]) / size for begin in range(0, len(weights), size)]
        assert means == pytest.approx([1.0] * 24, rel=1e-5)
    if method == "importance":
        assert max(weights) <= 4 + 1e-6


def test_two_ranks_share_the_batches_of_one_sampler():
    """Each takes every second batch; together they take what one process takes, in turn."""
    settings = TrainingSettings(method="importance", batch_size=4, keep=0.5)
    alone = SampledOrder(settings, 40, 10, ranks=1, rank=0)
    pair = [SampledOrder(settings, 40, 10, ranks=2, rank=rank) for rank in range(2)]
    for _ in range(2):
        for order in pair:
            ids, weights, epoch = order.take()
            expected = alone.take()
            assert ids.tolist() == expected[0].tolist()
            assert weights.tolist() == expected[1].tolist()
            assert epoch == expected[2] == 0
    one, two = (order.take() for order in pair)
    assert one[2] == two[2] == 1, "a fifth batch is none for two: the next epoch begins"


def test_epochs_without_a_batch_end_in_an_error():
    settings = TrainingSettings(method="infobatch", batch_size=8)
    order = SampledOrder(settings, 15, 10, ranks=2, rank=0)
    with pytest.raises(ValueError, match=r"an epoch of 15 rows makes no 8 rows for each of 2 processes"):
        order.take()
