"""What a run's settings may be, and the sizes that follow from them."""

import dataclasses
import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gsgd import scores
from gsgd.selectors import select_top_k
from gsgd.sift.options import AutoExit, SiftOptions
from gsgd.sift.schedules.keep import KeepByAccuracy
from training.budget import StepCosts
from training.config import build
from training.keys import described
from training.methods import Method, parse_method
from training.settings import NO_SETTING, TrainingSettings


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("baseline", Method(None, None)),
        ("random", Method("random", None)),
        ("last-seen", Method("last-seen", None)),
        ("infobatch", Method(None, None)),
        ("focal", Method(None, None)),
        ("loss@1", Method("loss", 1)),
        ("entropy@12", Method("entropy", 12)),
        ("margin@last", Method("margin", None)),
        ("entropy@auto", Method("entropy", None, auto=True)),
    ],
)
def test_methods(text, method):
    assert parse_method(text) == method


@pytest.mark.parametrize(
    "text", ["", "loss", "loss@", "loss@0", "loss@-1", "loss@one", "loss@²", "gradient@1", "random@1", "random@auto"]
)
def test_what_is_no_method(text):
    with pytest.raises(
        ValueError,
        match=r"method = .* must be baseline, random, last-seen, infobatch, .*or SCORE@LAYER.*such as loss@1",
    ):
        TrainingSettings(method=text)


OUT_OF_RANGE = {
    "budget": ["3", "0steps"],
    "select": ["topk"],
    "scoring_mode": ["training"],
    "batchnorm": ["batch"],
    "scope": ["node"],
    "schedule": ["cosine"],
    "precision": ["fp8"],
    "keep": [0.0, -0.5, 1.01, float("nan")],
    "trim": [-0.1, 1.0, float("nan")],
    "batch_size": [0],
    "accumulation_steps": [0],
    "evaluations": [0],
    "evaluation_batch_size": [0],
    "start_step": [-1],
    "end_step": [-1],
    "score_batch_size": [-1],
    "seed": [-1],
    "quality_batches": [-1],
    "meter_every": [-1],
    "auto_level": [-0.1, 1.1, float("nan")],
    "auto_every": [0],
    "weight_decay": [-0.1, float("nan")],
    "clip_norm": [-1.0, float("nan")],
    "max_lr": [0.0, -1.0, float("nan")],
    "eps": [0.0],
    "checkpoint_every_s": [0.0],
    "beta1": [-0.1, 1.0],
    "beta2": [1.0],
    "start_share": [-0.1, 1.1],
    "end_share": [-0.1, 1.1, float("nan")],
    "warmup_share": [1.1, -0.1],
    "random_share": [1.1, -0.1],
    "max_age": [-1],
    "draw": [-1],
    "prune": [-0.1, 1.0],
    "uniform_share": [0.0, 1.5],
    "focal_gamma": [-1.0, float("nan")],
    "loss_power": [-0.5],
    "cheaper": ["pool1", "first0", "fp8"],
    "proxy_lr": [0.0, -1.0, float("nan")],
    "head_lr": [0.0, -1.0, float("nan")],
    "keep_schedule": ["half", "0", "0:1,5", "1:0.5", "0:2"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in OUT_OF_RANGE.items() for value in values])
def test_out_of_range_names_the_key(key, value):
    said = "^keep" if key == "keep_schedule" else f"^{key} = .* must "
    with pytest.raises(ValueError, match=said):
        build("x", {"task": "bert", key: value})
    with pytest.raises(ValueError, match=key.removesuffix("_schedule")):
        TrainingSettings(**{key: value})


def test_every_number_and_choice_has_a_range():
    """A key that is added later is to be tested, too."""
    free = {"method", "cycle_momentum", "decay_all", "channels_last", "compile", "labelled_head", "tensorboard", "test"}
    free |= {"save_model", "label", "reuse", "check", "log_rows", "trackers"}
    assert {field.name for field in dataclasses.fields(TrainingSettings)} == set(OUT_OF_RANGE) | free


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"start_step": 5, "start_share": 0.5}, ("start_step = 5", "start_share = 0.5")),
        ({"end_step": 5, "end_share": 0.5}, ("end_step = 5", "end_share = 0.5")),
        ({"start_step": 9, "end_step": 5}, ("start_step = 9", "end_step = 5")),
        ({"start_share": 0.6, "end_share": 0.5}, ("start_share = 0.6", "end_share = 0.5")),
        ({"method": "loss@1", "trim": 0.6, "keep": 0.5}, ("trim = 0.6", "keep = 0.5")),
        ({"method": "random", "keep": 1.0}, ("method = 'random'", "keep = 1")),
        ({"method": "loss@1", "keep": 0.99, "batch_size": 32}, ("keep = 0.99", "batch_size = 32")),
    ],
)
def test_impossible_combinations_name_the_keys(values, named):
    with pytest.raises(ValueError, match=r"=") as caught:
        TrainingSettings(**values)
    assert all(name in str(caught.value) for name in named)


