"""Every option, once: what it may be, what it is said to be otherwise, and that all ways to name it are the same."""

import dataclasses
import functools
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from gsgd import scores, selectors  # noqa: E402
from gsgd.sift import AutoExit, Sift, SiftOptions  # noqa: E402
from gsgd.sift.huggingface.trainer import SiftArguments  # noqa: E402

NAMES = [field.name for field in dataclasses.fields(SiftOptions)]


def skip_odd_steps(step):
    return step % 2 == 1


def first_logit(logits, labels):
    return logits[:, 0]


GOOD = {
    "exit_layer": [1, 12, np.int64(3), "auto"],
    "keep": [0.5, 1, 1.0, 1e-3, np.float32(0.25), np.float64(0.5), np.int64(1)],
    "score": ["loss", "entropy", "random", scores.margin, first_logit, functools.partial(scores.margin)],
    "select": [selectors.select_random, functools.partial(selectors.trim, share=0.1)],
    "start_step": [0, 20_000, np.int32(7)],
    "end_step": [None, 0, 5, np.int64(9)],
    "interrupt": [None, 2, 10, np.int64(3), skip_odd_steps],
    "accumulation_steps": [1, 8, np.uint8(2)],
    "scoring_mode": ["train", "eval", "frozen-batchnorm"],
    "scope": ["rank", "global"],
    "labelled_head": [True, False, np.bool_(True)],
    "on_bad_scores": ["raise", "drop", "keep-all", "last"],
    "score_batch_size": [None, 1, 64, np.int64(8)],
    "reuse": [True, False, np.bool_(False), "cpu", "auto"],
    "compile": [True, False, np.bool_(False), "aot_eager"],
    "batchnorm": ["kept", "gross"],
    "auto": [None],
    "meter_every": [0, 1, 500, np.int64(10)],
    "check": [True, False, np.bool_(False)],
    "level": ["row", "token"],
    "reference_losses": [None],
    "keep_tokens": [True, False, np.bool_(False)],
    "rows": [(), ["weights"], ("x.mask", "ids"), {"names"}],
    "label_names": [(), ["start_positions", "end_positions"]],
    "label_smoothing": [0, 0.0, 0.1, np.float32(0.25)],
    "random_share": [None, 0, 0.25, 1, np.float32(0.5)],
    "max_age": [None],
    "id_key": ["id", "row"],
    "data_rows": [None, 1, 60_000, np.int64(9)],
    "row_losses": [None, first_logit],
    "log_rows": [None, "rows"],
    "seed": [0, 1, np.int64(5), 2**63 - 1],
}

