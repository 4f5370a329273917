"""Every preset: it parses, builds its model, and has the paper's settings (Section 7, Appendices F and G)."""

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, ResNetConfig, ResNetForImageClassification

from training.config import load, presets
from training.images.task import build_resnet, build_small_net
from training.tabular.task import build_tabular_net
from training.text.passage_task import build_passage_bert
from training.text.task import build_bert

NAMES = sorted(presets())
BERT_BASE = [name for name in NAMES if name.startswith("bert-base/")]
RESNET_50 = [name for name in NAMES if name.startswith(("cifar100/", "food101/"))]

# The runs of Table 1, and of Tables 2 to 5.
TABLE_1 = ("baseline", *(f"{score}-{layer}" for score in ("loss", "entropy") for layer in (1, 2, 3, 6, 12)))
MAX_LRS = ("5e-2", "1e-2", "5e-3", "1e-3")
METHODS = {"baseline": "baseline", "early": "loss@1", "last": "loss@last"}


# ---- Parameters, counted by hand ----


def bert_parameters(config):
    """Of BertForPreTraining, whose decoder shares the word embeddings' matrix."""
    h, i, vocabulary = config.hidden_size, config.intermediate_size, 30522
    vocabulary = min(config.vocab_limit or vocabulary, vocabulary)
    norm = 2 * h
    embeddings = (vocabulary + config.sequence_length + 2) * h + norm
    layer = 4 * (h * h + h) + norm + (h * i + i) + (i * h + h) + norm
    pooler = h * h + h
    masked_head = (h * h + h) + norm + vocabulary
    next_sentence_head = 2 * h + 2
    return embeddings + config.layers * layer + pooler + masked_head + next_sentence_head


def passage_parameters(config, classes):
    """Of BertForSequenceClassification: BERT without the heads of pretraining, and a linear classifier."""
    h, v = config.hidden_size, config.vocab_limit
    heads = (h * h + h) + 2 * h + v + 2 * h + 2
    return bert_parameters(config) - heads + (h + 1) * classes


def resnet_parameters(data, channels, classes):
    """Of the stem, the stages with their projections, and both classifiers; a convolution has no bias, its norm two."""

    def convolution(size, inputs, outputs):
        return size * size * inputs * outputs + 2 * outputs

    count = convolution(3 if data.small_images else 7, channels, data.embedding_size)
    inputs = data.embedding_size
    for stage, (depth, width) in enumerate(zip(data.depths, data.hidden_sizes, strict=True)):
        for block in range(depth):
            if data.layer_type == "bottleneck":
                inner = width // 4
                count += convolution(1, inputs, inner) + convolution(3, inner, inner) + convolution(1, inner, width)
            else:
                count += convolution(3, inputs, width) + convolution(3, width, width)
            # A stage's first block projects where the shape changes.
            if inputs != width or (block == 0 and stage > 0):
                count += convolution(1, inputs, width)
            inputs = width
    early = (data.hidden_sizes[data.exit_stage - 1] + 1) * classes
    return count + early + (data.hidden_sizes[-1] + 1) * classes


def counted(model):
    return sum(parameter.numel() for parameter in model.parameters())


# Classes of the data sets: CIFAR-100 has 100, Food-101 101, CIFAR-10 and Fashion-MNIST 10.
CLASSES = {"cifar100": (3, 100), "food101": (3, 101), "resnet50-cifar10": (3, 10)}
CLASSES |= {"resnet-small": (3, 10), "resnet-tiny": (1, 10), "map": (3, 10)}
# Weights and biases of 28x28 grey images in 10 classes; LeNet's two convolutions leave 32 channels of 7x7.
_BLOCK = 2 * 128 + 2 * 129 * 128
SMALL_NETS = {
    "linear": 785 * 10,
    "mlp": 785 * 128 + 129 * 10,
    "residual-mlp": 785 * 128 + 10 * _BLOCK + 2 * 128 + 129 * 10,
    "lenet": 26 * 16 + (25 * 16 + 1) * 32 + (49 * 32 + 1) * 128 + 129 * 10,
}


@pytest.mark.parametrize("name", NAMES)
def test_builds_its_model_on_the_meta_device(name):
    config = load(name)
    with torch.device("meta"):
        if config.task == "bert":
            model, expected = build_bert(config.data), bert_parameters(config.data)
        elif config.task == "passages":
            model, expected = build_passage_bert(config.data, num_labels=9), passage_parameters(config.data, 9)
        elif config.task == "tabular":
            model = build_tabular_net(config.data, columns=30, num_labels=2)
            expected = 31 * 128 + 129 * 128 + 129 * 2
        elif config.task == "small-net":
            model = build_small_net(config.data, channels=1, num_labels=10)
            expected = SMALL_NETS[config.data.network]
        else:
            channels, classes = CLASSES[name.split("/")[0]]
            model = build_resnet(config.data, channels=channels, num_labels=classes)
            expected = resnet_parameters(config.data, channels, classes)
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert counted(model) == expected


def test_the_papers_sizes():
    """110M for BERT-base; ResNet-50 is 25.6M with ImageNet's 1000 classes, 23.5M without its classifier."""
    assert round(bert_parameters(load("bert-base/baseline").data) / 1e6) == 110
    data = load("cifar100/common").data
    assert resnet_parameters(data, 3, 0) == 23_508_032
    assert resnet_parameters(data, 3, 100) == 23_508_032 + 2049 * 100 + 513 * 100


