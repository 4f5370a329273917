"""Losses last seen in the Trainer: ids come with the samples, and a run goes on from its checkpoint bit for bit."""

import shutil

import pytest

pq = pytest.importorskip("pyarrow.parquet")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gsgd.sift import WithIds  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments, SiftTrainer  # noqa: E402


@pytest.fixture
def trainer(tmp_path, build, make_batch):
    batch = make_batch("gpt2", rows=32, seed=4)
    data = WithIds([{name: value[row] for name, value in batch.items()} for row in range(32)])

    def make(folder="run", sift=None, **more):
        torch.manual_seed(0)
        arguments = transformers.TrainingArguments(
            str(tmp_path / folder),
            per_device_train_batch_size=8,
            num_train_epochs=3,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **{"remove_unused_columns": False, "save_strategy": "no", **more},
        )
        chosen = SiftArguments(score="last-seen", data_rows=32, **(sift or {}))
        return SiftTrainer(build("gpt2", dropout=0.1), arguments, train_dataset=data, sift=chosen)

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


def test_ids_that_the_trainer_takes_out_are_refused(trainer):
    with pytest.raises(ValueError, match=r"remove_unused_columns=True takes out of the batch.*WithIds"):
        trainer(remove_unused_columns=True)
