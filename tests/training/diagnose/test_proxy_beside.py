"""A proxy beside plain training: the model goes as it would go without, and the proxy as it would go alone."""

import functools

import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import cross_entropy  # noqa: E402

from training.diagnose.proxy_beside import TrainingWithProxy  # noqa: E402
from training.training import Training  # noqa: E402


def with_dropout(build):
    proxy = build()
    proxy.layer = torch.nn.Sequential(torch.nn.Dropout(0.5), proxy.layer)
    return proxy


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_the_model_trains_as_without_a_proxy(tiny, accelerator, monkeypatch, accumulation_steps):
    """With dropout in both, whose masks come from one generator."""
    config = tiny(dropout=0.5, method="baseline", accumulation_steps=accumulation_steps)
    task = config.build_task()
    monkeypatch.setattr(task, "build_proxy", functools.partial(with_dropout, task.build_proxy))
    runs = [kind(config, task, accelerator, 6) for kind in (Training, TrainingWithProxy)]
    for run in runs:
        torch.manual_seed(3)
        for _ in range(6):
            run.train_step()
    alone, beside = (run.model.state_dict() for run in runs)
    assert all(torch.equal(value, beside[name]) for name, value in alone.items())


def test_the_proxy_trains_on_every_micro_batch_of_the_plain_steps(tiny, accelerator):
    config = tiny(dropout=0.0, method="baseline", accumulation_steps=2)
    run = TrainingWithProxy(config, config.build_task(), accelerator, 4)
    trained = []
    run.model.register_forward_pre_hook(lambda _, __, named: trained.append(named), with_kwargs=True)
    torch.manual_seed(config.training.seed)
    alone = run.task.build_proxy()
    optimizer = torch.optim.AdamW(alone.parameters(), lr=config.training.proxy_lr)
    for _ in range(4):
        run.train_step()
    assert len(trained) == 8
    for batch in trained:
        optimizer.zero_grad()
        cross_entropy(alone(batch["x"]).logits, batch["labels"]).backward()
        optimizer.step()
    batch = run.batches.placed(run.task.training_batch(range(10), 0))
    wanted = cross_entropy(alone(batch["x"]).logits, batch["labels"], reduction="none")
    torch.testing.assert_close(run.proxy_losses(batch, 10), wanted)
