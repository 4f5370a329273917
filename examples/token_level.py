"""Tokens rather than rows, as Rho-1 chooses them: a small Llama counts, in texts of which half of the tokens are noise.

    python examples/token_level.py --steps 60

Every other token is the last but one plus 1, the others are drawn at random. A smaller model that has learnt this is
the reference: a token counts if the loss of it is far above the reference's, which of noise it is not. So half of the
labels train, most of them tokens that can be learnt, and the vocabulary head runs on those only.
"""

import argparse

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from gsgd.sift import ReferenceLosses, Sift

WORDS, LENGTH, ROWS = 50, 32, 32


def texts(rng: torch.Generator) -> Tensor:
    """(rows, length): counting at even places, noise at odd ones."""
    tokens = torch.randint(WORDS, (ROWS, LENGTH), generator=rng)
    tokens[:, ::2] = (tokens[:, :1] + torch.arange(LENGTH // 2)) % WORDS
    return tokens


def llama(layers: int) -> LlamaForCausalLM:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": layers, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, max_position_embeddings=LENGTH, use_cache=False, **sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    small, model = llama(2), llama(4)

    optimizer = torch.optim.AdamW(small.parameters(), lr=1e-2)
    for _ in range(150):
        tokens = texts(rng)
        small(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    sift = Sift(
        model, level="token", exit_layer=4, keep=0.5, labelled_head=True, reference_losses=ReferenceLosses(small)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    learnable = 0
    for step in range(args.steps):
        tokens = texts(rng)
        loss = sift(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        learnable += int(sift.last.tokens[:, ::2].sum())
        if step % 10 == 0 or step == args.steps - 1:
            print(f"step {step}  loss {loss.item():.3f}")

    totals = sift.totals
    print(f"{learnable / totals.backprop_tokens:.0%} of the tokens that count can be learnt")
    print(f"trained on {totals.backprop_tokens} of {totals.gross_tokens} tokens")


if __name__ == "__main__":
    main()
