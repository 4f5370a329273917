"""A configuration's diagnosis: what it trains, on which batches it measures, and what it leaves alone."""

import math

import pytest

pytest.importorskip("torch")

import torch

from training.data.order import Order
from training.diagnose import measure
from training.diagnose.measure import diagnose_config, load_weights
from training.training import Training, build_sift


@pytest.fixture
def diagnose(tiny, accelerator):
    """`diagnose(key=value, ...)`: options of `diagnose_config`, and `values` of the tiny configuration."""

    def run(values=None, **options):
        # The last layer's norm makes no batch's rows depend on each other.
        config = tiny(batch_normalised=False, rows=128, **{"method": "loss@1", **(values or {})})
        return config, diagnose_config(config, accelerator, **{"batches": 4, **options})

    return run


def test_points_in_order_with_what_was_trained_before(diagnose):
    _, found = diagnose(after=[6, 0, 2])
    assert [point.step for point in found.points] == [0, 2, 6]
    assert found.points[0].train_loss is None
    assert all(math.isfinite(point.train_loss) for point in found.points[1:])
    assert all([each.exit_layer for each in point.diagnosis.exits] == [1, 2] for point in found.points)
    assert found.header["total_steps"] == 24
    assert (found.header["score"], found.header["rows"], found.header["kept"]) == ("loss", 16, 8)
    assert (found.header["batches"], found.header["model"]) == (4, None)
    assert found.header["config"]["method"] == "loss@1"


def test_the_weights_are_those_of_a_baseline(diagnose, tiny, accelerator, monkeypatch):
    """The diagnosis on the way changes nothing: the readings at the end are of a plain run's weights."""
    config, found = diagnose({"dropout": 0.0}, after=[0, 3, 5])
    plain = Training(config.with_values({"method": "baseline"}), config.build_task(), accelerator, 24)
    for _ in range(5):
        plain.train_step()
    sift = build_sift(plain.model, config.training, 24, 100)
    order = Order(128, config.training.seed + 1)
    batches = [plain.batches.placed(plain.task.training_batch(*order.take(16))) for _ in range(4)]
    rows = [row for batch in batches for row in batch["x"].tolist()]
    assert len({tuple(row) for row in rows}) == 64  # disjoint
    expected = [sift.read(batch, exits=[1])[0] for batch in batches]
    readings = found.points[-1].diagnosis.exits[0].readings
    for name in ("rho", "rho_approx", "sigma", "overlap", "margin_correlation"):
        assert [getattr(each, name) for each in readings] == pytest.approx([getattr(each, name) for each in expected])


def test_the_default_stops_are_as_long_as_the_run(diagnose):
    _, found = diagnose()
    assert [point.step for point in found.points] == [0, 24]


def test_to_the_end_of_the_run(diagnose):
    assert [point.step for point in diagnose(to_end=True)[1].points] == [0, 24]
    assert [point.step for point in diagnose(to_end=True, after=[3])[1].points] == [3, 24]


@pytest.mark.parametrize(
    ("method", "score"), [("baseline", "loss"), ("random", "loss"), ("entropy@2", "entropy"), ("loss@auto", "loss")]
)
def test_the_score_is_the_methods_or_the_loss(diagnose, method, score):
    _, found = diagnose({"method": method, "keep": 0.25}, after=[0], batches=2)
    assert (found.header["score"], found.header["rows"], found.header["kept"]) == (score, 32, 8)
    reading = found.points[0].diagnosis.exits[-1].readings[0]
    # At the last exit the loss is exact, and the entropy is not.
    assert (reading.overlap == 1.0 and reading.sigma == 0.0) == (score == "loss")
    assert reading.rows == 32


def test_exits_and_level_are_passed_on(diagnose):
    _, found = diagnose(after=[0], exits=[2], level=0.9)
    (point,) = found.points
    assert [each.exit_layer for each in point.diagnosis.exits] == [2]
    assert point.diagnosis.level == 0.9


def test_as_many_batches_as_there_are(diagnose):
    _, found = diagnose(after=[0], batches=None)
    assert found.header["batches"] == 8
    assert found.points[0].diagnosis.batches == 8


