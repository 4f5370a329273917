"""Forecasts beside what ladders measured: which belong together, how far they are off, and what the title counts."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from figures import style
from figures.checked import Missing
from figures.forecasts import errors, without_each_setting
from figures.plots.forecasts import draw, sentence
from figures.registry import ENTRIES
from figures.results import Results


def drawn(folder):
    entry = ENTRIES["forecasts"]
    with style.sheet():
        return entry.make(*entry.read(Results(folder)))


def test_what_is_of_one_name_and_budget_belongs_together(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "ladders" / "a", {"last-seen": (1.4, 1.2, 1.6), "random": (0.9, 0.8, 0.95)})
    recorded.write_ladder(tmp_path / "ladders" / "b", {"last-seen": (0.7, 0.6, 0.8)})
    recorded.write_diagnosis(tmp_path / "forecasts" / "a", budget="200work", last_seen=1.5, other=1.1)
    recorded.write_diagnosis(tmp_path / "forecasts" / "b", budget="150work", last_seen=0.8)  # no rung
    recorded.write_diagnosis(tmp_path / "forecasts" / "c", budget="200work", last_seen=0.8)  # no ladder
    table = Results(tmp_path).table("forecasts")
    (row,) = table.to_dict("records")
    assert (row["setting"], row["method"], row["budget"], row["unit"]) == ("a", "last-seen", 200, "work")
    assert (row["factor"], row["measured"], row["measured_low"], row["measured_high"]) == (1.5, 1.4, 1.2, 1.6)
    (ax,) = drawn(tmp_path).axes
    marks = {line.get_label(): line for line in ax.get_lines()}
    assert (marks["loss last seen"].get_xdata()[0], marks["loss last seen"].get_ydata()[0]) == (1.5, 1.4)
    assert "a" in [text.get_text() for text in ax.texts]


def test_nothing_that_belongs_together_is_missing(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "a", {"last-seen": (1.4, 1.2, 1.6)})
    with pytest.raises(Missing, match="no setting with both a forecast"):
        drawn(tmp_path)


def test_a_malformed_forecast_is_named(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "ladders" / "a", {"last-seen": (1.4, 1.2, 1.6)})
    recorded.write_diagnosis(tmp_path / "forecasts" / "a", budget="200work", last_seen=1.5)
    path = tmp_path / "forecasts" / "a" / "diagnosis.json"
    path.write_text(path.read_text().replace('"cost": 1.0', '"cost": "dear"'))
    with pytest.raises(ValueError, match=r"diagnosis\.json.*cost"):
        Results(tmp_path).table("forecasts")


def table_of(*rows):
    columns = ("setting", "method", "factor", "measured", "measured_low", "measured_high", "progress", "cost")
    return pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows])


def test_names_of_marks_that_are_near_do_not_cover_each_other():
    """Eight settings in a few percent of each other, as where little is gained or lost; by what matplotlib draws."""
    factors = [1.0, 1.01, 1.02, 1.03, 1.02, 1.01, 1.0, 1.015]
    measured = [1.0, 1.01, 1.02, 1.0, 0.99, 1.015, 1.025, 1.03]
    rows = [
        (f"fashion-mnist-{number}", "last-seen", forecast, found, 0.9, 1.1, 1.2, 1.0)
        for number, (forecast, found) in enumerate(zip(factors, measured, strict=True))
    ]
    with style.sheet():
        figure = draw(table_of(*rows).assign(low=0.9, high=1.2))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text().startswith("fashion")]
    assert len(boxes) == len(rows)
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_errors_are_in_octaves_and_know_what_a_ladder_does_not_bound():
    found = table_of(
        ("a", "m", 2.0, 1.0, 0.5, 2.0, 1.0, 1.0),
        ("a", "m", 2.0, math.nan, 1.5, math.inf, 1.0, 1.0),  # above the ladder, and so is the forecast
        ("a", "m", 1.0, math.nan, 2.0, math.inf, 1.0, 1.0),
        ("a", "m", 2.0, math.nan, 0.0, 1.0, 1.0, 1.0),
    )
    assert list(errors(found)) == [1, 0, -1, 1]


def test_without_each_setting():
    """Two settings whose factors are progress^.5 and progress^1: either is judged by the other's exponent."""
    found = table_of(
        ("a", "m", 4.0, 2.0, 1.0, 4.0, 4.0, 1.0),
        ("b", "m", 4.0, 4.0, 2.0, 8.0, 4.0, 1.0),
        ("b", "n", 8.0, 8.0, 4.0, 9.0, 16.0, 2.0),
    )
    assert without_each_setting(found) == pytest.approx([1, -1, -2])
    assert np.isnan(without_each_setting(found[:1])).all()
    # A proxy is judged by proxies alone: theirs are progress^.5 and progress^0.
    of_proxies = table_of(
        ("a", "proxy", 4.0, 2.0, 1.0, 4.0, 4.0, 1.0),
        ("b", "proxy", 4.0, 1.0, 0.5, 8.0, 4.0, 1.0),
    )
    both = without_each_setting(pd.concat([found, of_proxies], ignore_index=True))
    assert both == pytest.approx([1, -1, -2, -1, 1])


def test_the_title_counts_what_is_near_and_what_was_called_lost():
    found = table_of(
        ("a", "m", 1.3, 1.4, 1.2, 1.6, 1.5, 1.0),
        ("a", "n", 0.8, 0.7, 0.6, 0.9, 1.5, 2.0),
        ("a", "o", 1.5, 0.7, 0.6, 0.9, 1.7, 1.0),
    )
    assert sentence(found[:1]) == "1 of 1 forecasts are within 20% of what was measured"
    assert sentence(found) == (
        "2 of 3 forecasts are within 20% of what was measured; of 2 that lost 1 was forecast to lose"
    )
