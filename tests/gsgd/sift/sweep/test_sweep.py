"""Every class of transformers' mappings that builds tiny: scored by its own loss, or refused with the reason."""

import pytest
import table
import transformers
from sweep import POPULAR, find, tried_by_default
from tiny_models import every_class

DEFAULT = set(tried_by_default())

pytestmark = pytest.mark.filterwarnings("ignore")


CLASSES = [
    pytest.param(task, name, marks=[] if (task, name) in DEFAULT else [pytest.mark.slow], id=f"{task}-{name}")
    for task, name in every_class()
]


@pytest.mark.parametrize(("task", "name"), CLASSES)
def test_scores_are_the_models_own_losses_or_the_class_is_refused(task, name):
    found = find(task, name)
    if found.status == "untested":
        pytest.skip(found.reason)
    assert found.status in ("exact", "refused"), f"{found.status}: {found.reason}\n{found.details}"


@pytest.mark.slow
def test_popular_classes_are_exact_at_every_exit():
    found = [find(task, name) for task, names in POPULAR.items() for name in names.split()]
    assert [f"{one.name}: {one.status}" for one in found if one.exits != dict.fromkeys((3, 2, 1), "exact")] == []


@pytest.mark.slow
def test_the_page_of_models_says_what_the_sweep_finds():
    text = table.PAGE.read_text()
    if f"transformers {transformers.__version__} " not in text:
        pytest.skip(f"the page was made with another version than {transformers.__version__}")
    found = {(task, name): find(task, name).status.capitalize() for task, name in every_class()}
    assert table.listed(text) == found
