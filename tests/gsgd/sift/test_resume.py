"""A run that is killed and resumed is the run that was not killed, bit for bit; what is half written is passed over.

The runs are processes, killed by SIGKILL. This file run as a script imports the libraries once and forks one process
per run, before torch has computed anything.
"""

import gc
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gsgd.selectors import select_online_batch  # noqa: E402
from gsgd.sift.huggingface.checkpoints import last_complete_checkpoint, list_files, outdate, what_is_missing  # noqa: E402
from gsgd.sift.huggingface.collator import MaskingCollator  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments, SiftTrainer  # noqa: E402

STEPS, PER_EPOCH, SAVED_EVERY = 9, 4, 2

# Where others use the cores, the threads of a model this small wait for each other, many times as long as it takes.
ONE_THREAD = {"capture_output": True, "text": True, "timeout": 300, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
# Killed runs take a quarter of a minute to prepare; Trainers that are interrupted are in test_trainer.py.
pytestmark = pytest.mark.slow

KILLED = {
    "between steps": {"step": 5},
    "at the end of an epoch": {"step": 4, "on": "epoch"},
    "in a step": {"step": 5, "on": "micro-batch"},
    "before the weights": {"step": 6, "on": "weights"},
    "in a half-written file": {"step": 6, "on": "file"},
    "before the state of the generators": {"step": 6, "on": "generators"},
    "before the state of the Trainer": {"step": 6, "on": "listed"},
    "in the state of the Trainer": {"step": 6, "on": "state"},
    "once all is written": {"step": 6, "on": "written"},
    "at the first save": {"step": 2, "on": "file"},
}
"""When a run is killed; `step` counts finished optimizer steps."""
COMPLETE = dict.fromkeys(KILLED, 4) | {"once all is written": 6, "at the first save": 0}
"""The last step with a complete checkpoint then."""


def kill_now():
    os.kill(os.getpid(), signal.SIGKILL)


class Killed(SiftTrainer):
    """Notes what each micro-batch kept and lost, and dies where it is told to."""

    def __init__(self, *args, step=None, on="step", **kwargs):
        super().__init__(*args, **kwargs)
        self.at, self.on, self.notes = step, on, []
        self.add_callback(Dies(self))

    def maybe(self, on):
        if self.on == on and self.state.global_step == self.at:
            kill_now()

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        last = self.sift.last
        scores = None if last.scores is None else last.scores.tolist()
        self.notes.append([self.state.global_step, loss.item().hex(), last.indices.tolist(), scores])
        self.maybe("micro-batch")
        return loss

    def save_model(self, *args, **kwargs):
        self.maybe("weights")
        super().save_model(*args, **kwargs)

    def _save_rng_state(self, *args, **kwargs):
        self.maybe("generators")
        super()._save_rng_state(*args, **kwargs)
        self.maybe("listed")

    def _save_checkpoint(self, *args, **kwargs):
        save, save_state = torch.save, self.state.save_to_json

        def half(value, path, *rest, **options):
            save(value, path, *rest, **options)
            if self.on == "file" and self.state.global_step == self.at and "optimizer" in str(path):
                os.truncate(path, os.path.getsize(path) // 2)
                kill_now()

        def half_state(path):
            save_state(path)
            if self.on == "state" and self.state.global_step == self.at:
                os.truncate(path, os.path.getsize(path) // 2)
                kill_now()

        torch.save, self.state.save_to_json = half, half_state
        try:
            super()._save_checkpoint(*args, **kwargs)
        finally:
            torch.save = save
            del self.state.save_to_json
        self.maybe("written")


class Dies(transformers.TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.maybe("step")

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.maybe("epoch")


def make(folder, options=None, **kill):
    """A run with everything that has a state: dropout, masking, a rule that draws, momentum, a schedule."""
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, vocab_size=100
    )
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config)
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(6, 20, (60,), generator=generator).tolist()  # the last of 4 x 16 rows is short
    rows = [{"input_ids": torch.randint(5, 100, (length,), generator=generator).tolist()} for length in lengths]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        **(
            {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_steps": STEPS}
            | {"save_steps": SAVED_EVERY, "eval_strategy": "epoch", "learning_rate": 1e-2, "logging_steps": 1}
            | {"use_cpu": True, "report_to": [], "disable_tqdm": True, "dataloader_pin_memory": False}
            | (options or {})
        ),
    )
    return Killed(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows[:8],
        data_collator=MaskingCollator(mask_token_id=4, vocab_size=100, special_token_ids=range(5), mask_share=0.3),
        sift=SiftArguments(select=select_online_batch, start_step=1, interrupt=5),
        **kill,
    )


def run(folder, resume, **kill):
    """Trains, and leaves the notes and the weights in `folder`."""
    torch.set_num_threads(1)
    trainer = make(folder, **kill)
    trainer.notes = []
    trainer.train(resume_from_checkpoint=resume or None)
    weights = {name: value.flatten().tolist() for name, value in trainer.model.state_dict().items()}
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    Path(folder, "result.json").write_text(
        json.dumps({"notes": trainer.notes, "weights": weights, "logged": logged, "totals": vars(trainer.sift.totals)})
    )


def fork(*args, **kwargs):
    """The exit code of `run(...)` in a process of its own, negative for the signal that ended it."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            run(*args, **kwargs)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def at_random(base, count=20):
    """Kill runs at random moments so many times, each resumed from what is complete, and let them come to their end."""
    begin = time.monotonic()
    assert fork(base / "whole", False) == 0
    mean_s = 0.3 * (time.monotonic() - begin)
    draw, kills, folders = random.Random(3), 0, 1
    while kills < count:
        folder = base / f"killed {folders}"
        process = os.fork()
        if process == 0:
            status = 1
            try:
                run(folder, last_complete_checkpoint(str(folder)) is not None)
                status = 0
            finally:
                os._exit(status)
        time.sleep(draw.expovariate(1 / mean_s))
        os.kill(process, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert code in (0, -signal.SIGKILL), code
        kills += code != 0
        folders += code == 0
    folder = base / f"killed {folders}"
    assert fork(folder, last_complete_checkpoint(str(folder)) is not None) == 0


def main(base):
    codes = {"whole": fork(base / "whole", False)}
    for name, kill in KILLED.items():
        folder = base / name
        codes[name] = fork(folder, False, **kill)
        shutil.copytree(folder, base / f"{name}, dead") if folder.exists() else None
        codes[f"{name}, resumed"] = fork(folder, COMPLETE[name] > 0)
    (base / "codes.json").write_text(json.dumps(codes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork and SIGKILL")
    base = tmp_path_factory.mktemp("runs")
    done = subprocess.run([sys.executable, __file__, str(base)], **ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]
    codes = json.loads((base / "codes.json").read_text())
    assert codes["whole"] == 0, done.stderr[-3000:]
    return base, codes, done.stderr


def result(base, name):
    return json.loads((base / name / "result.json").read_text())


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run_resumes_bit_for_bit(name, runs):
    base, codes, errors = runs
    assert codes[name] == -signal.SIGKILL
    assert codes[f"{name}, resumed"] == 0, errors[-3000:]
    whole, resumed = result(base, "whole"), result(base, name)
    rest = [note for note in whole["notes"] if note[0] >= COMPLETE[name]]
    assert 0 < len(rest) <= len(whole["notes"])
    assert resumed["notes"] == rest
    assert resumed["weights"] == whole["weights"]
    assert resumed["totals"] == whole["totals"]
    assert resumed["logged"] == whole["logged"]


def test_the_uninterrupted_run_is_worth_comparing_with(runs):
    """It passes epochs, selects in some steps only, and its losses differ."""
    whole = result(runs[0], "whole")
    assert len(whole["notes"]) == STEPS * 2
    assert PER_EPOCH < STEPS
    assert len({loss for _, loss, _, _ in whole["notes"]}) == STEPS * 2
    sizes = [len(kept) for _, _, kept, _ in whole["notes"]]
    assert set(sizes) > {4, 8}
    assert len({tuple(kept) for _, _, kept, _ in whole["notes"]}) > STEPS


def test_a_run_killed_at_random_ends_as_if_nothing_had_been(tmp_path):
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork and SIGKILL")
    command = [sys.executable, __file__, str(tmp_path), "random"]
    done = subprocess.run(command, **ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, folders = result(tmp_path, "whole"), sorted(tmp_path.glob("killed *"))
    assert folders
    for folder in folders:
        killed = result(tmp_path, folder.name)
        for name in ("weights", "totals", "logged"):
            assert killed[name] == whole[name], (folder, name)


@pytest.mark.parametrize("name", KILLED)
def test_the_last_complete_checkpoint_is_found(name, runs, caplog):
    dead = runs[0] / f"{name}, dead"
    written = [path for path in dead.glob("checkpoint-*") if int(path.name.split("-")[1]) <= COMPLETE[name]]
    assert len(written) == COMPLETE[name] // SAVED_EVERY
    assert [what_is_missing(str(path)) for path in written] == [None] * len(written)
    expected = str(dead / f"checkpoint-{COMPLETE[name]}") if written else None
    assert last_complete_checkpoint(str(dead)) == expected
    half_written = set(dead.glob("checkpoint-*")) - set(written)
    assert all(f"passing over the checkpoint {path}" in caplog.text for path in half_written)


def test_a_checkpoint_holds_safetensors_and_what_loads_without_code(runs):
    folder = runs[0] / "whole" / "checkpoint-4"
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "sift_0.pt"} <= names
    assert "pytorch_model.bin" not in names
    state = torch.load(folder / "sift_0.pt", weights_only=True)
    assert state["calls"] == 8
    assert state["totals"]["gross_samples"] == 60
    from transformers.trainer_pt_utils import safe_globals  # what NumPy's state of a generator is made of

    loaded = 0
    for path in folder.iterdir():
        if path.suffix in (".pt", ".pth"):
            with safe_globals():
                torch.load(path, weights_only=True)
            loaded += 1
    assert loaded >= 4


@pytest.fixture
def checkpoints(tmp_path):
    """A folder with the complete checkpoints 9 and 10; of a number 9 is the smaller, of a word the larger."""
    for step in (9, 10):
        written = tmp_path / f"checkpoint-{step}"
        written.mkdir()
        (written / "optimizer.pt").write_bytes(b"12345678")
        list_files(str(written))
        (written / "trainer_state.json").write_text("{}")
    return tmp_path


def test_the_last_is_that_of_the_highest_step(checkpoints):
    assert last_complete_checkpoint(str(checkpoints)) == str(checkpoints / "checkpoint-10")
    (checkpoints / "checkpoint-best").mkdir()
    (checkpoints / "checkpoint-11").write_text("no folder")
    assert last_complete_checkpoint(str(checkpoints)) == str(checkpoints / "checkpoint-10")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda folder: os.truncate(folder / "optimizer.pt", 5), "optimizer.pt has 5 bytes instead of 8"),
        (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json cannot be read"),
        (lambda folder: (folder / "files.json").write_text("{"), "files.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_named(damage, problem, checkpoints, caplog):
    damage(checkpoints / "checkpoint-10")
    with caplog.at_level(logging.WARNING, "gsgd"):
        assert last_complete_checkpoint(str(checkpoints)) == str(checkpoints / "checkpoint-9")
    assert "checkpoint-10" in caplog.text
    assert problem in caplog.text


def test_of_a_plain_trainers_checkpoint_the_state_must_be_there(checkpoints):
    (checkpoints / "checkpoint-10" / "files.json").unlink()
    assert what_is_missing(str(checkpoints / "checkpoint-10")) is None
    (checkpoints / "checkpoint-10" / "trainer_state.json").write_text('{"epoch": 0.')
    assert "trainer_state.json cannot be read" in what_is_missing(str(checkpoints / "checkpoint-10"))


def test_what_is_written_anew_is_not_complete_until_it_is(checkpoints):
    folder = checkpoints / "checkpoint-10"
    outdate(str(folder))
    assert {path.name for path in folder.iterdir()} == {"optimizer.pt"}
    assert "trainer_state.json cannot be read" in what_is_missing(str(folder))


def test_resuming_overwrites_a_later_checkpoint_as_a_whole(runs, tmp_path):
    """A run resumed from an early checkpoint dies while it writes one that is there already."""
    shutil.copytree(runs[0] / "whole" / "checkpoint-4", tmp_path / "checkpoint-4")
    shutil.copytree(runs[0] / "whole" / "checkpoint-6", tmp_path / "checkpoint-6")
    trainer = make(tmp_path)
    trainer._save_optimizer_and_scheduler = lambda folder: (_ for _ in ()).throw(InterruptedError)
    with pytest.raises(InterruptedError):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert last_complete_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-4")


@pytest.mark.parametrize("resume", [True, "checkpoint-6", "checkpoint-3"])
def test_resuming_from_nothing_complete_is_an_error(resume, runs, tmp_path):
    shutil.copytree(runs[0] / "in a half-written file, dead" / "checkpoint-6", tmp_path / "checkpoint-6")
    path = resume if resume is True else str(tmp_path / resume)
    with pytest.raises(ValueError, match=r"no complete checkpoint in|is not complete: "):
        make(tmp_path).train(resume_from_checkpoint=path)


def test_a_plain_trainers_checkpoint_is_resumed_with_a_warning(runs, tmp_path, caplog):
    """The paper's first 20,000 steps may come from a run without selection."""
    folder = tmp_path / "checkpoint-4"
    shutil.copytree(runs[0] / "whole" / "checkpoint-4", folder)
    for name in ("sift_0.pt", "files.json"):
        (folder / name).unlink()
    trainer = make(tmp_path)
    with caplog.at_level(logging.WARNING, "gsgd"):
        trainer.train(resume_from_checkpoint=True)
    assert "sift_0.pt does not exist" in caplog.text
    assert [note[0] for note in trainer.notes] == [step for step in range(4, STEPS) for _ in range(2)]


def test_the_limit_on_checkpoints_and_the_best_one(tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
    trainer = make(tmp_path, best | {"save_total_limit": 2, "eval_strategy": "steps", "eval_steps": 2})
    trainer.train()
    names = sorted(path.name for path in tmp_path.glob("*checkpoint-*"))
    assert len(names) == 2
    best = Path(trainer.state.best_model_checkpoint)
    assert best.is_dir()
    assert best.parent == tmp_path
    assert best.name in names
    for name in names:
        assert what_is_missing(str(tmp_path / name)) is None


if __name__ == "__main__":
    # Each run begins with a collection of garbage, which takes longer than its steps where all modules are searched.
    gc.freeze()
    (at_random if sys.argv[2:] == ["random"] else main)(Path(sys.argv[1]))
