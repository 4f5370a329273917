"""The models that `gsgd bench step` measures, with random weights, and a gross batch for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
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


def _bert(layers: int, hidden: int, vocabulary: int = 30522) -> Callable[[Shape], Built]:
    def build(shape: Shape) -> Built:
        import torch
        from transformers import BertConfig, BertForPreTraining

        from gsgd.sift.scoring_pass.row_losses import IGNORED

        sizes: dict[str, Any] = {
            "vocab_size": vocabulary,
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "num_attention_heads": max(2, hidden // 64),
            **_rates(shape, "hidden_dropout_prob", "attention_probs_dropout_prob"),
        }
        config = BertConfig(**sizes, intermediate_size=4 * hidden, max_position_embeddings=max(512, shape.seq))
        torch.manual_seed(0)
        model = BertForPreTraining(config)
        rows = shape.gross or 16
        ids = torch.randint(config.vocab_size, (rows, shape.seq))
        # The same number of masked positions in each row, as the paper's rate gives on average.
        masked = torch.rand(rows, shape.seq).argsort(dim=1) < max(1, round(0.15 * shape.seq))
        labels = torch.where(masked, ids, IGNORED)
        batch = {"input_ids": ids, "labels": labels, "next_sentence_label": torch.randint(2, (rows,))}
        return model, batch, _first_middle_last(layers)

    return build


def _gpt2(layers: int, hidden: int, vocabulary: int = 50257) -> Callable[[Shape], Built]:
    def build(shape: Shape) -> Built:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        sizes: dict[str, Any] = {
            "vocab_size": vocabulary,
            "n_layer": layers,
            "n_embd": hidden,
            "n_head": max(2, hidden // 64),
            **({} if vocabulary == 50257 else {"bos_token_id": 0, "eos_token_id": 0}),
            **_rates(shape, "resid_pdrop", "embd_pdrop", "attn_pdrop"),
        }
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**sizes, n_positions=max(1024, shape.seq), use_cache=False))
        return model, _text(vocabulary, shape), _first_middle_last(layers)

    return build


def _llama(layers: int, hidden: int, intermediate: int, heads: int, vocabulary: int) -> Callable[[Shape], Built]:
    def build(shape: Shape) -> Built:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes: dict[str, Any] = {
            "vocab_size": vocabulary,
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_attention_heads": heads,
            **_rates(shape, "attention_dropout"),
        }
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=max(2048, shape.seq), use_cache=False))
        return model, _text(vocabulary, shape), _first_middle_last(layers)

    return build


def _vit(layers: int, hidden: int, size: int, patch: int) -> Callable[[Shape], Built]:
    def build(shape: Shape) -> Built:
        import torch
        from transformers import ViTConfig, ViTForImageClassification

        rows, side, classes = shape.gross or 16, shape.size or size, 1000
        if side % patch:
            raise ValueError(f"--size {side} must be a multiple of {patch}, the side of a patch")
        sizes: dict[str, Any] = {
            "num_labels": classes,
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "intermediate_size": 4 * hidden,
            "num_attention_heads": max(2, hidden // 64),
            **_rates(shape, "hidden_dropout_prob", "attention_probs_dropout_prob"),
        }
        torch.manual_seed(0)
        model = ViTForImageClassification(ViTConfig(**sizes, image_size=side, patch_size=patch))
        batch = {"pixel_values": torch.randn(rows, 3, side, side), "labels": torch.randint(classes, (rows,))}
        return model, batch, _first_middle_last(layers)

    return build


def _resnet(sizes: dict[str, Any], gross: int) -> Callable[[Shape], Built]:
    def build(shape: Shape) -> Built:
        import torch
        from transformers import ResNetConfig

        from training.images.resnet import EarlyExitResNet

        if shape.dropout is not None:
            raise ValueError(f"--dropout {shape.dropout:g}: a ResNet has none")
        torch.manual_seed(0)
        rows, side = shape.gross or gross, shape.size or 32
        batch = {"pixel_values": torch.randn(rows, 3, side, side), "labels": torch.randint(100, (rows,))}
        config: Any = ResNetConfig
        # As the presets train it: convolutions and BatchNorm are faster so on a CPU, too.
        last = torch.channels_last
        model: Any = EarlyExitResNet(config(num_labels=100, **sizes))
        batch["pixel_values"] = batch["pixel_values"].to(memory_format=last)
        return model.to(memory_format=last), batch, [1, 2]

    return build


def _rates(shape: Shape, *names: str) -> dict[str, float]:
    return {} if shape.dropout is None else dict.fromkeys(names, shape.dropout)


def _text(vocabulary: int, shape: Shape) -> dict[str, Any]:
    import torch

    ids = torch.randint(vocabulary, (shape.gross or 16, shape.seq))
    return {"input_ids": ids, "labels": ids.clone()}


def _first_middle_last(layers: int) -> list[int]:
    return sorted({1, max(1, layers // 2), layers})


_TINY_RESNET = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
MODELS: dict[str, Callable[[Shape], Built]] = {
    "bert-base": _bert(12, 768),
    "bert-small": _bert(4, 512),
    "bert-tiny": _bert(3, 64, vocabulary=500),
    "gpt2": _gpt2(12, 768),
    "gpt2-tiny": _gpt2(3, 64, vocabulary=500),
    "llama": _llama(16, 1024, 2816, 16, 32000),
    "llama-tiny": _llama(3, 64, 128, 2, 500),
    "vit": _vit(12, 768, size=224, patch=16),
    "vit-tiny": _vit(3, 64, size=32, patch=8),
    "resnet50": _resnet({}, gross=250),
    "resnet-tiny": _resnet(_TINY_RESNET, gross=8),
}
"""Name -> what builds the model, a gross batch and its exits; the tiny ones are for a quick look at whether it runs."""
