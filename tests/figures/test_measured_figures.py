"""Figures of meters and diagnoses: values read back from the artists against the recorded numbers."""

import math

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")

from figures import style
from figures.checked import Missing
from figures.plots import diagnosis, overlap_in_training, readings
from figures.results import Results


def draw(module, *tables):
    with style.sheet():
        return module.draw(*tables)


def title(ax):
    return ax.get_title(loc="left").replace("\n", " ")


def texts(ax):
    return " ".join(text.get_text() for text in ax.texts)


def lines(ax):
    return {line.get_label(): tuple(np.asarray(values).tolist() for values in line.get_data()) for line in ax.lines}


# ---- Readings ----


def test_readings_of_comparisons_and_of_single_runs(recorded, tmp_path):
    recorded.write_readings(tmp_path / "c", [recorded.reading(10), recorded.reading(20)])
    recorded.write_readings(tmp_path / "c" / "loss@1-seed0", [recorded.reading(10)])  # they are in the table above
    recorded.write_readings(tmp_path / "single", [recorded.reading(30)])
    found = Results(tmp_path).table("readings")
    assert found["group"].tolist() == ["c", "c", "single"]
    assert found["step"].tolist() == [10, 20, 30]


def test_a_table_of_readings_by_its_older_name_is_read_where_there_is_no_newer_one(recorded, tmp_path):
    recorded.write_readings(tmp_path / "both", [recorded.reading(10)], "live.csv")
    recorded.write_readings(tmp_path / "both", [recorded.reading(20)])
    recorded.write_readings(tmp_path / "older", [recorded.reading(30)], "live.csv")
    assert sorted(Results(tmp_path).table("readings")["step"]) == [20, 30]


def test_without_readings_the_command_is_named(tmp_path):
    with pytest.raises(Missing, match="gsgd diagnose FOLDER"):
        Results(tmp_path).table("readings")
    with pytest.raises(Missing, match="gsgd diagnose CONFIG"):
        Results(tmp_path).table("diagnosis")


def test_a_malformed_reading_is_named(recorded, tmp_path):
    path = recorded.write_readings(tmp_path, [recorded.reading(10, sigma="much")])
    with pytest.raises(ValueError, match=f"{path}, line 2, column sigma: 'much'"):
        Results(tmp_path).table("readings")


@pytest.fixture
def panels(recorded, tmp_path):
    rows = [recorded.reading(step, beta) for step, beta in ((10, 0.5), (20, 0.7), (30, 0.6))]
    exact = [recorded.reading(step, 1.0, "loss@last", overlap=1.0, sigma=0.0) for step in (10, 20)]
    recorded.write_readings(tmp_path / "c", rows + exact)
    return draw(readings, Results(tmp_path).table("readings")).axes


def law(beta):
    return 0.5 + math.asin(beta) / math.pi


def test_overlap_against_the_law(panels):
    found = lines(panels[0])
    betas = [0.5, 0.6, 0.7]
    assert found["Gaussian margins"][0] == betas
    assert found["Gaussian margins"][1] == pytest.approx([law(b) - 0.01 for b in betas])
    assert found["Gaussian margins, large batch"][1] == pytest.approx([law(b) for b in betas])
    assert found["_readings"][0] == [0.5, 0.7, 0.6]
    assert found["_readings"][1] == pytest.approx([law(b) + 0.04 for b in (0.5, 0.7, 0.6)])
    (mark,) = panels[0].containers
    assert mark.get_label() == "loss at exit 1"
    assert mark.lines[0].get_xdata().tolist() == pytest.approx([0.6])
    assert mark.lines[0].get_ydata().tolist() == pytest.approx([np.mean([law(b) + 0.04 for b in betas])])
    assert title(panels[0]) == "c: overlap of loss at exit 1 is 0.050 above that of Gaussian margins"


def test_pairs_against_the_law(panels):
    found = lines(panels[1])
    assert found["Gaussian margins"][1] == pytest.approx([law(b) for b in (0.5, 0.6, 0.7)])
    assert found["_readings"][1] == pytest.approx([law(b) - 0.02 for b in (0.5, 0.7, 0.6)])
    assert "0.020 below that of Gaussian margins" in title(panels[1])


def test_selected_losses_along_training(panels):
    found = lines(panels[2])
    assert found["loss at exit 1"] == ([10, 20, 30], pytest.approx([1.2] * 3))
    assert found["_rho"] == ([10, 20, 30], pytest.approx([1.5] * 3))
    # (1.2 - 1) / (1.5 - 1)
    assert "brings 40% of the loss that exact choice adds" in title(panels[2])


def test_noise_along_training(panels):
    found = lines(panels[3])
    assert found["loss at exit 1"][1] == pytest.approx([0.4, 0.5, 0.6])
    assert found["largest noise, Corollary 5.16"][1] == pytest.approx([0.36] * 3)
    assert found["the same, sharp"][1] == pytest.approx([0.6] * 3)
    assert found["Theorem 5.15 up to it"][1] == pytest.approx([1 / (2 * math.sqrt(2))] * 2)
    # 0.4 and 0.5 are below 0.6; nothing is below 0.36. The exact method does not count.
    assert "in 0% of readings (sharp: 67%)" in title(panels[3])