def test_the_hand_counts_against_plain_transformers():
    with torch.device("meta"):
        assert counted(BertForPreTraining(BertConfig())) == bert_parameters(load("bert-base/baseline").data)
        plain = ResNetForImageClassification(ResNetConfig(num_labels=100))
    data = load("cifar100/common").data
    assert counted(plain) == resnet_parameters(data, 3, 100) - 513 * 100


# ---- BERT-base (Section 7.1, Appendix F) ----


def test_all_runs_of_table_1_are_there():
    assert sorted(f"bert-base/{name}" for name in TABLE_1) == BERT_BASE


@pytest.mark.parametrize("name", BERT_BASE)
def test_bert_base(name):
    config = load(name)
    run = name.removeprefix("bert-base/")
    settings, data = config.training, config.data
    score, _, layer = run.partition("-")
    assert settings.method == ("baseline" if run == "baseline" else f"{score}@{layer}")
    assert (settings.keep, settings.select, settings.trim) == (0.5, "top-k", 0)
    # 32 sequences per GPU are trained on, of 64; "800K steps", "the first 20K steps".
    assert settings.batch_size == 32
    assert settings.gross_size == (32 if run == "baseline" else 64)
    assert (settings.budget, settings.accumulation_steps) == ("800000steps", 1)
    first, last = settings.first_and_last(800_000)
    assert (first, last) == ((800_000, 800_000) if run == "baseline" else (20_000, 800_000))
    assert (settings.max_lr, settings.weight_decay, settings.beta1, settings.beta2) == (1e-4, 0.01, 0.9, 0.999)
    # "over the first 0.2% of total steps followed by linear decay"
    assert (settings.schedule, settings.warmup_share) == ("linear", 0.002)
    assert (settings.scoring_mode, settings.scope) == ("train", "rank")
    assert (data.layers, data.hidden_size, data.heads, data.intermediate_size) == (12, 768, 12, 3072)
    assert (data.sequence_length, data.mask_share, data.dropout) == (512, 0.15, 0.1)
    assert (data.vocabulary, data.vocab_limit) == ("", 0)
    assert data.data == ("bookcorpus", "wikimedia/wikipedia:20231101.en")
    with torch.device("meta"):
        model = build_bert(data)
    assert model.config.hidden_act == "gelu"
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.1


@pytest.mark.parametrize(("gpus", "accumulation_steps"), [(1, 8), (8, 1)])
def test_an_optimizer_step_has_256_rows_on_any_number_of_gpus(gpus, accumulation_steps):
    settings = load("bert-base/loss-1", {"accumulation_steps": accumulation_steps}).training
    assert settings.batch_size * settings.accumulation_steps * gpus == 256


# ---- ResNet-50 (Section 7.2, Appendix G) ----


# The baseline is the same run in both tables.
RUNS = {
    f"{data}/{table}/{kind}-{max_lr}": (kind, max_lr)
    for data in ("cifar100", "food101")
    for table in ("same-time", "same-samples")
    for kind in METHODS
    for max_lr in MAX_LRS
    if (kind, table) != ("baseline", "same-time")
}


def test_all_runs_of_tables_2_to_5_are_there():
    assert sorted([*RUNS, "cifar100/common", "food101/common"]) == RESNET_50


@pytest.mark.parametrize("name", RUNS)
def test_resnet_50(name):
    kind, max_lr = RUNS[name]
    config = load(name)
    settings, data = config.training, config.data
    assert settings.method == METHODS[kind]
    assert settings.max_lr == float(max_lr)
    # "the baseline batch size is 125", "the gross batch size of SIFT is 250"
    assert (settings.batch_size, settings.gross_size) == (125, 125 if kind == "baseline" else 250)
    assert (settings.weight_decay, settings.beta1, settings.beta2, settings.eps) == (5e-4, 0.9, 0.999, 1e-8)
    assert (settings.schedule, settings.cycle_momentum) == ("one-cycle", True)
    assert settings.budget == ("100baseline-epochs" if "same-time" in name else "100epochs")
    assert (settings.keep, settings.select, settings.trim, settings.start_step, settings.start_share) == (
        0.5,
        "top-k",
        0,
        0,
        0,
    )
    assert settings.selecting_steps(100) == (0 if kind == "baseline" else 100)
    assert settings.test
    assert data.data == {"cifar100": "uoft-cs/cifar100", "food101": "ethz/food101"}[name.split("/")[0]]
    assert (data.depths, data.hidden_sizes) == ((3, 4, 6, 3), (256, 512, 1024, 2048))
    assert (data.embedding_size, data.layer_type, data.exit_stage) == (64, "bottleneck", 2)


# ---- The small ones ----


@pytest.mark.parametrize(
    "name", ["bert-tiny", "resnet-tiny", "map/passages", "map/masked-language", "map/rare-positives"]
)
def test_the_small_ones_need_nothing_but_the_package(name):
    config = load(name)
    assert config.data.data in ("embedded", ("embedded",), "synthetic")
    assert config.training.precision == "no"
    assert config.training.method == "baseline"


def test_the_size_of_a_tiny_bert_fits_its_heads():
    data = load("bert-tiny").data
    assert data.vocab_limit < 30522
    assert data.hidden_size % data.heads == 0
