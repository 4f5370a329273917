"""Logs of rows, counted: the histogram, the lists of rows never and always chosen, and what is malformed."""

import pytest

pytest.importorskip("pyarrow")

from figures import style
from figures.checked import Missing
from figures.plots.times_chosen import bins
from figures.registry import ENTRIES
from figures.report import page
from figures.results import Results


@pytest.fixture
def results(recorded, tmp_path):
    """Row 7 never chosen, 8 always, 9 once of two; 5 drawn once only. In two parts and of two ranks."""
    run = recorded.write_run(tmp_path / "run", [0.5], "last-seen")
    recorded.write_log(run, [{7: False, 8: True}, {7: False, 9: True}])
    recorded.write_log(run, [{7: False, 8: True}], part=1)
    recorded.write_log(run, [{9: False, 5: True}], rank=1)
    return Results(tmp_path)


def made(name, results):
    with style.sheet():
        return ENTRIES[name].make(*ENTRIES[name].read(results))


def test_times_are_counted_over_parts_and_ranks(results):
    found = results.table("chosen").set_index("id")[["drawn", "chosen"]]
    assert found.T.to_dict("list") == {5: [1, 1], 7: [3, 0], 8: [2, 2], 9: [2, 1]}


def test_rows_never_and_always_chosen_are_listed(results):
    (row,) = made("chosen_rows", results).to_dict("records")
    assert (row["run"], row["rows_drawn"], row["method"]) == ("tiny, run", 3, "loss last seen")
    assert (row["never_chosen"], row["always_chosen"]) == pytest.approx((1 / 3, 1 / 3))
    assert (row["ids_never_chosen"], row["ids_always_chosen"]) == ("7", "8")


def test_a_long_list_is_cut(recorded, tmp_path):
    run = recorded.write_run(tmp_path / "run", [0.5], "random")
    recorded.write_log(run, [dict.fromkeys(range(30), False)] * 2)
    (row,) = made("chosen_rows", Results(tmp_path)).to_dict("records")
    assert row["ids_never_chosen"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 18 more"
    assert row["ids_always_chosen"] == "none"


def test_the_histogram(results):
    (ax,) = made("times_chosen", results).axes
    (stairs,) = ax.patches
    shares, edges, _ = stairs.get_data()
    assert list(edges) == [-0.5, 0.5, 1.5, 2.5]
    assert list(shares) == pytest.approx([1 / 4, 2 / 4, 1 / 4])
    title = ax.get_title(loc="left").replace("\n", " ")
    assert title == "tiny: half of all choices fall on this share of rows: loss last seen 25%"


def test_many_counts_share_bins():
    assert list(bins(pytest.importorskip("numpy").array([0, 79]))[:3]) == [-0.5, 1.5, 3.5]


@pytest.mark.slow
def test_runs_of_comparisons_are_counted_and_stand_in_the_report(recorded, tmp_path):
    recorded.write_comparison(tmp_path / "c", {"baseline": [[0.4]], "random": [[0.5]]})
    recorded.write_log(tmp_path / "c" / "random-seed0", [{1: True, 2: False}] * 2)
    results = Results(tmp_path)
    assert set(results.table("chosen")["group"]) == {"c"}
    report = page.make(results)
    assert "Rows of the data that were never and always chosen" in report


def test_nothing_logged_and_a_damaged_log(recorded, tmp_path):
    run = recorded.write_run(tmp_path / "run", [0.5])
    with pytest.raises(Missing, match=r"no log of rows \(train with --log_rows true\)"):
        Results(tmp_path).table("chosen")
    path = recorded.write_log(run, [{1: True}])
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=rf"{path.name} cannot be read as the log of a run's rows"):
        Results(tmp_path).table("chosen")
