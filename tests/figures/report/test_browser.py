"""The page in a browser: Debian's Chromium, headless. Run with -m browser."""

import json
import re

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

from figures.report import page as report
from figures.results import Results

pytestmark = pytest.mark.browser

CONTRAST = """() => {
  const numbers = (colour) => {
    const found = colour.match(/[\\d.]+/g).map(Number);
    if (!colour.startsWith("rgb")) throw new Error("a colour that this test cannot read: " + colour);
    return found;
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour.slice(0, 3);
      if (colour[3] !== 0) throw new Error("a background that is half transparent: " + at.outerHTML.slice(0, 80));
    }
    return [255, 255, 255];
  };
  const worst = [];
  let count = 0;
  for (const element of document.body.querySelectorAll("*")) {
    if (element.closest("svg, script, style") || !element.getClientRects().length) continue;
    if (!Array.from(element.childNodes).some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    const a = light(numbers(getComputedStyle(element).color).slice(0, 3)), b = light(behind(element));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    count += 1;
    worst.push([ratio, element.tagName + "." + element.className + ": " + element.textContent.slice(0, 40)]);
  }
  worst.sort((x, y) => x[0] - y[0]);
  return { count, worst: worst.slice(0, 3), page: behind(document.body) };
}"""


@pytest.fixture(scope="module")
def checks(whole):
    return json.loads((whole / "theory" / "verify.json").read_text())["checks"]


def column(page, number):
    """What the visible rows of the table of checks hold in a column."""
    return page.evaluate(
        """(number) => Array.from(document.querySelectorAll("#checks tbody tr:not([hidden])"))
             .map((row) => row.cells[number].dataset.value ?? row.cells[number].textContent)""",
        number,
    )


def heading(page, name):
    return page.locator("#checks thead th", has_text=re.compile(rf"^{name}"))


def names(page):
    return page.evaluate(
        "() => Array.from(document.querySelectorAll('#checks tbody tr:not([hidden])')).map((row) => row.id)"
    )


def test_opens_without_a_word_of_complaint(visit, path):
    page = visit(path)
    assert page.title().endswith("report")
    page.mouse.wheel(0, 20_000)
    page.wait_for_timeout(100)
    assert page.locator(".bar a[aria-current]").count() == 1


def test_sorts_by_slack_and_by_statement(visit, path, checks):
    page = visit(path)
    button = heading(page, "slack").get_by_role("button")
    have = [float(check["slack"]) for check in checks if check["slack"] is not None]
    for word, wanted in (("ascending", sorted(have)), ("descending", sorted(have, reverse=True))):
        button.click()
        assert heading(page, "slack").get_attribute("aria-sort") == word
        found = column(page, 6)
        assert [float(value) for value in found[: len(have)]] == wanted
        # What has no slack is last in either direction.
        assert found[len(have) :] == [""] * (len(checks) - len(have))
    heading(page, "statement").get_by_role("button").click()
    assert heading(page, "slack").get_attribute("aria-sort") is None
    # The paper's order, which is the file's and not the alphabet's, and within a statement the file's.
    assert names(page) == [f"check-{check['name']}" for check in checks]
    heading(page, "claim").get_by_role("button").click()
    assert column(page, 2) == sorted(check["claim"] for check in checks)


def test_filters_by_text_status_and_route(visit, path, checks):
    page = visit(path)

    def says():
        shown = re.match(r"(?:All )?(\d+)", page.locator("#shown").text_content())
        assert page.locator("#checks tbody tr:visible").count() == int(shown[1])
        return int(shown[1])

    def count(text="", status=None, route=None):
        return sum(
            text.lower() in " ".join((c["statement"], c["claim"], c["witness"] or "", c["name"])).lower()
            and (status is None or c["status"] == status)
            and (route is None or c["route"] == route)
            for c in checks
        )

    assert says() == len(checks)
    text = page.get_by_label("Text")
    for wanted in ("lemma c.1", "AS PRINTED", "witness 3", "no such thing"):
        text.fill(wanted)
        assert says() == count(wanted)
    assert count("lemma c.1") not in (0, len(checks))
    text.fill("theorem")
    for status in ("consistent", "refuted", "assumption violated"):
        page.get_by_role("checkbox", name=status).uncheck()
    assert says() == count("theorem", "proved") > 0
    page.get_by_label("Route").select_option("exact")
    assert says() == count("theorem", "proved", "exact") > 0
    page.get_by_role("button", name="Reset").click()
    page.wait_for_timeout(50)
    assert says() == len(checks)
    page.locator(".tile.refuted").click()
    assert says() == count(status="refuted") > 0
    # A link to a row that is filtered out shows it.
    hidden = next(check for check in checks if check["status"] == "proved")
    page.evaluate("(name) => { location.hash = name; }", f"check-{hidden['name']}")
    page.wait_for_timeout(50)
    assert says() == len(checks)
    assert page.locator("#shown").get_attribute("aria-live") == "polite"


