"""`gsgd examine`: the theorems applied to a linear model on a CSV file."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from gsgd.commands.arguments import number, whole
from gsgd.commands.terminal import columns
from gsgd.results import check_writable, command_line, provenance, write_atomic, write_json
from theory.examination.data import read_csv
from theory.examination.examine import examine

EXAMPLES = """\
examples:
  gsgd examine data.csv --loss logistic --target y --ridge 0.1
  gsgd examine data.csv --loss squared --target price --R 8 --K 2000 --plot curves.svg

Columns are brought to mean 0 and standard deviation 1, and one of ones is added, unless --raw.

exit code: 0 if no measurement contradicts a bound, 1 if one does, 2 for bad usage or data
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gsgd examine`."""
    parser.description = (
        "Look at the assumptions of the theorems on your own data, evaluate their bounds, run SGD and GSGD "
        "beside them, and say whether selection is promised a gain."
    )
    parser.epilog = EXAMPLES
    positive = number("above 0, and finite", lambda value: 0 < value < float("inf"))
    not_negative = number("of at least 0, and finite", lambda value: 0 <= value < float("inf"))
    parser.add_argument(
        "data", type=Path, metavar="DATA.csv", help="numbers under a heading; commas, semicolons or tabs"
    )
    parser.add_argument("--loss", choices=("logistic", "squared"), required=True, help="of the linear model")
    parser.add_argument("--target", required=True, metavar="COLUMN", help="the column that is predicted")
    ridge = "(MU / 2) |w|^2 is added to every loss (default 0)"
    parser.add_argument("--ridge", type=not_negative, default=0.0, metavar="MU", help=ridge)
    parser.add_argument("--raw", action="store_true", help="take the columns as they are")
    parser.add_argument("--K", type=whole(2), default=1000, help="steps (default 1000)")
    parser.add_argument("--R", type=whole(1), default=2, help="candidates a step (default 2)")
    parser.add_argument("--k", type=whole(1), default=1, help="of them trained on (default 1)")
    eta = "step size (default: the best for GSGD's bound at K steps)"
    parser.add_argument("--eta", type=positive, help=eta)
    parser.add_argument("--sigma", type=not_negative, default=0.0, help="normal noise of the scores (default 0)")
    parser.add_argument("--runs", type=whole(2), default=32, help="simulated runs of either method (default 32)")
    parser.add_argument("--seed", type=whole(0), default=0, help="whole number >= 0 (default 0)")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw the curves there, such as curves.svg")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what was found there, too")


def run(options: argparse.Namespace) -> int:
    """`gsgd examine`: returns 0 if no measurement contradicts a bound, 1 if one does."""
    plot = None if options.plot is None else _picture(options.plot)
    found = examine(
        loss=options.loss,
        data=read_csv(options.data, target=options.target, raw=options.raw),
        ridge=options.ridge,
        K=options.K,
        R=options.R,
        k=options.k,
        eta=options.eta,
        noise=options.sigma,
        runs=options.runs,
        seed=options.seed,
    )
    print(found.text(columns()))
    if plot is not None:
        drawn = io.BytesIO()
        found.plot().figure.savefig(drawn, format=plot.suffix[1:].lower())
        print(f"Written: {write_atomic(plot, drawn.getvalue())}")
    if options.json is not None:
        header = {**provenance(), "command": command_line(), "data": str(options.data), "seed": options.seed}
        print(f"Written: {write_json(options.json, {'header': header, **found.record()})}")
    return 0 if all(bound.holds for bound in found.bounds) else 1


def _picture(path: Path) -> Path:
    """Where the curves are drawn; found wanting before anything is computed."""
    from matplotlib.backend_bases import FigureCanvasBase

    path = path if path.suffix else path.with_name(f"{path.name}.png")
    if path.suffix[1:].lower() not in FigureCanvasBase.filetypes:
        raise ValueError(f"--plot {path} must end in one of .{', .'.join(sorted(FigureCanvasBase.filetypes))}")
    check_writable(path)
    return path
