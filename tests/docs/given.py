"""What the pages' blocks of Python take for granted: a model, its optimizer, and data."""

import torch
from transformers import BertConfig, BertForMaskedLM

torch.manual_seed(0)
MASK = 80


def text(rows):
    """Rows of 24 words on one topic each, 15% of them masked."""
    topic = torch.randint(8, (rows, 1))
    words = 10 * topic + torch.randint(10, (rows, 24))
    masked = torch.rand(words.shape) < 0.15
    return {"input_ids": words.masked_fill(masked, MASK), "labels": words.masked_fill(~masked, -100)}


sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
model = BertForMaskedLM(BertConfig(vocab_size=MASK + 1, max_position_embeddings=32, **sizes))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
batches = [text(16) for _ in range(6)]
loader = batches
rows = text(256)
data = [{"input_ids": rows["input_ids"][n], "labels": rows["labels"][n]} for n in range(256)]
