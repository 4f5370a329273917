"""SIFT in sentence-transformers: a small BERT learns which texts are of one topic; the hardest half of the pairs train.

    pip install 'gsgd[sentence-transformers]'
    python examples/sentence_pairs.py --steps 60

How hard a pair is, a function of its two embeddings says: here, how far apart they are.
"""

import argparse
import random
import tempfile

import transformers
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, cosine_similarity
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from gsgd.integrations.sentence_transformers import SiftSentenceTransformerTrainer
from gsgd.sift.huggingface.trainer import SiftArguments

TOPICS, WORDS, ROWS = 40, 10, 32


def pairs(number: int, rng: random.Random) -> Dataset:
    """Two texts on one topic, of 3 to 9 words each; word w is of the topic w // 10."""

    def text(topic: int) -> str:
        return " ".join(f"w{topic * WORDS + rng.randrange(WORDS)}" for _ in range(rng.randint(3, 9)))

    topics = [rng.randrange(TOPICS) for _ in range(number)]
    return Dataset.from_list([{"anchor": text(topic), "positive": text(topic)} for topic in topics])


def small_bert() -> SentenceTransformer:
    """In your own script: SentenceTransformer("the model's name")."""
    vocabulary = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(TOPICS * WORDS))]
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    with tempfile.TemporaryDirectory() as folder:
        BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
        return SentenceTransformer(modules=[Transformer(folder), Pooling(64)], device="cpu")


def apart(embeddings: Tensor, labels: None) -> Tensor:
    """(B,): how far apart the two texts of a row are, of embeddings (B, 2, H)."""
    return 1 - cosine_similarity(embeddings[:, 0], embeddings[:, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    transformers.set_seed(args.seed)
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_steps": 10, "use_cpu": True}
    steps = {"per_device_train_batch_size": ROWS, "max_steps": args.steps, "learning_rate": 2e-3, "seed": args.seed}
    trainer = SiftSentenceTransformerTrainer(
        model=small_bert(),
        args=SentenceTransformerTrainingArguments("sentence_pairs", **steps, **quiet),
        train_dataset=pairs(ROWS * args.steps, random.Random(args.seed)),
        loss=MultipleNegativesRankingLoss,
        sift=SiftArguments(keep=0.5, score=apart),
    )
    trainer.train()
    print("\n".join(f"step {entry['step']}  loss {entry['loss']:.3f}" for entry in trainer.state.log_history[:-1]))
    print(f"trained on {trainer.sift.totals.backprop_samples} of {trainer.sift.totals.gross_samples} rows")


if __name__ == "__main__":
    main()