BAD = [
    ("exit_layer", 0, r'exit_layer = 0 must be a whole number in 1\.\.layers, or "auto"'),
    ("exit_layer", 1.0, "exit_layer = 1.0 must be a whole number"),
    ("exit_layer", True, "exit_layer = True must be a whole number"),
    ("exit_layer", None, "exit_layer = None must be a whole number"),
    ("exit_layer", "last", "exit_layer = 'last' must be a whole number"),
    ("keep", 0, r"keep = 0 must lie in \(0, 1\]"),
    ("keep", 1.1, r"keep = 1.1 must lie in \(0, 1\]"),
    ("keep", float("nan"), "keep = nan must lie in"),
    ("keep", float("inf"), "keep = inf must lie in"),
    ("keep", True, "keep = True must lie in"),
    ("keep", "0.5", "keep = '0.5' must lie in"),
    ("keep", np.float32(2), "keep = .*2.* must lie in"),
    ("score", "los", r"score = 'los' must be .*\(did you mean 'loss'\?\)"),
    ("score", 3, 'score = 3 must be "loss", "entropy", "last-seen", "random" or a callable'),
    ("random_share", 1.5, r"random_share = 1.5 must lie in \[0, 1\]"),
    ("max_age", 0, "max_age = 0 must be a whole number of at least 1"),
    ("id_key", 3, "id_key = 3 must be the name of an entry"),
    ("data_rows", 2.5, "data_rows = 2.5 must be a whole number"),
    ("row_losses", "loss", "row_losses = 'loss' must be callable"),
    ("log_rows", "", "log_rows = '' must be the path of a folder"),
    ("score", None, "score = None must be"),
    ("select", "top-k", "select = 'top-k' must be callable"),
    ("select", None, "select = None must be callable"),
    ("start_step", -1, "start_step = -1 must be a whole number of at least 0"),
    ("start_step", 1.5, "start_step = 1.5 must be a whole number"),
    ("end_step", -1, "end_step = -1 must be a whole number of at least 0"),
    ("interrupt", 1, "interrupt = 1 must be a whole number of at least 2"),
    ("interrupt", True, "interrupt = True must"),
    ("accumulation_steps", 0, "accumulation_steps = 0 must be a whole number of at least 1"),
    ("scoring_mode", "evaluation", r"scoring_mode = 'evaluation' must be one of: train, eval, frozen-batchnorm"),
    ("scoring_mode", "trian", r"\(did you mean 'train'\?\)"),
    ("scoring_mode", "frozen_batchnorm", r"\(did you mean 'frozen-batchnorm'\?\)"),
    ("scope", "globally", r"scope = 'globally' must be one of: rank, global \(did you mean 'global'\?\)"),
    ("labelled_head", 1, "labelled_head = 1 must be True or False"),
    ("on_bad_scores", "keep_all", r"must be one of: raise, drop, keep-all, last \(did you mean 'keep-all'\?\)"),
    ("on_bad_scores", None, "on_bad_scores = None must be one of"),
    ("score_batch_size", 0, "score_batch_size = 0 must be a whole number of at least 1"),
    ("reuse", "yes", 'reuse = \'yes\' must be True, False, "cpu" or "auto"'),
    ("batchnorm", "grosss", r"\(did you mean 'gross'\?\)"),
    ("auto", 0.75, "auto is a float but must be an AutoExit"),
    ("meter_every", -1, "meter_every = -1 must be a whole number of at least 0"),
    ("check", None, "check = None must be True or False"),
    ("level", "tokens", r"level = 'tokens' must be one of: row, token \(did you mean 'token'\?\)"),
    ("reference_losses", 1.0, "reference_losses = 1.0 must be callable"),
    ("keep_tokens", 1, "keep_tokens = 1 must be True or False"),
    ("rows", "weights", r"rows = 'weights' must be a sequence of names, such as \('weights',\)"),
    ("rows", (1, 2), r"rows = \(1, 2\) must be a sequence of names"),
    ("label_names", "labels", "label_names = 'labels' must be a sequence of names"),
    ("label_smoothing", 1, r"label_smoothing = 1 must lie in \[0, 1\)"),
    ("label_smoothing", -0.1, "label_smoothing = -0.1 must lie in"),
    ("compile", 1, "compile = 1 must be True, False, or name a backend of torch.compile"),
    ("compile", "", "compile = '' must be True, False, or name a backend"),
    ("seed", -1, "seed = -1 must be a whole number of at least 0"),
    ("seed", 2**63, r"seed = 9223372036854775808 must be below 2\^63"),
]


