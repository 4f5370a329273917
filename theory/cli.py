"""`gsgd verify`: run the checks, show the table, write the results."""

from __future__ import annotations

import argparse
import difflib
import os
import time
from collections import Counter
from pathlib import Path

from rich.console import Console

from gsgd.commands.arguments import install, number, whole
from gsgd.commands.console import bar
from gsgd.commands.terminal import fitted
from gsgd.results import check_writable, command_line, provenance, write_json
from theory import curves, table
from theory.checks import missing
from theory.statements import STATEMENTS
from theory.verdict import Check
from theory.verify import Outcome, all_checks, alpha_per_check, run_checks

EXAMPLES = """\
examples:
  gsgd verify                                          every statement; results go to results/theory/
  gsgd verify --only "Theorem 5.7" "Lemma C.1"         these statements
  gsgd verify --list                                   what would be checked, and by which route
  gsgd verify --seed 7 --alpha 1e-9 --json out.json    other samples, a stricter error probability

status:
  proved               closed form, exact enumeration, ball arithmetic or a dual certificate leaves no doubt
  consistent           samples do not contradict the claim (all together err with probability <= alpha), or numerical
                       methods do not, to a tolerance
  refuted              false; for sentences of the print that are wrong this is the expected outcome
  assumption-violated  a hypothesis is broken; the expected outcome of the controls
  inconclusive         neither, with the reason

scope:
  everywhere           over the whole range that the claim names
  instances            at the listed points or problems
  samples              at random samples

exit code: 0 if every status is the expected one, 1 if not, 2 for bad usage
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gsgd verify`."""
    parser.description = (
        "Check every statement of the paper by independent routes, and print what holds and how tightly."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("--only", nargs="+", metavar="STATEMENT", help='such as "Theorem 5.7"; --list names them all')
    parser.add_argument("--seed", type=whole(0), default=0, help="whole number >= 0 (default 0)")
    alpha = number("in (0, 0.1]", lambda value: 0 < value <= 0.1)
    error = "error probability of the whole run, in (0, 0.1] (default 1e-6)"
    parser.add_argument("--alpha", type=alpha, default=1e-6, help=error)
    parser.add_argument(
        "--jobs", type=whole(1), default=os.cpu_count() or 1, help="processes (default: as many as processors)"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the outcomes there, too")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--no-results", action="store_true", help="write nothing under --results")
    parser.add_argument("--list", action="store_true", help="list statements and claims without checking them")


def run(options: argparse.Namespace) -> int:
    """`gsgd verify`: returns 0 if every status is the expected one, 1 if not."""
    checks = all_checks()
    if options.only:
        checks = _choose(checks, options.only)
    console = Console()
    if options.list:
        table.show_list(console, checks)
        return 0
    if not options.no_results:
        check_writable(options.results / "theory" / "verify.json")
    start = time.perf_counter()
    outcomes = _run_with_progress(checks, options)
    about = {"command": command_line(), "seed": options.seed, "alpha": options.alpha}
    header = {**provenance(), **about, "alpha_per_monte_carlo_check": alpha_per_check(options.alpha)}
    content = {"header": header, "checks": [outcome.record() for outcome in outcomes]}
    written = []
    # A part of the checks must not replace the record of all of them.
    if not options.no_results and not options.only:
        written.append(write_json(options.results / "theory" / "verify.json", content))
        with console.status("tables for the figures"):
            folder = options.results / "theory"
            written += curves.write_all(folder, seed=options.seed, alpha=options.alpha)
            written += curves.write_worst_cases(folder, jobs=options.jobs)
    if options.json:
        written.append(write_json(options.json, content))
    table.show(console, outcomes)
    table.show_summary(console, outcomes, alpha=options.alpha, seconds=time.perf_counter() - start)
    for extra in missing():
        console.print(f"The extra {extra} would add checks: {install(extra)}", highlight=False, markup=False)
    if written:
        print(fitted(f"Written: {', '.join(map(str, written))}"))
    return 0 if all(outcome.as_expected for outcome in outcomes) else 1


def _run_with_progress(checks: list[Check], options: argparse.Namespace) -> list[Outcome]:
    counts: Counter[str] = Counter()
    with bar(Console(stderr=True), "checking", len(checks)) as progress:

        def done(outcome: Outcome) -> None:
            counts["as expected" if outcome.as_expected else "NOT as expected"] += 1
            progress.advance()
            said = ", ".join(f"{count} {name}" for name, count in counts.items())
            progress.note(f"{said}; {outcome.check.statement}")

        return run_checks(checks, seed=options.seed, alpha=options.alpha, jobs=options.jobs, done=done)


def _choose(checks: list[Check], wanted: list[str]) -> list[Check]:
    present = {check.statement.lower(): check.statement for check in checks}
    chosen = set()
    for name in wanted:
        if name.lower() not in present:
            near = difflib.get_close_matches(name, list(present.values()), n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
            known = " (the paper has it, but nothing checks it)" if name in STATEMENTS else ""
            raise ValueError(f"no statement {name!r}{known}{hint} `gsgd verify --list` names them all")
        chosen.add(present[name.lower()])
    return [check for check in checks if check.statement in chosen]
