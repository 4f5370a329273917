"""The documentation's table of options against the options themselves."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from gsgd.sift import SiftOptions

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "options.md"
WORDS = {"yes": {True}, "no": {False}, "never": {0, None}, "none": {None, ()}, "all at once": {None}}
"""What a default is in words, and which values that may stand for."""


def table():
    """Option -> what the page says its default is."""
    lines = PAGE.read_text(encoding="utf-8").split("| what you may set | default | |\n")[1].split("\n\n")[0]
    found = {}
    for line in lines.splitlines()[1:]:
        names, defaults, said = (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"), maxsplit=2))
        assert said, f"nothing is said of {names}"
        found |= zip(re.findall(r"`(\w+)`", names), defaults.split(", "), strict=True)
    return found


def test_every_option_is_in_the_table():
    assert set(table()) == {field.name for field in dataclasses.fields(SiftOptions)} == set(SiftOptions.help())


@pytest.mark.parametrize("field", dataclasses.fields(SiftOptions), ids=lambda field: field.name)
def test_its_default_is_what_the_table_says(field):
    said = table()[field.name]
    if said in WORDS:
        assert any(value is field.default or value == field.default for value in WORDS[said])
        return
    code = re.fullmatch(r"`(.+)`", said)[1]
    assert getattr(field.default, "__name__", None) == code or ast.literal_eval(code) == field.default
