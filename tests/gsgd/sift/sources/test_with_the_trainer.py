"""Losses last seen in the Trainer: ids come with the samples, and a run goes on from its checkpoint bit for bit."""

import shutil

import pytest

pq = pytest.importorskip("pyarrow.parquet")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from datasets import Dataset  # noqa: E402
from torch.utils.data import IterableDataset  # noqa: E402

from gsgd.sift import WithIds  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments, SiftTrainer  # noqa: E402


@pytest.fixture
def samples(make_batch):
    batch = make_batch("gpt2", rows=32, seed=4)
    return [{name: value[row] for name, value in batch.items()} for row in range(32)]


@pytest.fixture
def trainer(tmp_path, build, samples):
    def make(folder="run", sift=None, data=None, **more):
        torch.manual_seed(0)
        arguments = transformers.TrainingArguments(
            str(tmp_path / folder),
            per_device_train_batch_size=8,
            num_train_epochs=3,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **{"save_strategy": "no", **more},
        )
        chosen = SiftArguments(score="last-seen", **(sift or {}))
        found = samples if data is None else data
        return SiftTrainer(build("gpt2", dropout=0.1), arguments, train_dataset=found, sift=chosen)

    return make


@pytest.mark.parametrize("accumulation", [1, 2])
def test_rows_are_noted_and_a_resumed_run_goes_on(trainer, accumulation, tmp_path):
    options = {"gradient_accumulation_steps": accumulation, "save_strategy": "steps", "save_steps": 3}
    whole = trainer(**options)
    whole.train()
    seen = whole.sift.named_rows.seen
    assert whole.sift.last.selected
    assert seen.share_seen > 0.5
    assert int(seen.seen_at.max()) == whole.state.global_step - 1
    assert whole.sift.last.losses.tolist() == seen.losses[whole.sift.last.ids].tolist()
    resumed = trainer("resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert torch.equal(resumed.sift.named_rows.seen.seen_at, seen.seen_at)
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_the_log_of_a_resumed_run_is_that_of_a_whole_one(trainer, tmp_path):
    def logged(folder):
        rows = [row for path in sorted(folder.iterdir()) for row in pq.read_table(path).to_pylist()]
        return sorted(rows, key=lambda row: (row["step"], row["id"]))

    options = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 3, "logging_steps": 1}
    whole = trainer(sift={"log_rows": tmp_path / "whole"}, **options)
    whole.train()
    found = logged(tmp_path / "whole")
    assert len(found) == 3 * 32
    assert sum(row["kept"] for row in found) == 3 * 16
    # Killed after its checkpoint: the rows of later steps lie there already.
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    resumed = trainer("resumed", sift={"log_rows": tmp_path / "killed"}, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert logged(tmp_path / "killed") == found


class Stream(IterableDataset):
    """Its samples have ids of their own, or none."""

    def __init__(self, samples, key):
        self.samples, self.key = samples, key

    def __iter__(self):
        for number, sample in enumerate(self.samples):
            yield sample if self.key is None else {**sample, self.key: number}


@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("kind", ["list", "datasets", "with ids", "with a column", "with another name", "stream"])
def test_samples_carry_their_index_whatever_they_are(trainer, samples, kind, remove):
    """The ids of what was trained on name the rows whose tokens those were."""
    sift: dict = {}
    data = {
        "list": lambda: samples,
        "datasets": lambda: Dataset.from_list(
            [{**{name: value.tolist() for name, value in sample.items()}, "unused": "x"} for sample in samples]
        ).with_format("torch", columns=["input_ids", "labels"]),
        "with ids": lambda: WithIds(samples),
        "with a column": lambda: [{**sample, "id": number} for number, sample in enumerate(samples)],
        "with another name": lambda: samples,
        "stream": lambda: Stream(samples, "id"),
    }[kind]()
    if kind == "with a column":
        data = Dataset.from_list(
            [{name: torch.as_tensor(value).tolist() for name, value in row.items()} for row in data]
        )
    if kind == "with another name":
        sift["id_key"] = "row"
    if kind == "stream":
        sift["data_rows"] = 32
    made = trainer(sift=sift, data=data, remove_unused_columns=remove, max_steps=4)
    shown = []
    train = type(made).compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.sift.last is not None:  # else it is a probe
            shown.append((self.sift.last.ids, inputs["input_ids"].clone()))
        return train(self, model, inputs, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(made), "compute_loss", compute_loss)
        made.train()
    trained = [(ids, tokens) for ids, tokens in shown if ids is not None and len(ids) == len(tokens)]
    assert len(trained) >= 4
    for ids, tokens in trained[-4:]:
        assert torch.equal(tokens, torch.stack([samples[row]["input_ids"] for row in ids.tolist()]))
    assert made.sift.named_rows.seen.share_seen > 0


def test_streams_without_a_length_or_ids_are_refused(trainer, samples):
    with pytest.raises(ValueError, match="needs data_rows, how many ids a stream without a length has"):
        trainer(data=Stream(samples, "id"), max_steps=2)
    with pytest.raises(ValueError, match=r"needs the ids of a batch's rows under 'id'"):
        trainer(sift={"data_rows": 32}, data=Stream(samples, None), max_steps=2).train()
