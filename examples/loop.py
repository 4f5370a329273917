"""SIFT in a bare PyTorch loop: a small BERT learns masked language modelling on made-up text.

    python examples/loop.py --steps 150

Two lines are SIFT's, marked below; the rest is the loop as it was.
"""

import argparse

import torch
from transformers import BertConfig, BertForMaskedLM

from gsgd.sift import Sift

TOPICS, WORDS, MASK = 8, 10, 80  # words 10 t .. 10 t + 9 belong to topic t


def text(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Rows of 24 words on one topic each, 15% of them masked: the model has to read a row to guess its words."""
    topic = torch.randint(TOPICS, (rows, 1), generator=generator)
    words = WORDS * topic + torch.randint(WORDS, (rows, 24), generator=generator)
    masked = torch.rand(words.shape, generator=generator) < 0.15
    return {"input_ids": words.masked_fill(masked, MASK), "labels": words.masked_fill(~masked, -100)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=MASK + 1,
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=32,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    held_out = text(256, generator)

    sift = Sift(model, exit_layer=1, keep=0.5, score="loss")  # <- SIFT

    def report(step: int) -> None:
        model.eval()
        with torch.no_grad():
            loss = model(**held_out).loss
        print(f"step {step}  held-out loss {loss:.3f}")
        model.train()

    for step in range(args.steps):
        if step % 25 == 0:
            report(step)
        batch = text(64, generator)  # gross: twice the rows that are trained on
        loss = sift(**batch).loss  # <- SIFT: instead of model(**batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    report(args.steps)

    print(f"trained on {sift.totals.backprop_samples} of {sift.totals.gross_samples} rows")
    print(f"the last step kept rows {sift.last.indices.tolist()} and selected in {1000 * sift.last.selection_s:.1f} ms")


if __name__ == "__main__":
    main()
