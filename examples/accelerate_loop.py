"""SIFT in a bare accelerate loop with gradient accumulation: a small GPT-2 learns to count.

    python examples/accelerate_loop.py --steps 40
    accelerate launch --cpu --num_processes 2 examples/accelerate_loop.py

Each process selects among its own rows, as in the paper.
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from gsgd.sift import Sift

NUMBERS, LENGTH, ACCUMULATION = 50, 16, 4
NO_TEXT = {"bos_token_id": None, "eos_token_id": None}  # numbers have no tokens of beginning and end


def counting(rows: int, generator: torch.Generator) -> list[dict[str, torch.Tensor]]:
    """Rows that count up or down from somewhere, by steps of 1 to 3, modulo 50."""
    start = torch.randint(NUMBERS, (rows, 1), generator=generator)
    stride = torch.randint(-3, 4, (rows, 1), generator=generator)
    numbers = (start + stride * torch.arange(LENGTH)) % NUMBERS
    return [{"input_ids": row, "labels": row} for row in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no")
    args = parser.parse_args()

    accelerator = Accelerator(gradient_accumulation_steps=ACCUMULATION, mixed_precision=args.mixed_precision)
    set_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=NUMBERS, n_positions=LENGTH, n_embd=64, n_layer=4, n_head=4, **NO_TEXT)
    )
    rows = counting(args.steps * ACCUMULATION * 32 * accelerator.num_processes, generator)
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.AdamW(model.parameters(), lr=3e-3), DataLoader(rows, batch_size=32)
    )

    # After prepare: scoring then runs in the precision that accelerate sets, and without talking to other processes.
    sift = Sift(model, exit_layer=1, keep=0.5, score="loss", accumulation_steps=ACCUMULATION)

    mean = 0.0
    for batch in loader:
        with accelerator.accumulate(model):
            loss = sift(**batch).loss
            accelerator.backward(loss)  # divides by the micro-batches, as without SIFT: the loss is a mean of kept rows
            optimizer.step()
            optimizer.zero_grad()
        mean += loss.item() / ACCUMULATION
        if accelerator.sync_gradients:
            if sift.step == 1 or sift.step % 10 == 0:
                accelerator.print(f"step {sift.step}  loss of the kept rows {mean:.3f}")
            mean = 0.0

    accelerator.print(f"trained on {sift.totals.backprop_samples} of {sift.totals.gross_samples} rows in each process")


if __name__ == "__main__":
    main()
