"""Old names of modules and functions: they are the new ones, and say so once."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gsgd import renamed

NEEDS_TORCH = importlib.util.find_spec("torch") is None


@pytest.fixture
def _forgotten():
    """Modules by their old names are imported anew within the test, and forgotten after it."""
    before = {name: module for name, module in sys.modules.items() if name in renamed.MODULES}
    for name in before:
        del sys.modules[name]
    yield
    for name in renamed.MODULES:
        sys.modules.pop(name, None)
        parent, _, child = name.rpartition(".")
        vars(sys.modules.get(parent)).pop(child, None) if parent in sys.modules else None
    sys.modules.update(before)


@pytest.mark.skipif(NEEDS_TORCH, reason="needs torch")
@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize(("old", "new"), renamed.MODULES.items())
def test_an_old_module_is_the_new_one(old, new):
    if "." in old and (parent := old.rpartition(".")[0]) in renamed.MODULES:
        with pytest.warns(DeprecationWarning, match=f"^{parent} is called"):
            importlib.import_module(parent)
    with pytest.warns(DeprecationWarning, match=f"^{old} is called {new} now; the old name goes") as caught:
        found = importlib.import_module(old)
    assert len(caught) == 1
    if not renamed._is_package(old):
        assert found is importlib.import_module(new)
        assert found.__spec__.name == found.__name__ == new


@pytest.mark.skipif(NEEDS_TORCH, reason="needs torch")
@pytest.mark.parametrize(
    ("module", "name", "new"), [(module, *each) for module, names in renamed.NAMES.items() for each in names.items()]
)
def test_an_old_function_is_the_new_one(module, name, new):
    new, _, called = new.partition(":")
    called = called or name
    with pytest.warns(DeprecationWarning, match=f"^{module}.{name} is called {new}.{called} now") as caught:
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(new), called)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.skipif(NEEDS_TORCH, reason="needs torch")
def test_what_never_was_is_still_missing():
    with pytest.raises(AttributeError, match=r"module 'gsgd.sift.exits' has no attribute 'nothing'"):
        importlib.import_module("gsgd.sift.exits").nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match=r"gsgd\.sift\.nothing"):
        importlib.import_module("gsgd.sift.nothing")


def test_no_old_name_is_a_module_of_today():
    """Else the old name would hide it."""
    for old, new in renamed.MODULES.items():
        assert old not in renamed.MODULES.values()
        package, *rest = old.split(".")
        place = Path(importlib.util.find_spec(package).submodule_search_locations[0]).joinpath(*rest)
        assert not place.with_suffix(".py").exists()
        assert not (place / "__init__.py").exists()
        assert new.partition(".")[0] in ("gsgd", "theory", "training")


@pytest.mark.parametrize("package", ["gsgd", "theory", "training"])
def test_each_package_knows_them_and_imports_nothing_for_it(package):
    code = (
        f"import sys, {package}; from gsgd import renamed;"
        "assert any(isinstance(finder, renamed._OldNames) for finder in sys.meta_path);"
        "renamed.install(); assert sum(isinstance(finder, renamed._OldNames) for finder in sys.meta_path) == 1;"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'torch', 'theory.readings', 'training.diagnose')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.usefixtures("_forgotten")
def test_theorys_old_name_needs_no_torch():
    with pytest.warns(DeprecationWarning, match=r"theory\.live is called theory\.readings now") as caught:
        from theory.live import compare
    assert [warning.filename for warning in caught] == [__file__]
    assert compare.__module__ == "theory.readings"


def test_an_old_attribute_is_the_new_one():
    class Scored:
        value = 1
        number = renamed.old_attribute("Scored", "number", "value")

    with pytest.warns(DeprecationWarning, match=r"^Scored\.number is called Scored\.value now; the old") as caught:
        assert Scored().number == 1
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.raises(AttributeError):
        Scored().number = 2


def test_the_changelog_has_them_all():
    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    for old, new in renamed.MODULES.items():
        assert f"| `{old}` | `{new}` |" in text
    for module, names in renamed.NAMES.items():
        lines = [line for line in text.splitlines() if line.startswith(f"| `{module}`: ")]
        assert all(
            any(f"`{name}`" in line and line.endswith(f"| `{new.replace(':', '.')}` |") for line in lines)
            for name, new in names.items()
        )


@pytest.mark.skipif(NEEDS_TORCH, reason="needs torch")
def test_an_old_module_still_runs_as_a_program():
    command = [sys.executable, "-m", "training.gpu_costs", "--list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "training.gpu_costs is called training.bench.gpu now" in done.stderr
    assert done.stdout.startswith("bert, dropout .1: 64 rows")
