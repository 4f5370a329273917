"""Heads on an exit's features: the engine against loops written out by hand, gradients and AdamW included."""

import functools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import small_training  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from small_training import CLASSES, WIDTH, TwoExits, assert_resumes, hardest, same, train_step  # noqa: E402

from gsgd.sift import ExitLoss, LinearProbe, MeanOfRanks, PredictedLoss, Sift  # noqa: E402
from gsgd.sift.scoring_pass.row_losses import LEAST  # noqa: E402

GROSS, KEPT, LR = 8, 4, 0.05


class Net(TwoExits):
    def __init__(self):
        super().__init__()
        self.double()

    def hidden(self, x):
        return np.tanh(x.numpy() @ self.first.weight.detach().numpy().T + self.first.bias.detach().numpy())


batches = functools.partial(small_training.batches, dtype=torch.float64)


def begin(source, **options):
    net = Net()
    sift = Sift(net, score=source, exit_layer=1, **{"keep": 0.5, **options})
    return net, sift, torch.optim.SGD(net.parameters(), lr=0.3)


class AdamWByHand:
    """Without decay, from its formulas: Loshchilov and Hutter, arXiv:1711.05101, Algorithm 2."""

    def __init__(self, lr):
        self.lr, self.moments, self.steps = lr, {}, 0

    def step(self, weights, gradients):
        self.steps += 1
        for name, gradient in gradients.items():
            first, second = self.moments.get(name, (0.0, 0.0))
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            self.moments[name] = first, second
            first, second = first / (1 - 0.9**self.steps), second / (1 - 0.999**self.steps)
            weights[name] = weights[name] - self.lr * first / (np.sqrt(second) + 1e-8)


