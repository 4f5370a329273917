"""The map: a cell a method and setting, its verdict by the interval, and settings in the order of their list."""

import itertools
import math
import tomllib

import pytest

from figures import style
from figures.checked import Missing
from figures.plots import map as pays
from figures.registry import ENTRIES
from figures.report import page
from figures.results import Results
from figures.write import encode

TIMES, TO = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


def drawn(folder):
    entry = ENTRIES["map"]
    with style.sheet():
        return entry.make(*entry.read(Results(folder)))


def words(figure):
    (ax,) = figure.axes
    return [text.get_text() for text in ax.texts]


def cells(figure):
    """Face colour -> number of cells, those of the legend among them."""
    found = {}
    for patch in figure.axes[0].patches:
        found[patch.get_facecolor()] = found.get(patch.get_facecolor(), 0) + 1
    return list(found.values())


def test_a_cell_has_its_factor_and_interval(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "fashion-mnist-mlp", {"loss@last": (1.4, 1.2, 1.6), "random": (0.7, 0.6, 0.9)})
    recorded.write_ladder(tmp_path / "mine", {"random": (1.05, 0.9, 1.25)})
    figure = drawn(tmp_path)
    found = words(figure)
    for text in (
        f"1.40{TIMES}",
        f"1.20 {TO} 1.60",
        f"0.70{TIMES}",
        f"0.60 {TO} 0.90",
        f"1.05{TIMES}",
        f"0.90 {TO} 1.25",
    ):
        assert found.count(text) == 1
    assert TO in found  # "mine" has no run of the last exit
    assert sorted(cells(figure)) == [2, 2, 2]  # one of each verdict, and the legend's three


def test_rows_are_named_and_say_why(recorded, tmp_path):
    for name in ("mine", "fashion-mnist-lenet", "fashion-mnist-mlp"):
        recorded.write_ladder(tmp_path / "ladders" / name, {"random": (1.1, 0.9, 1.3)})
    found = words(drawn(tmp_path))
    known = tomllib.loads(pays.SETTINGS.read_text(encoding="utf-8"))
    places = [found.index(name) for name in (known["fashion-mnist-mlp"]["name"], known["fashion-mnist-lenet"]["name"])]
    assert places == sorted(places)
    assert found.index("mine") > places[1]
    assert known["fashion-mnist-mlp"]["why"] in [text.replace("\n", " ") for text in found]


def test_the_title_counts_in_how_many_settings_a_method_pays(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "a", {"random": (1.4, 1.2, 1.6), "loss@last": (1.4, 1.2, 1.6)})
    recorded.write_ladder(tmp_path / "b", {"random": (1.4, 0.9, 1.6), "loss@last": (1.3, 1.1, 1.6)})
    title = words(drawn(tmp_path))[0].replace("\n", " ")
    assert title.endswith("tuned alike: loss at last exit in 2 of 2 settings, random rows in 1 of 2")


def test_where_nothing_pays_the_title_says_so(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "a", {"random": (0.9, 0.8, 1.0), "loss@last": (0.5, 0.4, 0.6)})
    assert "no method is shown to pay" in words(drawn(tmp_path))[0].replace("\n", " ")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1.01, math.inf, "PAYS"), (0, 0.99, "LOSES"), (1.0, 1.5, "UNDECIDED"), (0.5, 1.0, "UNDECIDED")],
)
def test_a_verdict_needs_an_interval_beyond_1(low, high, expected):
    assert pays.verdict(low, high) is getattr(pays, expected)


@pytest.mark.parametrize(
    ("claim", "shown"),
    [
        ((1.5, 1.2, math.inf, "above the ladder"), (f"≥1.50{TIMES}", "above 1.20")),
        ((0.6, 0.0, 0.9, "below the ladder"), (f"≤0.60{TIMES}", "below 0.90")),
        ((math.nan, 0.0, math.inf, "above the ladder and below the ladder"), ("?", "no bounds")),
        ((1.234, 1.1, 1.3, "on the ladder"), (f"1.23{TIMES}", f"1.10 {TO} 1.30")),
    ],
)
def test_bounds_where_the_ladder_ends(claim, shown):
    assert pays.texts(dict(zip(("factor", "low", "high", "place"), claim, strict=True))) == shown


def test_verdicts_differ_in_grey():
    """Luminances of the three fills lie far apart, and ink on each of them far from it."""

    def luminance(colour):
        from matplotlib.colors import to_rgb

        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    fills = sorted(luminance(each.fill) for each in (pays.PAYS, pays.LOSES, pays.UNDECIDED))
    assert all((b + 0.05) / (a + 0.05) > 1.8 for a, b in itertools.pairwise(fills))
    for each in (pays.PAYS, pays.LOSES, pays.UNDECIDED):
        light, dark = sorted((luminance(each.fill), luminance(each.ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG's contrast of text


def test_many_methods_make_it_wider(recorded, tmp_path):
    claimed = {f"loss@last:keep={share}": (1.1, 0.9, 1.3) for share in ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6")}
    recorded.write_ladder(tmp_path / "few", {"random": (1.1, 0.9, 1.3)})
    assert drawn(tmp_path).get_size_inches()[0] == style.DOUBLE_IN
    recorded.write_ladder(tmp_path / "many", claimed | {f"loss@{exit}": (1.1, 0.9, 1.3) for exit in range(1, 6)})
    assert drawn(tmp_path).get_size_inches()[0] > style.DOUBLE_IN


def test_nothing_is_cut_off(recorded, tmp_path):
    """All words lie within the figure, where it has its usual width, too."""
    recorded.write_ladder(tmp_path / "fashion-mnist-mlp", {"loss@last": (1.4, 1.2, 1.6), "importance": (1.7, 1.6, 1.9)})
    recorded.write_ladder(tmp_path / "wrong-labels", {"random": (0.7, 0.6, 0.9), "last-seen": (1.4, 1.2, 1.6)})
    entry = ENTRIES["map"]
    with style.sheet():
        figure = entry.make(*entry.read(Results(tmp_path)))
        figure.set_dpi(300)  # with fewer dots letters are as wide as whole ones of them
        encode(figure, "png")
        renderer = figure.canvas.get_renderer()
        whole = figure.bbox
        for text in figure.axes[0].texts:
            box = text.get_window_extent(renderer)
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text.get_text()
            assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text.get_text()


def test_without_claims_there_is_none(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "a", {"random": (1.1, 0.9, 1.3)})
    (tmp_path / "a" / "claims.csv").unlink()
    with pytest.raises(Missing, match="no claim of a ladder"):
        drawn(tmp_path)


def test_the_page_shows_it(recorded, tmp_path):
    recorded.write_ladder(tmp_path / "a", {"random": (1.1, 0.9, 1.3)})
    assert ENTRIES["map"].shows in page.make(Results(tmp_path))
