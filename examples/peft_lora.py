"""SIFT with a PEFT model: LoRA adapters and a new head on a frozen BERT, which learns to classify made-up text.

    python examples/peft_lora.py --steps 100

Scores come from the model with its adapters, as it is at that step.
"""

import argparse

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

from gsgd.sift import Sift

TOPICS, WORDS, OTHERS = 8, 10, 20  # words 10 t .. 10 t + 9 belong to topic t, words 80 .. 99 to none


def text(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Rows of 24 words, the label is their topic; the fewer words a row has of it, the harder it is."""
    topic = torch.randint(TOPICS, (rows, 1), generator=generator)
    words = WORDS * topic + torch.randint(WORDS, (rows, 24), generator=generator)
    others = TOPICS * WORDS + torch.randint(OTHERS, words.shape, generator=generator)
    share = 0.9 * torch.rand(rows, 1, generator=generator)
    beside = torch.rand(words.shape, generator=generator) < share
    return {"input_ids": torch.where(beside, others, words), "labels": topic.squeeze(1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    # In your own script: AutoModelForSequenceClassification.from_pretrained(...)
    config = BertConfig(
        vocab_size=TOPICS * WORDS + OTHERS,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        num_labels=TOPICS,
    )
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=8, target_modules=["query", "value"], modules_to_save=["classifier"]
    )
    model = get_peft_model(BertForSequenceClassification(config), lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    held_out = text(256, generator)

    sift = Sift(model, exit_layer=2, keep=0.5, score="loss")

    def report(step: int) -> None:
        model.eval()
        with torch.no_grad():
            loss = model(**held_out).loss
        print(f"step {step}  held-out loss {loss:.3f}")
        model.train()

    for step in range(args.steps):
        if step % 25 == 0:
            report(step)
        loss = sift(**text(64, generator)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    report(args.steps)

    print(f"trained on {sift.totals.backprop_samples} of {sift.totals.gross_samples} rows")


if __name__ == "__main__":
    main()