def test_differences_that_luck_explains_are_none(recorded, tmp_path):
    recorded.write_readings(
        tmp_path, [recorded.reading(10, overlap=law(0.7) + 0.1), recorded.reading(20, overlap=law(0.7) - 0.12)]
    )
    (overlap, *_) = draw(readings, Results(tmp_path).table("readings")).axes
    assert "no difference shown" in title(overlap)


def test_the_law_is_not_drawn_straight_where_nothing_is_known_of_it(recorded, tmp_path):
    betas = (0.1, 0.2, 0.6, 0.65)
    recorded.write_readings(tmp_path, [recorded.reading(10 * step, beta) for step, beta in enumerate(betas, start=1)])
    (_, pairs, *_) = draw(readings, Results(tmp_path).table("readings")).axes
    x, y = lines(pairs)["Gaussian margins"]
    np.testing.assert_allclose(x, [0.1, 0.2, math.nan, 0.6, 0.65])
    np.testing.assert_allclose(y, [law(0.1), law(0.2), math.nan, law(0.6), law(0.65)])


def test_numbers_that_are_not_defined(recorded, tmp_path):
    nan = dict.fromkeys(("sigma", "margin_correlation", "overlap_finite", "overlap_limit", "sigma_max"), "nan")
    recorded.write_readings(tmp_path, [recorded.reading(step, **nan, agreement_predicted="nan") for step in (10, 20)])
    panels = draw(readings, Results(tmp_path).table("readings")).axes
    assert "no margins are defined" in title(panels[0])
    assert "noise is not defined" in title(panels[3])
    assert lines(panels[2])["loss at exit 1"][1] == pytest.approx([1.2, 1.2])


def test_only_exact_methods_are_drawn_if_there_are_no_others(recorded, tmp_path):
    recorded.write_readings(
        tmp_path, [recorded.reading(step, 1.0, "loss@last", overlap=1.0, sigma=0.0) for step in (10, 20)]
    )
    table = Results(tmp_path).table("readings")
    assert readings.shown(table) == ["loss@last"]
    assert "loss at last exit" in lines(draw(readings, table).axes[2])


def test_many_steps_are_averaged():
    steps = np.arange(0, 400, 2)
    rows = pd.DataFrame({"run": "a", "step": steps, "sigma": steps / 100})
    found = readings.averaged(rows)
    assert len(found) == readings.MOST_PLACES
    # Within an interval of five steps the mean is half an interval's width from its middle at most.
    assert found["sigma"].tolist() == pytest.approx((found["step"] / 100).tolist(), abs=0.05)
    assert found["sigma"].mean() == pytest.approx(rows["sigma"].mean(), abs=0.01)
    assert readings.averaged(rows.head(30)) is not None
    assert len(readings.averaged(rows.head(30))) == 30


def test_two_groups_have_panels_of_their_own(recorded, tmp_path):
    recorded.write_readings(tmp_path / "a", [recorded.reading(10), recorded.reading(20)])
    recorded.write_readings(tmp_path / "b", [recorded.reading(10), recorded.reading(20)])
    panels = draw(readings, Results(tmp_path).table("readings")).axes
    assert len(panels) == 8
    assert (title(panels[0])[:2], title(panels[4])[:2]) == ("a:", "b:")


def test_overlap_and_delta_over_training(recorded, tmp_path):
    """A table without deltas, as older ones are, and one with them."""
    falls = [recorded.reading(step, overlap=1 - step / 100) for step in (10, 20, 30, 40)]
    holds = [recorded.reading(step, method="probe@1", overlap=0.6) for step in (10, 20, 30, 40)]
    recorded.write_readings(tmp_path / "older", falls)
    columns = (*recorded.READING_COLUMNS, "delta_chosen", "delta_hardest")
    recorded.write_csv(tmp_path / "newer" / "readings.csv", columns, [(*row, 0.1, 0.25) for row in falls + holds])
    overlap, delta, _, none = draw(overlap_in_training, Results(tmp_path).table("readings")).axes
    assert lines(overlap)["loss at exit 1"][0] == [10, 20, 30, 40]
    assert lines(overlap)["loss at exit 1"][1] == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert lines(overlap)["probe at exit 1"][1] == pytest.approx([0.6] * 4)
    assert lines(overlap)["_chance"][1] == [0.5, 0.5]
    assert lines(delta)["loss at exit 1"][1] == pytest.approx([0.35] * 4)
    # The first quarter of four readings ends at step 17.5, the last begins at 32.5.
    assert title(overlap) == "newer: overlap of loss at exit 1 falls from 90% to 60%"
    assert title(none) == "older: deltas were not recorded"


def test_too_few_readings_say_nothing_of_a_change(recorded, tmp_path):
    recorded.write_readings(tmp_path, [recorded.reading(10)])
    table = Results(tmp_path).table("readings")
    assert overlap_in_training.change(table, ["loss@1"]) == "too few readings"


