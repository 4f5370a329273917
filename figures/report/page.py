"""The page: one file of HTML that asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from figures import verified
from figures.checked import Missing
from figures.report import exhibits, runs, summary, words
from figures.results import Results
from figures.verified import STATUSES

MEANING = {
    "proved": "closed form, exact enumeration, balls or a dual certificate leave no doubt, as far as the scope goes",
    "consistent": "samples, at a stated error probability, or numerical methods, to a tolerance, do not contradict it",
    "refuted": "false, with a witness that anyone can evaluate again",
    "assumption-violated": "a hypothesis is broken; expected of the controls, which show that a check can fail",
    "inconclusive": "neither, with the reason",
}
REACH = {
    "everywhere": "everywhere, over the whole range that the claim names",
    "instances": "at the listed points or problems",
    "samples": "at random samples",
}
SIGN = {"proved": "✓", "consistent": "≈", "refuted": "✗", "assumption-violated": "∅", "inconclusive": "?"}


def make(results: Results, progress: Callable[[int, int, str, float], None] = lambda *_: None, *, jobs: int = 1) -> str:
    """The page of the results; the same results make the same page.

    Args:
        progress, jobs: as of `exhibits.make`.

    Raises:
        ValueError: if there are no results, naming the commands that write them; if they are malformed, naming the
            file and the field.
    """
    checks = _if_any(lambda: verified.read(results.theory))
    summaries = _if_any(lambda: results.table("summaries"))
    training = runs.read(results)
    found = exhibits.make(results, training, progress, jobs=jobs)
    if checks is None and not training.groups and not any(each.pictures for each in found):
        raise ValueError(
            f"{results.folder} has nothing to report: run `gsgd verify` for the theory, `gsgd train` or `gsgd compare` "
            "for the training, or name the folder that has their results with --results"
        )
    return (
        environment()
        .get_template("page.html")
        .render(
            verified=checks,
            training=training,
            compared=summary.read(summaries, training),
            exhibits=found,
        )
    )


def environment() -> jinja2.Environment:
    """The templates of this folder with their filters and constants; all text is escaped."""
    here = Path(__file__).parent
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    found.filters.update({name: getattr(words, name) for name in words.FILTERS})
    found.tests["startswith"] = str.startswith
    found.globals.update(
        DASH=words.DASH,
        HEADER_ENTRIES=runs.HEADER_ENTRIES,
        MEANING=MEANING,
        MOST_NAMED=summary.MOST_NAMED,
        SIGN=SIGN,
        STATUSES=STATUSES,
        REACH=REACH,
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        style=Markup(style),
    )
    return found


def _if_any(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Missing:
        return None
