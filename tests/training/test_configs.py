"""Every preset: it parses, builds its model, and has the paper's settings (Section 7, Appendices F and G)."""

import re

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, ResNetConfig, ResNetForImageClassification

from training.config import load, presets
from training.images.task import build_resnet
from training.text.model import build_bert

NAMES = sorted(presets())
BERT_BASE = [name for name in NAMES if name.startswith("bert-base/")]
RESNET_50 = [name for name in NAMES if name.startswith(("cifar100/", "food101/"))]

# Table 1: validation accuracy at the last step. Table 6: hours of scoring.
TABLE_1 = {
    "baseline": "0.6466",
    "loss-1": "0.6599",
    "loss-2": "0.6597",
    "loss-3": "0.6604",
    "loss-6": "0.6607",
    "loss-12": "0.6640",
    "entropy-1": "0.6641",
    "entropy-2": "0.6672",
    "entropy-3": "0.6678",
    "entropy-6": "0.6680",
    "entropy-12": "0.6664",
}
TABLE_6 = {
    "loss-1": "0.8452",
    "loss-2": "1.1662",
    "loss-3": "1.4764",
    "loss-6": "2.5901",
    "loss-12": "4.5086",
    "entropy-1": "0.9121",
    "entropy-2": "1.2181",
    "entropy-3": "1.5398",
    "entropy-6": "2.6195",
    "entropy-12": "4.5148",
}
# Tables 2 to 5, in per cent: (folder, max_lr) -> baseline, early exit, last exit; None: does not converge.
TABLES_2_TO_5 = {
    ("cifar100/same-time", "5e-2"): ("67.68", "66.64", "63.92"),
    ("cifar100/same-time", "1e-2"): ("69.04", "73.45", "70.13"),
    ("cifar100/same-time", "5e-3"): ("69.02", "73.26", "72.91"),
    ("cifar100/same-time", "1e-3"): ("58.54", "66.85", "71.09"),
    ("cifar100/same-samples", "5e-2"): ("67.68", "68.16", "68.12"),
    ("cifar100/same-samples", "1e-2"): ("69.04", "75.41", "74.48"),
    ("cifar100/same-samples", "5e-3"): ("69.02", "75.06", "76.93"),
    ("cifar100/same-samples", "1e-3"): ("58.54", "68.35", "75.14"),
    ("food101/same-time", "5e-2"): ("57.50", None, None),
    ("food101/same-time", "1e-2"): ("59.52", "64.03", "64.01"),
    ("food101/same-time", "5e-3"): ("58.88", "63.23", "66.47"),
    ("food101/same-time", "1e-3"): ("44.04", "59.29", "63.52"),
    ("food101/same-samples", "5e-2"): ("57.50", None, None),
    ("food101/same-samples", "1e-2"): ("59.52", "64.04", "64.19"),
    ("food101/same-samples", "5e-3"): ("58.88", "63.22", "66.64"),
    ("food101/same-samples", "1e-3"): ("44.04", "59.27", "63.68"),
}
METHODS = {"baseline": "baseline", "early": "loss@1", "last": "loss@last"}


def header(name):
    """The comment at the beginning of a preset's file."""
    lines = []
    for line in presets()[name].read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


# ---- All of them ----


@pytest.mark.parametrize("name", NAMES)
def test_opens_with_what_it_is_how_it_is_launched_and_what_to_expect(name):
    text = header(name)
    assert re.search(rf"gsgd (train|compare) {re.escape(name)}(?![\w/-])", text)
    commands = re.findall(r"gsgd (?:train|compare) (\S+)", text)
    assert set(commands) == {name}
    assert "TODO" not in text
    assert re.search(r"GPU|A100|core", text)
    expected = r"accuracy\D{0,40}\d|does not converge"
    assert name.endswith("common") or re.search(expected, text)


