"""Figures of the training: values read back from the artists against the recorded numbers."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from figures import statistics, style
from figures.checked import Missing
from figures.plots import (
    differences,
    differences_to_random,
    figure_1,
    figure_2,
    method_rows,
    seeds,
    selection_quality,
    step_cost,
    time_to_target,
)
from figures.results import Results


def draw(module, *tables):
    with style.sheet():
        return module.draw(*tables)


def title(ax):
    return ax.get_title(loc="left").replace("\n", " ")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def lines(ax):
    return {line.get_label(): tuple(map(list, line.get_data())) for line in ax.lines}


def forest(ax):
    """(row, low, mean, high) of the intervals that are drawn whole."""
    segments = [s for c in ax.collections for s in c.get_segments()]
    return sorted((s[0][1], s[0][0], (s[0][0] + s[1][0]) / 2, s[1][0]) for s in segments)


def runs(ax):
    """The thin lines, which are single runs."""
    return [tuple(map(list, line.get_data())) for line in ax.lines if line.get_label() == "_run"]


def legend(figure):
    return [text.get_text() for text in (figure.legends or [figure.axes[-1].get_legend()])[0].get_texts()]


# ---- Means and differences ----


def test_a_mean_and_its_interval_are_scipys():
    values = [0.2, 0.5, 0.9, 0.4]
    mean, half = statistics.mean_and_half_width(values)
    low, high = scipy.stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (mean - half, mean + half) == (pytest.approx(low), pytest.approx(high))
    assert statistics.mean_and_half_width([0.3])[0] == 0.3
    assert math.isnan(statistics.mean_and_half_width([0.3])[1])
    assert all(map(math.isnan, statistics.mean_and_half_width([])))


def test_a_band_over_runs_that_were_evaluated_at_other_times():
    rows = pd.DataFrame({"run": ["a", "a", "b", "b"], "t": [1.0, 3.0, 2.0, 4.0], "y": [0.0, 2.0, 3.0, 5.0]})
    found = statistics.band(rows, "t", "y")
    # Both span 2 to 3: at 2 they are 1 and 3, at 3 they are 2 and 4.
    assert found["x"].tolist() == [2.0, 3.0]
    assert found["mean"].tolist() == [2.0, 3.0]
    assert found["half_width"].tolist() == pytest.approx([scipy.stats.t.ppf(0.975, 1)] * 2)


def test_differences_are_paired_by_seed_where_all_runs_still_are(recorded, tmp_path):
    """The baseline goes to step 30, the other to 20 only, where the baseline is at .4 and .5."""
    recorded.write_comparison(
        tmp_path / "c", {"baseline": [[0.2, 0.4, 0.9], [0.3, 0.5, 0.9]], "loss@1": [[0.3, 0.5], [0.3, 0.55]]}
    )
    found = statistics.differences(Results(tmp_path).table("evaluations"), "backprop_samples")
    assert found["method"].tolist() == ["loss@1"]
    mean, half = recorded.interval([0.1, 0.05])
    assert found["mean"].tolist() == pytest.approx([mean])
    assert found["half_width"].tolist() == pytest.approx([half])


def test_seeds_that_the_baseline_lacks_make_no_difference(recorded, tmp_path):
    recorded.write_comparison(
        tmp_path / "c", {"baseline": [[0.4]], "loss@1": [[0.5], [0.9]], "random": [[0.3], [0.4]]}, summary=False
    )
    (tmp_path / "c" / "random-seed0" / "evaluations.csv").unlink()
    found = statistics.differences(Results(tmp_path).table("evaluations"), "backprop_samples")
    assert found["method"].tolist() == ["loss@1"]
    assert found["mean"].tolist() == pytest.approx([0.1])
    assert found["runs"].tolist() == [1]


def test_what_differences_say():
    def found(*rows):
        return pd.DataFrame(rows, columns=["method", "mean", "half_width", "runs"])

    assert statistics.sentence(found(), "here") == "there is no baseline to compare with"
    one = found(("loss@1", 0.1, math.nan, 1))
    assert statistics.sentence(one, "here") == "one seed each, so luck may be all there is to see"
    assert "no difference" in statistics.sentence(found(("loss@1", 0.1, 0.2, 3)), "here")
    both = found(("loss@1", 0.1, 0.05, 3), ("random", -0.2, 0.1, 3), ("entropy@1", 0.0, 0.1, 3))
    assert statistics.sentence(both, "here") == "loss at exit 1 above the baseline, random rows below the baseline here"
    many = found(*((f"loss@{i}", 0.1, 0.05, 3) for i in (1, 2, 3)))
    assert statistics.sentence(many, "here") == "loss at exit 1 and 2 more above the baseline here"


# ---- Figures 1 and 2 ----


def test_figure_1(compared):
    (ax,) = draw(figure_1, Results(compared).table("evaluations")).axes
    drawn = lines(ax)
    assert drawn["loss at exit 1"] == ([100, 200, 300], pytest.approx([0.35, 0.55, 0.75]))
    assert "loss at exit 1, keep 0.7" not in drawn
    assert "loss at exit 1, keep 0.7: diverged" in texts(ax)[0]
    assert texts(ax)[0].endswith("\n2 seeds: thin lines are runs")
    # Both seeds end .2 above the baseline, so their interval has no width.
    assert title(ax) == ("tiny-5s: loss at exit 1 above the baseline, random rows below the baseline at equal samples")
    # Two runs of each of three methods, no bands, and axes in which all of them are seen.
    assert list(ax.collections) == []
    assert len(runs(ax)) == 6
    assert ([100, 200, 300], [0.4, 0.6, 0.8]) in runs(ax)
    low, high = ax.get_ylim()
    assert low < 0.2
    assert 0.8 < high < 0.9


def test_three_seeds_have_bands_that_may_leave_the_axes(recorded, tmp_path):
    curves = {"baseline": [[0.20, 0.40], [0.21, 0.41], [0.22, 0.42]], "loss@1": [[0.1, 0.6], [0.3, 0.6], [0.2, 0.6]]}
    recorded.write_comparison(tmp_path / "c", curves)
    (ax,) = draw(figure_1, Results(tmp_path).table("evaluations")).axes
    assert runs(ax) == []
    wide = ax.collections[1].get_paths()[0].vertices
    low, high = scipy.stats.t.interval(0.95, 2, loc=0.2, scale=scipy.stats.sem([0.1, 0.3, 0.2]))
    assert (wide[:, 1].min(), wide[wide[:, 0] == 100][:, 1].max()) == (pytest.approx(low), pytest.approx(high))
    # The means span .2 to .6: the band, down to -.05, may take less than half of that again, and not all of it.
    assert low < ax.get_ylim()[0] < 0.2
    assert ax.get_ylim()[0] > 0.0
    assert texts(ax)[0] == "3 seeds: 95% bands, cut at the axes"


def test_runs_that_have_no_place_in_common_are_drawn_singly():
    """Three seeds, each evaluated once, at seconds of its own: there is nothing to average at."""
    rows = pd.DataFrame({"run": ["a", "b", "c"], "seconds": [1.0, 2.0, 3.0], "val_accuracy": [0.1, 0.2, 0.6]})
    ax = Figure().subplots()
    drawn = seeds.curve(ax, rows, "baseline", "seconds", "val_accuracy")
    assert sorted(runs(ax)) == [([1], [0.1]), ([2], [0.2]), ([3], [0.6])]
    assert list(ax.collections) == []
    assert (drawn.last, drawn.low, drawn.high) == (pytest.approx(0.3), 0.1, 0.6)
    assert seeds.remark([drawn], (0, 1)) == "3 seeds"


def test_bands_that_the_axes_hold_are_not_called_cut(recorded, tmp_path):
    recorded.write_comparison(tmp_path / "c", {"baseline": [[0.20, 0.40], [0.21, 0.41], [0.22, 0.42]]})
    (ax,) = draw(figure_1, Results(tmp_path).table("evaluations")).axes
    band = ax.collections[0].get_paths()[0].vertices
    assert ax.get_ylim()[0] < band[:, 1].min() < band[:, 1].max() < ax.get_ylim()[1]
    assert texts(ax)[0] == "3 seeds: 95% bands"


def test_methods_of_one_two_and_three_seeds(recorded, tmp_path):
    seeds = {"baseline": [[0.20, 0.40], [0.21, 0.41], [0.22, 0.42]], "random": 2 * [[0.1, 0.3]], "loss@1": [[0.3, 0.4]]}
    recorded.write_comparison(tmp_path / "c", seeds, summary=False)
    (ax,) = draw(figure_1, Results(tmp_path).table("evaluations")).axes
    assert texts(ax)[0] == "1 to 3 seeds: 95% bands; thin lines are runs of two"
    assert len(ax.collections) == 1
    assert len(runs(ax)) == 2


def test_figure_1_has_a_panel_for_every_comparison(recorded, tmp_path):
    for name in ("a", "b", "c"):
        recorded.write_comparison(tmp_path / name, {"baseline": [[0.2, 0.4]]})
    figure = draw(figure_1, Results(tmp_path).table("evaluations"))
    assert [title(ax).split(":")[0] for ax in figure.axes if ax.axison] == ["a", "b", "c"]
    # The place that is left has the legend.
    assert not figure.legends
    assert legend(figure) == ["baseline (all rows)"]


def test_a_legend_is_in_the_methods_order(recorded, tmp_path):
    recorded.write_comparison(tmp_path / "a", {"entropy@1": [[0.2, 0.4]]}, summary=False)
    recorded.write_comparison(tmp_path / "b", {"baseline": [[0.2, 0.4]], "loss@1": [[0.2, 0.4]]}, summary=False)
    figure = draw(figure_2, Results(tmp_path).table("evaluations"))
    assert legend(figure) == ["baseline (all rows)", "loss at exit 1", "entropy at exit 1"]


LONG = ("loss@1:" + ":".join(f"change_{i}=0.{i}" for i in range(9)), "loss@last:" + 90 * "x", 95 * "y")


@pytest.mark.parametrize("module", [figure_1, differences, time_to_target, step_cost])
def test_names_of_90_characters_leave_the_figure_its_place(module, recorded, tmp_path):
    group = "a comparison that is named by a whole sentence, at some length, and goes on".replace(" ", "-")
    ends = {"baseline": 0.5, "random": 0.5, **dict.fromkeys(LONG, 0.6)}
    values = {name: [[0.2, end], [0.3, end]] for name, end in ends.items()}
    recorded.write_comparison(tmp_path / group, values, target=0.45)
    results = Results(tmp_path)
    table = {figure_1: "evaluations", step_cost: "runs"}.get(module, "summaries")
    tables = [results.table(table), *([results.table("costs")] if module is step_cost else [])]
    with style.sheet():
        figure = module.draw(*tables)
        FigureCanvasAgg(figure).draw()
        width, height = figure.bbox.size
        for ax in figure.axes:
            assert ax.bbox.width > 0.25 * width
            box = ax.get_tightbbox()
            assert box.x0 >= 0
            assert box.x1 <= width + 1
            assert box.y1 <= height + 1
            labels = [label.get_window_extent() for label in ax.get_yticklabels() if label.get_text()]
            if module is not figure_1:
                assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(labels))
        for below in figure.legends:
            assert below.get_window_extent().width <= width


def test_too_many_methods_are_not_drawn_but_counted(recorded, tmp_path):
    methods = ["baseline", "random", *(f"loss@1:keep=0.{i}" for i in range(1, 10))]
    recorded.write_comparison(tmp_path / "c", {m: [[0.1, 0.3 + 0.01 * i]] for i, m in enumerate(methods)})
    (ax,) = draw(figure_1, Results(tmp_path).table("evaluations")).axes
    assert len(ax.lines) == 8
    assert "8 of 11 methods" in texts(ax)[0]
    labels = set(lines(ax))
    assert {"baseline (all rows)", "random rows", "loss at exit 1, keep 0.9"} <= labels
    assert "loss at exit 1, keep 0.1" not in labels


def test_figure_2_has_reference_time_and_the_real_clock(compared):
    left, right = draw(figure_2, Results(compared).table("evaluations")).axes
    assert lines(left)["random rows"][0] == pytest.approx([2.0, 4.0, 6.0])
    assert lines(right)["random rows"][0] == pytest.approx([1.0, 2.0, 3.0])
    assert "reference time (s)" in left.get_xlabel()
    assert right.get_xlabel() == "real clock (s)"


def test_figure_2_without_reference_time_says_so(recorded, tmp_path):
    recorded.write_run(tmp_path / "run", [0.5, 0.6], values={"reference_s": None}, every=50_000)
    left, right = draw(figure_2, Results(tmp_path).table("evaluations")).axes
    assert not left.axison
    assert "no reference time" in texts(left)[0]
    assert lines(right)["baseline (all rows)"][0] == pytest.approx([5000 / 3600, 10000 / 3600])
    assert right.get_xlabel() == "real clock (h)"


# ---- The others ----


def test_selection_quality(recorded, tmp_path):
    values = {"overlap": 0.8, "rank_correlation": 0.6}
    recorded.write_comparison(tmp_path / "c", {"loss@1": [[0.2, 0.4], [0.3, 0.5]]}, values=values, keep=0.25)
    left, right = draw(selection_quality, Results(tmp_path).table("evaluations")).axes
    assert lines(left)["loss at exit 1"] == ([100, 200], [0.8, 0.8])
    assert lines(right)["loss at exit 1"][1] == [0.6, 0.6]
    assert lines(left)["what random rows reach"][1] == [0.25, 0.25]
    assert lines(right)["what random rows reach"][1] == [0.0, 0.0]
    assert title(left) == "c: loss at exit 1 ends at 80%"
    assert texts(left) == ["2 seeds: thin lines are runs"]
    assert legend(left.figure) == ["loss at exit 1", "what random rows reach"]


def test_of_methods_that_score_exactly_one_is_drawn(recorded, tmp_path):
    exact, rough = {"overlap": 1.0, "rank_correlation": 1.0}, {"overlap": 1.0, "rank_correlation": 0.9}
    folder = recorded.write_comparison(tmp_path / "c", {"loss@1": [[0.2, 0.4]]}, values=rough, summary=False)
    for method in ("loss@last:keep=0.7", "loss@last", "loss@last:trim=0.1"):
        recorded.write_run(folder / f"{method.replace(':', '-')}-seed0", [0.2, 0.4], method, values=exact)
    left, _ = draw(selection_quality, Results(tmp_path).table("evaluations")).axes
    assert {"loss at exit 1", "loss at last exit"} == set(lines(left)) - {"what random rows reach"}
    assert texts(left) == ["exact as loss at last exit: 2 more\n1 seed"]


def test_selection_quality_that_nobody_recorded_is_missing(compared):
    with pytest.raises(Missing, match="quality_batches"):
        draw(selection_quality, Results(compared).table("evaluations"))


def test_step_cost(compared):
    results = Results(compared)
    left, right = draw(step_cost, results.table("runs"), results.table("costs")).axes
    bars = {patch.get_y() + patch.get_height() / 2: [] for patch in left.patches}
    for patch in left.patches:
        bars[patch.get_y() + patch.get_height() / 2].append(patch.get_width())
    # Rows: baseline, random, loss@1, loss@1:keep=0.7.
    assert bars[0.0] == pytest.approx([0.0, 0.2, 0.5, 0.3])
    assert bars[2.0] == pytest.approx([0.2, 0.2, 0.5, 0.1])
    assert lines(right)["selecting step"][0] == pytest.approx([math.nan, 250.0, 250.0, 250.0], nan_ok=True)
    assert lines(right)["plain step"][0] == pytest.approx([200.0] * 4)
    assert "$\\times$1.25" in texts(right)
    assert title(right) == "Selecting costs up to 1.25 plain steps"


def test_step_cost_without_measured_costs(recorded, tmp_path):
    recorded.write_run(tmp_path / "run", [0.5], "loss@1")
    left, right = draw(step_cost, Results(tmp_path).table("runs")).axes
    assert not right.axison
    assert title(left) == "tiny: loss at exit 1 spends 20% on scoring"
    recorded.write_run(tmp_path / "none" / "run", [])
    with pytest.raises(Missing, match="evaluation"):
        draw(step_cost, Results(tmp_path / "none").table("runs"))


def test_differences(compared, recorded):
    page, panel = draw(differences, Results(compared).table("summaries")).axes
    # Sorted: loss@1 (+.2), random (-.1), then those without a difference; the baseline has no row.
    said = texts(page)
    names = ["loss at exit 1", "+20.00 ± 0.00", "random rows", "\N{MINUS SIGN}10.00 ± 0.00"]
    assert said[1:] == [
        "tiny-5s, 2 seeds",
        *names,
        "loss at exit 1,\nkeep 0.7",
        "1 of 2 diverged",
        "percentage points above the baseline, 95% intervals",
    ]
    assert said[0].replace("\n", " ") == "tiny: 1 of 2 above the baseline, 1 below"
    assert [round(mean, 6) for _, _, mean, _ in forest(panel)] == [20.0, -10.0]
    assert any(list(line.get_xdata()) == [0, 0] for line in panel.lines)
    # A row's mark, its name and its number stand at one height.
    heights = {text.get_text(): text.get_position()[1] for text in page.texts}
    assert [row for row, *_ in forest(panel)] == [heights["loss at exit 1"], heights["random rows"]]
    other, _ = draw(differences_to_random, Results(compared).table("summaries")).axes
    assert [text for text in texts(other) if text in ("loss at exit 1", "baseline (all rows)")] == [
        "loss at exit 1",
        "baseline (all rows)",
    ]


def test_differences_stand_by_what_was_trained(recorded, tmp_path):
    """Axes are shared by comparisons of one preset alone: others differ in what a point is worth."""
    curves = {"baseline": [[0.2, 0.4]] * 2, "loss@1": [[0.3, 0.5]] * 2}
    for folder, name in (("a-10s", "one"), ("b", "two"), ("c-20s", "one")):
        recorded.write_comparison(tmp_path / folder, curves, name=name)
    page, first, second = draw(differences, Results(tmp_path).table("summaries")).axes
    assert [len(forest(panel)) for panel in (first, second)] == [2, 1]
    assert [text for text in texts(page) if "seeds" in text] == ["a-10s, 2 seeds", "c-20s, 2 seeds", "b, 2 seeds"]
    assert [text.split(":")[0] for text in texts(page) if ":" in text] == ["one", "two"]


def test_without_the_method_to_compare_with_there_is_nothing_to_draw(recorded, tmp_path):
    recorded.write_comparison(tmp_path / "c", {"baseline": [[0.5]], "loss@1": [[0.7]]})
    with pytest.raises(Missing, match="no finished comparison has random rows to compare with"):
        draw(differences_to_random, Results(tmp_path).table("summaries"))


def test_the_range_of_axes_shows_all_but_the_intervals_that_would_dwarf_them():
    nan = math.nan
    low, high = method_rows.limits([-5.0, -10.0, nan], [2.0, 3.0, nan])
    assert -15 < low < -13
    assert 0 < high < 2
    # 101 is more than four times the span of 13.
    low, high = method_rows.limits([0.0, -10.0, -13.0], [29.0, 2.0, 101.0])
    assert -60 < low < -30
    assert 30 < high < 60
    # Where all are alike none is cut, however wide.
    low, high = method_rows.limits([0.1, -0.1], [50.0, 60.0])
    assert low < -60.1
    assert high > 59.9
    assert method_rows.limits([3.0], [nan])[1] > 3
    assert method_rows.limits([nan], [nan]) == (-1.0, 1.0)
    assert method_rows.limits([0.0], [0.0]) == (-1.0, 1.0)


def test_an_interval_that_leaves_the_axes_says_how_wide_it_is(recorded, tmp_path):
    """Two seeds at +0.1 and +0.3 against the baseline, whose interval is 12.7 times .1; the others hardly differ."""
    ends = {"baseline": [0.5, 0.5], "loss@1": [0.6, 0.8], "random": [0.4, 0.402], "entropy@1": [0.5, 0.51]}
    recorded.write_comparison(tmp_path / "c", {name: [[0.2, end] for end in both] for name, both in ends.items()})
    page, panel = draw(differences, Results(tmp_path).table("summaries")).axes
    half = 100 * recorded.interval([0.1, 0.3])[1]
    assert f"+20.00 ± {half:.2f}" in texts(page)
    low, high = panel.get_xlim()
    assert -10 > low > 20 - half
    assert 20 < high < 20 + half
    arrows = {line.get_marker(): line.get_xdata()[0] for line in panel.lines if line.get_marker() in ("<", ">")}
    assert arrows == {"<": low, ">": high}
    first, *others = forest(panel)
    assert (first[1], first[3]) == (low, high)
    # The two others' are whole.
    assert [mean for _, _, mean, _ in others] == pytest.approx([0.5, -9.9])


def test_differences_of_one_seed_have_no_interval(recorded, tmp_path):
    recorded.write_comparison(tmp_path / "c", {"baseline": [[0.5]], "loss@1": [[0.7]]})
    page, panel = draw(differences, Results(tmp_path).table("summaries")).axes
    assert forest(panel) == []
    (mark,) = [line for line in panel.lines if line.get_marker() == "o"]
    assert list(mark.get_xdata()) == pytest.approx([20.0])
    assert mark.get_markerfacecolor() == "white"
    assert "luck" in texts(page)[0]
    assert "+20.00, one seed" in texts(page)


def test_time_to_target(compared):
    """At .45: the baseline in steps 30 and 20, loss@1 in 20 and 20; a step is .2 s of reference time."""
    left, right = draw(time_to_target, Results(compared).table("summaries")).axes
    assert lines_of_marks(left) == {0: pytest.approx(5.0), 2: pytest.approx(4.0)}
    assert lines_of_marks(right) == {0: pytest.approx(250.0), 2: pytest.approx(200.0)}
    # Times are not below 0: there the baseline's interval is cut.
    half = recorded_interval([6.0, 4.0])
    assert [(low, high) for row, low, _, high in forest(left) if row == 0] == [(0.0, pytest.approx(5 + half))]
    assert f"±{half:.3g}" in texts(left)
    assert "reached by 1 of 2 runs" in texts(left)
    assert left.get_xlabel() == "reference time to the target (s)"
    assert title(left) == ("tiny-5s, target 45.0%: 2 of 4 got there in every run, loss at exit 1 first on average")
    assert left.get_xlim()[0] == 0


def lines_of_marks(ax):
    """Row -> where its mark stands."""
    marks = [line for line in ax.lines if line.get_marker() in ("P", "s", "o")]
    return {line.get_ydata()[0]: line.get_xdata()[0] for line in marks}


def recorded_interval(values):
    return scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)


def test_comparisons_in_which_nothing_was_reached_are_a_line_of_words(recorded, tmp_path):
    reached = {"baseline": [[0.5], [0.6]], "loss@1": [[0.4], [0.6]]}
    recorded.write_comparison(tmp_path / "a", reached, target=0.45)
    recorded.write_comparison(tmp_path / "b", {**reached, "random": [[0.1], [0.2]]}, target=0.55)
    recorded.write_comparison(tmp_path / "c", reached, target=0.9)
    figure = draw(time_to_target, Results(tmp_path).table("summaries"))
    left, _, place = sorted((ax for ax in figure.axes), key=lambda ax: not ax.axison)
    assert title(left).startswith("a, target 45.0%: only baseline (all rows) got there")
    assert [label.get_text() for label in left.get_yticklabels()] == ["baseline (all rows)", "loss at exit 1"]
    assert texts(place)[0].split("\n")[1:] == [
        "b, target 55.0%: baseline (all rows) in 1 of 2, loss at exit 1 in 1 of 2, the other in none",
        "c, target 90.0%: no method in any run",
    ]
    nothing = Results(tmp_path).table("summaries")
    figure = draw(time_to_target, nothing[nothing["group"] == "c"])
    (place,) = figure.axes
    assert "c, target 90.0%: no method in any run" in texts(place)[0]
    assert figure.get_size_inches()[1] < 1


def test_long_times_to_target_are_in_hours(recorded, tmp_path):
    recorded.write_comparison(tmp_path / "c", {"baseline": [[0.5], [0.6]]}, target=0.4)
    table = Results(tmp_path).table("summaries").assign(seconds_to_target=9000.0, seconds_to_target_half_width=900.0)
    left, _ = draw(time_to_target, table).axes
    assert forest(left) == [(0, pytest.approx(2.25), pytest.approx(2.5), pytest.approx(2.75))]
    assert left.get_xlabel() == "reference time to the target (h)"
