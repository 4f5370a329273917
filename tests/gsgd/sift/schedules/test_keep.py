"""The share that is kept, by steps and by training accuracy, against rules written out by hand."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from gsgd.sift import KeepByAccuracy, Sift, SiftOptions  # noqa: E402
from gsgd.sift.schedules.keep import PresentShare  # noqa: E402


class Net(torch.nn.Module):
    """Says of a row with x > 0 its label, of others another one: its accuracy is the share of positive x."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.norm = torch.nn.BatchNorm1d(1, affine=False)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x, labels=None):
        self.norm(x[:, None])
        noise = self.dropout(torch.ones(len(x), 1))
        right = F.one_hot(labels, 4) * torch.sign(x)[:, None]
        logits = self.scale * right + 0 * noise
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def batch_of(right, rows=16):
    """So many rows of which the net is right."""
    x = torch.where(torch.arange(rows) < right, 1.0, -1.0)
    return {"x": x, "labels": torch.arange(rows) % 4}


def kept_rows(sift, batches):
    found = []
    for batch in batches:
        sift(**batch)
        found.append(len(sift.last.indices))
    return found


@pytest.mark.parametrize("table", [{0: 1.0, 2: 0.5, 5: 0.25}, [(0, 1), (2, 0.5), (5, 0.25)]])
def test_a_table_over_steps(table):
    sift = Sift(Net(), score="random", keep=table)
    assert kept_rows(sift, [batch_of(8)] * 7) == [16, 16, 8, 8, 8, 4, 4]
    assert sift.keep == 0.25
    assert sift.totals.backprop_samples == 64
    assert sift.totals.idle_steps == 0, "a share of 1 is asked for"
    sift.step = 1
    assert sift.next_keep == 1.0
    assert SiftOptions(keep=table) == SiftOptions(keep={5: 0.25, 0: 1, 2: 0.5})


def test_micro_batches_of_a_step_keep_one_share():
    sift = Sift(Net(), score="random", keep={0: 0.5, 1: 0.25}, accumulation_steps=2)
    assert kept_rows(sift, [batch_of(8)] * 4) == [8, 8, 4, 4]


def test_by_accuracy_as_ordered_sgd_has_it():
    """q of s is s, s/2, s/4, s/8, s/16 from 80, 90, 95, 99.5% on, and never rises again."""
    rule = KeepByAccuracy()
    expected = {
        0.0: 1,
        0.79: 1,
        0.8: 1 / 2,
        0.89: 1 / 2,
        0.9: 1 / 4,
        0.95: 1 / 8,
        0.99: 1 / 8,
        0.995: 1 / 16,
        1.0: 1 / 16,
    }
    assert {accuracy: rule.share(accuracy) for accuracy in expected} == expected
    assert (rule.first, rule.least) == (1.0, 1 / 16)


def test_the_accuracy_of_gross_batches_decides_from_the_next_step_on():
    """Of two measurements every other step: 12/16 and 14/16 are 81%, the next two 94%, and then it falls."""
    sift = Sift(Net(), score="random", keep=KeepByAccuracy(every=2, batches=2))
    right = [12, 0, 14, 0, 16, 0, 8, 8, 8]
    assert kept_rows(sift, [batch_of(number) for number in right]) == [16, 16, 16, 8, 8, 4, 4, 4, 4]
    assert sift.meter_s > 0


def test_measuring_changes_nothing_that_is_trained():
    def run(**options):
        torch.manual_seed(0)
        net = Net().train()
        sift = Sift(net, score="random", seed=3, **options)
        indices = []
        for right in (3, 9, 12, 1):
            sift(**batch_of(right))
            indices.append(sift.last.indices.tolist())
        return indices, net.norm.running_mean.clone(), torch.get_rng_state()

    plain = run(keep=0.5)
    measured = run(keep=KeepByAccuracy(first=0.5, levels=((1.0, 0.5),), every=1, batches=2))
    assert plain[0] == measured[0]
    assert all(torch.equal(*pair) for pair in zip(plain[1:], measured[1:], strict=True))


