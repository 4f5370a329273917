"""The mean of several sources: ranks counted by loops."""

import copy

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from small_training import OneExit, assert_resumes, train_step  # noqa: E402

from gsgd.sift import ExitLoss, MeanOfRanks, Proxy, ReducibleLoss, ScoreSource, Sift  # noqa: E402

GROSS = 8


class Given(ScoreSource):
    """Scores that are given."""

    def __init__(self, values):
        self.values = torch.tensor(values)

    def scores(self, gross):
        return self.values


def batches(number):
    generator = torch.Generator().manual_seed(0)
    for _ in range(number):
        labels = torch.randint(3, (GROSS,), generator=generator)
        yield {"x": torch.randn(GROSS, 5, generator=generator), "labels": labels}


def ranks(scores):
    """How many rows are below each, and half of those that equal it."""
    return [
        sum(other < score for other in scores) + (sum(other == score for other in scores) - 1) / 2 for score in scores
    ]


def losses(net, batch):
    with torch.no_grad():
        return F.cross_entropy(net(batch["x"])["logits"], batch["labels"], reduction="none").tolist()


def test_ranks_with_ties_and_scores_of_any_scale():
    one, other = [3.0, 1.0, 1.0, 9.0, 2.0, 1e30, 0.0, 5.0], [0.1, 0.5, 0.4, 0.4, 0.4, 0.0, 0.3, 0.2]
    sift = Sift(OneExit(), score=MeanOfRanks(Given(one), Given(other)), keep=0.5)
    (batch,) = batches(1)
    sift.choose(batch)
    expected = [(a + b) / 2 for a, b in zip(ranks(one), ranks(other), strict=True)]
    assert sift.last.scores.tolist() == expected


def test_an_exit_and_a_proxy_by_hand():
    """The proxy learns as it does alone; the exit is the model's."""
    net, small = OneExit(0), OneExit(1)
    by_hand = copy.deepcopy(small)
    optimizer_by_hand = torch.optim.AdamW(by_hand.parameters(), lr=0.1)
    sift = Sift(net, score=MeanOfRanks(ExitLoss(), Proxy(small, lr=0.1)), exit_layer=1, keep=0.5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for batch in batches(6):
        pair = ranks(losses(net, batch)), ranks(losses(by_hand, batch))
        expected = [(a + b) / 2 for a, b in zip(*pair, strict=True)]
        train_step(sift, batch, optimizer)
        assert sift.last.scores.tolist() == expected
        kept = sift.last.indices
        optimizer_by_hand.zero_grad()
        by_hand(batch["x"][kept], batch["labels"][kept])["loss"].backward()
        optimizer_by_hand.step()


def test_a_resumed_run_is_the_run_bit_for_bit():
    def begin():
        net = OneExit()
        sift = Sift(net, score=MeanOfRanks(ExitLoss(), Proxy(OneExit(1), lr=0.1)), exit_layer=1)
        return net, sift, torch.optim.SGD(net.parameters(), lr=0.5)

    assert_resumes(begin, lambda: batches(9), 4)


def test_what_sources_need_is_needed_of_all():
    source = MeanOfRanks(ExitLoss(), ReducibleLoss([1.0, 2.0]))
    assert (source.needs_ids, source.by_exit, source.own_input) == (True, True, False)
    with pytest.raises(ValueError, match="score = MeanOfRanks needs data_rows"):
        Sift(OneExit(), score=source, exit_layer=1)


def test_a_score_that_is_not_finite_has_no_rank():
    values = [1.0, float("nan"), 2.0, float("inf"), 0.0, 3.0, 4.0, 5.0]
    sift = Sift(OneExit(), score=MeanOfRanks(Given(values), Given([0.0] * GROSS)), on_bad_scores="drop")
    sift.choose(next(batches(1)))
    assert sift.totals.bad_score_rows == 2
    assert not {1, 3} & set(sift.last.indices.tolist())


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ((), "has 0 sources but must have at least 2"),
        ((ExitLoss(),), "has 1 sources but must have at least 2"),
        ((ExitLoss(), "random"), "'random' must be a ScoreSource"),
    ],
)
def test_what_is_refused(sources, message):
    with pytest.raises(ValueError, match=message):
        MeanOfRanks(*sources)
