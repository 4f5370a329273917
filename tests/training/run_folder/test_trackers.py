"""Runs in trackers, offline: what they hold is what the tables say, each read back by the tracker's own means."""

import os
import struct

import pytest

from training.run import train
from training.run.accelerator import running
from training.run_folder.schema import FINISHED, INTERRUPTED

VALUES = {"method": "loss@1", "budget": "8steps", "evaluations": 2, "save_model": False, "seed": 3}
NAMES = ("WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_DIR", "TRACKIO_SPACE_ID", "MLFLOW_ALLOW_FILE_STORE")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch, tmp_path):
    """What a run sets of the environment goes with the test; homes are in its folder."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def steps_of(outcome):
    return {row.step: (row.val_accuracy, row.val_loss) for row in outcome.evaluations}


@pytest.mark.slow
def test_mlflow_has_the_run_and_its_steps_after_an_interruption_too(tiny, accelerator, tmp_path, interrupting):
    mlflow = pytest.importorskip("mlflow")
    config = tiny(trackers="mlflow", **VALUES)
    with interrupting(lambda training: training.step == 5):
        assert train(config, tmp_path / "some" / "run", accelerator=accelerator).status == INTERRUPTED
    outcome = train(config, tmp_path / "some" / "run", accelerator=accelerator)
    assert outcome.status == FINISHED
    assert (tmp_path / "some" / "mlruns").is_dir()
    client = mlflow.MlflowClient((tmp_path / "some" / "mlruns").as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.data.params["method"] == "loss@1"
    for place, name in enumerate(("val_accuracy", "val_loss")):
        history = client.get_metric_history(run.info.run_id, f"validation/{name}")
        expected = {step: pytest.approx(values[place], rel=1e-6) for step, values in steps_of(outcome).items()}
        assert {entry.step: entry.value for entry in history} == expected
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted({entry.step for entry in losses}) == list(range(1, 9))


def wandb_records(data):
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log of protocol buffers, blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    place, parts = 7, b""
    while place < len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@pytest.mark.slow
def test_wandb_writes_beside_the_folder_and_sends_nothing(tiny, accelerator, tmp_path):
    pytest.importorskip("wandb")
    outcome = train(tiny(trackers=["wandb"], **VALUES), tmp_path / "some" / "run", accelerator=accelerator)
    assert os.environ["WANDB_MODE"] == "offline"
    (path,) = (tmp_path / "some" / "wandb").glob("offline-run-*/run-*.wandb")
    found, names = {}, []
    for record in wandb_records(path.read_bytes()):
        if record.WhichOneof("record_type") == "run":
            names.append((record.run.project, record.run.display_name, record.run.run_group))
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            found.setdefault(int(items["_step"]), {}).update(items)
    assert names[0] == ("tiny", "run", "some")
    assert sorted(found) == list(range(1, 9))
    for step, (accuracy, loss) in steps_of(outcome).items():
        assert float(found[step]["validation/val_accuracy"]) == pytest.approx(accuracy)
        assert float(found[step]["validation/val_loss"]) == pytest.approx(loss)


def test_both_and_tensorboard_get_the_same_scalars(tiny, accelerator, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    written = {"wandb": [], "mlflow": []}

    def noting(name):
        class Noting:
            def __init__(self, project, **options):
                self.started = (project, options)

            def start(self):
                written[name].append(self.started)

            def store_init_configuration(self, values):
                written[name].append(values)

            def log(self, values, step):
                written[name].append((step, values))

            def finish(self):
                written[name].append("end")

        return Noting

    for name in written:
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, noting(name))
    config = tiny(trackers="wandb, mlflow", **{**VALUES, "tensorboard": True, "meter_every": 2})
    train(config, tmp_path / "run", accelerator=accelerator)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    expected = {
        (event.step, tag): pytest.approx(event.value, rel=1e-6)
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    }
    for name, options in (("wandb", {"group": tmp_path.name, "resume": "never"}), ("mlflow", {"run_id": None})):
        (project, given), values, *logged, end = written[name]
        assert (project, end) == ("tiny", "end")
        assert given.items() >= options.items()
        assert values["trackers"] == ("wandb", "mlflow")
        steps = [step for step, _ in logged]
        assert steps == sorted(steps), "wandb takes no step before one that it has"
        assert {(step, tag): value for step, found in logged for tag, value in found.items()} == expected
    assert written["wandb"][2:] == written["mlflow"][2:]


def test_what_the_user_has_set_is_left(tiny, monkeypatch, tmp_path):
    from training.run_folder.trackers import Trackers

    monkeypatch.setenv("WANDB_MODE", "online")
    Trackers((), tmp_path / "run", {"name": "a", "date": "b", "config": {}}, resumes=False)
    assert os.environ["WANDB_MODE"] == "online"
    assert os.environ["MLFLOW_TRACKING_URI"] == (tmp_path / "mlruns").as_uri()


def test_a_tracker_that_is_not_there_is_named_with_what_installs_it(tiny, monkeypatch):
    monkeypatch.setattr("training.run_folder.trackers.get_available_trackers", list)
    with (
        pytest.raises(ValueError, match="trackers = 'trackio' needs its package: pip install trackio"),
        running(tiny(trackers="trackio")),
    ):
        pass


def test_a_tracker_that_nobody_knows_is_refused(tiny):
    with pytest.raises(ValueError, match="trackers"):
        tiny(trackers="aim")
