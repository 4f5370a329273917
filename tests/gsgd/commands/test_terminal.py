"""Text that fits a terminal, and that all that commands say of themselves does."""

import contextlib
import io
import shlex

import pytest

from gsgd import cli
from gsgd.commands import terminal

COMMANDS = [[], *([name] for name in cli.COMMANDS), *(["bench", name] for name in cli.BENCH)]
LISTS = [
    ["verify", "--list"],
    ["figures", "--list"],
    ["train", "--list"],
    *(["train", "--keys", task] for task in ("bert", "resnet", "small-net", "passages", "tabular")),
    ["bench", "gpu", "--list"],
    ["reproduce", "--scale", "paper"],
]


def printed(*words):
    """What a command prints on standard output."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        cli.main(words)
    return shown.getvalue()


def too_wide(text, width):
    return [line for line in text.splitlines() if len(line) > width]


@pytest.fixture(params=[80, 60])
def width(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_fits(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(*command, "--help")
    assert text.startswith("usage: gsgd")
    assert too_wide(text, 80) == []


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_wide_terminal_is_used(command, monkeypatch):
    """It says the same, and no backslash of the source is in its way."""
    lines = []
    for columns in ("80", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        lines.append("".join(word for word in printed(*command, "--help").split() if word != "\\"))
    assert lines[0] == lines[1]


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_every_list_fits(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(*words)
    assert len(text.splitlines()) > 3
    assert too_wide(text, 80) == []


def test_prose_is_filled_and_paragraphs_stay(width):
    text = "One sentence that is rather long, so that it has to be broken. " * 3
    found = terminal.fitted(f"{text.strip()}\n\n{text.strip()}\n").split("\n\n")
    assert len(found) == 2
    assert all(" ".join(part.split()) == text.strip() for part in found)
    assert too_wide("\n".join(found), width) == []
    # Lines are filled: the next word would not have fitted.
    first, second = found[0].split("\n")[:2]
    assert len(first) + 1 + len(second.split()[0]) > width


def test_what_fits_is_left_as_it_is():
    text = "status:\n  proved   it holds\n  refuted  it does not\n\nshort  prose"
    assert terminal.fitted(text, 80) == text


def test_a_second_column_goes_on_below_itself():
    text = "  proved     closed form, exact enumeration or a dual certificate leaves no doubt\n  refuted    false"
    assert terminal.fitted(text, 60).split("\n") == [
        "  proved   closed form, exact enumeration or a dual",
        "           certificate leaves no doubt",
        "  refuted  false",
    ]


def test_a_second_column_that_was_broken_in_the_source_is_one_again():
    text = "  a      one two three four five six seven eight nine ten eleven twelve\n         and thirteen"
    assert terminal.fitted(text, 50).split("\n") == [
        "  a  one two three four five six seven eight nine",
        "     ten eleven twelve and thirteen",
    ]


def test_a_second_column_without_room_stands_below():
    text = "  gsgd train some-preset --method loss@1 --seed 3     a preset with other values"
    assert terminal.fitted(text, 60).split("\n") == [
        "  gsgd train some-preset --method loss@1 --seed 3",
        "      a preset with other values",
    ]


def test_a_command_is_broken_as_a_shell_reads_it():
    command = "gsgd compare resnet-tiny --methods baseline,random,loss@1 --seeds 3 --budget 60s --jobs 2 --dry-run"
    lines = terminal.fitted(f"  {command}", 50).split("\n")
    assert len(lines) > 2
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert too_wide("\n".join(lines), 50) == []
    # To a shell a backslash at the end of a line is nothing.
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)
    # An option and its value stand in one line.
    assert all(any(f"{option} " in line for line in lines) for option in ("--methods", "--seeds", "--budget", "--jobs"))
    assert not any(line.rstrip(" \\").endswith(("--methods", "--seeds", "--budget", "--jobs")) for line in lines)


def test_a_word_that_is_longer_than_the_line_stays_whole():
    path = "/a/path/" + 80 * "x"
    assert path in terminal.fitted(f"results in {path}", 40).split("\n")


def test_two_columns():
    assert terminal.two_columns([("a", "one two three"), ("bcd", "four")], 40).split("\n") == [
        "a    one two three",
        "bcd  four",
    ]


def test_no_line_is_longer_than_can_be_read(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert terminal.columns() == 120
