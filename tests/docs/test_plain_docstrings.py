"""Docstrings as Sphinx reads them: formulas are literal, and what means something to it is not lost."""

import importlib.util
from pathlib import Path

import pytest

docutils = pytest.importorskip("docutils.core")
pytest.importorskip("sphinx")

PATH = Path(__file__).parents[2] / "docs" / "extensions" / "plain_docstrings.py"
DOCSTRING = """\
Upper bound on |w|^2 of F* and w_ (Theorem 5.7).

    D0^2 / (2 rho |eta|)  +  *Delta

With `rho = rho_{B,k}` it is `one
thing` for both.

1. First, where

       a <= b * c

   for |c| < 1.
2. Then.

Args:
    K: iterations.

        Deeper text of an argument is no formula.
"""


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("gsgd_docs_plain_docstrings", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docutils_takes_it_without_a_word(module):
    text = "\n".join(module.converted(DOCSTRING.splitlines()[:15]))
    strict = {"halt_level": 2, "report_level": 2}  # a warning is an error
    xml = docutils.publish_string(text, writer="xml", settings_overrides=strict).decode()
    assert "|w|^2 of F* and w_ (Theorem 5.7)" in xml
    assert "<literal_block" in xml
    assert "D0^2 / (2 rho |eta|)  +  *Delta" in xml
    assert "<literal>one thing</literal>" in xml
    assert xml.count("<list_item>") == 2
    assert xml.count("<literal_block") == 2


def test_sections_are_left_to_napoleon(module):
    found = module.converted(DOCSTRING.splitlines())
    assert found[-4:] == DOCSTRING.splitlines()[-4:]