@given(st.integers(1, 2048), st.floats(0.01, 1))
def test_a_gross_batch_gives_back_the_batch(batch_size, keep):
    """By Sift's own rule: max(1, round(keep B)) rows of B."""
    assume(round(batch_size / keep) > batch_size)
    settings = TrainingSettings(method="loss@1", batch_size=batch_size, keep=keep)
    assert max(1, round(keep * settings.gross_size)) == batch_size


def test_gross_batches_of_the_paper():
    """Section 7.1: 64 for 32; Appendix G: 250 for 125."""
    assert TrainingSettings(method="loss@1", batch_size=32).gross_size == 64
    assert TrainingSettings(method="random", batch_size=125).gross_size == 250
    assert TrainingSettings(method="baseline", batch_size=125).gross_size == 125


@given(st.integers(1, 80), st.floats(0.1, 0.9), st.floats(0, 0.9))
@example(72, 0.72, 0.29)  # .29 of 100 is 28.999999999999996 in floating point
def test_exactly_what_can_be_trimmed_is_accepted(batch_size, keep, share):
    """Of the gross batch floor(share B) rows are left out, and the batch must be left."""
    values = {"method": "loss@1", "batch_size": batch_size, "keep": keep, "trim": share}
    gross = round(batch_size / keep)
    assume(gross > batch_size)
    if gross - math.floor(share * gross + 1e-9) >= batch_size:
        rule = TrainingSettings(**values).rule()
        assert len(rule(torch.arange(float(gross)), batch_size, torch.Generator())) == batch_size
    else:
        with pytest.raises(ValueError, match=r"trim = .* and keep = "):
            TrainingSettings(**values)


def test_the_rule_without_trim_is_the_selector_itself():
    assert TrainingSettings().rule() is select_top_k


def test_the_rule_with_trim_leaves_the_largest_out():
    rule = TrainingSettings(method="loss@1", trim=0.25, keep=0.5).rule()
    assert sorted(rule(torch.tensor([5.0, 9.0, 8.0, 1.0, 2.0, 3.0, 4.0, 0.0]), 4, None).tolist()) == [0, 4, 5, 6]


@pytest.mark.parametrize(
    ("values", "total", "expected"),
    [
        ({}, 100, (0, 100)),
        ({"start_step": 20}, 100, (20, 100)),
        ({"start_step": 20, "end_step": 60}, 100, (20, 60)),
        ({"start_share": 0.25, "end_share": 0.75}, 100, (25, 75)),
        ({"end_share": 0.0}, 100, (0, 0)),
        ({"end_share": 0.5}, 7, (0, 4)),
        # Longer than the run.
        ({"start_step": 200}, 100, (100, 100)),
        ({"start_step": 20, "end_step": 600}, 100, (20, 100)),
        ({"start_step": 200, "end_step": 600}, 100, (100, 100)),
        # It ends before it begins.
        ({"start_share": 0.5, "end_step": 10}, 100, (50, 50)),
    ],
)
def test_first_and_last(values, total, expected):
    settings = TrainingSettings(method="loss@1", **values)
    assert settings.first_and_last(total) == expected
    assert settings.selecting_steps(total) == expected[1] - expected[0]


def test_the_baseline_never_selects():
    settings = TrainingSettings(start_step=3)
    assert settings.first_and_last(10) == (10, 10)
    assert not settings.selects
    assert not settings.scores_rows
    assert TrainingSettings(method="random").selects
    assert not TrainingSettings(method="random").scores_rows


# ---- The engine's options ----

OTHERWISE = {
    "keep": 0.25,
    "accumulation_steps": 3,
    "scoring_mode": "eval",
    "scope": "global",
    "labelled_head": True,
    "reuse": False,
    "compile": True,
    "batchnorm": "gross",
    "meter_every": 7,
    "check": False,
    "score_batch_size": 5,
    "seed": 11,
}
"""Options that are settings by the same name, each with another value than its default."""
MADE = {"exit_layer", "auto", "score", "select", "start_step", "end_step", "on_bad_scores"}
MADE |= {"data_rows", "random_share", "max_age", "log_rows"}
"""Options that are made of other settings."""


def test_every_option_is_a_setting_or_made_of_some_or_left_out():
    """One that is added to the engine is to be a setting, too, or to be said to be none."""
    options = {field.name: field.default for field in dataclasses.fields(SiftOptions)}
    assert set(options) == set(OTHERWISE) | MADE | set(NO_SETTING)
    assert not any(value == options[name] for name, value in OTHERWISE.items())


@pytest.mark.parametrize(("name", "value"), OTHERWISE.items())
def test_an_option_reaches_the_engine(name, value):
    settings = TrainingSettings(method="loss@1", **{name: value})
    assert getattr(settings.sift_options(100, 2, 50), name) == value
    default = getattr(TrainingSettings(method="loss@1").sift_options(100, 2, 50), name)
    assert default == getattr(SiftOptions(), name) != value


