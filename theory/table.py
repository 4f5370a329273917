"""How outcomes read in a terminal: a table grouped by statement, and a summary sentence."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from theory.statements import STATEMENTS
from theory.verdict import Check, Route, Status
from theory.verify import Outcome

_STYLE = {
    Status.PROVED: "green",
    Status.CONSISTENT: "cyan",
    Status.REFUTED: "yellow",
    Status.ASSUMPTION_VIOLATED: "magenta",
    Status.INCONCLUSIVE: "red",
}
_SHORT = {Status.ASSUMPTION_VIOLATED: "violated"}


def show(console: Console, outcomes: list[Outcome]) -> None:
    """The table: status, claim, figure, bound and slack, how it was checked, seconds. Witnesses stand under claims."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("status", no_wrap=True)
    table.add_column("claim", ratio=1, min_width=26, overflow="fold")
    for name in ("figure", "bound", "slack"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("how", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    for statement, group in groupby(outcomes, key=lambda outcome: outcome.check.statement):
        title = Text(statement, style="bold")
        # The heading takes a row of its own; its text may run on into the claim's column only.
        table.add_row("", Text.assemble(title, f"  {STATEMENTS[statement]}"), style="on default", end_section=False)
        for outcome in group:
            table.add_row(*_row(outcome))
    console.print(table)


def _row(outcome: Outcome) -> list[Text]:
    verdict, check = outcome.verdict, outcome.check
    status = Text(_SHORT.get(verdict.status, str(verdict.status)), style=_STYLE[verdict.status])
    claim = Text(check.claim)
    if not outcome.as_expected:
        status.stylize("bold reverse red")
        claim.append(f"\nEXPECTED {check.expected}", style="bold red")
    if verdict.witness is not None:
        claim.append(f"\n{verdict.witness}", style="dim")
    if verdict.detectable is not None:
        claim.append(f"\nwould have caught a violation of {verdict.detectable:.2g}", style="dim")
    return [
        status,
        claim,
        *(Text(_number(item)) for item in (verdict.value, verdict.bound, verdict.slack)),
        Text(str(check.route)),
        Text(f"{outcome.seconds:.2f}", style="dim"),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def show_summary(console: Console, outcomes: list[Outcome], *, alpha: float, seconds: float) -> None:
    """How many, in which time, with which error; then the sentences of the print that are wrong, and surprises."""
    counts = Counter(outcome.verdict.status for outcome in outcomes)
    parts = [f"{counts[status]} {status}" for status in Status if counts[status]]
    statements = len({outcome.check.statement for outcome in outcomes})
    console.print(
        f"\n{len(outcomes)} checks of {statements} statements in {seconds:.1f} s: {', '.join(parts)}.",
        style="bold",
        highlight=False,
    )
    if any(outcome.check.route is Route.MONTE_CARLO for outcome in outcomes):
        console.print(
            f"All Monte Carlo checks of a run together err with probability at most {alpha:g}.", highlight=False
        )
    wrong = [o for o in outcomes if o.check.expected is Status.REFUTED and o.as_expected]
    if wrong:
        names = list(dict.fromkeys(outcome.check.statement for outcome in wrong))
        console.print(
            f"{len(wrong)} sentences were shown to be false, as expected, with a witness each, in: {', '.join(names)}. "
            "The mended or sharper sentences are checks of their own.",
            highlight=False,
        )
    surprises = [outcome for outcome in outcomes if not outcome.as_expected]
    if surprises:
        console.print(f"{len(surprises)} outcomes are NOT as expected:", style="bold red", highlight=False)
        for o in surprises:
            console.print(
                f"  {o.check.name}: {o.verdict.status}, expected {o.check.expected}. {o.verdict.witness or ''}",
                style="red",
                highlight=False,
                markup=False,
            )
    else:
        console.print("Every status is the expected one.", style="bold green")


def show_list(console: Console, checks: list[Check]) -> None:
    """Statements and claims, without checking them."""
    for statement, group in groupby(checks, key=lambda check: check.statement):
        console.print(Text.assemble(Text(statement, style="bold"), f"  {STATEMENTS[statement]}"))
        for check in group:
            expected = "" if check.expected in (Status.PROVED, Status.CONSISTENT) else f", expected {check.expected}"
            console.print(Text(f"  {check.claim}  [{check.route}{expected}]"), soft_wrap=True)
    console.print(f"{len(checks)} checks of {len({check.statement for check in checks})} statements", style="bold")
