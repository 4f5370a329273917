"""A step of `gsgd train` never waits for its device: see `tests/gsgd/sift/test_no_host_waits.py`."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from gsgd.sift import Sift
from training.training import Training


@pytest.fixture
def on_meta(accelerator, monkeypatch):
    """An accelerator whose device is "meta", where it places nothing: models are built there."""
    there = Accelerator(cpu=True, device_placement=False)
    monkeypatch.setattr(Accelerator, "device", property(lambda accelerator: torch.device("meta")))
    return there


@pytest.mark.parametrize(
    "method",
    [
        *("loss@1", "corrected@1", "probe@1", "predicted@1", "random", "class-balanced", "last-seen", "proxy"),
        "baseline",
    ],
)
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_training_step(tiny, tiny_module, on_meta, host_waits, method, accumulation_steps):
    class Task(tiny_module.TinyTask):
        def build_model(self):
            with torch.device("meta"):
                return super().build_model()

        def build_proxy(self):
            with torch.device("meta"):
                return super().build_proxy()

    counted = []
    for batch_size in (8, 16):
        config = tiny(
            method=method, batch_size=batch_size, accumulation_steps=accumulation_steps, check=False, reuse=False
        )
        training = Training(config, Task(config.data, 0), on_meta, 10)
        if "@1" in method:
            # It looks at values, once.
            example = training.task.training_batch([0, 1], 0)
            learnt = Sift(tiny_module.TinyModel(config.data).train()).scorer.convention(example)
            training.sift.scorer.assume(example, learnt)
        if method in ("last-seen", "corrected@1"):
            training.sift.named_rows.trained.shift = 0  # as it would have learnt from values, once
        training.sift._trained_losses.shift = 0  # likewise
        if method == "proxy":
            training.sift.source._losses.shift = 0  # likewise
        for _ in range(2):
            training.train_step()
        with host_waits.NoHostWaits() as counts:
            training.train_step()
        assert training.sift.last.selected == (method != "baseline")
        counted.append(counts)
    assert counted[0] == counted[1]


def test_on_cuda_batches_are_pinned_and_the_optimizer_is_one_kernel(tiny, tiny_module, accelerator, monkeypatch):
    there = Accelerator(cpu=True, device_placement=False)
    monkeypatch.setattr(Accelerator, "device", property(lambda accelerator: torch.device("cuda")))
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    config = tiny(method="loss@1")
    training = Training(config, tiny_module.TinyTask(config.data, 0), there, 10)
    assert training.optimizer.defaults["fused"]
    batch = training.batches.read(np.arange(4), 0)
    assert pinned == [value.shape for value in batch.values()]
    training.batches.reader.shutdown()
