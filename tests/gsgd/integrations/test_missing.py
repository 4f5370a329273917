"""A library that is not there is named with what installs it."""

import importlib
import sys

import pytest

pytest.importorskip("torch")


@pytest.mark.parametrize("library", ["trl", "lightning", "sentence_transformers"])
def test_the_remedy_is_in_the_error(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"gsgd.integrations.{library}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'gsgd\[{library.replace('_', '-')}\]'"):
        importlib.import_module(f"gsgd.integrations.{library}")
