"""`gsgd report` writes one page of all recorded results."""

from __future__ import annotations

import argparse
from pathlib import Path

from figures.cli import add_jobs, progress

FILE = "report.html"
EXAMPLES = """\
examples:
  gsgd report                                 all that results/ and recorded/ have, as results/report.html
  gsgd report --results runs/ --out site/     other results, as site/report.html

Results come from `gsgd verify` (the theory's), `gsgd train` and `gsgd compare`; any of them may be missing. What was
made here (results/) comes before what the project recorded (recorded/), and the page says which is which. The page
is one file that asks nothing of the network: a summary, every check with status, claim and slack to be sorted and
filtered, the sentences of the print that are wrong, all figures and tables, and the runs that made them. The same
results make the same page, byte for byte.

exit code: 0 when the page was written, 2 for bad usage and for missing or malformed results
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gsgd report`."""
    parser.description, parser.epilog = "Make one self-contained page of HTML of recorded results.", EXAMPLES
    parser.add_argument("--results", type=Path, metavar="DIR", help="this folder alone (default: results and recorded)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: the folder of the results, not recorded")
    add_jobs(parser)


def run(options: argparse.Namespace) -> int:
    """`gsgd report`: returns 0 when the page was written."""
    from figures.report import page
    from figures.results import Results
    from gsgd.results import check_writable, write_atomic

    if options.out is not None:
        check_writable(options.out / FILE)
    results = Results.of(options.results)
    path = (options.out or results.folder) / FILE
    check_writable(path)
    text = page.make(results, progress, jobs=options.jobs)
    write_atomic(path, text.encode("utf-8", "backslashreplace"))
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    print(path.resolve().as_uri())
    return 0
