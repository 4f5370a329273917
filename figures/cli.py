"""`gsgd figures` draws what there are results for."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  gsgd figures                                  all that there is data for, into results/figures/
  gsgd figures figure_1 table_2                 these
  gsgd figures --format svg,pdf --out paper/    for print
  gsgd figures --size screen --format png       larger, for slides
  gsgd figures --list                           what there is, and from what it is made

Results come from `gsgd verify` (the theory's), `gsgd train` and `gsgd compare`: what was made here (results/) comes
before what the project recorded (recorded/), and it is said which is which. A figure whose data is not there is
left out and listed with the reason; if it was asked for by name, that is an error. A figure of many comparisons that
would be much taller than a screen is several, NAME, NAME-2 and so on. In tables the paper's own numbers stand beside
ours and are called the paper's; a dash is what was not run. The same results make the same SVG, byte for byte.

exit code: 0 when all was drawn that could be, 2 for bad usage and for missing or malformed results
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gsgd figures`."""
    parser.description, parser.epilog = "Draw figures and tables from recorded results.", EXAMPLES
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures and tables (default: all)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="this folder alone (default: results and recorded)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: the folder figures in the results")
    parser.add_argument("--format", default="png,svg", help="of figures: png, svg, pdf (default png,svg)")
    parser.add_argument("--size", default="print", choices=("print", "screen"), help="of png and svg (default print)")
    add_jobs(parser)
    parser.add_argument("--list", action="store_true", help="list figures and tables, and what they are made from")


def run(options: argparse.Namespace) -> int:
    """`gsgd figures`: returns 0 when all was drawn that could be."""
    from figures import drawing
    from figures.checked import Missing
    from figures.registry import ENTRIES, named
    from figures.results import Results
    from gsgd.results import check_writable

    entries = [ENTRIES[name] for name in dict.fromkeys(map(named, options.names))] or list(ENTRIES.values())
    if options.list:
        for entry in entries:
            made_from = ", ".join((*entry.needs, *(f"{name} if any" for name in entry.takes)))
            print(_beside(f"{entry.name:22}{entry.kind:8}", entry.shows))
            print(_beside(" " * 30, f"from {made_from}"))
        return 0
    formats = _formats(options.format)
    if options.out is not None:
        check_writable(options.out / f"{entries[0].name}.{formats[0]}")
    results = Results.of(options.results)
    # All is read before anything is drawn: malformed results stop it with nothing half replaced.
    ready: list[tuple[Any, list[Any]]] = []
    left_out: list[tuple[str, str]] = []
    for entry in entries:
        try:
            ready.append((entry, entry.read(results)))
        except Missing as missing:
            left_out.append((entry.name, str(missing.args[0])))
    folder = options.out or results.folder / "figures"
    check_writable(folder / f"{entries[0].name}.{formats[0]}")
    written: list[Path] = []
    each = [(entry, tables, folder, formats, options.size) for entry, tables in ready]
    for number, ((entry, *_), (files, seconds)) in enumerate(
        zip(ready, drawing.made(_make, each, jobs=options.jobs), strict=True), start=1
    ):
        if isinstance(files, Missing):
            left_out.append((entry.name, str(files.args[0])))
            continue
        written += files
        kinds = " ".join(dict.fromkeys(path.suffix[1:] for path in files))
        progress(number, len(ready), f"{entry.name:22}{kinds:12}", seconds)
    for path in written:
        print(path)
    if len(results.folders) > 1:
        for origin in dict.fromkeys(results.origins.values()):
            names = [name for name, its in results.origins.items() if its == origin]
            print(_beside(f"{origin}: ", ", ".join(names), 2), file=sys.stderr)
    if left_out:
        print(f"left out ({len(left_out)}):", file=sys.stderr)
        for name, reason in left_out:
            print(_beside(f"  {name:22}", reason), file=sys.stderr)
    if options.names and left_out:
        raise ValueError(f"no data for {', '.join(name for name, _ in left_out)}: {left_out[0][1]}")
    return 0


def _beside(first: str, text: str, indent: int | None = None) -> str:
    """Text behind what a line begins with, in lines that fit the terminal; further ones are indented as far, or so."""
    after = " " * (len(first) if indent is None else indent)
    width = min(120, shutil.get_terminal_size((80, 24)).columns)
    return "\n".join(textwrap.wrap(first + text, width, subsequent_indent=after, break_on_hyphens=False))


def progress(number: int, count: int, made: str, seconds: float) -> None:
    """Print a line on what was made, and how long it took."""
    print(f"[{number:2}/{count}] {made:18} {seconds:4.1f} s", file=sys.stderr, flush=True)


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """The option `--jobs`, of commands that draw many figures."""
    parser.add_argument(
        "--jobs",
        type=_jobs,
        default=os.cpu_count() or 1,
        metavar="N",
        help="figures drawn at a time (default: as many as processors)",
    )


def _jobs(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _make(entry: Any, tables: list[Any], folder: Path, formats: list[str], size: str) -> list[Path]:
    from figures import pages, style, write

    with style.sheet():
        if entry.kind == "table":
            return write.save_table(entry.make(*tables), folder, entry.name, entry.shows)
        return [
            path
            for number, figure in enumerate(entry.pictures(*tables), start=1)
            for path in write.save_figure(figure, folder, pages.name(entry.name, number), formats, size)
        ]


def _formats(text: str) -> list[str]:
    from figures.write import FORMATS

    formats = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not formats:
        raise ValueError(f"--format {text!r} names no format; there are: {', '.join(FORMATS)}")
    for format in formats:
        if format not in FORMATS:
            raise ValueError(f"--format {format}: there is {', '.join(FORMATS)}")
    return list(dict.fromkeys(formats))