def test_a_budget_of_time_is_spent_at_measured_prices(diagnose, monkeypatch):
    told = []
    real = measure.measure_costs
    monkeypatch.setattr(measure, "measure_costs", lambda *a, **o: real(*a, **{**o, "rounds": 3}))
    _, found = diagnose(
        {"budget": "2s"}, after=[0], progress=lambda what, done, total: told.append((what, done, total))
    )
    assert found.header["total_steps"] > 10
    assert told[0][0] == "measuring the cost of a step"
    assert told[-1] == ("measuring after 0 steps", 2, 2)


def test_progress_counts_steps_and_pairs(diagnose):
    told = []
    diagnose(after=[2, 3], progress=lambda *of: told.append(of))
    assert ("training to step 2", 1, 2) in told
    assert ("training to step 3", 3, 3) in told
    assert told[-2:] == [("measuring after 3 steps", 2, 2), ("judging on the validation split", 0, 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"after": [25]}, "after = 25 steps: by its budget = 24steps the run has 24"),
        ({"after": []}, r"after = \[\] must be numbers of steps"),
        ({"after": [-1]}, r"after = \[-1\] must be"),
        ({"batches": 1}, "batches = 1 must be at least 2"),
        ({"batches": 9}, "batches = 9 of 16 rows are more than the 128 of the training set: at most 8"),
        ({"exits": [3]}, r"exit_layer = 3 must be a whole number in 1..2"),
        ({"level": 2.0}, "level = 2.0"),
        ({"values": {"keep": 1.0, "method": "baseline"}}, "keeps every row"),
        ({"model": "here", "after": [3]}, "leave out the steps"),
        ({"model": "nowhere"}, "nowhere is no folder"),
    ],
)
def test_what_cannot_be_is_named(diagnose, options, message, tmp_path):
    if "model" in options:
        options = {**options, "model": tmp_path / options["model"]}
    with pytest.raises(ValueError, match=message):
        diagnose(**options)


# ---- Trained models ----


@pytest.fixture
def saving(tiny_module, monkeypatch):
    """The tiny model, read back as transformers' models are."""

    def from_pretrained(cls, folder):
        state = torch.load(folder / "pytorch_model.bin")
        norm = "norm.running_mean" in state
        model = cls(tiny_module.TinySettings(batch_normalised=norm))
        model.load_state_dict(state)
        return model

    monkeypatch.setattr(tiny_module.TinyModel, "from_pretrained", classmethod(from_pretrained), raising=False)
    return tiny_module


def test_a_trained_model_is_read_as_it_is(diagnose, saving, tmp_path):
    """A model that is wrong about each row by its own margin: exit 1 and the last exit say the same."""
    trained = saving.TinyModel(saving.TinySettings(batch_normalised=False, dropout=0.0))
    with torch.no_grad():
        trained.last.weight.zero_()
        trained.last.bias.zero_()
    trained.save_pretrained(tmp_path / "model")
    _, found = diagnose({"dropout": 0.0}, model=tmp_path / "model")
    assert [point.step for point in found.points] == [0]
    assert found.header["model"] == str(tmp_path / "model")
    assert found.points[0].diagnosis.exits[0].means["overlap"] == 1.0
    assert found.points[0].diagnosis.exits[0].means["pairwise_agreement"] == 1.0


def test_a_model_of_another_configuration_is_named(saving, tmp_path):
    saving.TinyModel(saving.TinySettings(batch_normalised=True)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no model of this configuration"):
        load_weights(saving.TinyModel(saving.TinySettings(batch_normalised=False)), tmp_path)
    with pytest.raises(ValueError, match="holds no model of this configuration"):
        load_weights(torch.nn.Linear(2, 2), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no model of this configuration"):
        load_weights(saving.TinyModel(saving.TinySettings()), tmp_path / "empty")


def test_several_processes_are_refused(tiny, accelerator, monkeypatch):
    monkeypatch.setattr(type(accelerator), "num_processes", 2)
    with pytest.raises(ValueError, match="2 processes"):
        diagnose_config(tiny(), accelerator)
