"""Batch samplers by losses last seen: held against dictionaries kept by hand, loaders that fetch ahead, and ranks."""

import itertools
import math
import random

import pytest

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader, Dataset, IterableDataset  # noqa: E402

from gsgd.sift import ImportanceSampler, InfoBatchSampler, LastSeenSampler, WithIds  # noqa: E402

ROWS, K = 60, 6


def loss_of(ids, step):
    """Some loss of each row that changes from step to step."""
    return torch.tensor([((7 * name + 3 * step) % 31) / 31 for name in ids])


def trained(sampler, steps, begin=0):
    """Batches of so many steps, each noted; epochs follow each other."""
    found, step = [], begin
    while True:
        for ids in sampler:
            found.append(ids)
            sampler.note(torch.tensor(ids), loss_of(ids, step))
            step += 1
            if len(found) == steps:
                return found


@pytest.mark.parametrize("max_age", [None, 12])
def test_last_seen_rows_are_those_of_a_dictionary(max_age):
    """Without a random share: of every 12 rows of the epoch's order the 6 that a dictionary says are hardest."""
    sampler = LastSeenSampler(ROWS, K, keep=0.5, random_share=0.0, max_age=max_age, seed=3)
    seen, step, orders = {}, 0, []
    for epoch in range(5):
        drawn_of_epoch = set()
        for number, ids in enumerate(sampler):
            drawn = sampler._order()[12 * number : 12 * (number + 1)].tolist()
            drawn_of_epoch |= set(drawn)

            def last(name, step=step, seen=seen):
                loss, at = seen.get(name, (math.inf, step))
                return math.inf if max_age is not None and step - at > max_age else loss

            hardest = sorted(drawn, key=lambda name: -last(name))[:K]
            assert ids == [name for name in drawn if name in hardest]
            losses = loss_of(ids, step)
            sampler.note(torch.tensor(ids), losses)
            seen |= {name: (float(loss), step) for name, loss in zip(ids, losses, strict=True)}
            step += 1
        assert number == len(sampler) - 1 == 4
        assert drawn_of_epoch == set(range(ROWS)), "an epoch draws every row once"
        orders.append(sampler._order().tolist())
        assert sampler.epoch == epoch
    assert len({tuple(order) for order in orders}) == 5


def test_a_random_share_revisits_rows_of_small_losses():
    """Three of six rows are drawn evenly from the 9 left: nine frequencies within 5 sigma, which errs 1 in 200,000."""
    sampler = LastSeenSampler(12, K, keep=0.5, random_share=0.5, seed=1)
    sampler.seen.note(torch.arange(12), torch.arange(12.0), step=0)
    counts = torch.zeros(12)
    for epoch in range(1000, 1300):
        sampler.set_epoch(epoch)
        (ids,) = sampler
        assert len(set(ids)) == K
        counts[ids] += 1
    assert (counts[9:] == 300).all()
    assert ((counts[:9] / 300 - 3 / 9).abs() < 5 * math.sqrt(2 / 9 / 300)).all()


def test_importance_weights_are_unbiased():
    """The weighted mean of 4,000 batches is the plain mean within 5 standard errors, which errs 1 in 2 million."""
    sampler = ImportanceSampler(8, 4, keep=0.5, uniform_share=0.25, seed=2)
    values = torch.tensor([1.0, 8.0, 3.0, 0.5, 9.0, 2.0, 4.0, 7.0])
    sampler.seen.note(torch.arange(8), torch.tensor([0.1, 3.0, 0.2, 0.0, 1.0, 5.0, 0.4, 0.3]), step=0)
    means = []
    for epoch in range(4000):
        sampler.set_epoch(epoch)
        (ids,) = sampler
        weights = sampler.weights(torch.tensor(ids))
        assert weights.max() <= 1 / 0.25 + 1e-6
        means.append(float((weights * values[ids]).mean()))
    found = torch.tensor(means)
    assert abs(float(found.mean()) - float(values.mean())) < 5 * float(found.std()) / math.sqrt(len(means))
    share = sampler.seen.losses / sampler.seen.losses.sum()
    q = 0.75 * share + 0.25 / 8
    (ids,) = sampler
    assert sampler.weights(ids).tolist() == pytest.approx([float(1 / (8 * q[name])) for name in ids], rel=1e-5)


def test_infobatch_leaves_out_easy_rows_and_weighs_the_others_up():
    """Over 400 epochs each easy row comes in a share .4 of them, 5 sigma; the weighted count is that of all rows."""
    sampler = InfoBatchSampler(20, 1, prune=0.6, until_epoch=1000, seed=5)
    assert sorted(itertools.chain(*sampler)) == list(range(20)), "the first epoch knows no losses"
    losses = torch.arange(20.0)
    sampler.seen.note(torch.arange(20), losses, step=0)
    easy = [name for name in range(20) if losses[name] < losses.mean()]
    counts, weighed = torch.zeros(20), torch.zeros(20)
    for epoch in range(1, 401):
        sampler.set_epoch(epoch)
        for (name,) in sampler:
            weight = float(sampler.weights([name])[0])
            assert weight == pytest.approx(2.5 if name in easy else 1.0)
            counts[name] += 1
            weighed[name] += weight
    assert (counts[10:] == 400).all()
    assert ((counts[:10] / 400 - 0.4).abs() < 5 * math.sqrt(0.4 * 0.6 / 400)).all()
    assert easy == list(range(10))
    sampler.set_epoch(1000)
    assert sorted(itertools.chain(*sampler)) == list(range(20)), "the last epochs train on all"
    assert all(float(sampler.weights([name])[0]) == 1 for name in range(20))


