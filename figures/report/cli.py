"""`gsgd report`: one page of all recorded results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

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


def run(options: argparse.Namespace) -> int:
    """`gsgd report`: returns 0 when the page was written."""
    from figures import write
    from figures.report import page
    from figures.results import Results

    results = Results.of(options.results)
    text = page.make(results, _progress)
    path = write.write_whole((options.out or results.folder) / FILE, text.encode("utf-8", "backslashreplace"))
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    print(path.resolve().as_uri())
    return 0


def _progress(number: int, count: int, name: str, seconds: float) -> None:
    print(f"[{number:2}/{count}] {name:18} {seconds:4.1f} s", file=sys.stderr, flush=True)
