"""Every setting of a model is read back from the model that is built by it, as the command line gives it.

A setting that is added later must be read back here, or be said to be none of the model's.
"""

import dataclasses

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("pyarrow")
pytest.importorskip("PIL")

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetBottleNeckLayer

from training.config import TASKS, build
from training.images.resnet import EarlyExitResNet
from training.images.task import build_proxy, build_resnet, build_small_net
from training.tabular.task import build_proxy as build_tabular_proxy
from training.tabular.task import build_tabular_net
from training.task import Task
from training.text.passage_task import build_passage_bert
from training.text.passage_task import build_proxy as build_passage_proxy
from training.text.task import build_bert

CHANNELS, CLASSES = 3, 5
SMALL = {
    "resnet": {"depths": "1,1,1", "hidden_sizes": "8,12,16", "embedding_size": "4", "layer_type": "basic"},
    "small-net": {"network": "mlp", "image_size": "8", "hidden_size": "5"},
    "bert": {"layers": "1", "hidden_size": "8", "heads": "2", "intermediate_size": "12", "vocab_limit": "40"},
    "passages": {"layers": "1", "hidden_size": "8", "heads": "2", "intermediate_size": "12", "vocab_limit": "40"},
    "tabular": {"hidden_sizes": "5"},
}
ALTERATIONS = {"imbalance", "wrong_labels", "copies", "alteration_seed"}
DATA = {
    "resnet": ALTERATIONS
    | {
        *("data", "test_data", "label_column", "image_column", "validation_share", "test_share", "train_limit"),
        *("image_size", "augment", "cache_dir", "proxy", "proxy_size"),
    },
    "small-net": ALTERATIONS
    | {
        *("data", "test_data", "label_column", "image_column", "validation_share", "test_share", "train_limit"),
        *("augment", "cache_dir", "proxy", "proxy_size"),
    },
    "passages": ALTERATIONS
    | {
        *("data", "label_column", "label_pattern", "validation_share", "test_share", "max_held_out_rows"),
        *("train_limit", "cache_dir", "proxy_size"),
    },
    "tabular": ALTERATIONS
    | {
        *("data", "target", "columns", "positive", "validation_share", "test_share", "train_limit"),
        "proxy_size",
    },
    "bert": {
        *("data", "validation_data", "validation_share", "test_share", "max_validation_rows", "mask_share"),
        *("short_share", "cache_dir"),
    },
}
"""Settings that no model is built by."""


def stages(model):
    return model.resnet.encoder.stages


def early_loss(model):
    """What is left of the training loss when the last prediction's is taken away, as a multiple of the early one's."""
    batch = {"pixel_values": torch.randn(4, CHANNELS, 32, 32), "labels": torch.tensor([0, 1, 2, 3])}
    model.train()
    early, full = (model.early_logits(exit_layer, batch["pixel_values"]) for exit_layer in (1, 2))
    rest = model(**batch).loss - F.cross_entropy(full, batch["labels"])
    return round((rest / F.cross_entropy(early, batch["labels"])).item(), 4)


def has_small_stem(model):
    convolution = model.resnet.embedder.embedder.convolution
    small = (convolution.kernel_size, convolution.stride, type(model.resnet.embedder.pooler)) == (
        (3, 3),
        (1, 1),
        nn.Identity,
    )
    assert small or (convolution.kernel_size, convolution.stride) == ((7, 7), (2, 2))
    return small


def widths(model):
    """Channels of the stages, from a forward pass."""
    states = model.eval().resnet(torch.zeros(1, CHANNELS, 32, 32), output_hidden_states=True).hidden_states
    return tuple(state.shape[1] for state in states[1:])


def dropout(model):
    """The one probability that all of its dropout has, attention's included."""
    (found,) = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    return found


BERT = {
    "layers": ("3", lambda model: len(model.bert.encoder.layer)),
    "hidden_size": ("12", lambda model: model.bert.embeddings.word_embeddings.embedding_dim),
    "heads": ("4", lambda model: model.bert.encoder.layer[0].attention.self.num_attention_heads),
    "intermediate_size": ("20", lambda model: model.bert.encoder.layer[0].intermediate.dense.out_features),
    "dropout": ("0.35", dropout),
    "sequence_length": ("48", lambda model: model.bert.embeddings.position_embeddings.num_embeddings),
    "vocab_limit": ("30", lambda model: model.bert.embeddings.word_embeddings.num_embeddings),
    "vocabulary": (None, lambda model: model.bert.embeddings.word_embeddings.num_embeddings),
}

READ = {
    "resnet": {
        "depths": ("1,3,2", lambda model: tuple(len(stage.layers) for stage in stages(model))),
        "hidden_sizes": ("8,24,20", widths),
        "embedding_size": ("6", lambda model: model.resnet.embedder.embedder.convolution.out_channels),
        "layer_type": (
            "bottleneck",
            lambda model: {ResNetBasicLayer: "basic", ResNetBottleNeckLayer: "bottleneck"}[
                type(stages(model)[-1].layers[-1])
            ],
        ),
        "exit_stage": ("1", lambda model: 1 + widths(model).index(model.early_classifier.in_features)),
        "small_images": ("true", has_small_stem),
        "early_loss": ("0.5", early_loss),
    },
    "small-net": {
        "network": ("lenet", lambda model: "lenet" if isinstance(model.layers[0], nn.Conv2d) else "mlp"),
        "hidden_size": ("9", lambda model: model.classifier.in_features),
        "image_size": ("12", lambda model: round((model.layers[1].in_features / CHANNELS) ** 0.5)),
        "blocks": ("3", lambda model: len(model.blocks)),
    },
    "tabular": {
        "hidden_sizes": (
            "9,4",
            lambda model: tuple(layer.out_features for layer in model.layers if isinstance(layer, nn.Linear)),
        )
    },
    "passages": BERT,
    "bert": BERT,
}
"""Task -> setting -> (another value than the default, what the built model says of it)."""


