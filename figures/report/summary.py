"""What the results come to, in sentences that are computed from them; no gain is claimed that its interval denies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from figures.methods import in_order, look
from figures.report.markup import Html, counted, link, listed, tag
from figures.report.runs import Recorded, group_anchor
from figures.report.statements import check_anchor
from figures.verified import STATUSES, Verified

MOST_NAMED = 6
"""Of more methods only those with a clear difference are named."""
_OTHERS = (("over_baseline", "baseline", "the baseline"), ("over_random", "random", "random rows"))


def section(verified: Verified | None, summaries: pd.DataFrame | None, recorded: Recorded) -> Html:
    """The summary: the theory's, then each comparison's, then where all comes from."""
    parts: list[Any] = [tag("h2", "Summary", id="summary-title")]
    parts += theory(verified) if verified is not None else [tag("p", NO_THEORY)]
    parts.append(tag("h3", "What the recorded comparisons found"))
    parts += training(summaries, recorded)
    return tag("section", parts, id="summary", aria_labelledby="summary-title")


NO_THEORY = (
    "The statements were not checked here: there is no theory/verify.json. Run `gsgd verify`, then `gsgd report`."
)


def theory(verified: Verified) -> list[Any]:
    """How many checks came to what, whether as expected, and how many sentences of the print are wrong."""
    checks = verified.checks
    counts = Counter(check.status for check in checks)
    tiles = [
        tag(
            "li",
            link(
                "statements",
                tag("strong", f"{counts[status]}"),
                " ",
                status.replace("-", " "),
                data_filter_status=status,
                class_=f"tile {status}",
            ),
        )
        for status in STATUSES
        if counts[status]
    ]
    sentences: list[Any] = [
        link("statements", counted(len(checks), "check")),
        f" of {counted(len(verified.statements), 'statement')} of the paper, and of what goes beyond it. ",
    ]
    surprises = [check for check in checks if not check.as_expected]
    if surprises:
        told = [
            [
                link(check_anchor(check), f"{check.statement} ({check.name})"),
                f" is {check.status}, not {check.expected}",
            ]
            for check in surprises
        ]
        sentences.append(
            tag(
                "strong",
                f"{counted(len(surprises), 'outcome')} {'is' if len(surprises) == 1 else 'are'} NOT as expected: ",
                listed(told),
                ". ",
                class_="surprise",
            )
        )
    else:
        sentences.append("Every status is the expected one. ")
    wrong = [check for check in checks if check.wrong_in_print]
    if wrong:
        places = list(dict.fromkeys(check.statement for check in wrong))
        first = {check.statement: check for check in reversed(wrong)}
        sentences += [
            link("errata", counted(len(wrong), "sentence")),
            f" of the print {'is' if len(wrong) == 1 else 'are'} wrong as worded, each refuted with a witness: ",
            *listed([link(check_anchor(first[place]), place) for place in places]),
            ".",
        ]
    else:
        sentences.append("No sentence of the print was refuted.")
    return [tag("ul", tiles, class_="tiles"), tag("p", sentences)]


def training(summaries: pd.DataFrame | None, recorded: Recorded) -> list[Any]:
    """A paragraph a comparison: which methods end above or below baseline and random rows, with intervals."""
    if not recorded.groups:
        return [tag("p", "None is recorded. `gsgd compare` makes one, `gsgd train` a single run.")]
    found: list[Any] = []
    finished = [] if summaries is None else list(dict.fromkeys(summaries["group"]))
    if finished:
        found.append(
            tag(
                "p",
                "Differences of the final validation accuracy, in percentage points, paired by seed, with 95% "
                "intervals, each for itself: among many methods one in twenty would seem to differ by luck.",
                class_="note",
            )
        )
    for group in finished:
        assert summaries is not None
        found.append(_of_comparison(group, summaries[summaries["group"] == group], recorded))
    for group in recorded.comparisons:
        if group not in finished:
            found.append(_under_way(group, recorded))
    single = recorded.runs[~recorded.runs["group"].isin(list(recorded.comparisons))]
    if len(single):
        groups = [link(group_anchor(group), group) for group in dict.fromkeys(single["group"])]
        found.append(
            tag(
                "p",
                f"Beside them {counted(len(single), 'single run')}, which nothing is concluded from: ",
                *listed(groups),
                ".",
            )
        )
    return found


def _of_comparison(group: str, rows: pd.DataFrame, recorded: Recorded) -> Html:
    content = recorded.comparisons.get(group, {})
    most = int(rows["runs"].max())
    about = [f"budget {content['config']['budget']}"] if content else []
    about.append(f"up to {counted(most, 'seed')}" if rows["runs"].nunique() > 1 else counted(most, "seed"))
    items = [
        tag("li", against(rows, column, other, name, group, recorded))
        for column, other, name in _OTHERS
        if other in set(rows["method"])
    ]
    if not items:
        items = [tag("li", "It has neither a baseline nor random rows to compare with.")]
    diverged = [row for _, row in rows.iterrows() if row["diverged"]]
    for row in diverged:
        told = f" diverged in {row['diverged']} of {counted(row['runs'], 'run')}."
        items.append(tag("li", link(_target(group, row["method"], recorded), look(row["method"]).label), told))
    return tag("div", tag("p", link(group_anchor(group), group), f" ({', '.join(about)}):"), tag("ul", items))


def against(rows: pd.DataFrame, column: str, other: str, name: str, group: str, recorded: Recorded) -> list[Any]:
    """What one comparison says of its methods against one of them.

    Args:
        rows: of the table "summaries", of one comparison.
        column: "over_baseline" or "over_random".
        other: the method compared with, and `name`, what it is called.
    """
    by_method = rows.set_index("method")
    known = [
        method for method in in_order(by_method.index) if method != other and pd.notna(by_method.loc[method, column])
    ]
    half_widths = by_method[f"{column}_half_width"]
    alone = [method for method in known if pd.isna(half_widths[method])]
    judged = [method for method in known if method not in alone]
    # Only an interval that leaves zero out shows a difference.
    sure = [method for method in judged if abs(by_method.loc[method, column]) > half_widths[method]]

    def told(method: str) -> list[Any]:
        mean, half = 100 * by_method.loc[method, column], 100 * half_widths[method]
        interval = f"{mean:+.2f}" if pd.isna(half) else f"{mean:+.2f} ± {half:.2f}"
        return [look(method).label, " (", link(_target(group, method, recorded), interval), ")"]

    parts: list[Any] = []
    for sign, word in ((1, "above"), (-1, "below")):
        if side := [method for method in sure if sign * by_method.loc[method, column] > 0]:
            parts.append([*listed([told(method) for method in side[:MOST_NAMED]]), _rest(len(side) - MOST_NAMED)])
            parts[-1].append(f" {'ends' if len(side) == 1 else 'end'} {word} {name}")
    unsure = [method for method in judged if method not in sure]
    if unsure:
        verb = "shows" if len(unsure) == 1 else "show"
        if len(known) > MOST_NAMED:
            others = counted(len(unsure), "other method" if sure else "method")
            parts.append(f"{others} {verb} no difference from {name}")
        else:
            parts.append([*listed([told(method) for method in unsure]), f" {verb} no difference from {name}"])
    if alone:
        named = [told(method) for method in alone[:MOST_NAMED]]
        parts.append(
            [
                *listed(named),
                _rest(len(alone) - MOST_NAMED),
                f" against {name}: one seed, no interval, so nothing is shown",
            ]
        )
    if not parts:
        parts.append(f"no difference from {name} was recorded")
    return [_capital(parts[0]), *([["; ", part] for part in parts[1:]]), "."]


def _rest(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _capital(part: Any) -> Any:
    if isinstance(part, list):
        return [_capital(part[0]), *part[1:]] if part else part
    return part if isinstance(part, Html) else part[:1].upper() + part[1:]


def _under_way(group: str, recorded: Recorded) -> Html:
    content = recorded.comparisons[group]
    rows = recorded.runs[recorded.runs["group"] == group]
    done = int((rows["status"] == "finished").sum())
    planned = len(content["methods"]) * content["seeds"] if isinstance(content.get("seeds"), int) else len(rows)
    return tag(
        "p",
        link(group_anchor(group), group),
        f" is not finished: {done} of {counted(planned, 'run')} have ended, and nothing is concluded from them yet.",
    )


def _target(group: str, method: str, recorded: Recorded) -> str:
    return recorded.target(group, method) or group_anchor(group)