def test_every_option_is_tried():
    assert set(GOOD) == {name for name, _, _ in BAD} == set(NAMES)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_what_an_option_may_be(name, value):
    found = getattr(SiftOptions(**{name: value}), name)
    assert not isinstance(found, np.generic), "NumPy's numbers become Python's"
    assert (set(found) if isinstance(found, tuple) else found) == (set(value) if isinstance(found, tuple) else value)


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_what_it_may_not_be_is_named_with_the_rule(name, value, message):
    with pytest.raises(ValueError, match=message):
        SiftOptions(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_step": 3, "end_step": 2}, "end_step = 2 must be a whole number of at least 3"),
        ({"batchnorm": "gross", "score": "random"}, "score = 'random' must not be \"random\""),
        ({"batchnorm": "gross", "scoring_mode": "eval"}, "scoring_mode = 'eval' must be"),
        ({"batchnorm": "gross", "scope": "global"}, "scope = 'global' must be"),
        ({"batchnorm": "gross", "score_batch_size": 4}, "score_batch_size = 4"),
        ({"meter_every": 5, "score": "random"}, "meter_every = 5, but score"),
        ({"exit_layer": "auto", "score": "random"}, "needs exits that score"),
        ({"exit_layer": 2, "auto": AutoExit()}, "auto is for exit_layer"),
        ({"reference_losses": first_logit}, "reference_losses is for level = \"token\" .* but level = 'row'"),
        ({"reference_losses": first_logit, "level": "token", "score": "entropy"}, 'and score = "entropy"'),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        SiftOptions(**options)


class Net(nn.Module):
    exit_layers = 3

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)

    def early_logits(self, exit_layer, x):
        return self.head(x)


@pytest.mark.parametrize(
    ("word", "meant"), [("exit_leyer", "exit_layer"), ("metre_every", "meter_every"), ("label_name", "label_names")]
)
def test_unknown_names_come_with_the_nearest(word, meant):
    for make in (lambda **options: SiftOptions.of(options), lambda **options: Sift(Net(), **options)):
        with pytest.raises(ValueError, match=rf"'{word}' is no option \(did you mean '{meant}'\?\); there are: exit_l"):
            make(**{word: 1})


def test_a_name_like_no_other_comes_with_all():
    with pytest.raises(ValueError, match=r"'zzz' is no option; there are: exit_layer, keep, .*seed"):
        Sift(Net(), zzz=1)


def test_options_as_one_object_by_name_and_together():
    named = {"exit_layer": 2, "keep": 0.25, "score": "entropy", "seed": 9}
    whole = SiftOptions(**named)
    engines = [
        Sift(Net(), **named),
        Sift(Net(), whole),
        Sift(Net(), SiftOptions(keep=0.25, seed=1), exit_layer=2, score="entropy", seed=9),
        Sift(Net(), SiftArguments(**named)),
    ]
    for sift in engines:
        assert {name: getattr(sift.options, name) for name in NAMES} == dataclasses.asdict(whole)
        assert {name: getattr(sift, name) for name in NAMES} == dataclasses.asdict(whole)
        assert torch.equal(sift.generator.get_state(), engines[0].generator.get_state())


def test_something_else_as_options():
    with pytest.raises(ValueError, match="options is a dict but must be SiftOptions"):
        Sift(Net(), {"keep": 0.5})
    with pytest.raises(AttributeError, match="no attribute 'kep'"):
        _ = Sift(Net()).kep


def test_options_do_not_change_and_can_be_sent_elsewhere():
    options = SiftOptions(keep=0.25, score=scores.margin, auto=AutoExit(level=0.5), exit_layer="auto")
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.keep = 0.5
    assert pickle.loads(pickle.dumps(options)) == options
    assert dataclasses.replace(options, keep=0.5).keep == 0.5
    with pytest.raises(ValueError, match="keep = 2"):
        dataclasses.replace(options, keep=2)


def test_arguments_of_the_trainer_leave_it_what_is_its_own():
    assert [field.name for field in dataclasses.fields(SiftArguments)] == NAMES
    assert SiftArguments() == SiftArguments(**dataclasses.asdict(SiftOptions()))
    with pytest.raises(ValueError, match="accumulation_steps = 4 is the Trainer's to say: set gradient_accumulation_s"):
        SiftArguments(accumulation_steps=4)


def test_help_has_every_option_in_one_line():
    found = SiftOptions.help()
    assert list(found) == NAMES
    assert SiftArguments.help() == found
    assert all(len(text) > 15 and "\n" not in text and "  " not in text for text in found.values())
    assert found["reuse"].startswith("let the training pass take from the scoring pass what both compute")
    assert (
        found["score_batch_size"] == "score at most so many rows at a time, which bounds memory; None for all at once."
    )
