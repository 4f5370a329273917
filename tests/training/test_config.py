"""Configurations: files with bases, keys with types, and errors that name them."""

import dataclasses
import json

import pytest

from training.config import TASKS, build, load, presets
from training.images.settings import ImageSettings
from training.settings import TrainingSettings
from training.text.settings import TextSettings


def write(path, text):
    path.write_text(text)
    return str(path)


def test_a_file(tmp_path):
    path = write(
        tmp_path / "mine.toml",
        'task = "resnet"\nbatch_size = 7\ndepths = [1, 1]\nhidden_sizes = [8, 8]\nexit_stage = 1',
    )
    config = load(path, {"max_lr": "1e-2", "keep": 0.25})
    assert (config.name, config.task) == ("mine", "resnet")
    assert config.training == TrainingSettings(batch_size=7, max_lr=0.01, keep=0.25)
    assert config.data == ImageSettings(depths=(1, 1), hidden_sizes=(8, 8), exit_stage=1)


def test_a_preset_by_name_and_by_file():
    name = "bert-base/baseline"
    assert load(name) == load(str(presets()[name].path))
    assert load(name).name == name


def test_a_preset_that_is_a_row_of_a_table(tmp_path):
    """It is what stands in its row over the file that it names, and may be the base of a file."""
    name = "food101/same-time/last-5e-3"
    over = {"method": "loss@last", "max_lr": 5e-3, "budget": "100baseline-epochs"}
    assert load(name) == dataclasses.replace(load("food101/common", over), name=name)
    assert load(name).chosen == frozenset()
    mine = load(write(tmp_path / "mine.toml", f'base = "{name}"\nmax_lr = 1.0'))
    assert (mine.name, mine.training.method, mine.training.max_lr, mine.chosen) == (
        "mine",
        "loss@last",
        1.0,
        {"max_lr"},
    )


def test_presets_are_named_by_their_place():
    assert {"bert-tiny", "resnet-tiny", "bert-base/baseline", "cifar100/same-time/early-1e-2"} <= set(presets())


def test_bases_chain_and_are_beside_the_file_or_presets(tmp_path):
    write(tmp_path / "first.toml", 'task = "resnet"\nbatch_size = 1\nmax_lr = 1.0\nkeep = 0.9')
    write(tmp_path / "second.toml", 'base = "first.toml"\nbatch_size = 2\nmax_lr = 2.0')
    third = load(write(tmp_path / "third.toml", 'base = "second.toml"\nbatch_size = 3')).training
    assert (third.batch_size, third.max_lr, third.keep) == (3, 2.0, 0.9)
    (tmp_path / "sub").mkdir()
    assert load(write(tmp_path / "sub" / "x.toml", 'base = "../second.toml"')).training.batch_size == 2
    of_preset = load(write(tmp_path / "p.toml", 'base = "bert-base/loss-1"\nseed = 5'))
    assert of_preset.training == dataclasses.replace(load("bert-base/loss-1").training, seed=5)


def test_a_base_may_have_keys_of_a_task_that_the_file_does_not_train(tmp_path):
    write(tmp_path / "first.toml", 'task = "resnet"\nimage_size = 28')
    with pytest.raises(ValueError, match=r"no key 'image_size' for task = bert"):
        load(write(tmp_path / "second.toml", 'base = "first.toml"\ntask = "bert"'))


def test_cycles(tmp_path):
    write(tmp_path / "a.toml", 'base = "b.toml"')
    path = write(tmp_path / "b.toml", 'base = "a.toml"')
    with pytest.raises(ValueError, match=r"b\.toml is, through its base, based on itself"):
        load(path)
    with pytest.raises(ValueError, match="based on itself"):
        load(write(tmp_path / "c.toml", 'base = "c.toml"'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size = ", r"mine\.toml cannot be read: Invalid value"),
        ('task = "resnet"\nbatch_size = 1\nbatch_size = 2', r"mine\.toml cannot be read"),
        ('base = "nowhere"', r"there is no configuration 'nowhere'"),
        ("batch_size = 1", r"mine\.toml: task = None must be one of: bert, passages, resnet"),
        ('task = "vit"', r"mine\.toml: task = 'vit' must be one of: bert, passages, resnet"),
        (
            'task = "resnet"\nbatchsize = 1',
            r"mine\.toml: no key 'batchsize' for task = resnet; did you mean batch_size\?",
        ),
        ('task = "resnet"\nxyzzy = 1', r"no key 'xyzzy' for task = resnet; there are: .*batch_size.*weight_decay"),
        ('task = "resnet"\nmask_share = 0.1', r"no key 'mask_share' for task = resnet"),
        ('task = "resnet"\n[optimizer]\nlr = 1', r"no key 'optimizer'"),
    ],
)
def test_errors_name_the_file_or_the_key(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "mine.toml", text))


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    text = 'task = "resnet"\nseed = 3\n'
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8-sig")
    assert load(str(tmp_path / "mine.toml")) == load(write(tmp_path / "mine.toml", text))


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"mine\.toml cannot be read"):
        load(str(tmp_path / "mine.toml"))


