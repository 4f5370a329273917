"""The paper's sentences that are wrong: each with its witness, beside what holds of the same statement."""

from __future__ import annotations

from typing import Any

from figures.report.markup import Html, counted, head_cell, link, quiet, shown, table, tag
from figures.report.statements import badge, check_anchor
from figures.verified import Check, Verified

SHOWN_MENDS = 3
"""More of what holds are behind a fold."""


def section(verified: Verified) -> Html:
    """Sentences of the print that are refuted, then what else is refuted as it should be."""
    wrong = [check for check in verified.checks if check.wrong_in_print]
    others = [
        check
        for check in verified.checks
        if check.status == "refuted" and check.as_expected and not check.wrong_in_print
    ]
    parts: list[Any] = [tag("h2", "Errata of the paper", id="errata-title")]
    if wrong:
        parts += [
            tag(
                "p",
                f"{counted(len(wrong), 'sentence')} of the print {'is' if len(wrong) == 1 else 'are'} wrong as worded. "
                "Each is a check that must come out as refuted, with a witness; what holds of the same statement "
                "is checked beside it.",
            ),
            table(
                "Sentences of the print that are wrong",
                [
                    _column(name)
                    for name in ("statement", "as printed, and the witness", "found", "bound", "what holds")
                ],
                _by_statement(wrong, verified),
                class_="errata",
            ),
        ]
    else:
        parts.append(tag("p", "No check refuted a sentence of the print."))
    if others:
        parts += [
            tag("h3", "Refuted, too, but not printed"),
            tag("p", "How far what holds may be pushed: claims that nobody printed, and that are false."),
            table(
                "Further refuted claims",
                [_column(name) for name in ("statement", "claim, and the witness", "found", "bound")],
                [tag("tr", _heading(check), _claim(check)) for check in others],
                class_="errata",
            ),
        ]
    return tag("section", parts, id="errata", aria_labelledby="errata-title")


def _by_statement(wrong: list[Check], verified: Verified) -> list[Html]:
    """One row a sentence; sentences of one statement share what holds instead."""
    rows = []
    for statement in dict.fromkeys(check.statement for check in wrong):
        checks = [check for check in wrong if check.statement == statement]
        holds = tag("td", _mended(_mends(statement, verified)), class_="claim", rowspan=len(checks))
        for number, check in enumerate(checks):
            rows.append(tag("tr", _heading(check), _claim(check), None if number else holds))
    return rows


def _column(name: str) -> Html:
    return head_cell(name, class_="number" if name in ("found", "bound") else None)


def _mends(statement: str, verified: Verified) -> list[Check]:
    """What holds of a statement; first what says of itself that it mends the print."""
    holding = [
        check
        for check in verified.checks
        if check.statement == statement and check.status in ("proved", "consistent") and check.as_expected
    ]
    return sorted(holding, key=lambda check: not check.claim.startswith(("mended", "corrected")))


def _heading(check: Check) -> Html:
    return tag("th", link(check_anchor(check), check.statement), scope="row")


def _claim(check: Check) -> list[Html]:
    target = check_anchor(check)
    values = (("found", check.value), ("bound", check.bound))
    return [
        tag("td", tag("div", check.claim), tag("div", check.witness, class_="witness"), class_="claim"),
        *(
            # The label is shown where a narrow screen has no columns.
            tag("td", quiet(target, shown(value)), class_="number", data_label=name, title=_full(value))
            for name, value in values
        ),
    ]


def _full(value: float | None) -> str | None:
    return None if value is None else repr(value)


def _mended(mends: list[Check]) -> Any:
    if not mends:
        return "nothing that could be checked"
    items = [tag("li", badge(mend), " ", link(check_anchor(mend), mend.claim)) for mend in mends]
    few, more = items[:SHOWN_MENDS], items[SHOWN_MENDS:]
    found: list[Any] = [tag("ul", few)]
    if more:
        found.append(tag("details", tag("summary", f"{len(more)} more"), tag("ul", more)))
    return found
