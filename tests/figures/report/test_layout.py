"""The page's layout in a browser, wide and narrow: nothing overflows, no texts overlap, no picture is too tall.

Run with -m browser.
"""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

from figures.report import page as report
from figures.results import Results

pytestmark = pytest.mark.browser

RECORDED = Path(__file__).parents[3] / "recorded"
LAYOUT = Path(__file__).with_name("layout.js").read_text(encoding="utf-8")
WIDTHS = (1280, 390)
TALLEST = 900
"""CSS pixels: about one and a half screens."""
SOUND = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>a page</title>
<link rel="icon" href="data:,">
<style>body { font: 16px/1.5 sans-serif; } .box { overflow-x: auto; }</style></head><body>
<p>One line of text, and <a href="#x">a link in it</a>, and some more.</p>
<div class="box"><p id="x" style="width: 3000px">What scrolls by itself.</p></div>
<svg width="100" height="890" aria-label="a picture"></svg>%s</body></html>"""
BROKEN = {
    "reaches from": '<div style="width: 1500px">a wide box</div>',
    "the page is": '<div style="width: 1500px">a wide box</div>',
    "overlap": '<div style="position: relative"><span style="position: absolute; top: 0">here</span>'
    '<span style="position: absolute; top: 8px">there</span></div>',
    "a picture of 1000: too tall": '<svg width="100" height="1000" aria-label="too tall"></svg>',
    "overlap (lines too close)": '<p style="line-height: 6px; width: 60px"><b>some words</b> <i>and more</i></p>',
}


@pytest.fixture(scope="module")
def recorded_page(tmp_path_factory):
    """The page of what the project recorded: many comparisons and ladders."""
    path = tmp_path_factory.mktemp("recorded") / "report.html"
    path.write_text(report.make(Results(RECORDED)))
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_the_checker_finds_nothing_wrong_with_a_sound_page(visit, tmp_path, width):
    path = tmp_path / "page.html"
    path.write_text(SOUND % "")
    found = visit(path, viewport={"width": width, "height": 800}).evaluate(LAYOUT, TALLEST)
    assert found["wrong"] == []
    assert found["lines"] >= 4


@pytest.mark.parametrize("what", BROKEN)
def test_the_checker_finds_what_is_broken_on_purpose(visit, tmp_path, what):
    path = tmp_path / "page.html"
    path.write_text(SOUND % BROKEN[what])
    found = visit(path, viewport={"width": 1280, "height": 800}).evaluate(LAYOUT, TALLEST)["wrong"]
    assert any(what.partition(" (")[0] in sentence for sentence in found), found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("folded", [True, False])
def test_every_part_of_the_page_has_its_place(visit, path, width, folded):
    page = visit(path, viewport={"width": width, "height": 800})
    check(page, folded)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("folded", [True, False])
def test_of_what_the_project_recorded_too(visit, recorded_page, width, folded):
    page = visit(recorded_page, viewport={"width": width, "height": 800})
    check(page, folded)


def check(page, folded):
    if not folded:
        page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    found = page.evaluate(LAYOUT, TALLEST)
    assert found["wrong"] == []
    assert found["lines"] > 300
