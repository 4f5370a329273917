"""What the command lines share: ranges, and what to install."""

import argparse

import pytest

from gsgd.commands.arguments import in_words, install, number, whole, wholes


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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("x = 3 must be 4"), "x = 3 must be 4"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), f"No module named 'torch' ({install('train')})"),
        (
            ModuleNotFoundError("No module named 'matplotlib.pyplot'", name="matplotlib.pyplot"),
            "No module named 'matplotlib.pyplot' (pip install 'gsgd[figures]')",
        ),
        (ModuleNotFoundError("No module named 'of_mine'", name="of_mine"), "No module named 'of_mine'"),
    ],
)
def test_errors_name_the_extra_that_is_missing(error, said):
    assert in_words(error) == said
