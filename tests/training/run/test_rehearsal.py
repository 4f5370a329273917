"""`gsgd train --dry-run`: the run's own shapes, two steps, and figures that can be worked out by hand."""

import dataclasses
import gc
import os
import weakref

import pytest
import torch

from gsgd.cli import main
from training.config import load, presets
from training.run import rehearsal
from training.run.rehearsal import MadeUpRows, rehearse

PAPER = [name for name in presets() if name.startswith(("bert-base/", "cifar100/", "food101/"))]


def test_figures_by_hand(tiny, accelerator):
    config = tiny(method="loss@1", batch_size=8, budget="100steps", start_share=0.25, accumulation_steps=2)
    found = rehearse(config, accelerator)
    assert (found.steps, found.selecting, found.rows, found.made_up) == (100, 75, 8, False)
    weights = 48 + 16 + 2 * 27 + 72
    assert found.parameters == weights
    assert found.disk == 2 * 3 * 4 * weights
    # Two FLOPs a multiplication with an addition, three forward passes, 16 rows in a step.
    assert found.step_flops == 2 * 3 * 16 * (6 * 8 + 8 * 3 + 8 * 8 + 8 * 3)
    assert found.memory > 4 * 4 * weights


def test_a_dear_step_is_scaled_from_two_rows(tiny, accelerator, monkeypatch):
    monkeypatch.setattr(rehearsal, "CHEAP", 0.0)
    found = rehearse(tiny(batch_size=8, budget="100steps"), accelerator)
    assert found.rows == 2
    assert found.step_flops == 2 * 3 * 8 * (6 * 8 + 8 * 3 + 8 * 8 + 8 * 3)


def test_the_first_two_steps_of_either_kind_are_not_what_a_step_takes(tiny, accelerator, monkeypatch):
    """By a clock: 1 s without selection, 2 s with, and of the first two steps of either kind more.

    Of BERT-base at 2 rows on two cores of an Intel Xeon the steps took 14.9, 10.2, 2.9, 3.6, 3.1 and 2.8 s.
    """
    monkeypatch.setattr(rehearsal, "CHEAP", 0.0)
    now, steps = [0.0], iter([11.0, 6.0, 1.0, 1.5, 12.0, 7.0, 2.0, 2.5])
    train_step = rehearsal.Training.train_step

    def timed(self):
        train_step(self)
        now[0] += next(steps)

    monkeypatch.setattr(rehearsal.Training, "train_step", timed)
    monkeypatch.setattr(rehearsal.time, "perf_counter", lambda: now[0])
    found = rehearse(tiny(method="loss@1", batch_size=8, budget="100steps", start_share=0.25), accelerator)
    assert (found.costs.plain_s, found.costs.selecting_s) == (4.0, 8.0)  # of two rows, scaled to eight


def test_a_budget_of_time_is_of_the_scaled_step(tiny, accelerator):
    found = rehearse(tiny(batch_size=8, budget="3baseline-epochs"), accelerator)
    assert found.steps == 3 * 8  # 64 rows in steps of 8


def test_the_command_prints_and_writes_nothing(tiny, accelerator, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text('task = "tiny"\nbatch_size = 8\nbudget = "12steps"\nmethod = "loss@1"\n')
    assert main(["train", "tiny.toml", "--dry-run"]) == 0
    out = capsys.readouterr().out
    for word in ("12 steps, 12 of which select", "hours on this machine", "scaled by FLOPs", "memory: ", "disk: "):
        assert word in out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]
    assert main(["train", "tiny.toml", "--dry-run", "--method", "loss@7"]) == 2
    assert "exit_layer = 7" in capsys.readouterr().err


def test_nothing_of_a_rehearsal_stays_in_memory(tiny, accelerator, monkeypatch):
    """Python's own collector is switched off: it comes late where there are many other objects."""
    models = []
    prepared = rehearsal.Training

    def training(*args, **kwargs):
        made = prepared(*args, **kwargs)
        models.append(weakref.ref(made.model))
        return made

    monkeypatch.setattr(rehearsal, "Training", training)
    gc.disable()
    try:
        rehearse(tiny(method="loss@1", batch_size=8, budget="100steps"), accelerator)
        assert models
        assert all(model() is None for model in models)
    finally:
        gc.enable()


@pytest.mark.slow
def test_nothing_of_a_graph_stays_in_memory(accelerator):
    """A softmax saves its own output, which a hook that hands it back would tie to its node for ever."""

    def large():
        gc.collect()
        return [item for item in gc.get_objects() if isinstance(item, torch.Tensor) and item.numel() >= 50_000]

    before = {id(tensor) for tensor in large()}
    small = {"layers": 1, "hidden_size": 32, "heads": 2, "intermediate_size": 32, "precision": "no"}
    rehearse(load("bert-base/loss-1", {**small, "method": "baseline"}), accelerator)
    assert not [tensor.shape for tensor in large() if id(tensor) not in before]


@pytest.mark.parametrize("name", ["bert-base/loss-1", "cifar100/common"])
def test_made_up_rows_have_the_shapes_of_the_true_ones(name):
    config = load(name)
    batch = MadeUpRows(config).training_batch(range(3), 0)
    shapes = {key: tuple(value.shape) for key, value in batch.items()}
    if config.task == "resnet":
        assert shapes == {"pixel_values": (3, 3, 32, 32), "labels": (3,)}
        assert MadeUpRows(config).train_size == 45_000
    else:
        rows = dict.fromkeys(("input_ids", "token_type_ids", "attention_mask", "labels"), (3, 512))
        assert shapes == {**rows, "next_sentence_label": (3,)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_every_preset_of_the_paper(name, accelerator, monkeypatch):
    # Whether every preset steps, and what it counts: one step of either kind. What a step takes is tested by a clock.
    monkeypatch.setattr(rehearsal, "DEAR_REPEATS", 1)
    torch.set_num_threads(os.cpu_count() or 1)  # at this size they are worth it; the fixture sets them back
    config = load(name, {"precision": "no"})
    found = rehearse(config, accelerator)
    assert found.made_up
    sizes = {"bert": 110_106_428, "resnet": 23_000_000}
    assert found.parameters == pytest.approx(sizes[config.task], rel=0.1)
    if config.training.budget == "100epochs":
        rows = {"uoft-cs/cifar100": 45_000, "ethz/food101": 68_175}[config.data.data]
        assert found.steps == round(100 * rows / 125)
    elif config.training.budget == "800000steps":
        assert (found.steps, found.selecting) == (800_000, 0 if name.endswith("baseline") else 780_000)
    assert found.costs.plain_s > 0
    assert dataclasses.asdict(found)["disk"] == 24 * found.parameters
    assert torch.is_grad_enabled()


def test_altered_rows_are_counted():
    """As many made-up rows as the altered training set has: of 54,000, a class's 5,400 and less of each further one."""
    tail = sum(int(5400 * 100 ** (-number / 9) + 1e-9) for number in range(10))
    assert MadeUpRows(load("map/long-tailed")).train_size == tail
    assert MadeUpRows(load("map/redundant")).train_size == 54_000
    assert MadeUpRows(load("map/wrong-labels")).train_size == 54_000
