"""Streams without a length: a run that is interrupted twice goes on both times as if nothing had been, bit for bit."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from datasets import Dataset  # noqa: E402
from torch.utils.data import IterableDataset  # noqa: E402

from gsgd.sift import Sift  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments, SiftTrainer  # noqa: E402

STEPS, STOPS = 12, (4, 8)
ROWS = 4


class Numbers(IterableDataset):
    """Samples made from their number; where it stands is its state, as torchdata asks for it."""

    def __init__(self, total):
        self.total = total
        self.next = 0

    def __iter__(self):
        while self.next < self.total:
            number, self.next = self.next, self.next + 1
            rng = torch.Generator().manual_seed(number)
            ids = torch.randint(3, 100, (10,), generator=rng)
            yield {"input_ids": ids, "labels": ids}
        self.next = 0

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


def weights(model):
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def kept_by(shown):
    """The first token of every row that was trained on, step by step."""
    return [rows["input_ids"][:, 0].tolist() for rows in shown]


class Shown(SiftTrainer):
    """Notes what it trains on, and stops where it is told to."""

    def __init__(self, *args, stop=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.shown, self.stop = [], stop

    def compute_loss(self, model, inputs, *args, **kwargs):
        if model.training and self.sift.last is not None:
            self.shown.append({name: value.clone() for name, value in inputs.items()})
        return super().compute_loss(model, inputs, *args, **kwargs)


class StopAt(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step == self.step


def streamed(kind):
    if kind == "torch":
        return Numbers(1000)
    samples = [{name: value.tolist() for name, value in sample.items()} for sample in Numbers(STEPS * 2 * ROWS)]
    return Dataset.from_list(samples).to_iterable_dataset(num_shards=2).shuffle(seed=5, buffer_size=16)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", ["torch", "datasets"])
def test_a_trainer_on_a_stream_goes_on_twice(kind, accumulation, build, tmp_path):
    def run(folder, stop=None, resume=None):
        torch.manual_seed(0)
        arguments = transformers.TrainingArguments(
            str(tmp_path / folder),
            per_device_train_batch_size=ROWS,
            gradient_accumulation_steps=accumulation,
            max_steps=STEPS,
            save_steps=STOPS[0],
            learning_rate=1e-2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        sift = SiftArguments(exit_layer=1, keep=0.5, random_share=0.5)
        trainer = Shown(build("gpt2", dropout=0.1), arguments, train_dataset=streamed(kind), sift=sift)
        if stop is not None:
            trainer.add_callback(StopAt(stop))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    shown = []
    for stop in (*STOPS, None):
        before = max((step for step in STOPS if stop is None or step < stop), default=None)
        part = run("parts", stop, before and str(tmp_path / "parts" / f"checkpoint-{before}"))
        shown += kept_by(part.shown)
    assert len({tuple(rows) for rows in shown}) > STEPS / 2
    assert shown == kept_by(whole.shown)
    assert torch.equal(weights(part.model), weights(whole.model))
    assert part.sift.totals == whole.sift.totals


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loop_with_a_loader_that_has_a_state_goes_on_twice(workers, build):
    """torchdata's StatefulDataLoader; the state of the loop is the loader's, the engine's, the model's and torch's."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def begin():
        torch.manual_seed(0)
        model = build("gpt2", dropout=0.1).train()
        loader = stateful.StatefulDataLoader(Numbers(STEPS * ROWS), batch_size=ROWS, num_workers=workers)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sift = Sift(model, exit_layer=1, keep=0.5, random_share=0.5)
        return model, loader, optimizer, sift

    def go(stop=None, state=None):
        model, loader, optimizer, sift = begin()
        if state is not None:
            for part, of_part in zip((model, loader, optimizer, sift), state["parts"], strict=True):
                part.load_state_dict(of_part)
        batches, shown = iter(loader), []
        if state is not None:
            torch.set_rng_state(state["rng"])  # after `iter`, which draws a seed
        for batch in batches:
            rows = sift.choose(batch)
            shown.append(rows)
            sift.forward_kept(rows).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if sift.step == stop:
                parts = [part.state_dict() for part in (model, loader, optimizer, sift)]
                return model, kept_by(shown), {"parts": parts, "rng": torch.get_rng_state()}
        return model, kept_by(shown), None

    model, expected, _ = go()
    found, state = [], None
    for stop in (*STOPS, None):
        part, shown, state = go(stop, state)
        found += shown
    assert found == expected
    assert torch.equal(weights(part), weights(model))
