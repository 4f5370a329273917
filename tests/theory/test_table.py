"""How outcomes read in a terminal of 80 columns."""

import io

import pytest
from rich.console import Console

from theory import table
from theory.verdict import Route, Status, Verdict
from theory.verify import Outcome, all_checks


@pytest.fixture(scope="module")
def outcomes():
    """Of every route a check that came out with one status after the other, whatever it would have found."""
    found = []
    for check in all_checks():
        if len(found) < 4 * len(Route) and sum(o.check.route is check.route for o in found) < 4:
            status = list(Status)[len(found) % len(Status)]
            witness = f"w = {len(found)}" if status in (Status.REFUTED, Status.ASSUMPTION_VIOLATED) else None
            found.append(Outcome(check, Verdict(status=status, value=1.0, bound=2.0, slack=1.0, witness=witness), 0.5))
    assert {outcome.check.route for outcome in found} == set(Route)
    assert {outcome.verdict.status for outcome in found} == set(Status)
    return found


def printed(show, *arguments, **options):
    file = io.StringIO()
    show(Console(file=file, width=80), *arguments, **options)
    return file.getvalue()


def test_the_counts_fit_80_columns_with_every_route_and_status_in_full(outcomes):
    text = printed(table.show_summary, outcomes, alpha=1e-6, seconds=60.0)
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    heading, _, *lines = [line.split() for line in text.strip().splitlines()]
    assert heading == ["proved", "consistent", "refuted", "violated", "inconclusive", "all"]
    rows = {line[0]: line for line in lines[: len(Route)]}
    assert set(rows) == {str(route) for route in Route}
    for route in Route:
        assert rows[str(route)][-1] == str(sum(outcome.check.route is route for outcome in outcomes))
    total = next(line for line in lines if line[:1] == ["all"])
    assert [int(cell) for cell in total[1:]] == [
        *(sum(outcome.verdict.status is status for outcome in outcomes) for status in Status),
        len(outcomes),
    ]


def test_outcomes_and_the_list_fit_80_columns(outcomes):
    text = printed(table.show, outcomes)
    assert max(map(len, text.splitlines())) <= 80
    text = printed(table.show_list, all_checks())
    assert max(map(len, text.splitlines())) <= 80