def built(task, **values):
    config = build("x", {"task": task, **SMALL[task], **values})
    torch.manual_seed(0)
    if task == "bert":
        return config.data, build_bert(config.data)
    if task == "passages":
        return config.data, build_passage_bert(config.data, num_labels=CLASSES)
    if task == "tabular":
        return config.data, build_tabular_net(config.data, columns=7, num_labels=CLASSES)
    build_model = build_resnet if task == "resnet" else build_small_net
    return config.data, build_model(config.data, channels=CHANNELS, num_labels=CLASSES)


@pytest.mark.parametrize("task", TASKS)
def test_every_setting_is_read_back_or_none_of_the_models(task):
    settings = {field.name for field in dataclasses.fields(TASKS[task][0])}
    assert settings == set(READ[task]) | DATA[task]
    assert not set(READ[task]) & DATA[task]


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task, read in READ.items() for name in read if name != "vocabulary"]
)
def test_a_setting_reaches_the_model(task, name):
    given, read = READ[task][name]
    others = {"network": "residual-mlp"} if name == "blocks" else {}
    data, model = built(task, **{name: given}, **others)
    wanted = getattr(data, name)
    assert read(model) == wanted
    default, plain = built(task, **others)
    assert read(plain) == getattr(default, name) != wanted


@pytest.mark.parametrize("task", ["resnet", "small-net"])
def test_the_settings_of_a_proxy_reach_it(task):
    data = build("x", {"task": task, "image_size": "16", "proxy": "mlp", "proxy_size": "7"}).data
    proxy = build_proxy(data, channels=CHANNELS, num_labels=CLASSES)
    hidden = proxy.layers[1]
    assert (hidden.in_features, hidden.out_features) == (CHANNELS * 16**2, 7)
    assert (proxy.classifier.in_features, proxy.classifier.out_features) == (7, CLASSES)
    linear = dataclasses.replace(data, proxy="linear")
    assert build_proxy(linear, channels=CHANNELS, num_labels=CLASSES).classifier.in_features == CHANNELS * 16**2


def test_the_settings_of_a_proxy_of_tables_and_passages_reach_it():
    data = build("x", {"task": "tabular", "proxy_size": "7"}).data
    proxy = build_tabular_proxy(data, columns=4, num_labels=CLASSES)
    assert [tuple(weight.shape) for weight in proxy.parameters() if weight.dim() == 2] == [(7, 4), (CLASSES, 7)]
    data = build("x", {"task": "passages", "proxy_size": "6", **SMALL["passages"]}).data
    config = build_passage_proxy(data, num_labels=CLASSES).config
    found = (config.num_hidden_layers, config.num_attention_heads, config.hidden_size, config.intermediate_size)
    assert found == (1, 1, 6, 24)
    assert (config.vocab_size, config.num_labels) == (40, CLASSES)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_what_tasks_have(task):
    methods = {name for name, value in vars(Task).items() if callable(value) and not name.startswith("_")}
    assert methods == {"build_model", "build_proxy", "training_batch", "held_out", "judge"}
    assert methods <= set(dir(TASKS[task][1]))


def test_a_vocabulary_of_ones_own_reaches_the_model(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    _, model = built("bert", vocab_limit="0", vocabulary=str(tmp_path / "vocab.txt"))
    assert READ["bert"]["vocabulary"][1](model) == len(words)


def test_a_saved_model_keeps_them(tmp_path):
    """The configuration that is saved with the weights has all of them, too."""
    _, model = built("resnet", early_loss="0.5", exit_stage="1", small_images="true")
    model.save_pretrained(tmp_path)
    loaded = EarlyExitResNet.from_pretrained(tmp_path)
    assert (early_loss(loaded), loaded.exit_stage, has_small_stem(loaded)) == (0.5, 1, True)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-0.1"])
def test_an_early_loss_out_of_range_is_refused(value):
    with pytest.raises(
        ValueError, match=rf"^early_loss = '{value}' must be (a finite number|greater than or equal to 0)$"
    ):
        build("x", {"task": "resnet", "early_loss": value})
    _, model = built("resnet")
    model.config.early_loss = float(value)
    with pytest.raises(ValueError, match=rf"^early_loss = {float(value)!r} must be at least 0, and finite$"):
        EarlyExitResNet(model.config)


def test_early_loss_changes_what_is_trained(tmp_path):
    """By the whole way from the configuration: with it the early classifier has another gradient."""

    def gradient(value):
        config = build("x", {"task": "resnet", **SMALL["resnet"], "early_loss": value, "cache_dir": str(tmp_path)})
        task = config.build_task()
        torch.manual_seed(0)
        model = task.build_model().train()
        model(**task.training_batch(range(8), 0)).loss.backward()
        return model.early_classifier.weight.grad

    assert not torch.equal(gradient("0"), gradient("0.5"))
    assert torch.equal(gradient("0.5"), gradient("0.5"))
