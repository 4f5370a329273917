"""The table of checks: one row a check, sorted and filtered in the browser, whole without a script, too."""

from __future__ import annotations

from collections import Counter
from typing import Any

from figures.report.markup import Html, anchor, counted, head_cell, link, number_cell, shown, table, tag
from figures.verified import STATUSES, Check, Verified

MEANING = {
    "proved": "closed form, exact enumeration, balls or a dual certificate leave no doubt about the claim as worded",
    "consistent": "samples, at a stated error probability, or a solver, to a stated tolerance, do not contradict it",
    "refuted": "false, with a witness that anyone can evaluate again",
    "assumption-violated": "a hypothesis is broken; expected of the controls, which show that a check can fail",
    "inconclusive": "neither, with the reason",
}
_SIGN = {"proved": "✓", "consistent": "≈", "refuted": "✗", "assumption-violated": "∅", "inconclusive": "?"}
_COLUMNS = (
    ("status", "number"),
    ("statement", "number"),
    ("claim", "text"),
    ("route", "text"),
    ("found", "number"),
    ("bound", "number"),
    ("slack", "number"),
    ("seconds", "number"),
)


def check_anchor(check: Check) -> str:
    """The id of a check's row."""
    return anchor("check", check.name)


def statement_anchor(statement: str) -> str:
    """The id of what is the first row of a statement before anything is sorted."""
    return anchor("statement", statement)


def badge(check: Check) -> Html:
    """A check's status, in a colour and with a sign."""
    return tag("span", _SIGN[check.status], " ", check.status.replace("-", " "), class_=f"badge {check.status}")


def section(verified: Verified) -> Html:
    """Legend, filters and table."""
    count = len(verified.checks)
    order = {statement: number for number, statement in enumerate(verified.statements)}
    seen: set[str] = set()
    rows = []
    for check in verified.checks:
        rows.append(_row(check, order[check.statement], first=check.statement not in seen))
        seen.add(check.statement)
    example = next((name for name in verified.statements if name.startswith("Theorem")), verified.statements[0])
    seed, alpha = verified.header["seed"], verified.header["alpha"]
    return tag(
        "section",
        tag("h2", "Statements", id="statements-title"),
        tag(
            "p",
            "One row a check, in the order of the paper. ",
            tag("em", "Found"),
            " is held against the ",
            tag("em", "bound"),
            "; the ",
            tag("em", "slack"),
            " between them is at least 0 where the claim held (for an equality: the tolerance less the difference). "
            f"Numbers in full are tooltips. All Monte Carlo checks together err with probability at most {alpha:g}. "
            "To run a statement again: ",
            tag("code", f'gsgd verify --only "{example}" --seed {seed}'),
            ".",
        ),
        _legend(verified),
        _filters(verified),
        tag("p", f"All {counted(count, 'check')} are shown.", id="shown", role="status", aria_live="polite"),
        table(
            "Table of checks",
            [head_cell(name, sort, class_="number" if name in _NUMBERS else None) for name, sort in _COLUMNS],
            rows,
            class_="sortable checks",
            id="checks",
        ),
        id="statements",
        aria_labelledby="statements-title",
    )


_NUMBERS = ("found", "bound", "slack", "seconds")


def _legend(verified: Verified) -> Html:
    counts = Counter(check.status for check in verified.checks)
    entries: list[Any] = []
    for status in STATUSES:
        words = tag("span", _SIGN[status], " ", status.replace("-", " "), class_=f"badge {status}")
        entries += [tag("dt", words, " ", tag("span", f"{counts[status]}", class_="count")), tag("dd", MEANING[status])]
    return tag("dl", entries, class_="legend")


def _filters(verified: Verified) -> Html:
    """Shown by the script, which they are nothing without."""
    present = [status for status in STATUSES if any(check.status == status for check in verified.checks)]
    routes = sorted({check.route for check in verified.checks})
    boxes = [
        tag(
            "label",
            tag("input", type="checkbox", name="status", value=status, checked=True),
            " ",
            status.replace("-", " "),
        )
        for status in present
    ]
    options = [tag("option", "all routes", value=""), *(tag("option", route, value=route) for route in routes)]
    return tag(
        "form",
        tag(
            "label",
            "Text ",
            tag("input", type="search", id="filter-text", autocomplete="off", placeholder="Theorem 5.7, erfc, …"),
        ),
        tag("fieldset", tag("legend", "Status"), boxes),
        tag("label", "Route ", tag("select", options, id="filter-route")),
        tag("button", "Reset", type="reset"),
        id="filters",
        class_="toolbar",
        role="search",
        aria_label="Filter the checks",
        hidden=True,
    )


def _row(check: Check, place: int, *, first: bool) -> Html:
    more: list[Any] = []
    if not check.as_expected:
        more.append(tag("div", f"EXPECTED: {check.expected.replace('-', ' ')}", class_="surprise"))
    if check.witness is not None:
        more.append(tag("div", check.witness, class_="witness"))
    if check.detectable is not None:
        more.append(tag("div", f"would have caught a violation of {shown(check.detectable, 2)}", class_="note"))
    more.append(tag("div", tag("code", check.name), class_="note"))
    rank = STATUSES.index(check.status) if check.as_expected else -1
    return tag(
        "tr",
        tag("td", badge(check), data_value=rank),
        tag(
            "th",
            link(check_anchor(check), check.statement),
            scope="row",
            id=statement_anchor(check.statement) if first else None,
            data_value=place,
        ),
        tag("td", tag("div", check.claim), more, class_="claim", data_value=check.claim),
        tag("td", check.route, class_="route"),
        number_cell(check.value),
        number_cell(check.bound),
        number_cell(check.slack, 3),
        number_cell(check.seconds, decimals=2),
        id=check_anchor(check),
        data_status=check.status,
        data_route=check.route,
    )
