"""The picture of a ladder: accuracies with intervals, factors below, and what its title claims."""

import json
import math

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from figures import style
from figures.checked import Missing
from figures.plots import speed_ups
from figures.registry import ENTRIES
from figures.report import page
from figures.results import Results

CLAIMED = {"loss@last": (1.4, 1.2, 1.6), "random": (0.7, 0.6, 0.9), "entropy@1": (1.1, 0.8, math.inf)}


def drawn(folder, name="speed_ups"):
    entry = ENTRIES[name]
    with style.sheet():
        return entry.make(*entry.read(Results(folder)))


def test_a_ladder(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "l", CLAIMED)
    values, factors = drawn(tmp_path).axes
    assert values.get_ylabel() == "test accuracy"
    assert values.get_xlabel() == "budget (work: forward passes of a row)"
    curves = {line.get_label(): line for line in values.get_lines()}
    assert list(curves["loss at last exit"].get_ydata()) == pytest.approx([0.51, 0.61, 0.71])
    assert list(curves["random rows"].get_ydata()) == pytest.approx([0.52, 0.62, 0.72])
    # Methods stand beside their rung, by less than a tenth of an octave.
    assert list(curves["loss at last exit"].get_xdata()) == pytest.approx([100, 200, 400], rel=0.1)
    marks = [float(line.get_ydata()[0]) for line in factors.get_lines() if line.get_marker() in ("p", "s", "o", "^")]
    assert {1.4, 0.7} <= {round(mark, 6) for mark in marks}
    ends = [line.get_marker() for line in factors.get_lines()].count("^")
    assert ends >= 3  # what the ladder does not bound, at each rung
    low, high = factors.get_ylim()
    assert low < 0.6
    assert high > 1.6


def test_the_title_claims_what_leaves_out_1_losses_like_wins(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "l", CLAIMED)
    title = drawn(tmp_path).axes[0].get_title(loc="left").replace("\n", " ")
    assert title == "l: budget worth against plain training: random rows 0.70 times, loss at last exit 1.40 times"


@pytest.mark.parametrize(
    ("claimed", "said"),
    [({"random": (1.1, 0.9, 1.3)}, "no speed-up over plain training shown"), ({}, "no factor could be measured")],
)
def test_what_shows_nothing_says_so(recorded, tmp_path, claimed, said):
    recorded.write_ladder(tmp_path / "l", claimed or {"random": (1.1, 0.9, 1.3)})
    if not claimed:
        (tmp_path / "l" / "claims.csv").unlink()
    assert said in drawn(tmp_path).axes[0].get_title(loc="left").replace("\n", " ")


def test_a_method_beyond_the_ladder_has_no_mark_and_a_bound_in_the_title(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "l", {"loss@last": ("nan", 2.0, "inf")})
    (_, factors) = drawn(tmp_path).axes
    assert "p" not in [line.get_marker() for line in factors.get_lines()]
    text = (tmp_path / "l" / "claims.csv").read_text().replace("nan,2.0,inf,on the", "2.0,1.5,inf,above the")
    (tmp_path / "l" / "claims.csv").write_text(text)
    assert "at least 2.00 times" in drawn(tmp_path).axes[0].get_title(loc="left").replace("\n", " ")


def test_three_ladders_have_two_panels_each(recorded, tmp_path):
    for name in "abc":
        recorded.write_ladder(tmp_path / name, CLAIMED)
    shown = [ax for ax in drawn(tmp_path).axes if ax.axison]
    assert len(shown) == 6
    assert speed_ups.LEAST < 1 < speed_ups.MOST


def test_titles_end_where_their_panels_do(recorded, tmp_path):
    for name in ("fashion-mnist-lenet", "fashion-mnist-mlp"):
        recorded.write_ladder(tmp_path / "ladders" / name, CLAIMED)
    figure = drawn(tmp_path)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for ax in figure.axes[:2]:
        title = ax.get_title(loc="left")
        assert title.count("\n") >= 1
        assert ax._left_title.get_window_extent(renderer).x1 <= ax.get_window_extent(renderer).x1, title


def test_factors_by_the_clock_stand_below_those_by_budget(recorded, tmp_path):
    clock = {"loss@last": (0.9, 0.8, 1.1), "random": (0.6, 0.5, math.inf)}
    recorded.write_ladder(tmp_path / "l", CLAIMED, in_seconds=clock)
    recorded.write_ladder(tmp_path / "without", CLAIMED)
    by_accuracy, by_loss = drawn(tmp_path, "speed_ups_in_seconds").axes
    assert [text.get_text() for text in by_accuracy.get_yticklabels()] == ["random rows", "loss at last exit"]
    marks = {
        round(float(line.get_xdata()[0]), 6): (round(float(line.get_ydata()[0]), 6), line.get_markerfacecolor())
        for line in by_accuracy.get_lines()
        if line.get_marker() in ("p", "s") and len(line.get_xdata())
    }
    assert {factor: row for factor, (row, _) in marks.items()} == {0.7: -0.17, 0.6: 0.17, 1.4: 0.83, 0.9: 1.17}
    assert [factor for factor, (_, face) in sorted(marks.items()) if face == "white"] == [0.6, 0.9]
    # An interval without an end leaves the axes in an arrow.
    assert [line.get_marker() for line in by_loss.get_lines()].count(">") == 1
    title = by_accuracy.get_title(loc="left").replace("\n", " ")
    assert title == "l, accuracy by the clock: no speed-up over plain training shown"


def test_claims_by_the_clock_are_on_the_page_where_there_are_any(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "l", CLAIMED)
    missing = "no claim of a ladder in seconds (gsgd compare --ladder --jobs 1 writes them)"
    assert missing in page.make(Results(tmp_path))
    recorded.write_ladder(tmp_path / "l", CLAIMED, in_seconds=CLAIMED)
    made = page.make(Results(tmp_path))
    assert missing not in made
    assert '<figure id="exhibit-speed_ups_in_seconds">' in made


def test_runs_of_a_ladder_are_in_no_other_table(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "l", CLAIMED)
    recorded.write_run(tmp_path / "l" / "100work" / "baseline-seed0", [0.5])
    results = Results(tmp_path)
    with pytest.raises(Missing, match="no run"):
        results.table("runs")
    assert results.origins == {"l": "made here on 2025-03-04"}


def test_a_page_of_a_ladder_alone(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "l", CLAIMED)
    made = page.make(Results(tmp_path))
    assert ENTRIES["speed_ups"].shows in made
    assert "how many times the budget plain" in " ".join(made.split())


def test_malformed_ladders_are_named(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "l", CLAIMED)
    (tmp_path / "l" / "ladder.json").write_text(json.dumps({"rungs": ["1work"]}))
    with pytest.raises(ValueError, match=r"ladder\.json has no field 'split'"):
        Results(tmp_path).table("ladders")
    with pytest.raises(Missing, match="no finished ladder"):
        Results(tmp_path / "none").table("ladders")