KINDS = {
    "last-seen": lambda: LastSeenSampler(ROWS, K, max_age=40, seed=7),
    "importance": lambda: ImportanceSampler(ROWS, K, keep=0.5, seed=7),
    "infobatch": lambda: InfoBatchSampler(ROWS, K, prune=0.5, seed=7),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ahead", [0, 2])
def test_resumed_at_any_step_it_goes_on_bit_for_bit(kind, ahead):
    """`ahead`: batches that a loader has asked for before those are trained on, as its workers do."""

    def run(stop=None, steps=33):
        sampler, found = KINDS[kind](), []
        batches, waiting = iter(()), []
        while len(found) < steps:
            while len(waiting) <= ahead:
                try:
                    waiting.append(next(batches))
                except StopIteration:
                    if waiting:
                        break
                    batches = iter(sampler)
            ids = waiting.pop(0)
            found.append((ids, sampler.weights(ids).tolist()))
            sampler.note(torch.tensor(ids), loss_of(ids, len(found)))
            if len(found) == stop:
                state = sampler.state_dict()
                sampler, batches, waiting = KINDS[kind](), iter(()), []
                sampler.load_state_dict(torch_round_trip(state))
                batches = iter(sampler)
        return found

    whole = run()
    drawn = random.Random(f"{kind} {ahead}").sample(range(1, 33), 4)
    for stop in (1, 4, 5, 9, 10, 17, 32, *drawn):
        assert run(stop) == whole, stop


def torch_round_trip(state):
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Numbers(Dataset):
    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return {"x": float(index)}


class Stream(IterableDataset):
    """One that knows its length, and inherits an index that raises."""

    def __len__(self):
        return 3

    def __iter__(self):
        return iter(())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_brings_the_ids_along(workers):
    sampler = LastSeenSampler(ROWS, K, seed=1)
    loader = DataLoader(WithIds(Numbers()), batch_sampler=sampler, num_workers=workers)
    assert len(loader) == 5
    for epoch in range(2):
        for batch in loader:
            ids = batch.pop("id")
            assert ids.dtype == torch.int64
            assert batch["x"].tolist() == ids.tolist()
            assert sampler.weights(ids).tolist() == [1.0] * K
            sampler.note(ids, torch.ones(K))
        assert sampler.step == 5 * (epoch + 1)
    assert sampler.seen.share_seen > 0.5


def test_samples_that_are_tuples_get_a_last_entry():
    pairs = WithIds([(1.0, 2), (3.0, 4)])
    assert pairs[1] == (3.0, 4, 1)
    assert len(pairs) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LastSeenSampler(0, 4), "data_rows = 0 must be a whole number of at least 1"),
        (lambda: LastSeenSampler(10, 8), r"a step draws 16 rows, but data_rows = 10"),
        (lambda: LastSeenSampler(100, 4, keep=0), r"keep = 0 must lie in \(0, 1\]"),
        (lambda: LastSeenSampler(100, 4, random_share=-1), r"random_share = -1 must lie in \[0, 1\]"),
        (lambda: LastSeenSampler(100, 4, max_age=5), r"max_age = 5 steps cannot hold.*once in 12 steps"),
        (lambda: InfoBatchSampler(100, 4, prune=1.0), r"prune = 1\.0 must lie in \[0, 1\)"),
        (lambda: ImportanceSampler(100, 4, uniform_share=0), r"uniform_share = 0 must lie in \(0, 1\]"),
        (lambda: WithIds(iter([1, 2])), "has no rows to number"),
        (
            lambda: WithIds(Stream()),
            r"a Stream has no rows to number.*of a stream, put ids of your own",
        ),
        (lambda: WithIds([{"id": 3}])[0], "samples have an entry 'id' already"),
        (lambda: LastSeenSampler(100, 4).note([1, 2], torch.ones(3)), r"ids has shape \(2,\) and losses \(3,\)"),
        (lambda: LastSeenSampler(100, 4).weights([1, 2]), "no batch with ids"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 3, ROWS], rf"id {ROWS} must lie in 0\.\.{ROWS - 1}.*number them from 0"),
        ([1, 2, -3, 4], r"id -3 must lie in"),
        ([1.5, 2, 3, 4], r"ids of shape \(4,\) and torch.float32 must be whole numbers"),
        (list("abcd"), "ids of type list of str"),
        ([1, 2, 3], r"ids has shape \(3,\) and losses \(4,\)"),
    ],
)
def test_ids_that_name_no_rows_are_not_noted(ids, message):
    sampler = LastSeenSampler(ROWS, 4)
    with pytest.raises(ValueError, match=message):
        sampler.note(ids, torch.ones(4))
    assert sampler.seen.share_seen == 0


def test_a_data_set_is_no_number_of_rows():
    with pytest.raises(
        ValueError, match=r"data_rows is a list but must be the number of rows .*len\(data\); of a stream"
    ):
        LastSeenSampler([1, 2, 3], 2)


def test_another_number_of_rows_is_refused_on_resuming():
    with pytest.raises(ValueError, match="losses of 60 rows, but data_rows = 61"):
        LastSeenSampler(61, K).load_state_dict(LastSeenSampler(ROWS, K).state_dict())
