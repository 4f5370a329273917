"""Selection without a scoring pass: rows are chosen by the losses last seen of them, before they are loaded.

    python examples/last_seen.py --steps 200

The lines of the sampler are marked; the rest is the loop as it was. `InfoBatchSampler` or `ImportanceSampler` take the
place of `LastSeenSampler` without another change, since the losses are weighted anyway.
"""

import argparse

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from gsgd.sift import LastSeenSampler, WithIds

ROWS, CLASSES, WIDTH = 4000, 10, 32


def points(rows: int, centres: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around one centre a class; most are near it and soon learnt, some are far."""
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    spread = 0.3 + 2 * torch.rand(rows, 1, generator=generator) ** 3
    return centres[labels] + spread * torch.randn(rows, WIDTH, generator=generator), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    data = TensorDataset(*points(ROWS, centres, generator))
    x, y = points(1000, centres, generator)
    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, 64), torch.nn.ReLU(), torch.nn.Linear(64, CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    sampler = LastSeenSampler(len(data), batch_size=32, keep=0.5, seed=args.seed)  # <- which rows to load
    loader = DataLoader(WithIds(data), batch_sampler=sampler)  # <- samples carry their index

    step = 0
    while step < args.steps:
        for inputs, labels, ids in loader:
            if step % 25 == 0:
                with torch.no_grad():
                    print(f"step {step}  held-out loss {F.cross_entropy(model(x), y):.3f}")
            losses = F.cross_entropy(model(inputs), labels, reduction="none")
            (losses * sampler.weights(ids)).mean().backward()  # <- weights are 1 here
            sampler.note(ids, losses)  # <- what was seen
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step == args.steps:
                break
    with torch.no_grad():
        print(f"step {step}  held-out loss {F.cross_entropy(model(x), y):.3f}")
    print(
        f"trained on {32 * step} of {sampler.gross * step} rows, {100 * sampler.seen.share_seen:.0f}% of the data seen"
    )


if __name__ == "__main__":
    main()
