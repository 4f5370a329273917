"""The page: what it says of recorded results, read from its HTML alone."""

import itertools
import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

from figures.registry import ENTRIES
from figures.report import page
from figures.results import Results


@pytest.fixture(scope="module")
def root(page_text, tools):
    return tools.read_page(page_text)


@pytest.fixture(scope="module")
def checks(whole):
    return json.loads((whole / "theory" / "verify.json").read_text())["checks"]


def rows(root):
    return [row for row in root.id("checks").all("tr") if row.get("data-status")]


def test_a_row_a_check_with_its_values_in_full(root, checks):
    found = rows(root)
    assert [row["data-status"] for row in found] == [check["status"] for check in checks]
    for row, check in zip(found, checks, strict=True):
        heading, cells = row.all("th")[0], row.all("td")
        assert heading.text == check["statement"]
        assert check["claim"] in cells[1].text
        assert check["name"] in cells[1].text
        assert (check["witness"] or "") in cells[1].text
        assert cells[2].text == f"{check['route']} {check['scope']}"
        for cell, name in zip(cells[3:], ("value", "bound", "slack", "seconds"), strict=True):
            value = check[name]
            assert cell["data-value"] == ("" if value is None else repr(float(value)))
            assert (cell.text == "—") == (value is None)
    assert found[2].all("td")[5].text == "∞"
    assert found[1].all("td")[3].text == "1.333"


def test_the_summary_counts_what_was_found(root, checks):
    summary = root.id("summary")
    tiles = {tile["data-filter-status"]: tile.all("strong")[0].text for tile in summary.all("a", "tile")}
    statuses = [check["status"] for check in checks]
    assert tiles == {status: str(statuses.count(status)) for status in set(statuses)}
    wrong = sum(check["claim"].startswith("as printed") for check in checks)
    assert wrong == 2
    assert f"{len(checks)} checks of 6 statements" in summary.text
    assert "Every status is the expected one." in summary.text
    assert f"{wrong} sentences of the print are wrong as worded" in summary.text
    provenance = root.id("provenance").text
    for told in ("2025-03-04T05:06:07", "0123456789abcdef", "a machine", "gsgd 9.8.7", "3, 1e-05", "X9", "2025-02-03"):
        assert told in provenance


def test_what_is_not_as_expected_is_said_first(tools, tmp_path):
    surprise = tools.check(0, status="refuted", expected="proved", witness="so there")
    tools.write_verify(tmp_path, [surprise, tools.check(1)])
    root = tools.read_page(page.make(Results(tmp_path)))
    said = root.id("summary").text
    assert "1 outcome is NOT as expected: Theorem 5.7 (subject.check_0) is refuted, not proved" in said
    assert "Every status" not in said
    assert "EXPECTED: proved" in rows(root)[0].text
    # Neither a sentence of the print nor refuted on purpose.
    assert "so there" not in root.id("errata").text


def test_errata_with_witness_beside_what_holds(root, checks):
    table = root.id("errata").all("table")[0]
    wrong = [check for check in checks if check["claim"].startswith("as printed")]
    found = [row for row in table.all("tr") if row.all("td")]
    assert len(found) == len(wrong)
    for row, check in zip(found, wrong, strict=True):
        assert check["claim"] in row.text
        assert check["witness"] in row.text
        holding = [
            c for c in checks if c["statement"] == check["statement"] and c["status"] in ("proved", "consistent")
        ]
        assert holding
        mends = row.all("td")[-1]
        assert {link["href"] for link in mends.all("a")} == {f"#check-{c['name']}" for c in holding}


def test_every_entry_is_there_or_listed_with_the_reason(root, tools, tmp_path):
    for name, entry in ENTRIES.items():
        shown = root.id(f"exhibit-{name}")
        assert shown.name == "figure", name
        assert len(shown.all("svg")) == (1 if entry.kind == "figure" else 0)
        assert shown.all("table") or shown.all("svg")
        assert shown.all("figcaption")
        assert entry.shows in shown.text
    tools.write_verify(tmp_path)
    bare = tools.read_page(page.make(Results(tmp_path)))
    missing = {node["id"]: node.text for node in bare.all("li") if (node.get("id") or "").startswith("exhibit-")}
    # Tables beside the paper's are shown without ours, too.
    assert set(missing) == {f"exhibit-{entry.name}" for entry in ENTRIES.values() if entry.needs}
    assert "gsgd compare" in missing["exhibit-figure_1"]
    assert "noise.csv (gsgd verify writes it)" in missing["exhibit-noise"]


