"""The models that `gsgd bench step` measures, with random weights, and a gross batch for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class BatchShape:
    """How large a gross batch is, and how much is dropped; None for the model's own.

    Attributes:
        gross: rows.
        seq: tokens of a row.
        size: height and width of an image.
        dropout: the rate of all dropout in the model.
    """

    gross: int | None = None
    seq: int = 128
    size: int | None = None
    dropout: float | None = None


Built = tuple[Any, dict[str, Any], list[int]]
"""(model, gross batch, exit layers to measure)."""


def describe_rows(batch: dict[str, Any]) -> str:
    """What one row is, such as "128 tokens" or "32x32"."""
    if "pixel_values" in batch:
        height, width = batch["pixel_values"].shape[-2:]
        return f"{height}x{width}"
    return f"{batch['input_ids'].shape[1]} tokens"


def _transformer(kind: str, layers: int, hidden: int, sizes: dict[str, Any], shape: BatchShape) -> Built:
    """A model of transformers; `sizes` are further entries of its configuration."""
    import torch
    import transformers

    head, rates = HEADS_AND_RATES[kind]
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": max(2, hidden // 64), **sizes}
    if kind == "vit":
        sizes["image_size"] = side = shape.size or sizes["image_size"]
        if side % sizes["patch_size"]:
            raise ValueError(f"--size {side} must be a multiple of {sizes['patch_size']}, the side of a patch")
    else:
        sizes["max_position_embeddings"] = max(sizes["max_position_embeddings"], shape.seq)
    if shape.dropout is not None:
        sizes |= dict.fromkeys(rates, shape.dropout)
    config: Any = transformers.AutoConfig.for_model(kind, **sizes)
    torch.manual_seed(0)
    model = getattr(transformers, head).from_config(config)
    rows = shape.gross or 16
    batch = _images(config.num_labels, rows, side) if kind == "vit" else _text(config.vocab_size, rows, shape.seq)
    if kind == "bert":
        from gsgd.sift.scoring_pass.row_losses import IGNORED

        # The same number of masked positions in each row, as the paper's rate gives on average.
        masked = torch.rand(rows, shape.seq).argsort(dim=1) < max(1, round(0.15 * shape.seq))
        batch["labels"] = torch.where(masked, batch["labels"], IGNORED)
        batch["next_sentence_label"] = torch.randint(2, (rows,))
    return model, batch, sorted({1, max(1, layers // 2), layers})


def _resnet(sizes: dict[str, Any], gross: int, shape: BatchShape) -> Built:
    import torch
    from transformers import ResNetConfig

    from training.images.resnet import EarlyExitResNet

    if shape.dropout is not None:
        raise ValueError(f"--dropout {shape.dropout:g}: a ResNet has none")
    torch.manual_seed(0)
    batch = _images(100, shape.gross or gross, shape.size or 32)
    # As the presets train it: convolutions and BatchNorm are faster so on a CPU, too.
    last = torch.channels_last
    batch["pixel_values"] = batch["pixel_values"].to(memory_format=last)
    config: Any = ResNetConfig
    model: Any = EarlyExitResNet(config(num_labels=100, **sizes))
    return model.to(memory_format=last), batch, [1, 2]


def _text(vocabulary: int, rows: int, tokens: int) -> dict[str, Any]:
    import torch

    ids = torch.randint(vocabulary, (rows, tokens))
    return {"input_ids": ids, "labels": ids.clone()}


def _images(classes: int, rows: int, side: int) -> dict[str, Any]:
    import torch

    return {"pixel_values": torch.randn(rows, 3, side, side), "labels": torch.randint(classes, (rows,))}


HEADS_AND_RATES = {
    "bert": ("AutoModelForPreTraining", ("hidden_dropout_prob", "attention_probs_dropout_prob")),
    "gpt2": ("AutoModelForCausalLM", ("resid_pdrop", "embd_pdrop", "attn_pdrop")),
    "llama": ("AutoModelForCausalLM", ("attention_dropout",)),
    "vit": ("AutoModelForImageClassification", ("hidden_dropout_prob", "attention_probs_dropout_prob")),
}
"""Kind of a model -> (its class in transformers, the entries of its configuration that are rates of dropout)."""
_BERT: dict[str, Any] = {"vocab_size": 30522, "max_position_embeddings": 512}
_GPT2: dict[str, Any] = {"vocab_size": 50257, "max_position_embeddings": 1024, "use_cache": False}
_LLAMA: dict[str, Any] = {"max_position_embeddings": 2048, "use_cache": False}
_VIT: dict[str, Any] = {"num_labels": 1000}
MODELS: dict[str, Callable[[BatchShape], Built]] = {
    "bert-base": partial(_transformer, "bert", 12, 768, {**_BERT, "intermediate_size": 3072}),
    "bert-small": partial(_transformer, "bert", 4, 512, {**_BERT, "intermediate_size": 2048}),
    "bert-tiny": partial(_transformer, "bert", 3, 64, {**_BERT, "intermediate_size": 256, "vocab_size": 500}),
    "gpt2": partial(_transformer, "gpt2", 12, 768, _GPT2),
    "gpt2-tiny": partial(
        _transformer, "gpt2", 3, 64, {**_GPT2, "vocab_size": 500, "bos_token_id": 0, "eos_token_id": 0}
    ),
    "llama": partial(_transformer, "llama", 16, 1024, {**_LLAMA, "intermediate_size": 2816, "vocab_size": 32000}),
    "llama-tiny": partial(_transformer, "llama", 3, 64, {**_LLAMA, "intermediate_size": 128, "vocab_size": 500}),
    "vit": partial(
        _transformer, "vit", 12, 768, {**_VIT, "intermediate_size": 3072, "image_size": 224, "patch_size": 16}
    ),
    "vit-tiny": partial(
        _transformer, "vit", 3, 64, {**_VIT, "intermediate_size": 256, "image_size": 32, "patch_size": 8}
    ),
    "resnet50": partial(_resnet, {}, 250),
    "resnet-tiny": partial(
        _resnet,
        {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"},
        8,
    ),
}
"""Name -> what builds the model, a gross batch and its exits; the tiny ones are for a quick look at whether it runs."""
