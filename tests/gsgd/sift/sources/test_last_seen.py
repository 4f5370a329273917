"""Losses last seen, in a loop of one's own: held against a dictionary kept by hand."""

import copy
import math
import pickle
import random

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from scipy.stats import spearmanr  # noqa: E402
from small_training import OneLayer, hardest, losses_by_hand, train_step  # noqa: E402

from gsgd import host  # noqa: E402
from gsgd.sift import LastSeen, Sift, SiftOptions  # noqa: E402
from gsgd.sift.choice import Choice  # noqa: E402
from gsgd.sift.ranks import Ranks  # noqa: E402

ROWS, GROSS = 40, 8


class Net(OneLayer):
    def __init__(self, smoothing=0.0):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, x, labels=None):
        logits = self.layer(x)
        return {"loss": F.cross_entropy(logits, labels, label_smoothing=self.smoothing), "logits": logits}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(ROWS, 5, generator=generator), torch.randint(3, (ROWS,), generator=generator)


def batches(data, number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        ids = torch.randperm(ROWS, generator=generator)[:GROSS]
        yield {"x": data[0][ids], "labels": data[1][ids], "id": ids}


def losses_at_present(net, batch, rows):
    return losses_by_hand(batch["x"][rows] @ net.layer.weight.T + net.layer.bias, batch["labels"][rows])


@pytest.mark.parametrize("max_age", [None, 6])
def test_rows_are_chosen_by_a_dictionary_of_what_was_seen(data, max_age):
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    sift = Sift(net, score="last-seen", data_rows=ROWS, random_share=0.0, max_age=max_age)
    seen: dict[int, tuple[float, int]] = {}
    for step, batch in enumerate(batches(data, 30)):
        names = batch["id"].tolist()

        def last(name, step=step):
            loss, at = seen.get(name, (math.inf, step))
            return math.inf if max_age is not None and step - at > max_age else loss

        expected = hardest([last(name) for name in names], GROSS // 2)
        before = copy.deepcopy(net)
        train_step(sift, batch, optimizer)
        assert sift.last.indices.tolist() == expected
        assert sift.last.ids.tolist() == [names[row] for row in expected]
        found = losses_at_present(before, batch, torch.tensor(expected))
        assert sift.last.losses.tolist() == pytest.approx(found, rel=1e-5, abs=1e-6)
        for row, loss in zip(expected, sift.last.losses.tolist(), strict=True):
            seen[names[row]] = loss, step
    table = sift.named_rows.seen
    assert {name for name in range(ROWS) if table.seen_at[name] >= 0} == seen.keys()
    assert all(table.losses[name] == loss and table.seen_at[name] == at for name, (loss, at) in seen.items())
    assert table.share_seen == len(seen) / ROWS


def test_a_random_share_is_drawn_from_what_the_rule_leaves():
    """Over 400 draws each of the rows left comes evenly: six frequencies within 5 sigma, which errs 1 in 300,000."""
    choice, generator = Choice(SiftOptions(random_share=0.5), Ranks(0, 1, False)), torch.Generator().manual_seed(0)
    scores = torch.arange(GROSS).double()
    counts = torch.zeros(GROSS)
    for _ in range(400):
        chosen = choice._apply_rule(scores, 4, generator)
        assert len(set(chosen.tolist())) == 4
        assert {6, 7} <= set(chosen.tolist())
        counts[chosen] += 1
    assert (counts[6:] == 400).all()
    share, spread = 2 / 6, math.sqrt(2 / 6 * 4 / 6 / 400)
    assert ((counts[:6] / 400 - share).abs() < 5 * spread).all()


def test_steps_that_do_not_select_are_seen_too(data):
    sift = Sift(Net(), score="last-seen", data_rows=ROWS, start_step=3)
    for batch in batches(data, 3):
        sift(**batch)["loss"].backward()
        assert not sift.last.selected
        assert sift.named_rows.seen.seen_at[batch["id"]].tolist() == [sift.last.step] * GROSS


def test_ids_that_change_are_noticed_where_rows_have_a_class(data):
    """Row 3 comes back as another row; with check=False nobody looks."""

    def batch(ids, labels):
        return {"x": data[0][: len(ids)], "labels": torch.tensor(labels), "id": torch.tensor(ids)}

    for check in (True, False):
        sift = Sift(Net(), score="last-seen", data_rows=ROWS, keep=1.0, check=check)
        sift(**batch([3, 5], [0, 1]))
        sift(**batch([5, 3], [1, 0]))
        if check:
            with pytest.raises(ValueError, match=r"id 3 came with the label 0 and comes with 2 now: .*WithIds"):
                sift(**batch([7, 3], [1, 2]))
        else:
            sift(**batch([7, 3], [1, 2]))


def test_ids_that_change_are_noticed_within_sixteen_steps_of_a_long_run():
    """Of rows that are drawn in turn, once a thousand are remembered: their ids begin to name the next row."""
    rows, size = 2000, 50
    features, labels = torch.randn(rows, 5), torch.arange(rows) % 3
    sift = Sift(Net(), score="last-seen", data_rows=rows, keep=1.0)

    def train(steps, moved=0):
        for number in range(steps):
            ids = (torch.arange(size) + number * size) % rows
            sift(x=features[ids], labels=labels[(ids + moved) % rows], id=ids)

    train(3 * rows // size)
    with pytest.raises(ValueError, match=r"an id must name the same row in every epoch"):
        train(16, moved=1)


def test_a_state_of_an_older_version_goes_on():
    """There rows never seen had the loss NaN."""
    table, most = LastSeen(4), torch.finfo(torch.float32).max
    losses = torch.tensor([1.5, torch.nan, 0.5, torch.nan])
    table.load_state_dict({"losses": losses, "seen_at": torch.tensor([3, -1, 4, -1])})
    assert table.scores(torch.arange(4), step=5).tolist() == [1.5, most, 0.5, most]


def test_a_run_resumed_at_random_moments_goes_on_bit_for_bit(data):
    """Ten runs, each cut three times at moments drawn with a fixed seed, against a dictionary of the whole run."""
    moments = random.Random(8)

    def run(stops):
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        sift = Sift(net, score="last-seen", data_rows=ROWS, max_age=12, seed=4)
        chosen = []
        for step, batch in enumerate(batches(data, 25)):
            for _ in range(stops.count(step)):
                state = copy.deepcopy(sift.state_dict())
                sift = Sift(net, score="last-seen", data_rows=ROWS, max_age=12, seed=moments.randrange(100))
                sift.load_state_dict(state)
            train_step(sift, batch, optimizer)
            chosen.append((sift.last.ids.tolist(), sift.last.losses.tolist()))
        return chosen

    whole = run([])
    for _ in range(10):
        stops = [moments.randrange(25) for _ in range(3)]
        assert run(stops) == whole, stops


@pytest.mark.parametrize("how", ["state", "pickle"])
def test_a_run_resumed_at_any_moment_goes_on_bit_for_bit(data, how):
    def run(stop=None):
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        sift = Sift(net, score="last-seen", data_rows=ROWS, seed=4)
        chosen = []
        for step, batch in enumerate(batches(data, 20)):
            if step == stop and how == "state":
                state = copy.deepcopy(sift.state_dict())
                sift = Sift(net, score="last-seen", data_rows=ROWS, seed=99)
                sift.load_state_dict(state)
            elif step == stop:
                sift = pickle.loads(pickle.dumps(sift))
                net = sift.model
                optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
            train_step(sift, batch, optimizer)
            chosen.append(sift.last.ids.tolist())
        return chosen, net.layer.weight.detach().clone(), sift.named_rows.seen.losses.clone()

    whole = run()
    for stop in (0, 1, 7, 19):
        chosen, weight, losses = run(stop)
        assert chosen == whole[0]
        assert torch.equal(weight, whole[1])
        assert torch.equal(losses.nan_to_num(-1), whole[2].nan_to_num(-1))


def test_losses_of_sequences_are_means_over_their_labels(build, make_batch):
    """Of a causal model the shift is found by the model's own loss; of a masked one the head may see labels alone."""
    for name, options in (("gpt2", {}), ("bert-mlm", {}), ("bert-mlm", {"labelled_head": True})):
        model = build(name, dropout=0.0).train()
        batch = make_batch(name, rows=4, seed=1)
        sift = Sift(model, score="last-seen", data_rows=9, **options)
        sift(**batch, id=torch.tensor([5, 2, 8, 0]))
        alone = []
        for row in sift.last.indices.tolist():
            of_row = {key: value[row : row + 1] for key, value in batch.items()}
            alone.append(float(model(**of_row).loss.detach()))
        assert sift.last.losses.tolist() == pytest.approx(alone, rel=1e-4), (name, options)


def test_a_loss_that_is_not_the_cross_entropy_is_refused_or_given(data):
    batch = next(batches(data, 1))
    with pytest.raises(ValueError, match=r"the losses of rows are not the model's: its loss is .*row_losses="):
        Sift(Net(smoothing=0.3), score="last-seen", data_rows=ROWS)(**batch)

    def own(output, rows):
        return F.cross_entropy(output["logits"], rows["labels"], reduction="none", label_smoothing=0.3)

    for options in ({"row_losses": own}, {"label_smoothing": 0.3}):
        sift = Sift(Net(smoothing=0.3), score="last-seen", data_rows=ROWS, **options)
        loss = sift(**batch)["loss"].detach()
        assert float(sift.last.losses.mean()) == pytest.approx(float(loss), rel=1e-6)
    with pytest.raises(ValueError, match=r"row_losses returned \(2,\), but must return one loss per row, \(4,\)"):
        Sift(Net(), score="last-seen", data_rows=ROWS, row_losses=lambda output, rows: torch.zeros(2))(**batch)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (None, r"needs the ids of a batch's rows under 'id' \(id_key\), but it holds: x, labels"),
        (torch.tensor([0, 1, 2, 3, 4, 5, 6, 40]), r"id 40 must lie in 0\.\.39"),
        (torch.tensor([0, 1, 2, 3, 4, 5, 6, -1]), r"id -1 must lie in 0\.\.39"),
        (torch.tensor([0, 1, 2, 3, 4, 5, 6, 3]), r"id 3 comes twice in one batch.*drop_last=True"),
        (torch.rand(8), r"ids of shape \(8,\) and torch.float32 must be whole numbers"),
        (torch.zeros(8, 1, dtype=torch.int64), r"ids of shape \(8, 1\)"),
        (torch.tensor(3), r"ids of shape \(\) and torch.int64 must be whole numbers of shape \(B,\): number the rows"),
        (list("abcdefgh"), r"ids of type list of str must be whole numbers .*WithIds"),
        (object(), "ids of type object must be whole numbers"),
        (torch.arange(7), "the batch has 8 rows, but 7 ids"),
    ],
)
def test_ids_that_name_no_rows_are_refused(ids, message, data):
    batch = {"x": data[0][:8], "labels": data[1][:8], **({} if ids is None else {"id": ids})}
    with pytest.raises(ValueError, match=message):
        Sift(Net(), score="last-seen", data_rows=ROWS)(**batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "last-seen"}, "needs data_rows"),
        ({"score": "last-seen", "data_rows": 0}, "data_rows = 0 must be a whole number of at least 1"),
        ({"score": "last-seen", "data_rows": 9, "random_share": 1.5}, r"random_share = 1\.5 must lie in \[0, 1\]"),
        ({"score": "random", "max_age": 5}, 'max_age is for score = "last-seen"'),
        ({"score": "last-seen", "data_rows": 9, "exit_layer": "auto"}, "needs exits that score"),
        ({"score": "random", "id_key": ""}, "id_key = '' must be the name"),
        ({"score": "last-seen", "data_rows": 9, "row_losses": 3}, "row_losses = 3 must be callable"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sift(Net(), **options)


def test_an_age_bound_that_cannot_hold_is_refused(data):
    sift = Sift(Net(), score="last-seen", data_rows=ROWS, max_age=4)
    with pytest.raises(ValueError, match=r"max_age = 4 steps cannot hold: a row is drawn once in 5 steps"):
        sift(**next(batches(data, 1)))


def test_readings_hold_what_was_seen_against_exact_losses(data):
    """Against a dictionary: which of the seen rows each would choose, their ranks, and F0's distances of roots."""
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    sift = Sift(net, score="last-seen", data_rows=ROWS, random_share=0.0, meter_every=2)
    plain = Sift(Net(), score="last-seen", data_rows=ROWS, random_share=0.0)
    other = torch.optim.SGD(plain.model.parameters(), lr=0.3)
    seen: dict[int, float] = {}
    for step, batch in enumerate(batches(data, 21)):
        exact = losses_at_present(net, batch, torch.arange(GROSS))
        names = batch["id"].tolist()
        known = [row for row in range(GROSS) if names[row] in seen]
        old = {row: seen[names[row]] for row in known}
        train_step(sift, batch, optimizer)
        train_step(plain, batch, other)
        seen |= dict(zip(sift.last.ids.tolist(), sift.last.losses.tolist(), strict=True))
        if step % 2:
            continue
        reading = sift.readings[-1]
        assert (reading.step, reading.rows, reading.exit_layer) == (step, len(known), 0)
        if len(known) < 2:
            assert math.isnan(reading.overlap) == (not known)
            continue
        k = max(1, round(0.5 * len(known)))
        chosen = sorted(known, key=lambda row: -old[row])[:k]
        hardest = sorted(known, key=lambda row: -exact[row])[:k]
        assert reading.overlap == pytest.approx(len({*chosen} & {*hardest}) / k)
        assert reading.rank_correlation == pytest.approx(
            spearmanr([old[row] for row in known], [exact[row] for row in known])[0]
        )
        for rows, found in ((chosen, reading.delta_chosen), (hardest, reading.delta_hardest)):
            mean = sum((math.sqrt(old[row]) - math.sqrt(exact[row])) ** 2 for row in rows) / k
            assert found == pytest.approx(math.sqrt(mean), rel=1e-4)
        best, mine = (math.sqrt(sum(exact[row] for row in rows) / k) for rows in (hardest, chosen))
        assert mine >= best - reading.delta_chosen - reading.delta_hardest - 1e-6
    assert len(sift.readings) == 11
    assert torch.equal(net.layer.weight, plain.model.layer.weight), "metering changes nothing"
    assert plain.readings == []


def test_readings_of_sequences_leave_rows_without_labels_out(build, make_batch):
    model = build("bert-mlm", dropout=0.0).train()
    batch = make_batch("bert-mlm", rows=4, seed=1)
    sift = Sift(model, score="last-seen", data_rows=9, keep=1.0)
    ids = torch.tensor([5, 2, 8, 0])
    sift(**batch, id=ids)
    (reading,) = sift.read({**batch, "id": ids})
    labelled = (batch["labels"] != -100).any(dim=1)
    assert (reading.rows, reading.overlap) == (int(labelled.sum()), 1.0)
    assert reading.delta_chosen == pytest.approx(0, abs=1e-3)
    row = labelled.nonzero()[0]
    unlabelled = {**batch, "labels": batch["labels"].index_fill(0, row, -100), "id": ids}
    assert sift.read(unlabelled)[0].rows == reading.rows - 1


def test_another_data_set_is_refused_on_resuming(data):
    sift = Sift(Net(), score="last-seen", data_rows=ROWS)
    sift(**next(batches(data, 1)))
    with pytest.raises(ValueError, match="losses of 40 rows, but data_rows = 41"):
        Sift(Net(), score="last-seen", data_rows=41).load_state_dict(sift.state_dict())
    with pytest.raises(ValueError, match='the state lacks named_rows: it is not of a Sift with score = "last-seen"'):
        sift.load_state_dict(Sift(Net(), score="random").state_dict())


def test_the_model_does_not_see_ids_whatever_scores(data):
    batch = next(batches(data, 1))
    sift = Sift(Net(), score="random", seed=1)
    sift(**batch)
    assert sift.last.ids.tolist() == batch["id"][sift.last.indices].tolist()
    assert sift.last.losses is None
    named = {"row": batch["id"], "x": batch["x"], "labels": batch["labels"]}
    sift = Sift(Net(), score="last-seen", data_rows=ROWS, id_key="row")
    sift(**named)
    sift.model.eval()
    sift(**named)


def test_on_a_device_a_wrong_id_gives_nan_where_the_host_would_refuse(monkeypatch):
    monkeypatch.setattr(host, "holds", lambda array: False)
    seen = LastSeen(3)
    seen.note(torch.tensor([1]), torch.tensor([0.5]), step=0)
    assert seen.scores(torch.tensor([1, 7]), step=1).tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