@pytest.mark.parametrize("name", NAMES)
def test_every_launch_line_of_compare_can_be_read(name):
    """Its methods, its sweep and its values belong to the configuration."""
    import shlex

    from training.cli import parse_values
    from training.compare import parse_contender, parse_sweep

    for command in re.findall(r"gsgd compare \S+ (.*)$", header(name), flags=re.MULTILINE):
        values = parse_values(shlex.split(command.partition("    ")[0]))
        methods, sweep = values.pop("methods"), values.pop("sweep", None)
        values.pop("seeds", None)
        config = load(name, values)
        for method in methods.split(","):
            config.with_values(parse_contender(method).values)
        if sweep:
            config.with_values({parse_sweep(sweep).key: parse_sweep(sweep).values[0]})
    for command in re.findall(r"gsgd train \S+ +(--.*)$", header(name), flags=re.MULTILINE):
        load(name, parse_values(shlex.split(command.partition("    ")[0])))


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
CLASSES |= {"resnet-small": (3, 10), "resnet-tiny": (1, 10)}


@pytest.mark.parametrize("name", NAMES)
def test_builds_its_model_on_the_meta_device(name):
    config = load(name)
    with torch.device("meta"):
        if config.task == "bert":
            model, expected = build_bert(config.data), bert_parameters(config.data)
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


@pytest.mark.parametrize("name", BERT_BASE)
def test_bert_base_states_the_papers_result_and_launch_lines_for_1_8_and_2x8_gpus(name):
    run, text = name.removeprefix("bert-base/"), header(name)
    assert re.findall(r"validation accuracy (\S+\d)", text) == [TABLE_1[run]]
    hours = re.findall(r"(\S+) h of scoring beside (\S+) h of forward and\s+(\S+) h", text)
    assert hours == ([] if run == "baseline" else [(TABLE_6[run], "3.8", "7.9")])
    one = [line for line in text.splitlines() if line.startswith("gsgd train")]
    eight = [line for line in text.splitlines() if line.startswith("torchrun --nproc-per-node 8 ")]
    sixteen = [line for line in text.splitlines() if line.startswith("torchrun --nnodes 2 --nproc-per-node 8 ")]
    assert len(one) == len(eight) == len(sixteen) == 1
    # Rows of an optimizer step: 256 on any number of GPUs.
    for line, gpus in ((one[0], 1), (eight[0], 8), (sixteen[0], 16)):
        keys = dict(re.findall(r"--(batch_size|accumulation_steps) (\d+)", line))
        settings = load(name, keys).training
        assert settings.batch_size * settings.accumulation_steps * gpus == 256


# ---- ResNet-50 (Section 7.2, Appendix G) ----


def expected_resnet_runs():
    for (folder, max_lr), accuracies in TABLES_2_TO_5.items():
        for kind, accuracy in zip(METHODS, accuracies, strict=True):
            # The baseline is the same run in both tables.
            if not (kind == "baseline" and folder.endswith("same-time")):
                yield f"{folder}/{kind}-{max_lr}", (kind, max_lr, accuracy)


RUNS = dict(expected_resnet_runs())


def test_all_runs_of_tables_2_to_5_are_there():
    assert sorted([*RUNS, "cifar100/common", "food101/common"]) == RESNET_50
    for data in ("cifar100", "food101"):
        for max_lr in ("5e-2", "1e-2", "5e-3", "1e-3"):
            both = [TABLES_2_TO_5[(f"{data}/{kind}", max_lr)][0] for kind in ("same-time", "same-samples")]
            assert both[0] == both[1]


@pytest.mark.parametrize("name", RUNS)
def test_resnet_50(name):
    kind, max_lr, accuracy = RUNS[name]
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
    said = re.findall(r"The paper: (?:test accuracy (\S+)%|(does not converge))", header(name))
    assert said == [("", "does not converge") if accuracy is None else (accuracy, "")]


# ---- The small ones ----


@pytest.mark.parametrize("name", ["bert-tiny", "resnet-tiny"])
def test_the_small_ones_need_nothing_but_the_package(name):
    config = load(name)
    assert config.data.data in ("embedded", ("embedded",))
    assert config.training.precision == "no"
    assert config.training.method == "baseline"


def test_the_size_of_a_tiny_bert_fits_its_heads():
    data = load("bert-tiny").data
    assert data.vocab_limit < 30522
    assert data.hidden_size % data.heads == 0