def test_the_page_opens_with_pictures_of_what_was_found(root, recorded, tools, tmp_path):
    sections = [node.get("id") for node in root.all("section")]
    assert sections[:2] == ["glance", "summary"]
    opening = [node["id"] for node in root.id("glance").all("figure")]
    assert opening == ["exhibit-map", "exhibit-forecasts", "exhibit-worst_case"]
    # What cannot be drawn gives way to what can.
    recorded.write_theory(tmp_path)
    (tmp_path / "theory" / "worst_case.csv").unlink()
    other = tools.read_page(page.make(Results(tmp_path)))
    assert [node["id"] for node in other.id("glance").all("figure")] == ["exhibit-trajectories"]
    recorded.write_run(tmp_path / "b" / "r", [0.5])
    bare = tools.read_page(page.make(Results(tmp_path / "b")))
    assert "glance" not in [node.get("id") for node in bare.all("section")]


def test_the_summary_has_its_comparisons_as_pictures_with_their_tables_folded(root):
    summary = root.id("summary")
    assert [node["id"] for node in summary.all("figure")] == [
        "exhibit-differences",
        "exhibit-differences_to_random",
        "exhibit-comparisons",
    ]
    (folded,) = (node for node in summary.all("details") if node.all("figure"))
    assert "open" not in folded.attributes
    assert [node["id"] for node in folded.all("figure")] == ["exhibit-comparisons"]
    # A comparison's own heading has its budget and seeds.
    assert folded.all("h4")[0].text == "tiny-5s , budget 5s, 2 seeds, target accuracy 45.00%"


@pytest.mark.slow
def test_figures_of_many_comparisons_are_several_pictures(recorded, tools, tmp_path):
    for number in range(3):
        curves = {"baseline": [[0.2, 0.4]], **{f"loss@1:keep=0.{i}": [[0.2, 0.3]] for i in range(1, 10)}}
        recorded.write_comparison(tmp_path / f"c{number}", curves)
    root = tools.read_page(page.make(Results(tmp_path)))
    pictures = root.id("exhibit-differences").all("svg")
    assert len(pictures) > 1
    wanted = [f"to the baseline ({number} of {len(pictures)})" for number in range(1, len(pictures) + 1)]
    assert [
        picture["aria-label"].removeprefix("Against plain training: differences ") for picture in pictures
    ] == wanted
    # At 96 pixels an inch of 72 points.
    assert all(float(picture["height"].removesuffix("pt")) * 96 / 72 <= 900 for picture in pictures)
    ids = [node.get("id") for node in root.walk() if node.get("id")]
    assert len(ids) == len(set(ids))


def test_without_checks_the_summary_says_what_to_run(tools, recorded, tmp_path):
    recorded.write_run(tmp_path / "one", [])
    assert "Run `gsgd verify`" in tools.read_page(page.make(Results(tmp_path))).id("summary").text


def test_links_resolve_and_ids_are_unique(root):
    ids = [node.get("id") for node in root.walk() if node.get("id")]
    assert len(ids) == len(set(ids))
    links = [node["href"] for node in root.all("a")]
    assert len(links) > 100
    assert {href[0] for href in links} == {"#"}
    assert {href[1:] for href in links} <= set(ids)
    for name in ("aria-labelledby", "aria-describedby"):
        assert {node.get(name) for node in root.walk() if node.get(name)} <= set(ids)


def test_numbers_of_the_training_link_to_their_runs(root):
    table = root.id("exhibit-comparisons").all("table")[0]
    row = next(row for row in table.all("tr") if row.text.startswith("loss at exit 1 "))
    target = row.all("th")[0].all("a")[0]["href"][1:]
    run = root.id(target)
    assert run.name == "tr"
    assert run.text.startswith("loss@1-seed0")
    assert all(cell.all("a") for cell in row.all("td") if cell.text != "—")
    # What made the run stands with it.
    assert "gsgd compare tiny" in run.text
    assert "fedcba" in run.text
    assert "0.7000" in run.text
    other = next(row for row in table.all("tr") if "keep 0.7" in row.text)
    assert "loss@1-keep=0.7-seed0" in root.id(other.all("th")[0].all("a")[0]["href"][1:]).text


