"""One look per method, everywhere."""

import subprocess
import sys

import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb

from figures.methods import in_order, look

PAPER = ["baseline", "random", *(f"{score}@{layer}" for score in ("loss", "entropy") for layer in (1, 2, 3, 6, 12))]


@pytest.mark.parametrize(
    ("method", "label"),
    [
        ("baseline", "baseline (all rows)"),
        ("random", "random rows"),
        ("loss@1", "loss at exit 1"),
        ("loss@last", "loss at last exit"),
        ("loss@auto", "loss at a moving exit"),
        ("entropy@6", "entropy at exit 6"),
        ("loss@1:keep=0.7:start_share=0.5", "loss at exit 1, keep 0.7, start share 0.5"),
        ("random:keep=0.7", "random rows, keep 0.7"),
        ("something new", "something new"),
    ],
)
def test_labels(method, label):
    assert look(method).label == label


def test_the_papers_methods_are_told_apart_in_colour_and_in_grey():
    looks = [look(method) for method in PAPER]
    assert len({each.label for each in looks}) == len(PAPER)
    assert len({each.colour for each in looks}) == len(PAPER)
    assert len({(each.marker, str(each.line)) for each in looks}) == len(PAPER)


def test_loss_and_entropy_differ_to_the_colour_blind():
    """Blues against oranges: the one has more blue than red, the other the reverse, at every exit."""
    for layer in (1, 2, 3, 6, 12, "last"):
        red, _, blue = to_rgb(look(f"loss@{layer}").colour)
        assert blue > red + 0.3
        red, _, blue = to_rgb(look(f"entropy@{layer}").colour)
        assert red > blue + 0.3


def test_variants_are_hollow_and_of_the_colour_of_what_they_change():
    plain, variant = look("loss@1"), look("loss@1:keep=0.7")
    assert plain.filled
    assert not variant.filled
    assert variant.curve["markerfacecolor"] == "white"
    assert variant.marker == plain.marker
    assert variant.colour == look("entropy@2:keep=0.3").colour != plain.colour
    assert variant.colour != look("loss@1:trim=0.1").colour


def test_neighbouring_values_and_the_exits_of_variants_are_told_apart():
    names = [f"loss@{exit}:keep=0.{tenth}" for exit in (1, "last") for tenth in (1, 3, 5, 7, 9)]
    looks = [look(name) for name in names]
    assert len({(each.marker, str(each.line)) for each in looks}) == len(names)


def test_a_long_label_is_brief_in_titles():
    method = "loss@1:" + ":".join(f"change_{i}=0.{i}" for i in range(9))
    assert look(method).label == "loss at exit 1, " + ", ".join(f"change {i} 0.{i}" for i in range(9))
    assert look(method).brief == "loss at exit 1, chan…7, change 8 0.8"[:20] + "…" + look(method).label[-19:]
    assert look("cost$1").brief == look("cost$1").curve["label"] == r"cost\$1"
    assert look("loss@1").brief == "loss at exit 1"


def test_looks_do_not_depend_on_the_process():
    methods = ["loss@1:keep=0.7", "loss@1:oddity=3", "something new"]
    code = f"from figures.methods import look; print([look(m) for m in {methods}])"
    options = {"capture_output": True, "text": True, "check": True, "timeout": 60}
    seen = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, **options).stdout for seed in "12"
    }
    assert seen == {f"{[look(method) for method in methods]}\n"}


def test_the_order_of_lists():
    shuffled = ["entropy@1", "loss@last", "loss@2:keep=0.7", "loss@12", "random", "loss@2", "baseline", "random"]
    expected = ["baseline", "random", "loss@2", "loss@2:keep=0.7", "loss@12", "loss@last", "entropy@1"]
    assert in_order(shuffled) == expected
