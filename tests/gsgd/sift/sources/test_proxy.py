"""A small network beside the model: the engine against a loop written out by hand."""

import copy

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from small_training import Classifier, assert_resumes, batches, hardest, same, train_step  # noqa: E402

from gsgd.sift import Sift  # noqa: E402
from gsgd.sift.sources.proxy import Proxy  # noqa: E402

GROSS, KEPT = 8, 4


class Net(Classifier):
    """Returns a loss and logits; its BatchNorm tells training mode from eval mode."""

    def __init__(self, width, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(5, width), torch.nn.BatchNorm1d(width), torch.nn.ReLU(), torch.nn.Linear(width, 3)
        )

    def logits(self, x):
        return self.layers(x)


def test_rows_are_chosen_and_the_proxy_is_trained_as_by_hand():
    """Two steps before selection begins, and two after it has ended, at which the proxy rests."""
    net, small = Net(6, 0), Net(3, 1)
    by_hand, optimizer_by_hand = copy.deepcopy(small), None
    optimizer_by_hand = torch.optim.AdamW(by_hand.parameters(), lr=0.05)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sift = Sift(net, score=Proxy(small, lr=0.05), keep=0.5, random_share=0.0, start_step=2, end_step=12)
    chosen = []
    for number, batch in enumerate(batches(14)):
        kept = list(range(GROSS))
        if 2 <= number < 12:
            by_hand.eval()
            with torch.no_grad():
                losses = F.cross_entropy(by_hand(batch["x"])["logits"], batch["labels"], reduction="none")
            kept = hardest(losses, KEPT)
        train_step(sift, batch, optimizer)
        assert sift.last.indices.tolist() == kept
        if number < 12:
            by_hand.train()
            optimizer_by_hand.zero_grad()
            by_hand(batch["x"][kept], batch["labels"][kept])["loss"].backward()
            optimizer_by_hand.step()
        chosen.append(kept)
        found, wanted = sift.source.network.state_dict(), by_hand.state_dict()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), number
    assert len(set(map(tuple, chosen[2:12]))) > 5  # it does not choose the same rows over and over


@pytest.mark.parametrize(("share", "hardest_rows"), [(None, 3), (0.5, 2), (0.0, 4)])
def test_a_quarter_of_the_kept_rows_is_drawn_unless_it_is_said(share, hardest_rows):
    """Of four rows one; the others are those of the largest losses."""
    net = Net(6, 0)
    sift = Sift(net, score=Proxy(Net(3, 1), lr=0.05), keep=0.5, random_share=share)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    drawn = set()
    for batch in batches(12):
        train_step(sift, batch, optimizer)
        order = sorted(range(GROSS), key=lambda row: -float(sift.last.scores[row]))
        kept = sift.last.indices.tolist()
        assert len(kept) == KEPT
        assert set(order[:hardest_rows]) <= set(kept)
        drawn |= {order.index(row) for row in kept} - set(range(hardest_rows))
    # Twelve times the same of five ranks, or of six, has a chance of 2e-8, and the seed is fixed.
    assert (len(drawn) > 1) == (hardest_rows < KEPT)


def test_the_proxy_that_was_given_stays_as_it_was_and_serves_two_engines():
    small = Net(3, 1)
    before = copy.deepcopy(small.state_dict())
    source = Proxy(small, lr=0.05)
    weights = []
    for _ in range(2):
        net = Net(6, 0)
        sift = Sift(net, score=source, keep=0.5)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for batch in batches(5):
            train_step(sift, batch, optimizer)
        weights.append(sift.source.network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in before)
    assert all(torch.equal(small.state_dict()[name], before[name]) for name in before)
    assert not torch.equal(weights[0]["layers.0.weight"], before["layers.0.weight"])


