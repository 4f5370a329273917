"""How outcomes read in a terminal: grouped by statement, then a summary; a table where it fits, else two lines each."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from theory.statements import STATEMENTS
from theory.verdict import Check, Route, Scope, Status
from theory.verify import Outcome

TABLE_WIDTH = 120
"""Columns below which claims would be squeezed into a ribbon; then figures go under the claim."""

_STYLE = {
    Status.PROVED: "green",
    Status.CONSISTENT: "cyan",
    Status.REFUTED: "yellow",
    Status.ASSUMPTION_VIOLATED: "magenta",
    Status.INCONCLUSIVE: "red",
}
_REACH = {
    Scope.EVERYWHERE: "everywhere, over the whole range that the claim names",
    Scope.INSTANCES: "at the listed points or problems",
    Scope.SAMPLES: "at random samples",
}
_SHORT = {Status.ASSUMPTION_VIOLATED: "violated"}
_STATUS_WIDTH = 12


def show(console: Console, outcomes: list[Outcome]) -> None:
    """Status, claim, figure, bound, slack, how and where it was checked, seconds; the witness is under the claim."""
    row = _table_row if console.width >= TABLE_WIDTH else _stacked_rows
    if console.width >= TABLE_WIDTH:
        console.print(_grid("status", "claim", "figure", "bound", "slack", "how, where", "seconds", style="bold dim"))
    for statement, group in groupby(outcomes, key=lambda outcome: outcome.check.statement):
        console.print()
        console.print(Text.assemble(Text(statement, style="bold"), f"  {STATEMENTS[statement]}"))
        for outcome in group:
            console.print(row(outcome))


def _grid(*cells: Text | str, style: str = "") -> Table:
    # One grid a row, all of the same fixed widths: headings may then run over the whole line.
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=_STATUS_WIDTH)
    grid.add_column(ratio=1)
    for _ in range(3):
        grid.add_column(width=10, justify="right")
    grid.add_column(width=11)
    grid.add_column(width=7, justify="right")
    grid.add_row(*cells, style=style)
    return grid


def _table_row(outcome: Outcome) -> Table:
    verdict = outcome.verdict
    figures = (_number(item) for item in (verdict.value, verdict.bound, verdict.slack))
    seconds = f"{outcome.seconds:.2f}"
    how = f"{outcome.check.route}\n{outcome.check.scope}"
    return _grid(_status(outcome), _claim(outcome), *figures, how, seconds)


def _stacked_rows(outcome: Outcome) -> Table:
    verdict = outcome.verdict
    named = {"figure": verdict.value, "bound": verdict.bound, "slack": verdict.slack}
    figures = [f"{name} {_number(value)}" for name, value in named.items() if value is not None]
    claim = _claim(outcome)
    how = [str(outcome.check.route), str(outcome.check.scope), f"{outcome.seconds:.2f} s"]
    claim.append("\n" + ", ".join([*figures, *how]), style="dim")
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=_STATUS_WIDTH)
    grid.add_column(ratio=1)
    grid.add_row(_status(outcome), claim)
    return grid


def _status(outcome: Outcome) -> Text:
    status = outcome.verdict.status
    style = _STYLE[status] if outcome.as_expected else "bold reverse red"
    return Text(_SHORT.get(status, str(status)), style=style)


def _claim(outcome: Outcome) -> Text:
    claim = Text(outcome.check.claim)
    if not outcome.as_expected:
        claim.append(f"\nEXPECTED: {outcome.check.expected}", style="bold red")
    if outcome.verdict.witness is not None:
        claim.append(f"\n{outcome.verdict.witness}", style="dim")
    detectable = outcome.verdict.detectable
    if detectable is not None and outcome.check.scope is Scope.SAMPLES:
        claim.append(f"\nwould have caught a violation of {detectable:.2g}", style="dim")
    elif detectable is not None and 0 < detectable < 1:
        claim.append(f"\nwould have caught a bound tighter by {detectable:.2%}", style="dim")
    return claim


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def show_summary(console: Console, outcomes: list[Outcome], *, alpha: float, seconds: float) -> None:
    """Counts by status and by route, the error probability, the sentences of the print that are wrong, surprises."""
    console.print()
    # Routes go down and statuses across: of these there are fewer, and their names fit side by side into 80 columns.
    counts = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_footer=True)
    by_both = Counter((outcome.check.route, outcome.verdict.status) for outcome in outcomes)
    by_status = Counter(outcome.verdict.status for outcome in outcomes)
    by_route = Counter(outcome.check.route for outcome in outcomes)
    routes = [route for route in Route if by_route[route]]
    statuses = [status for status in Status if by_status[status]]
    counts.add_column("", footer="all")
    for status in statuses:
        name = Text(_SHORT.get(status, str(status)), style=_STYLE[status])
        counts.add_column(name, justify="right", footer=str(by_status[status]))
    counts.add_column("all", justify="right", footer=str(len(outcomes)))
    for route in routes:
        cells = (str(by_both[route, status] or "") for status in statuses)
        counts.add_row(str(route), *cells, str(by_route[route]))
    console.print(counts)
    statements = len({outcome.check.statement for outcome in outcomes})
    sentences = [f"{_count(len(outcomes), 'check')} of {_count(statements, 'statement')} took {seconds:.1f} s."]
    holding = Counter(o.check.scope for o in outcomes if o.verdict.status in (Status.PROVED, Status.CONSISTENT))
    if holding:
        said = ", ".join(f"{holding[scope]} {words}" for scope, words in _REACH.items() if holding[scope])
        sentences.append(f"Of what holds, {said}.")
    if Route.MONTE_CARLO in routes:
        sentences.append(f"All Monte Carlo checks of a run together err with probability at most {alpha:g}.")
    wrong = [o for o in outcomes if o.as_expected and o.check.claim.startswith("as printed")]
    if wrong:
        names = ", ".join(dict.fromkeys(outcome.check.statement for outcome in wrong))
        sentences.append(
            f"Refuted as expected, with a witness each: {_count(len(wrong), 'sentence')} of the print ({names}). "
            "What holds instead is a check of its own."
        )
    console.print(Padding(" ".join(sentences), (1, 0)), highlight=False)
    surprises = [outcome for outcome in outcomes if not outcome.as_expected]
    if not surprises:
        console.print("Every status is the expected one.", style="bold green")
        return
    console.print(f"NOT as expected: {_count(len(surprises), 'outcome')}:", style="bold red", highlight=False)
    for o in surprises:
        text = f"  {o.check.statement}, {o.check.name}: {o.verdict.status}, expected {o.check.expected}. "
        console.print(Text(text + (o.verdict.witness or ""), style="red"))


def show_list(console: Console, checks: list[Check]) -> None:
    """Statements and claims, without checking them."""
    for statement, group in groupby(checks, key=lambda check: check.statement):
        console.print(Text.assemble(Text(statement, style="bold"), f"  {STATEMENTS[statement]}"))
        for check in group:
            expected = "" if check.expected in (Status.PROVED, Status.CONSISTENT) else f", expected {check.expected}"
            # What follows of a claim stands deeper than its beginning, which can so be told from it.
            claim = Text(f"{check.claim}  [{check.route}, {check.scope}{expected}]")
            first, *rest = claim.wrap(console, console.width - 4)
            console.print(Text("  ").append(first))
            for line in rest:
                console.print(Text("    ").append(line))
    statements = len({check.statement for check in checks})
    text = f"{_count(len(checks), 'check')} of {_count(statements, 'statement')}"
    console.print(text, style="bold", highlight=False)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
