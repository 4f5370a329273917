"""`gsgd report` writes one page of all recorded results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from figures.cli import attempt, existing, progress

FILE = "report.html"
EXAMPLES = """\
examples:
  gsgd report                                 all that results/ has, as results/report.html
  gsgd report --results runs/ --out site/     other results, as site/report.html

Results come from `gsgd verify` (the theory's), `gsgd train` and `gsgd compare`; any of them may be missing. The page
is one file that asks nothing of the network: a summary, every check with status, claim and slack to be sorted and
filtered, the sentences of the print that are wrong, all figures and tables, and the runs that made them. The same
results make the same page, byte for byte.

exit code: 0 when the page was written, 2 for bad usage and for missing or malformed results
"""


def parser() -> argparse.ArgumentParser:
    """The options of `gsgd report`."""
    arguments = argparse.ArgumentParser(
        prog="gsgd report",
        description="Make one self-contained page of HTML of recorded results.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    arguments.add_argument("--out", type=Path, metavar="DIR", help="default: the folder of the results")
    return arguments


def main(arguments: Sequence[str]) -> int:
    """`gsgd report`: returns 0 when the page was written, 2 for bad usage and for missing or malformed results."""
    options = parser().parse_args(arguments)
    return attempt("gsgd report", lambda: _report(options.results, options.out or options.results))


def _report(results: Path, out: Path) -> None:
    from figures.report import page
    from gsgd.results import write_atomic

    text = page.make(existing(results), progress)
    path = write_atomic(out / FILE, text.encode("utf-8", "backslashreplace"))
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    print(path.resolve().as_uri())
