"""SIFT with gradient checkpointing: a small Llama learns to count, recomputing activations instead of keeping them.

    python examples/gradient_checkpointing.py --steps 60

Scoring keeps no activations anyway; `score_batch_size` bounds what it holds at one time.
"""

import argparse

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gsgd.sift import Sift

NUMBERS, LENGTH = 50, 16


def counting(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Rows that count up or down from somewhere, by steps of 1 to 3, modulo 50."""
    start = torch.randint(NUMBERS, (rows, 1), generator=generator)
    stride = torch.randint(-3, 4, (rows, 1), generator=generator)
    numbers = (start + stride * torch.arange(LENGTH)) % NUMBERS
    return {"input_ids": numbers, "labels": numbers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=NUMBERS,
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=LENGTH,
            use_cache=False,
        )
    )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    held_out = counting(256, generator)

    sift = Sift(model, exit_layer=1, keep=0.5, score="loss", score_batch_size=32)

    def report(step: int) -> None:
        model.eval()
        with torch.no_grad():
            loss = model(**held_out).loss
        print(f"step {step}  held-out loss {loss:.3f}")
        model.train()

    for step in range(args.steps):
        if step % 20 == 0:
            report(step)
        loss = sift(**counting(64, generator)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    report(args.steps)

    print(f"trained on {sift.totals.backprop_samples} of {sift.totals.gross_samples} rows")


if __name__ == "__main__":
    main()