def test_no_such_preset_suggests_close_ones():
    with pytest.raises(
        ValueError, match=r"no configuration 'bert-tny': neither a \.toml file nor a preset; presets: bert-tiny"
    ):
        load("bert-tny")
    with pytest.raises(ValueError, match=r"no configuration 'none\.toml'"):
        load("none.toml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 1.5, "batch_size = 1.5 must be a valid integer"),
        ("batch_size", True, "batch_size = True must be a number"),
        ("batch_size", "many", "batch_size = 'many' must be a valid integer"),
        ("batch_size", "three", "batch_size = 'three' must be a valid integer"),
        ("batch_size", "1.5e0", "must be a valid integer"),
        ("batch_size", "1e999", "must be a finite number"),
        ("batch_size", [1], "must be a valid integer"),
        ("max_lr", "fast", "max_lr = 'fast' must be a valid number"),
        ("max_lr", False, "max_lr = False must be a number"),
        ("max_lr", "inf", "max_lr = 'inf' must be a finite number"),
        ("test", "perhaps", "test = 'perhaps' must be a valid boolean"),
        ("reuse", "gpu", "reuse = 'gpu' must be a valid boolean.* or must be 'cpu' or 'auto'"),
        ("method", 3, "method = 3 must be a valid string"),
        ("budget", 100, "budget = 100 must be a valid string"),
        ("depths", 3, "depths = 3 must be a valid tuple"),
        ("depths", "1,x", "depths = 'x' must be a valid integer"),
        ("depths", [1, 0.5], "depths = 0.5 must be a valid integer"),
        ("depths", [], "depths = .* must have at least 1 item"),
        ("data", "", "data = '' must have at least 1 character"),
        ("keep", 1.5, r"keep = 1.5 must lie in \(0, 1\]"),
    ],
)
def test_wrong_types_name_the_key(key, value, message):
    with pytest.raises(ValueError, match=message):
        build("x", {"task": "resnet", key: value})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("batch_size", "12", 12),
        ("batch_size", "1e3", 1000),
        ("seed", "9007199254740993", 9007199254740993),  # not through a float
        ("max_lr", "1e-2", 0.01),
        ("max_lr", "1", 1.0),
        ("checkpoint_every_s", "inf", float("inf")),
        ("test", "true", True),
        ("test", "False", False),
        ("method", "loss@1", "loss@1"),
        ("depths", "1, 2,3,4", (1, 2, 3, 4)),
        ("hidden_sizes", [4, 8, 12, 16], (4, 8, 12, 16)),
    ],
)
def test_strings_of_the_command_line(key, text, value):
    found = build("x", {"task": "resnet", key: text}).values()[key]
    assert found == value
    assert type(found) is type(value)


def test_lists_of_strings():
    assert build("x", {"task": "bert", "data": "a.txt,b.parquet"}).data.data == ("a.txt", "b.parquet")
    assert build("x", {"task": "bert", "data": ["a,b.txt"]}).data.data == ("a,b.txt",)


@pytest.mark.parametrize("task", ["bert", "resnet"])
def test_values_give_the_configuration_back(task):
    config = build("x", {"task": task, "batch_size": 5, "cache_dir": "c"})
    assert next(iter(config.values())) == "task"
    assert build("x", config.values()) == config
    assert config.with_values({}) == config
    assert config.with_values({"seed": "3", "batch_size": 6}).training == TrainingSettings(seed=3, batch_size=6)
    with pytest.raises(ValueError, match=r"no key 'seeds'.*did you mean seed"):
        config.with_values({"seeds": 3})


def test_no_key_is_both_the_trainings_and_the_tasks():
    shared = {field.name for field in dataclasses.fields(TrainingSettings)} | {"task", "base"}
    for kind in (TextSettings, ImageSettings):
        assert not shared & {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize("task", list(TASKS))
def test_every_key_can_be_given_on_the_command_line(task):
    """Its default, as text, is read back as itself."""
    config = build("x", {"task": task})

    def text(value):
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    assert build("x", {key: text(value) for key, value in config.values().items()}) == config


def test_differences_from_a_recorded_configuration():
    """A file's lists are tuples here; what is not trained does not count; a younger key has been its default."""
    sizes = {"depths": [1, 1], "hidden_sizes": [8, 8], "exit_stage": 1}
    config = build("x", {"task": "resnet", **sizes, "max_lr": 0.1, "cache_dir": "here", "label": "x"})
    there = {**json.loads(json.dumps(config.values())), "cache_dir": "there", "label": "y"}
    assert config.differences(there) == []
    assert config.differences({**there, "max_lr": 0.2, "depths": [1]}) == ["max_lr", "depths"]
    assert config.differences({**there, "gone": 1}) == ["gone"]
    older = {name: value for name, value in there.items() if name not in ("trim", "early_loss", "max_lr")}
    assert config.differences(older) == ["max_lr"]
