"""Results that the tests record themselves, see recorded.py."""

import importlib.util
import pathlib
import sys

import pytest

if any(importlib.util.find_spec(package) is None for package in ("matplotlib", "pandas", "jinja2")):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def recorded():
    path = pathlib.Path(__file__).with_name("recorded.py")
    spec = importlib.util.spec_from_file_location("gsgd_tests_recorded", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def theory(recorded, tmp_path_factory):
    """The folder of results with tables of the theory."""
    return recorded.write_theory(tmp_path_factory.mktemp("theory"))


@pytest.fixture(scope="session")
def compared(recorded, tmp_path_factory):
    """The folder of results with one comparison: three methods on two seeds, and one that diverged on one of them."""
    folder = tmp_path_factory.mktemp("compared")
    curves = {
        "baseline": [[0.2, 0.4, 0.5], [0.3, 0.5, 0.6]],
        "random": [[0.2, 0.4, 0.4], [0.3, 0.5, 0.5]],
        "loss@1": [[0.3, 0.5, 0.7], [0.4, 0.6, 0.8]],
        "loss@1:keep=0.7": [[0.2, 0.3, 0.45], None],
    }
    recorded.write_comparison(folder / "compare-tiny-5s", curves, target=0.45)
    return folder
