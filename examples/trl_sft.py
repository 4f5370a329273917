"""SIFT in TRL's SFTTrainer: a small Llama learns to sort digits, packed without padding; half of the tokens train.

    pip install 'gsgd[trl]'
    python examples/trl_sft.py --steps 60
    python examples/trl_sft.py --padded           rows with padding in place of packs; half of the rows train

The longer the list, the harder to sort. Of each pack the hardest documents are kept, as many as half of its tokens.
"""

import argparse
import random

import datasets
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig

from gsgd.integrations.trl import SiftSFTTrainer
from gsgd.sift.huggingface.trainer import SiftArguments

MARKS = ["<pad>", "<eos>", "<unk>", "sorted:"]


def lists(number: int, rng: random.Random) -> datasets.Dataset:
    """Prompts such as "3 1 2 sorted: " with the completion "1 2 3"."""
    digits = [[str(rng.randrange(10)) for _ in range(rng.randint(2, 9))] for _ in range(number)]
    return datasets.Dataset.from_list(
        [{"prompt": " ".join([*row, "sorted: "]), "completion": " ".join(sorted(row))} for row in digits]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--padded", action="store_true")
    args = parser.parse_args()

    transformers.set_seed(args.seed)
    # In your own script: AutoTokenizer.from_pretrained(...) and the model's name.
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*MARKS, *"0123456789"])}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes))

    trainer = SiftSFTTrainer(
        model,
        args=SFTConfig(
            output_dir="trl_sft",
            per_device_train_batch_size=64,
            max_steps=args.steps,
            learning_rate=5e-3,
            padding_free=not args.padded,
            max_length=None,
            seed=args.seed,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=lists(64 * args.steps, random.Random(args.seed)),
        processing_class=tokenizer,
        sift=SiftArguments(exit_layer=2, keep=0.5, keep_tokens=not args.padded),
    )
    trainer.train()

    totals = trainer.sift.totals
    print("\n".join(f"step {entry['step']}  loss {entry['loss']:.3f}" for entry in trainer.state.log_history[:-1]))
    if not args.padded:
        print(f"trained on {totals.backprop_tokens} of {totals.gross_tokens} tokens")
    print(f"trained on {totals.backprop_samples} of {totals.gross_samples} rows")


if __name__ == "__main__":
    main()
