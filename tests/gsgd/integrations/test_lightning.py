"""Selection in Lightning's Trainer: at keep = 1 it is the plain one, at keep = .5 a loop of one's own with `Sift`."""

import pytest

torch = pytest.importorskip("torch")
pl = pytest.importorskip("lightning.pytorch")

from torch.utils.data import DataLoader  # noqa: E402
from transformers import BertConfig, BertForSequenceClassification  # noqa: E402

from gsgd.integrations.lightning import SiftCallback  # noqa: E402
from gsgd.sift import Sift, SiftOptions, WithIds  # noqa: E402

ROWS, BATCHES = 8, 6
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning, on workers, loggers and deprecations


def network():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=4, **SMALL))


def samples():
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(50, (ROWS * BATCHES, 10), generator=rng)
    return [{"input_ids": row, "labels": row[0] % 4} for row in ids]


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = network()
        self.shown, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.shown.append(batch["input_ids"][:, 0].tolist())
        return self.model(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.validated.append(len(batch["labels"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, callback=None, *, module=None, data=None, resume=None, epochs=2, validate=False, **options):
    torch.manual_seed(3)
    module = Module() if module is None else module
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[] if callback is None else [callback],
        num_sanity_val_steps=0,
        **{"enable_checkpointing": False, **options},
    )
    loader = DataLoader(samples() if data is None else data, batch_size=ROWS)
    trainer.fit(module, loader, DataLoader(samples(), batch_size=ROWS) if validate else None, ckpt_path=resume)
    return module, trainer


def weights(module):
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def test_at_keep_1_it_is_the_plain_trainer(tmp_path):
    plain, _ = fit(tmp_path)
    ours, _ = fit(tmp_path, SiftCallback(exit_layer=1, keep=1.0))
    assert ours.shown == plain.shown
    assert torch.equal(weights(ours), weights(plain))


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("options", [{}, {"score": "random"}, {"score": "last-seen"}, {"start_step": 2}])
def test_at_keep_half_it_is_a_loop_of_ones_own(tmp_path, options, accumulation):
    if options.get("score") == "last-seen":
        options = {**options, "data_rows": ROWS * BATCHES}
    data = WithIds(samples()) if "data_rows" in options else samples()
    callback = SiftCallback(exit_layer=1, keep=0.5, **options)
    ours, _ = fit(tmp_path, callback, data=data, accumulate_grad_batches=accumulation)
    torch.manual_seed(3)
    model, shown = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sift = Sift(model.train(), exit_layer=1, keep=0.5, accumulation_steps=accumulation, **options)
    torch.manual_seed(3)
    Module()  # which draws as the fitted one did
    for number in range(2 * BATCHES):
        if number % BATCHES == 0:
            batches = iter(DataLoader(data, batch_size=ROWS))
        rows = sift.choose(next(batches))
        shown.append(rows["input_ids"][:, 0].tolist())
        (sift.forward_kept(rows).loss / accumulation).backward()
        if number % accumulation == accumulation - 1:
            optimizer.step()
            optimizer.zero_grad()
    assert ours.shown == shown
    assert {len(rows) for rows in shown} <= {4, 8}
    assert torch.allclose(weights(ours), weights(model), atol=1e-6)
    assert callback.sift.totals == sift.totals


def test_validation_sees_all_rows_and_the_module_gets_its_step_back(tmp_path):
    callback = SiftCallback(exit_layer=1, keep=0.5)
    module, trainer = fit(tmp_path, callback, validate=True)
    assert module.validated == [ROWS] * 2 * BATCHES
    assert "training_step" not in vars(module)
    assert trainer.callback_metrics["kept_samples"] == ROWS * BATCHES
    assert trainer.callback_metrics["gross_samples"] == 2 * ROWS * BATCHES


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    """Some rows are drawn, so that the engine's generator counts; no dropout, whose generator Lightning leaves out."""

    def module():
        made = Module()
        for part in made.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        return made

    options = {"exit_layer": 1, "keep": 0.5, "random_share": 0.5}
    whole, _ = fit(tmp_path, SiftCallback(**options), module=module(), epochs=3)
    first, trainer = fit(tmp_path, SiftCallback(**options), module=module(), epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    second, _ = fit(tmp_path, SiftCallback(**options), module=module(), epochs=3, resume=tmp_path / "one.ckpt")
    assert first.shown + second.shown == whole.shown
    assert torch.equal(weights(second), weights(whole))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: SiftCallback("net", exit_layer=1),
            "Module has no network 'net': name the attribute .* there are: model",
        ),
        (lambda: SiftCallback(exit_layer=9), "exit_layer = 9"),
    ],
)
def test_what_does_not_fit_the_module_is_said(tmp_path, make, said):
    module = Module()
    with pytest.raises(ValueError, match=said):
        fit(tmp_path, make(), module=module)
    assert "training_step" not in vars(module)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accumulation_steps": 2}, "accumulation_steps is the trainer's to say"),
        ({"options": SiftOptions(accumulation_steps=2)}, "accumulation_steps is the trainer's to say"),
        ({"labelled_head": True}, "labelled_head=True is not for SiftCallback"),
        ({"keep": 2}, "keep = 2"),
        ({"kep": 0.5}, "'kep' is no option"),
    ],
)
def test_options_that_are_wrong_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        SiftCallback(**options)