# ---- Diagnoses ----


@pytest.fixture
def diagnosed(recorded, tmp_path):
    recorded.write_diagnosis(
        tmp_path / "diagnose-tiny",
        (0, "undecided", None, [recorded.exit_of(1, 0.2, 1.0, 0.6), recorded.exit_of(2, 0.5, 1.1, 1.0)]),
        (300, "pays", 1, [recorded.exit_of(1, 0.25, 1.5, 0.7), recorded.exit_of(2, 0.5, 1.4, 1.0)]),
    )
    return Results(tmp_path).table("diagnosis")


def intervals(ax):
    """(place, low, high), of all points."""
    return sorted((s[0][0], s[0][1], s[1][1]) for c in ax.collections for s in c.get_segments())


def test_a_diagnosis(diagnosed):
    cost, overlap, gain = draw(diagnosis, diagnosed).axes
    apart = 0.16
    places = [1 - apart / 2, 2 - apart / 2]
    after = [1 + apart / 2, 2 + apart / 2]
    assert lines(cost)["after 0 steps"] == (pytest.approx(places), [0.2, 0.5])
    assert lines(cost)["after 300 steps"] == (pytest.approx(after), [0.25, 0.5])
    assert [ends[1:] for ends in intervals(cost)] == [
        pytest.approx(pair) for pair in ((0.15, 0.3), (0.2, 0.35), (0.45, 0.6), (0.45, 0.6))
    ]
    assert lines(overlap)["after 300 steps"][1] == [0.7, 1.0]
    assert intervals(overlap)[0] == pytest.approx((places[0], 0.58, 0.62))
    assert lines(overlap)["_law"][1] == pytest.approx([0.65, 0.95])  # of the last point
    assert lines(gain)["after 0 steps"][1] == [1.0, 1.1]
    assert lines(gain)["_break-even"] == (pytest.approx(after), [1.25, 1.5])
    assert intervals(gain)[1] == pytest.approx((after[0], 1.4, 1.7))
    assert title(cost) == "tiny: selecting adds 20% to 50% to a step"
    assert title(overlap) == "Exit 1 keeps 70% of the exact choice"
    assert title(gain) == "Selection pays at exit 1 after 300 steps"
    assert any(line.get_ydata()[0] == 0.75 for line in overlap.lines)


@pytest.mark.parametrize("exits", [1, 2, 12])
def test_exits_are_whole_numbers(recorded, tmp_path, exits):
    points = [recorded.exit_of(layer, 0.2, 1.0) for layer in range(1, exits + 1)]
    recorded.write_diagnosis(tmp_path / "d", (7, "undecided", None, points))
    for ax in draw(diagnosis, Results(tmp_path).table("diagnosis")).axes:
        low, high = ax.get_xlim()
        ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)


@pytest.mark.parametrize(
    ("verdict", "words"), [("does not pay", "Selection does not pay after 7 steps"), ("undecided", "Not decided after")]
)
def test_verdicts(recorded, tmp_path, verdict, words):
    recorded.write_diagnosis(tmp_path / "d", (7, verdict, None, [recorded.exit_of(1, 0.2, 1.0)]))
    (_, _, gain) = draw(diagnosis, Results(tmp_path).table("diagnosis")).axes
    assert words in title(gain)


def test_ends_that_are_infinite_or_unknown_leave_the_axes_where_values_are(recorded, tmp_path):
    wide = recorded.exit_of(1, 0.2, 1.3, gain_low="-inf", gain_high="inf")
    unknown = recorded.exit_of(2, 0.2, 1.0, gain_low="-inf", gain_high="inf", overlap_half_width="nan") | {
        "gain": "nan"
    }
    recorded.write_diagnosis(tmp_path / "d", (0, "undecided", None, [wide, unknown]))
    (_, _, gain) = draw(diagnosis, Results(tmp_path).table("diagnosis")).axes
    low, high = gain.get_ylim()
    assert low < 1 < 1.3 < high
    assert high - low < 2
    (first, *_) = intervals(gain)
    assert first[1] < low
    assert first[2] > high


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cost": "dear"}, "field 'points[0].exits[0].cost': 'dear' must be a valid number"),
        ({"gain": None}, "field 'points[0].exits[0].gain': None must be"),
        ({"means": {}}, "has no field 'points[0].exits[0].means.overlap'"),
    ],
)
def test_a_malformed_diagnosis_is_named(recorded, tmp_path, changes, message):
    path = recorded.write_diagnosis(
        tmp_path / "d", (0, "undecided", None, [{**recorded.exit_of(1, 0.2, 1.0), **changes}])
    )
    with pytest.raises(ValueError, match=r"diagnosis\.json") as caught:
        Results(tmp_path).table("diagnosis")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_verdict_is_named(recorded, tmp_path):
    recorded.write_diagnosis(tmp_path / "d", (0, "perhaps", None, [recorded.exit_of(1, 0.2, 1.0)]))
    with pytest.raises(ValueError, match="'perhaps' must be 'pays', 'does not pay' or 'undecided'"):
        Results(tmp_path).table("diagnosis")