def test_works_by_keyboard(visit, path):
    page = visit(path)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('th')?.textContent") == "slack":
            break
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert heading(page, "slack").get_attribute("aria-sort") == "ascending"
    values = [float(value) for value in column(page, 6) if value]
    assert values == sorted(values)
    page.keyboard.press("Space")
    assert heading(page, "slack").get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_themes(visit, path, scheme):
    page = visit(path, color_scheme=scheme)
    button = page.get_by_role("button", name="Dark theme")
    assert button.get_attribute("aria-pressed") == str(scheme == "dark").lower()
    backgrounds = []
    for _ in range(2):
        page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        found = page.evaluate(CONTRAST)
        assert found["count"] > 500
        assert found["worst"][0][0] >= 4.5, found["worst"]
        backgrounds.append(sum(found["page"]))
        button.click()
    assert (backgrounds[0] > 600, backgrounds[1] > 600) == (scheme == "light", scheme == "dark")
    # Figures are drawn for white paper, which they keep.
    sheets = "Array.from(document.querySelectorAll('.sheet')).map((sheet) => getComputedStyle(sheet).backgroundColor)"
    assert set(page.evaluate(sheets)) == {"rgb(255, 255, 255)"}


def test_the_theme_is_remembered_where_files_may_remember(visit, path):
    page = visit(path, color_scheme="light")
    page.get_by_role("button", name="Dark theme").click()
    page.reload()
    assert page.get_by_role("button", name="Dark theme").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("width", [320, 360, 768])
def test_no_narrow_screen_scrolls_sideways(visit, path, width):
    page = visit(path, viewport={"width": width, "height": 700})
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_prints_all_and_no_buttons(visit, path, checks):
    page = visit(path, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.locator("#checks tbody tr:visible").count() == len(checks)
    for hidden in ("#filters", "#theme", ".bar", "#shown", ".skip"):
        assert not page.locator(hidden).is_visible(), hidden
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(CONTRAST)["worst"][0][0] >= 4.5
    # No table is cut off at the foot of what it scrolls in on a screen.
    assert page.evaluate("getComputedStyle(document.querySelector('#checks').parentElement).maxHeight") == "none"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("Array.from(document.querySelectorAll('details')).every((d) => d.open || d.closest('.runs'))")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
    assert len(page.pdf(format="A4")) > 10_000


def test_every_link_has_somewhere_to_go(visit, path):
    page = visit(path)
    assert page.evaluate("document.links.length") > 100
    lost = """() => Array.from(document.querySelectorAll("a[href], use"))
        .map((link) => link.getAttribute("href") || link.getAttribute("xlink:href"))
        .filter((href) => href[0] !== "#" || !document.getElementById(decodeURIComponent(href.slice(1))))"""
    assert page.evaluate(lost) == []


def test_can_be_read_without_a_script(visit, path, checks):
    page = visit(path, java_script_enabled=False)
    assert page.locator("#checks tbody tr:visible").count() == len(checks)
    assert not page.locator("#filters").is_visible()
    assert not page.locator("#theme").is_visible()
    assert page.get_by_role("button").count() == 0


def test_hostile_results_are_shown_and_do_not_run(visit, recorded, tools, tmp_path):
    name = tools.hostile_name
    tools.write_verify(tmp_path, [tools.check(0, claim=tools.hostile, statement=tools.hostile, name=tools.hostile)])
    recorded.write_comparison(tmp_path / name, {"baseline": [[0.1]], name: [[0.2]]}, data=tools.hostile)
    path = tmp_path / "report.html"
    path.write_text(report.make(Results(tmp_path)))
    page = visit(path)
    assert tools.hostile in page.locator("#checks .claim").text_content()
    assert page.locator("img").count() == 0
    page.locator("summary").first.click()
    assert tools.hostile in page.locator("dl.config").first.text_content()
    assert page.evaluate("window.ran") is None


def test_the_policy_stops_what_escaping_would_let_through(chromium, page_text, tmp_path):
    """A second line: were a script to get into the page, it would not run."""
    path = tmp_path / "report.html"
    path.write_text(
        page_text.replace("<footer>", "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'><footer>")
    )
    context = chromium.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.querySelectorAll('#checks th button').length") > 0
    context.close()
