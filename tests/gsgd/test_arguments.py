"""What the command lines share: ranges, refusals, and what to install."""

import argparse

import pytest

from gsgd.arguments import command, install, number, refuse, whole, wholes


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("12", 12)])
def test_whole_numbers(text, value):
    assert whole(0)(text) == value


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "", "²", "1_0x"])
def test_what_is_no_whole_number_is_named_with_the_rule(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a whole number of at least 1"):
        whole(1)(text)
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number"):
        wholes(1)(f"3,{text}")


def test_lists_of_whole_numbers():
    assert wholes(0)("0, 3,12") == [0, 3, 12]


@pytest.mark.parametrize("text", ["1", "-0.1", "nan", "much"])
def test_a_number_in_a_range(text):
    share = number("in [0, 1)", lambda value: 0 <= value < 1)
    assert share("0.5") == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match=rf"'{text}' must be a number in \[0, 1\)"):
        share(text)


def test_options_are_not_abbreviated_and_help_ends_with_examples(capsys):
    parser = command("test", "What it does.", "examples:\n  gsgd test")
    parser.add_argument("--seeds")
    with pytest.raises(SystemExit):
        parser.parse_args(["--seed", "1"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert capsys.readouterr().out.endswith("examples:\n  gsgd test\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("x = 3 must be 4"), "gsgd test: x = 3 must be 4\n"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), f" ({install('train')})\n"),
        (ModuleNotFoundError("No module named 'matplotlib.pyplot'", name="matplotlib.pyplot"), "gsgd[figures]"),
        (ModuleNotFoundError("No module named 'of_mine'", name="of_mine"), "gsgd test: No module named 'of_mine'\n"),
    ],
)
def test_refusals_exit_with_2_and_name_the_extra(error, said, capsys):
    assert refuse("test", error) == 2
    assert said in capsys.readouterr().err


def test_of_several_processes_one_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert refuse("test", ValueError("x")) == 2
    assert capsys.readouterr().err == ""