def test_defaults_are_the_engines():
    ours, engines = TrainingSettings(), SiftOptions()
    for name in set(OTHERWISE) - {"score_batch_size"}:
        assert getattr(ours, name) == getattr(engines, name)
    assert (ours.auto_level, ours.auto_every) == (0, AutoExit().every)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"method": "loss@1"}, {"exit_layer": 1, "score": "loss", "auto": None, "select": select_top_k}),
        ({"method": "entropy@last"}, {"exit_layer": 4, "score": "entropy"}),
        ({"method": "margin@2"}, {"exit_layer": 2, "score": scores.margin}),
        ({"method": "loss@auto", "auto_level": 0.9, "auto_every": 9}, {"exit_layer": "auto", "auto": AutoExit(0.9, 9)}),
        ({"method": "last-seen"}, {"score": "last-seen", "random_share": 0.25, "max_age": None, "data_rows": 77}),
        ({"method": "last-seen", "random_share": 0.5, "max_age": 40}, {"random_share": 0.5, "max_age": 40}),
        ({"method": "loss@1", "random_share": 0.5, "max_age": 40}, {"random_share": None, "max_age": None}),
        ({"method": "random", "meter_every": 5}, {"score": "random", "meter_every": 0}),
        ({"method": "baseline", "batchnorm": "gross"}, {"score": "random", "start_step": 100, "batchnorm": "kept"}),
        ({"method": "loss@1", "start_share": 0.25, "end_step": 60}, {"start_step": 25, "end_step": 60}),
        ({"method": "loss@1"}, {"on_bad_scores": "last", "score_batch_size": None, "end_step": 100}),
    ],
)
def test_options_that_are_made(values, expected):
    found = TrainingSettings(**values).sift_options(total_steps=100, exits=4, train_size=77)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"method": "random", "batchnorm": "gross"},
            r"batchnorm = \"gross\" needs a scoring pass.*must not be \"random\"",
        ),
        ({"method": "loss@1", "batchnorm": "gross", "score_batch_size": 4}, "needs the gross batch scored at once"),
        ({"scoring_mode": "evla"}, r"scoring_mode = 'evla' must be one of.*did you mean 'eval'"),
    ],
)
def test_what_the_engine_would_refuse_is_refused_at_once(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**values)


@pytest.mark.parametrize("method", ["infobatch", "importance", "focal", "loss-power"])
def test_methods_that_do_not_select_train_on_all_they_draw(method):
    settings = TrainingSettings(method=method, keep=0.25)
    assert (settings.selects, settings.scores_rows, settings.gross_size) == (False, False, 32)
    assert settings.sift_options(100, 3, 77).start_step == 100
    with pytest.raises(ValueError, match="labelled_head has a head that sees some: set it to false"):
        TrainingSettings(method=method, labelled_head=True)


def test_rows_of_a_step_with_a_fixed_gross_batch_and_with_shares_that_change():
    drawn = TrainingSettings(method="loss@1", draw=64, keep=0.25)
    assert (drawn.plain_size, drawn.kept_size, drawn.gross_size) == (64, 16, 64)
    plain = TrainingSettings(draw=64, keep=0.25)
    assert (plain.plain_size, plain.kept_size, plain.gross_size) == (64, 64, 64)
    table = TrainingSettings(method="loss@1", batch_size=8, keep_schedule="0:1.0,10:0.25,20:0.5")
    assert (table.plain_size, table.kept_size, table.gross_size) == (8, 8, 32)
    assert table.sift_options(40, 2, 99).keep.shares == ((0, 1.0), (10, 0.25), (20, 0.5))
    accuracy = TrainingSettings(method="loss@last", batch_size=8, keep_schedule="accuracy")
    assert (accuracy.gross_size, accuracy.sift_options(40, 2, 99).keep) == (128, KeepByAccuracy())


@pytest.mark.parametrize(
    ("budget", "steps"),
    # Half of the steps select: of 2n steps n train on 16 rows and n on 4, drawing 16.
    [("10steps", 10), ("200samples", 20), ("2epochs", 20), ("620work", 20), ("30s", 20)],
)
def test_a_budget_pays_for_what_a_fixed_gross_batch_trains_on(budget, steps):
    settings = TrainingSettings(method="loss@1", draw=16, keep=0.25, start_share=0.5, budget=budget)
    costs = StepCosts(2.0, 1.0, 1 / 8)
    assert settings.steps_within_budget(100, 1, costs) == steps


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"draw": 8, "keep": 0.99}, r"draw = 8 with keep = 0\.99 keeps every row: lower keep, or draw more"),
        ({"keep_schedule": "accuracy", "budget": "9s"}, "give the budget in steps or samples or epochs"),
        ({"keep_schedule": "0:0.5", "draw": 8, "budget": "9samples"}, "and draw = 8: .* give the budget in steps"),
    ],
)
def test_steps_whose_price_cannot_be_told(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(method="loss@1", **values)


def test_every_key_has_a_help_and_options_have_the_engines():
    helps = {name: help for name, _, help in described(TrainingSettings)}
    assert all(helps.values())
    for name in ("keep", "scoring_mode", "reuse", "check", "compile"):
        assert helps[name] == SiftOptions.help()[name]
