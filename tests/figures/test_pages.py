"""Figures of many groups as several pictures: none too tall, no group lost, none broken."""

import pandas as pd
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

from matplotlib.figure import Figure

from figures import pages, write
from figures.checked import Missing


def tables(heights):
    """Groups in the order given, with the height of each, and a second table of the same groups."""
    rows = pd.DataFrame({"group": list(heights), "height": list(heights.values())})
    return [rows, rows.assign(other=1), None]


def draw(rows, others, nothing):
    """A figure as tall as its groups together; those of height 0 cannot be drawn alone."""
    assert list(others["group"]) == list(rows["group"])
    assert nothing is None
    if rows["height"].sum() == 0:
        raise Missing("nothing of these")
    figure = Figure(figsize=(3.0, rows["height"].sum()))
    figure.groups = list(rows["group"])
    return figure


@pytest.mark.parametrize(
    ("heights", "parts"),
    [
        ({"a": 3.0, "b": 3.0}, [["a", "b"]]),
        ({"a": 3.0, "b": 4.0}, [["a"], ["b"]]),
        # In the order of the table, which is not the alphabet's.
        ({"c": 3.0, "a": 3.0, "b": 3.0, "d": 3.0}, [["c", "a"], ["b", "d"]]),
        # What is still too tall is divided once more.
        ({"a": 1.0, "b": 1.0, "c": 5.0, "d": 5.0}, [["a", "b"], ["c"], ["d"]]),
        # A group alone is not broken, however tall.
        ({"a": 20.0}, [["a"]]),
        ({"a": 20.0, "b": 1.0}, [["a"], ["b"]]),
        # What has nothing to draw is left out.
        ({"a": 0.0, "b": 9.0}, [["b"]]),
    ],
)
def test_figures_are_divided_between_groups(heights, parts):
    found = pages.split(draw, tables(heights))
    assert [figure.groups for figure in found] == parts
    assert all(figure.get_figheight() <= pages.TALLEST_IN or len(figure.groups) == 1 for figure in found)


def test_what_cannot_be_drawn_at_all_is_missing():
    with pytest.raises(Missing, match="nothing of these"):
        pages.split(draw, tables({"a": 0.0, "b": 0.0}))


def test_a_table_without_groups_is_one_picture():
    table = pd.DataFrame({"x": [1, 2]})
    assert len(pages.split(lambda rows: Figure(figsize=(3, 20)), [table])) == 1


def test_the_tallest_is_a_screen_and_a_half():
    # A CSS pixel is 1/96 inch.
    assert 850 < 96 * write.SIZES["screen"] * pages.TALLEST_IN <= 900


def test_the_first_picture_has_the_figures_name():
    assert [pages.name("map", number) for number in (1, 2, 3)] == ["map", "map-2", "map-3"]
