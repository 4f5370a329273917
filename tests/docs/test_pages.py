"""What README and the pages say, against what it is about: links, counts of checks, the set-up commands."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from gsgd import __version__

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    ROOT / "recorded" / "README.md",
    *(path for path in sorted(ROOT.glob("docs/**/*.md")) if "statements" not in path.parts),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
MADE = {ROOT / "docs" / "theory" / "statements" / "index.md", ROOT / "docs" / "reference" / "commands.md"}
"""Pages that are there when the site is built."""


def name(page):
    return page.relative_to(ROOT).as_posix()


def anchors(page):
    """What GitHub and MyST call the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_inside_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there in MADE or there.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(there), f"{name(page)} links to {target}"


def test_the_version_is_the_same_everywhere():
    """Python's, the citation's, and the changelog's first heading, whose date is the citation's."""
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    version, date = (re.search(rf"^{key}: (.+)$", citation, re.M)[1] for key in ("version", "date-released"))
    assert version == __version__ == "0.2.0"
    first = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[1]
    assert first == f"{version} ({date})"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_readmes_first_commands_are_those_that_ci_runs():
    first, second = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)[:2]
    assert first.endswith("&& gsgd reproduce\n")
    assert second.endswith("&& pytest -n 2\n")


@pytest.mark.parametrize("page", ["README.md", "docs/theory/verify.md"])
def test_counts_of_checks_are_those_recorded(page):
    checks = json.loads((ROOT / "recorded" / "theory" / "verify.json").read_text(encoding="utf-8"))["checks"]
    holding = Counter(check["scope"] for check in checks if check["status"] in ("proved", "consistent"))
    wrong = sum(check["status"] == "refuted" and check["claim"].startswith("as printed") for check in checks)
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert f"{len(checks)} checks of {len({check['statement'] for check in checks})} statements" in text
    assert f"{wrong} sentences of the paper" in text
    assert re.search(rf"Of the {holding.total()} (checks )?that hold {holding['everywhere']} do everywhere", text)
    assert f"{holding['instances']} at the listed points" in text
    assert f"{holding['samples']} at random samples" in text
    assert f"{len({check['route'] for check in checks})} routes".replace("7", "seven") in text
