"""SIFT in Lightning: a module as it is, and a callback that hands its training_step the hardest half of each batch.

    pip install 'gsgd[lightning]'
    python examples/lightning_fit.py --steps 100

The module holds its network as `model`, which the callback is told; validation sees all rows.
"""

import argparse
import logging

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig, BertForSequenceClassification

from gsgd.integrations.lightning import SiftCallback

TOPICS, WORDS, OTHERS = 8, 10, 20  # words 10 t .. 10 t + 9 belong to topic t, words 80 .. 99 to none


class Texts(Dataset):
    """Rows of 24 words, the label is their topic; the fewer words a row has of it, the harder it is."""

    def __init__(self, rows: int, seed: int):
        rng = torch.Generator().manual_seed(seed)
        self.topics = torch.randint(TOPICS, (rows, 1), generator=rng)
        words = WORDS * self.topics + torch.randint(WORDS, (rows, 24), generator=rng)
        beside = torch.rand(words.shape, generator=rng) < 0.9 * torch.rand(rows, 1, generator=rng)
        others = TOPICS * WORDS + torch.randint(OTHERS, words.shape, generator=rng)
        self.ids = torch.where(beside, others, words)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[row], "labels": self.topics[row, 0]}


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
        self.model = BertForSequenceClassification(BertConfig(vocab_size=100, num_labels=TOPICS, **sizes))

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.model(**batch).loss)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pl.seed_everything(args.seed)
    sift = SiftCallback("model", exit_layer=2, keep=0.5)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=args.steps, accelerator="cpu", callbacks=[sift], enable_model_summary=False, **quiet)
    module, held_out = Classifier(), DataLoader(Texts(256, seed=args.seed + 1), batch_size=64)
    before = trainer.validate(module, held_out, verbose=False)
    trainer.fit(module, DataLoader(Texts(64 * args.steps, seed=args.seed), batch_size=64))
    after = trainer.validate(module, held_out, verbose=False)
    for step, found in ((0, before), (args.steps, after)):
        print(f"step {step}  held-out loss {found[0]['loss']:.3f}")
    print(f"trained on {sift.sift.totals.backprop_samples} of {sift.sift.totals.gross_samples} rows")


if __name__ == "__main__":
    main()
