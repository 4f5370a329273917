"""Methods by their names: what the engine is told, and what does not go together."""

import pytest
import torch

from gsgd.sift import (
    AveragePooled,
    CheaperInput,
    ClassBalanced,
    CorrectedExit,
    FirstTokens,
    LinearProbe,
    PredictedLoss,
    Proxy,
)
from training.config import build
from training.methods import Method, parse_cheaper, parse_method
from training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("proxy", Method("proxy", None)),
        ("class-balanced", Method("class-balanced", None)),
        ("corrected@1", Method("corrected", 1)),
        ("corrected@12", Method("corrected", 12)),
        ("probe@1", Method("probe", 1)),
        ("predicted@3", Method("predicted", 3)),
    ],
)
def test_names(text, method):
    assert parse_method(text) == method


@pytest.mark.parametrize(
    "text",
    [
        *("corrected", "corrected@0", "proxy@1", "corrected@auto", "corrected@last", "corect@1"),
        *("probe", "probe@auto", "predicted@last"),
    ],
)
def test_names_of_no_method(text):
    with pytest.raises(ValueError, match=f"method = '{text}' "):
        parse_method(text)


@pytest.mark.parametrize(
    ("text", "form", "autocast"),
    [("pool2", AveragePooled(2), None), ("first64", FirstTokens(64), None), ("bf16", None, torch.bfloat16)],
)
def test_cheaper_input(text, form, autocast):
    settings = TrainingSettings(method="loss@last", cheaper=text)
    score = settings.sift_options(10, 4, 100).score
    assert isinstance(score, CheaperInput)
    assert (score.form, score.autocast) == (form, autocast)
    assert parse_cheaper("") is None
    # Methods that score nothing are compared with those that do, from one configuration.
    assert TrainingSettings(method="baseline", cheaper=text).sift_options(10, 4, 100).score == "random"


@pytest.mark.parametrize("text", ["pool1", "pool", "first0", "pool-2", "fp8", "first6.5"])
def test_no_cheaper_input(text):
    with pytest.raises(ValueError, match=f"cheaper = '{text}' must be poolN"):
        TrainingSettings(method="loss@1", cheaper=text)


def test_what_the_engine_is_told():
    options = TrainingSettings(method="corrected@2", batch_size=8).sift_options(10, 4, 100)
    assert isinstance(options.score, CorrectedExit)
    assert (options.exit_layer, options.data_rows, options.random_share) == (2, 100, None)
    for method, kind in (("probe@2", LinearProbe), ("predicted@2", PredictedLoss)):
        options = TrainingSettings(method=method, head_lr=0.25, meter_every=3).sift_options(10, 4, 100)
        assert type(options.score) is kind
        assert (options.exit_layer, options.score.lr, options.meter_every) == (2, 0.25, 3)
        assert options.random_share == (0.25 if kind is PredictedLoss else None)
    balanced = TrainingSettings(method="class-balanced", meter_every=3, quality_batches=2)
    assert isinstance(balanced.sift_options(10, 4, 100).score, ClassBalanced)
    assert (balanced.selects, balanced.measures_scores, balanced.scores_rows) == (True, False, False)
    network = torch.nn.Linear(3, 2)
    options = TrainingSettings(method="proxy", proxy_lr=0.25, meter_every=3).sift_options(10, 4, 100, proxy=network)
    assert isinstance(options.score, Proxy)
    assert options.score.network is network
    assert options.score.optimizer.param_groups[0]["lr"] == 0.25
    assert (options.meter_every, options.random_share) == (3, 0.25)
    options = TrainingSettings(method="proxy", random_share=0.5).sift_options(10, 4, 100, proxy=network)
    assert options.random_share == 0.5


def test_a_proxy_is_charged_from_the_first_step_to_the_end_of_selection():
    settings = TrainingSettings(method="proxy", start_share=0.25, end_share=0.75)
    assert [settings.dearer_steps(100, done) for done in (10, 25, 60, 100)] == [10, 25, 60, 75]
    assert settings.selecting_steps(100) == 50


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "entropy@1", "cheaper": "bf16"}, "cheaper = 'bf16' is for methods loss@LAYER"),
        ({"method": "corrected@1", "cheaper": "bf16"}, "cheaper = 'bf16' is for methods loss@LAYER"),
        ({"method": "loss@auto", "cheaper": "bf16"}, "score = CheaperInput takes none as it is"),
        ({"method": "proxy", "draw": 16, "start_step": 4}, "which trains before it selects"),
        ({"method": "proxy", "trim": 0.9}, r"trim = 0\.9 and keep = 0\.5"),
        ({"method": "proxy", "batchnorm": "gross"}, "score = Proxy must not be"),
    ],
)
def test_what_does_not_go_together(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "bert", "method": "proxy"}, "method = proxy is for tasks whose rows have one class"),
        ({"task": "bert", "method": "class-balanced"}, "is for tasks whose rows have one class"),
        ({"task": "bert", "method": "probe@1"}, "method = probe@1 is for tasks whose rows have one class"),
        (
            {"task": "small-net", "method": "loss@last", "cheaper": "pool2"},
            "is for task = resnet, .* not for small-net",
        ),
        ({"task": "resnet", "method": "loss@1", "cheaper": "first8"}, "is for task = bert, .* not for resnet"),
    ],
)
def test_what_a_task_does_not_have(values, message):
    with pytest.raises(ValueError, match=message):
        build("test", values)