@pytest.mark.parametrize("how", ["state", "pickle"])
@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_a_resumed_run_keeps_what_the_run_would_have(how, stop):
    batches = [batch_of(right) for right in (12, 0, 14, 0, 16, 0, 16, 16)]
    options = {"score": "random", "keep": KeepByAccuracy(every=2, batches=2), "seed": 5}
    whole, sift = Sift(Net(), **options), Sift(Net(), **options)
    expected = kept_rows(whole, batches)
    found = kept_rows(sift, batches[:stop])
    if how == "state":
        state = copy.deepcopy(sift.state_dict())
        sift = Sift(Net(), **options)
        sift.load_state_dict(state)
    else:
        sift = pickle.loads(pickle.dumps(sift))
    assert sift.next_keep == [16, 16, 16, 8, 8, 4, 4][stop] / 16
    assert found + kept_rows(sift, batches[stop:]) == expected
    assert expected == [16, 16, 16, 8, 8, 4, 4, 2], "a sixteenth, but two rows for BatchNorm"
    with pytest.raises(ValueError, match="the state lacks keep: it is not of a Sift with keep by accuracy"):
        whole.load_state_dict(Sift(Net(), score="random").state_dict())


def test_sequences_count_by_labelled_positions(build, make_batch):
    """Of a causal model position t predicts label t + 1, and padding has no label."""
    model = build("gpt2", dropout=0.0).train()
    batch = make_batch("gpt2", rows=4, seed=1)
    share = KeepByAccuracy(levels=((1.0, 0.5),), every=1, batches=1)
    sift = Sift(model, score="random", keep=share, check=False)
    sift(**batch)
    right, labelled = 0, 0
    logits = model(**batch).logits
    for row, of_row in zip(logits, batch["labels"], strict=True):
        for place in range(1, len(of_row)):
            if of_row[place] != -100:
                labelled += 1
                right += int(row[place - 1].argmax()) == int(of_row[place])
    assert list(sift._share.accuracies) == [pytest.approx(right / labelled)]


def test_shares_are_rows_of_readings_and_diagnoses_too(build, make_batch):
    sift = Sift(build("bert-mlm", dropout=0.0).train(), keep={0: 0.5, 1: 0.25}, exit_layer=1, meter_every=1)
    for seed in range(2):
        sift(**make_batch("bert-mlm", rows=8, seed=seed))
    assert [reading.kept for reading in sift.readings] == [4, 2]
    assert sift._always_at(2).options.keep == 0.25


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({}, "keep is a table without entries"),
        ({1: 0.5}, r"keep has entries for the steps \[1\], but they must begin with 0 and ascend"),
        ([(0, 1), (5, 0.5), (5, 0.2)], r"the steps \[0, 5, 5\]"),
        ([(0, 1), (5, 0.5), (3, 0.2)], r"the steps \[0, 5, 3\]"),
        ({0: 0.0}, r"keep = 0\.0 must lie in \(0, 1\]"),
        ({0.5: 0.5}, "a step of keep = 0.5 must be a whole number"),
        ({"0": 0.5}, "a step of keep = '0' must be a whole number"),
        ([0, 1], r"keep = \[0, 1\] must be pairs of a step and a share"),
    ],
)
def test_what_is_no_table(keep, message):
    with pytest.raises(ValueError, match=message):
        SiftOptions(keep=keep)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"levels": ((0.9, 0.5), (0.8, 0.25))}, "must have ascending accuracies and descending shares"),
        ({"levels": ((0.8, 0.25), (0.9, 0.5))}, "must have ascending accuracies and descending shares"),
        ({"first": 0.4}, r"from first = 0\.4 on must have"),
        ({"levels": ()}, "must have ascending"),
        ({"levels": ((80, 0.5),)}, r"an accuracy of keep = 80 must lie in \[0, 1\]"),
        ({"every": 0}, "every = 0 must be a whole number of at least 1"),
        ({"batches": 0}, "batches = 0 must be a whole number of at least 1"),
    ],
)
def test_what_is_no_rule(values, message):
    with pytest.raises(ValueError, match=message):
        KeepByAccuracy(**values)


def test_labels_that_are_no_classes_are_refused():
    class Regression(Net):
        def forward(self, x, labels=None):
            logits = self.scale * x[:, None]
            return {"loss": F.mse_loss(logits[:, 0], labels), "logits": logits}

    sift = Sift(Regression(), score="random", keep=KeepByAccuracy())
    with pytest.raises(ValueError, match=r"keep by accuracy needs labels of classes.*give keep as a number or a table"):
        sift(x=torch.ones(4), labels=torch.ones(4))


def test_a_batch_without_labels_measured_nothing():
    share = PresentShare(KeepByAccuracy(batches=1))
    sift = Sift(Net(), score="random", keep=KeepByAccuracy(batches=1))
    sift._share = share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gsgd.sift.choosing.training_accuracy", lambda *_: float("nan"))
        sift(**batch_of(3))
    assert (list(share.accuracies), share.at(1)) == ([], 1.0)