def softmax(z):
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("options", [{"reuse": False}, {"reuse": True}, {"score_batch_size": 3}])
def test_a_probe_is_trained_on_every_row_that_is_scored(options):
    """Gradients by hand, (p - onehot) h^T / B. It rests before selection begins, and after it has ended."""
    net, sift, optimizer = begin(LinearProbe(lr=LR), start_step=2, end_step=22, **options)
    weights, by_hand = {"V": np.zeros((CLASSES, WIDTH)), "b": np.zeros(CLASSES)}, AdamWByHand(LR)
    chosen = set()
    for number, batch in enumerate(batches(25)):
        kept = list(range(GROSS))
        hidden, labels = net.hidden(batch["x"]), batch["labels"].numpy()
        p = softmax(hidden @ weights["V"].T + weights["b"])
        losses = -np.log(p[range(GROSS), labels])
        if 2 <= number < 22:
            if number == 2:  # all alike: the earlier rows, by nothing but rounding
                np.testing.assert_allclose(losses, math.log(CLASSES))
            kept = hardest(losses, KEPT) if number > 2 else None
        train_step(sift, batch, optimizer)
        if kept is not None:
            assert sift.last.indices.tolist() == kept, number
        if 2 <= number < 22:
            np.testing.assert_allclose(sift.last.scores.numpy(), losses, rtol=1e-9)
            apart = (p - np.eye(CLASSES)[labels]) / GROSS
            by_hand.step(weights, {"V": apart.T @ hidden, "b": apart.sum(axis=0)})
            chosen.add(tuple(sift.last.indices.tolist()))
        if number >= 2:
            np.testing.assert_allclose(sift.source.head.weight.detach().numpy(), weights["V"], rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(sift.source.head.bias.detach().numpy(), weights["b"], rtol=1e-8, atol=1e-10)
    assert len(chosen) > 10
    assert (sift.totals.reused_operations > 0) is options.get("reuse", False)


@pytest.mark.parametrize("options", [{"reuse": False}, {"reuse": True}, {"score_batch_size": 3}])
def test_a_predicted_loss_is_regressed_on_the_rows_that_are_trained_on(options):
    """Gradients by hand: 2 (u - sqrt f) sigmoid(v h + b) / k, at the output of the row's class alone."""
    net, sift, optimizer = begin(PredictedLoss(lr=LR), start_step=2, random_share=0.0, **options)
    weights, by_hand = {"V": np.zeros((CLASSES, WIDTH)), "b": np.zeros(CLASSES)}, AdamWByHand(LR)
    chosen = set()
    for number, batch in enumerate(batches(25)):
        hidden, labels = net.hidden(batch["x"]), batch["labels"].numpy()
        z = hidden @ weights["V"].T + weights["b"]
        roots = np.log1p(np.exp(z[range(GROSS), labels]))
        full = softmax(net(batch["x"])["logits"].detach().numpy())
        exact = -np.log(full[range(GROSS), labels])
        train_step(sift, batch, optimizer)
        if number < 2:
            assert sift.source.head is None
            continue
        rows = sift.last.indices.tolist()
        np.testing.assert_allclose(sift.last.scores.numpy(), roots**2, rtol=1e-4)
        if number > 2:  # before, all scores are equal
            assert rows == hardest(roots, KEPT)
        z, own, wanted = z[rows, labels[rows]], np.eye(CLASSES)[labels[rows]], np.sqrt(exact[rows])
        each = (2 * (roots[rows] - wanted) / (1 + np.exp(-z)) / KEPT)[:, None] * own
        by_hand.step(weights, {"V": each.T @ hidden[rows], "b": each.sum(axis=0)})
        chosen.add(tuple(rows))
        # The losses of the rows trained on are noted in float32.
        np.testing.assert_allclose(sift.source.head.weight.detach().numpy(), weights["V"], rtol=1e-4, atol=1e-5)
    assert len(chosen) > 10
    assert (sift.totals.reused_operations > 0) is options.get("reuse", False)


@pytest.mark.parametrize("source", [LinearProbe, PredictedLoss])
def test_scoring_and_reading_change_nothing_and_the_model_gets_no_gradient(source):
    net, sift, optimizer = begin(source(lr=LR))
    for batch in batches(3):
        train_step(sift, batch, optimizer)
    before = {name: value.clone() for name, value in sift.source.head.state_dict().items()}
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer.zero_grad()
    first, drawn = sift.read(batch), torch.get_rng_state()
    sift.choose(batch)
    assert all(torch.equal(value, before[name]) for name, value in sift.source.head.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    sift.note(net(**batch), batch)  # rows that nobody chose
    assert all(torch.equal(value, before[name]) for name, value in sift.source.head.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert (first[0].rows, first[0].kept) == (GROSS, KEPT)
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("source", [LinearProbe, PredictedLoss])
@pytest.mark.parametrize("at", [0, 1, 6])
def test_a_resumed_run_is_the_run_bit_for_bit(source, at):
    """It is resumed from where it was, too."""

    def start():
        return begin(source(lr=LR), random_share=0.5, meter_every=2)

    resumed, whole = assert_resumes(start, lambda: batches(12), at)
    assert same(resumed.source.head.state_dict(), whole.source.head.state_dict())
    assert start()[1].state_dict()["source"] == {"head": None, "optimizer": None}


def test_all_micro_batches_of_a_step_may_be_chosen_before_the_first_is_trained():
    """As a Trainer does: each is learnt from as it was scored, whichever order they come in."""
    (first, second), orders = batches(2), []
    for swapped in (False, True):
        net, sift, _ = begin(LinearProbe(lr=LR), accumulation_steps=2, reuse=False)
        chosen = [sift.choose(batch) for batch in (first, second)]
        for rows in reversed(chosen) if swapped else chosen:
            sift.note(net(**rows), rows)
        orders.append(sift.source.head.weight.detach().clone())
        assert len(sift._scored_rows._awaiting) == 0
    # Two steps of AdamW, first one way, then the other: the same gradients, not the same order.
    assert not torch.equal(*orders)
    for weights, order in zip(orders, ((first, second), (second, first)), strict=True):
        found, by_hand = {"V": np.zeros((CLASSES, WIDTH)), "b": np.zeros(CLASSES)}, AdamWByHand(LR)
        for batch in order:
            hidden, labels = net.hidden(batch["x"]), batch["labels"].numpy()
            apart = (softmax(hidden @ found["V"].T + found["b"]) - np.eye(CLASSES)[labels]) / GROSS
            by_hand.step(found, {"V": apart.T @ hidden, "b": apart.sum(axis=0)})
        np.testing.assert_allclose(weights.numpy(), found["V"], rtol=1e-8, atol=1e-10)


def test_of_predicted_losses_a_quarter_is_drawn_unless_it_is_said():
    """Of four rows one; the others are the hardest."""
    for share, hardest_rows in ((None, 3), (0.5, 2), (0.0, 4)):
        _, sift, optimizer = begin(PredictedLoss(lr=LR), random_share=share)
        others = set()
        for batch in batches(12):
            train_step(sift, batch, optimizer)
            order = sorted(range(GROSS), key=lambda row: -float(sift.last.scores[row]))
            assert set(order[:hardest_rows]) <= set(sift.last.indices.tolist())
            others |= {order.index(row) for row in sift.last.indices.tolist()} - set(range(hardest_rows))
        assert (len(others) > 1) == (hardest_rows < 4)


def test_rows_without_a_label_come_last_and_are_not_learnt_from():
    for source in (LinearProbe(lr=LR), PredictedLoss(lr=LR)):
        _, sift, optimizer = begin(source, check=False)
        (batch,) = batches(1)
        batch["labels"][[1, 5]] = -100
        train_step(sift, batch, optimizer)
        assert [row for row in range(GROSS) if float(sift.last.scores[row]) == LEAST] == [1, 5]
        assert bool(torch.isfinite(sift.source.head.weight).all())


def test_one_of_several_sources_shares_the_pass_with_the_others():
    net, sift, optimizer = begin(MeanOfRanks(ExitLoss(), LinearProbe(lr=LR)))
    passes = []
    net.first.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    for batch in batches(2):
        train_step(sift, batch, optimizer)
    passes.clear()
    train_step(sift, batch, optimizer)
    assert passes.count(False) == 1  # one pass of scoring
    assert float(sift.source.sources[1].head.weight.detach().abs().sum()) > 0


class Positions(Net):
    """Predicts at positions: no features of rows."""

    def early_logits(self, exit_layer, x):
        return super().early_logits(exit_layer, x[:, None].expand(-1, 2, -1))

    def forward(self, x, labels=None):
        logits = self.early_logits(2, x)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearProbe(lr=0.0), r"lr = 0\.0 must be above 0"),
        (lambda: PredictedLoss(lr=math.nan), "lr = nan must be above 0"),
        (lambda: Sift(Net(), score=LinearProbe(), exit_layer="auto"), "score = LinearProbe takes none as it is"),
        (lambda: Sift(Net(), score=LinearProbe(), compile=True), "compile = True does not go with score = LinearProbe"),
        (lambda: Sift(Net(), score=PredictedLoss(), exit_layer=3), r"exit_layer = 3 must be a whole number in 1\.\.2"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_models_that_do_not_classify_rows_are_refused():
    sift = Sift(Positions(), score=LinearProbe(), exit_layer=1, check=False)
    (batch,) = batches(1)
    batch["labels"] = batch["labels"][:, None].expand(-1, 2).contiguous()
    with pytest.raises(ValueError, match="needs a last linear layer that reads"):
        sift.choose(batch)


def test_states_of_other_sources_and_shapes_are_refused():
    _, sift, optimizer = begin(LinearProbe())
    for batch in batches(1):
        train_step(sift, batch, optimizer)
    _, other, _ = begin(LinearProbe())
    with pytest.raises(ValueError, match="the state is not of a LinearProbe: it lacks head, optimizer"):
        other.source.load_state_dict({"errors": None})
    state = sift.source.state_dict()
    state["head"]["weight"] = state["head"]["weight"][:, :2]
    other.source.load_state_dict(state)
    with pytest.raises(ValueError, match="the state is not of this head of LinearProbe"):
        other.choose(batch)