def test_scoring_and_reading_change_nothing():
    sift = Sift(Net(6, 0), score=Proxy(Net(3, 1)), keep=0.5)
    (batch,) = batches(1)
    before, drawn = copy.deepcopy(sift.source.network.state_dict()), torch.get_rng_state()
    first = sift.read(batch)
    sift.choose(batch)
    found = sift.source.network.state_dict()
    assert all(torch.equal(found[name], before[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), drawn)
    (reading,) = first
    assert (reading.rows, reading.kept) == (GROSS, KEPT)
    assert -1 <= reading.rank_correlation <= 1


def test_meters_read_the_proxys_scores_and_change_no_choice():
    runs = []
    for every in (0, 1):
        net = Net(6, 0)
        sift = Sift(net, score=Proxy(Net(3, 1), lr=0.05), keep=0.5, meter_every=every)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        rows = []
        for batch in batches(6):
            train_step(sift, batch, optimizer)
            rows.append(sift.last.indices.tolist())
        runs.append((rows, len(sift.readings)))
    assert (runs[0][1], runs[1][1]) == (0, 6)
    assert runs[0][0] == runs[1][0]


@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_resumed_run_is_the_run_bit_for_bit(at):
    def begin():
        net = Net(6, 0)
        sift = Sift(net, score=Proxy(Net(3, 1), lr=0.05), keep=0.5, random_share=0.5)
        return net, sift, torch.optim.SGD(net.parameters(), lr=0.1)

    resumed, whole = assert_resumes(begin, lambda: batches(10), at)
    assert same(resumed.source.network.state_dict(), whole.source.network.state_dict())


def test_an_optimizer_of_ones_own_and_scores_in_parts():
    """Scores in parts are those of the whole, since eval mode looks at no other row."""
    small = Net(3, 1)
    source = Proxy(small, optimizer=torch.optim.SGD(small.parameters(), lr=0.5))
    sift = Sift(Net(6, 0), score=source, keep=0.5)
    (batch,) = batches(1)
    kept = sift.choose(batch)
    by_hand = copy.deepcopy(small).train()
    by_hand(**kept)["loss"].backward()
    sift.forward_kept(kept)
    for name, weight in by_hand.named_parameters():
        expected = weight.detach() - 0.5 * weight.grad
        assert torch.allclose(sift.source.network.get_parameter(name), expected, rtol=1e-6, atol=1e-7)


def test_a_bad_score_of_a_proxy_is_a_bad_score():
    small = Net(3, 1)
    sift = Sift(Net(6, 0), score=Proxy(small), keep=0.5)
    (batch,) = batches(1)
    sift.choose({**batch})
    batch["x"][2] = float("nan")
    with pytest.raises(ValueError, match=r"scores\[2\] is nan at step 1: scores must be finite"):
        sift.choose(batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Proxy("net"), "network is a str but must be a torch.nn.Module"),
        (lambda: Proxy(torch.nn.ReLU()), "network = ReLU has no weights that train"),
        (lambda: Proxy(Net(3, 1), lr=0.0), r"lr = 0\.0 must be above 0"),
        (lambda: Sift(Net(3, 1), score=Proxy(Net(3, 1)), exit_layer="auto"), "score = Proxy takes none as it is"),
        (lambda: Sift(Net(3, 1), score=Proxy(Net(3, 1)), batchnorm="gross"), "score = Proxy must not be"),
    ],
)
def test_what_a_proxy_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_state_of_another_network_is_refused():
    sift = Sift(Net(6, 0), score=Proxy(Net(3, 1)))
    with pytest.raises(ValueError, match="the state is not of this Net"):
        sift.load_state_dict(Sift(Net(6, 0), score=Proxy(Net(4, 1))).state_dict())
    with pytest.raises(ValueError, match="the state lacks source: it is not of a Sift with score = Proxy"):
        sift.load_state_dict(Sift(Net(6, 0), score="random").state_dict())


def test_a_network_without_a_loss_is_refused():
    class NoLoss(Net):
        def forward(self, x, labels=None):
            return {"logits": self.layers(x)}

    sift = Sift(Net(6, 0), score=Proxy(NoLoss(3, 1)), start_step=1)
    with pytest.raises(ValueError, match="NoLoss returns no loss to train it by"):
        sift(**next(batches(1)))
