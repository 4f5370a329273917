"""Small models of every architecture that the engine promises, each with a batch, and the plain routes to compare with.

Everything is seeded; no expected value comes from `gsgd`. Tests import `small_training`, beside this file, by name.
"""

import copy
import logging
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

STACKS = {
    "bert-mlm": "bert.encoder.layer",
    "bert-pretraining": "bert.encoder.layer",
    "bert-classifier": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "modernbert": "model.layers",
    "gpt2": "transformer.h",
    "llama": "model.layers",
    "vit": "vit.layers",
}
"""Where each architecture keeps its layers, read off its source."""
LAYERS, VOCABULARY, CLASSES = 4, 100, 5


@pytest.fixture(params=STACKS)
def name(request):
    return request.param


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Models this small run faster on one thread, above all beside other processes."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _torchs_own_draws(request, monkeypatch):
    """Scoring draws masks by torch's own operation, so that a reference from the same seed has the same ones."""
    if not request.module.__name__.endswith("test_any_model"):
        monkeypatch.setattr("gsgd.sift.shared_forward.capture.is_slow_draw", lambda *_: False)


@pytest.fixture(autouse=True)
def _no_model_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def build():
    """build(name, *, dropout=0.0, dtype="float32", seed=0, layers=4, **config) -> a small model in training mode."""
    return _build


@pytest.fixture
def make_batch():
    """make_batch(name, *, rows=8, seed=0, dtype="float32") -> a batch with padding, and one row without labels."""
    return _make_batch


@pytest.fixture
def stack_of():
    return STACKS.__getitem__


@pytest.fixture
def truncated():
    """truncated(model, stack, j): a deep copy whose list of layers is cut by hand."""

    def cut(model, stack, j):
        from torch import nn

        short = copy.deepcopy(model)
        parent, _, leaf = stack.rpartition(".")
        owner = short.get_submodule(parent)
        setattr(owner, leaf, nn.ModuleList(list(getattr(owner, leaf))[:j]))
        return short

    return cut


@pytest.fixture
def row_scores():
    """row_scores(logits, labels, kind, causal) -> list of floats, row by row and position by position."""
    return _row_scores


def _build(name, *, dropout=0.0, dtype="float32", seed=0, layers=LAYERS, **config):
    import torch
    import transformers as hf

    common = {
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": VOCABULARY,
    }
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    bert = dict(**common, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    make = {
        "bert-mlm": (hf.BertForMaskedLM, hf.BertConfig, bert),
        "bert-pretraining": (hf.BertForPreTraining, hf.BertConfig, bert),
        "bert-classifier": (hf.BertForSequenceClassification, hf.BertConfig, bert | {"num_labels": CLASSES}),
        "roberta": (hf.RobertaForMaskedLM, hf.RobertaConfig, bert),
        "distilbert": (
            hf.DistilBertForMaskedLM,
            hf.DistilBertConfig,
            {"dim": 32, "n_layers": layers, "n_heads": 2, "hidden_dim": 64, "vocab_size": VOCABULARY}
            | {"dropout": dropout, "attention_dropout": dropout},
        ),
        "modernbert": (
            hf.ModernBertForMaskedLM,
            hf.ModernBertConfig,
            common
            | special
            | {"cls_token_id": 1, "sep_token_id": 2, "embedding_dropout": dropout, "mlp_dropout": dropout}
            | {"attention_dropout": dropout, "local_attention": 4, "global_attn_every_n_layers": 2},
        ),
        "gpt2": (
            hf.GPT2LMHeadModel,
            hf.GPT2Config,
            {
                "n_embd": 32,
                "n_layer": layers,
                "n_head": 2,
                "vocab_size": VOCABULARY,
                "bos_token_id": 1,
                "eos_token_id": 2,
            }
            | {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout},
        ),
        "llama": (hf.LlamaForCausalLM, hf.LlamaConfig, common | special | {"attention_dropout": dropout}),
        "vit": (
            hf.ViTForImageClassification,
            hf.ViTConfig,
            {key: value for key, value in common.items() if key != "vocab_size"}
            | {"image_size": 16, "patch_size": 4, "num_labels": CLASSES}
            | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout},
        ),
    }
    model_class, config_class, arguments = make[name]
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # Importing a model's module may warn of the Python version's deprecations: not what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = model_class(config_class(**(arguments | config)))
    with torch.no_grad():
        # The initial weights (0.02) leave all rows' scores alike to three digits; these set them apart.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5.0)
    return model.to(getattr(torch, dtype)).train()


def _make_batch(name, *, rows=8, seed=0, dtype="float32"):
    import torch

    generator = torch.Generator().manual_seed(1000 + seed)
    if name == "vit":
        return {
            "pixel_values": torch.randn(rows, 3, 16, 16, generator=generator).to(getattr(torch, dtype)),
            "labels": torch.randint(CLASSES, (rows,), generator=generator),
        }
    width = 9
    ids = torch.randint(3, VOCABULARY, (rows, width), generator=generator)
    mask = torch.ones_like(ids)
    mask[1 % rows, 6:] = 0  # one padded row
    batch = {"input_ids": torch.where(mask == 1, ids, 0), "attention_mask": mask}
    if name == "bert-classifier":
        return batch | {"labels": torch.randint(CLASSES, (rows,), generator=generator)}
    if name in ("gpt2", "llama"):
        labels = torch.where(mask == 1, ids, -100)
        labels[:, :2] = -100  # a prompt
    else:
        chosen = (torch.rand(rows, width, generator=generator) < 0.3) & (mask == 1)
        chosen[:, 1] = True
        labels = torch.where(chosen, torch.randint(3, VOCABULARY, (rows, width), generator=generator), -100)
    if rows > 2:
        labels[2] = -100
    batch["labels"] = labels
    if name == "bert-pretraining":
        batch["next_sentence_label"] = torch.randint(2, (rows,), generator=generator)
    return batch


def _row_scores(logits, labels, kind, causal=False):
    import torch
    import torch.nn.functional as F

    found = []
    for row, target in zip(logits, labels, strict=True):
        if target.dim() == 0:
            row, target = row[None], target[None]
        if causal:
            row, target = row[:-1], target[1:]
        row, target = row[target != -100].double(), target[target != -100]
        if len(target) == 0:
            found.append(float("-inf"))
        elif kind == "loss":
            found.append(float(F.cross_entropy(row, target)))
        else:
            found.append(float(torch.distributions.Categorical(logits=row).entropy().mean()))
    return found


@pytest.fixture
def warnings_said(caplog):
    """What was logged in the test, though other tests may have had it logged before."""
    from gsgd.sift.shared_forward.capture import say_once

    say_once.cache_clear()
    name = "gsgd.sift.shared_forward.capture"
    caplog.set_level(logging.WARNING, logger=name)
    return lambda: [record.getMessage() for record in caplog.records if record.name == name]