def test_single_runs_have_a_place_of_their_own(root):
    run = next(row for row in root.id("runs").all("tr") if row.text.startswith("alone "))
    assert root.id("group-solo").text.startswith("solo")
    assert "20" in [cell.text for cell in run.all("td")]
    assert "1 single run" in root.id("summary").text


def test_structure(root, page_text):
    assert page_text.startswith("<!DOCTYPE html>")
    assert root.all("html")[0]["lang"] == "en"
    for landmark in ("header", "main", "nav", "footer"):
        assert len(root.all(landmark)) == 1
    levels = [int(node.name[1]) for node in root.walk() if re.fullmatch(r"h[1-6]", node.name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert root.all("body")[0].all("a")[0]["href"] == "#main"
    assert all(cell.get("scope") in ("col", "row") for cell in root.all("th"))
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in root.all("svg"))
    # Nothing that is useless without a script is shown without one.
    assert all(
        node.get("hidden") is None or node.name in ("form", "button")
        for node in root.walk()
        if "hidden" in node.attributes
    )
    buttons = [node for node in root.all("button") if node.get("id") == "theme"]
    assert "hidden" in buttons[0].attributes
    assert "hidden" in root.id("filters").attributes


def test_nothing_is_fetched_and_one_script_may_run(root, page_text):
    policy = next(node["content"] for node in root.all("meta") if node.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "img-src data:" in policy
    assert len(root.all("script")) == 1
    for node in root.walk():
        assert not {"src", "srcset", "action", "poster"} & set(node.attributes), node.name
        assert not [name for name in node.attributes if name.startswith("on")], node.name
        assert (node.get("href") or "#")[0] == "#" or node.name == "link"
        assert (node.get("xlink:href") or "#")[0] == "#"
    assert [node["href"] for node in root.all("link")] == ["data:,"]
    assert "@import" not in page_text
    assert set(re.findall(r"url\((.)", page_text)) <= {"#"}


def test_hostile_results_stay_text(recorded, tools, tmp_path):
    # A statement, a claim, a method, a configuration's value, a folder: whatever a name may hold.
    text, name = tools.hostile, tools.hostile_name
    hostile = [
        tools.check(i, name=f"{text}{i}", statement=text, claim=f"as printed: {text}", witness=text) for i in (0, 3)
    ]
    tools.write_verify(tmp_path, hostile, command=text, commit=text)
    recorded.write_comparison(tmp_path / name, {"baseline": [[0.1]], name: [[0.2]]}, data=text, header={"device": text})
    made = page.make(Results(tmp_path))
    root = tools.read_page(made)
    assert not root.all("img")
    assert len(root.all("script")) == 1
    assert tools.hostile in root.id("checks").all("th")[-1].all("a")[0].children
    assert root.id("runs").all("h3")[0].children[0].strip() == name
    assert not [node for node in root.walk() if "onerror" in node.attributes]
    assert "<img" not in made
    assert "<script>window" not in made
    assert {node["href"][1:] for node in root.all("a")} <= {node.get("id") for node in root.walk()}


@pytest.mark.slow
def test_the_same_results_make_the_same_bytes(recorded, tools, tmp_path):
    """In another process and folder, other hashes of strings: nothing of the clock, of sets' order, of the place."""
    tools.write_verify(tmp_path / "results")
    recorded.write_run(tmp_path / "results" / "one", [0.2, 0.4], "loss@1:keep=0.7")
    here = page.make(Results(tmp_path / "results")).encode()
    (tmp_path / "results").rename(tmp_path / "moved")
    command = [sys.executable, "-m", "gsgd", "report", "--results", str(tmp_path / "moved"), "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "XX7"}
    subprocess.run(command, check=True, env=environment, timeout=120, capture_output=True)
    assert (tmp_path / "report.html").read_bytes() == here


def test_only_checks_or_only_runs(recorded, tools, tmp_path):
    tools.write_verify(tmp_path / "checks")
    root = tools.read_page(page.make(Results(tmp_path / "checks")))
    assert root.id("runs") is None
    assert "None is recorded" in root.id("summary").text
    recorded.write_run(tmp_path / "runs" / "one", [0.1, 0.2])
    root = tools.read_page(page.make(Results(tmp_path / "runs")))
    assert root.id("statements") is None
    assert root.id("runs") is not None
    assert not [link for link in root.all("a") if link["href"] in ("#statements", "#errata")]
