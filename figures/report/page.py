"""The page: one file of HTML that asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

from figures import verified
from figures.checked import Missing
from figures.report import errata, gallery, runs, statements, summary
from figures.report.gallery import SECTIONS, Exhibit
from figures.report.markup import Html, link, tag
from figures.report.runs import Recorded
from figures.results import Results
from figures.verified import Verified

TITLE = "Greedy SGD with approximate losses"
SUBTITLE = "What holds, how tightly, and what selection buys"


def make(results: Results, progress: Callable[[int, int, str, float], None] = lambda *_: None) -> str:
    """The page of the results; the same results make the same page.

    Args:
        progress: called with (number, how many, name, seconds) as each figure or table is done.

    Raises:
        ValueError: if nothing was recorded, naming the commands that record; if what was is malformed, naming the
            file and the field.
    """
    try:
        checks: Verified | None = verified.read(results.theory)
    except Missing:
        checks = None
    try:
        summaries = results.table("summaries")
    except Missing:
        summaries = None
    recorded = runs.read(results)
    shown = gallery.exhibits(results, recorded, checks, progress)
    theory = any(e.markup is not None and any(n.startswith("theory/") for n in e.entry.needs) for e in shown)
    if checks is None and not theory and not recorded.groups:
        raise ValueError(
            f"{results.folder} has nothing to report: run `gsgd verify` for the theory, `gsgd train` or `gsgd compare` "
            "for the training, or name the folder that has their results with --results"
        )
    return _document(
        checks, recorded, [summary.section(checks, summaries, recorded), *_sections(checks, recorded, shown)]
    )


def _sections(checks: Verified | None, recorded: Recorded, shown: Sequence[Exhibit]) -> list[Html]:
    found: list[Html] = []
    if checks is not None:
        found += [statements.section(checks), errata.section(checks)]
    of_section = gallery.sections(shown)
    found += [gallery.section(name, heading, of_section[name]) for name, heading in SECTIONS]
    if recorded.groups:
        found.append(runs.section(recorded))
    return found


def _document(checks: Verified | None, recorded: Recorded, content: Sequence[Html]) -> str:
    style, script = _data("report.css"), _data("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    # Only this script may run, whatever else got into the page; figures and tables need styles of their own.
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{TITLE}: report"),
        # An empty icon: a browser would ask for one otherwise.
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        link("main", "Skip to the content", class_="skip"),
        tag("header", tag("h1", TITLE), tag("p", SUBTITLE, class_="subtitle"), _about(), _provenance(checks, recorded)),
        "\n",
        _contents(checks, recorded),
        "\n",
        tag("main", [(part, "\n") for part in content], id="main", tabindex="-1"),
        tag(
            "footer",
            tag(
                "p", "Made by ", tag("code", "gsgd report"), " from recorded results alone. ", link("top", "To the top")
            ),
        ),
        tag("script", Html(script)),
        id="top",
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _data(name: str) -> str:
    return resources.files("figures.report").joinpath(name).read_text(encoding="utf-8")


def _about() -> Html:
    return tag(
        "p",
        "Greedy SGD picks, from a handful of candidates, the sample whose approximate loss is largest, and steps along "
        "its gradient. This page says what checking the paper ",
        tag("cite", "Understanding the Training Speedup from Sampling with Approximate Losses"),
        " (Das, Chen, Ieong, Bansal, Sanghavi) found, statement by statement, and what training runs found. Numbers "
        "link to the check or the run that made them.",
    )


def _provenance(checks: Verified | None, recorded: Recorded) -> Html:
    entries: list[tuple[str, Any]] = []
    if checks is not None:
        header = checks.header
        versions = ", ".join(
            f"{name} {version}"
            for name, version in [("Python", header.get("python", "?")), *header["versions"].items()]
        )
        entries += [
            ("checked", f"{header['date']}, {header.get('command', 'gsgd verify')}; {recorded.origins['theory']}"),
            ("commit", tag("code", header["commit"] or "not recorded")),
            ("machine", header.get("machine")),
            ("versions", versions),
            ("seed, alpha", f"{header['seed']}, {header['alpha']:g}"),
        ]
    if recorded.groups:
        told = [*recorded.runs["header"], *recorded.comparisons.values()]
        dates = sorted({str(header["date"])[:10] for header in told if header.get("date")})
        devices = sorted({str(header["device"]) for header in told if header.get("device")})
        commits = sorted({str(header["commit"])[:12] for header in told if header.get("commit")})
        between = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "at dates not recorded"
        entries.append(("trained", [between, ", ", link("runs", "comparisons and runs")]))
        entries += [("on", "; ".join(devices))] if devices else []
        entries += [("at commits", tag("code", ", ".join(commits)))] if commits else []
    shown = [tag("div", tag("dt", name), tag("dd", value)) for name, value in entries if value]
    return tag("dl", shown, id="provenance", class_="told")


def _contents(checks: Verified | None, recorded: Recorded) -> Html:
    entries = [("summary", "Summary")]
    if checks is not None:
        entries += [("statements", "Statements"), ("errata", "Errata")]
    entries += [("buys", "Selection"), ("paper", "Paper's tables"), ("theory", "Theory")]
    entries += [("runs", "Runs")] if recorded.groups else []
    return tag(
        "div",
        tag("nav", tag("ul", [tag("li", link(target, name)) for target, name in entries]), aria_label="Contents"),
        tag("button", "Dark theme", type="button", id="theme", aria_pressed="false", hidden=True),
        class_="bar",
    )
