"""The command line: one parser with subcommands, of which only the one that is called is imported.

A subcommand is a module with `add_options(parser)` and `run(options)`, which returns the exit code. So `gsgd --help` is
quick, and a command needs the extras of its own package alone.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gsgd import __version__
from gsgd.commands.arguments import in_words, name_keys, take_keys
from gsgd.commands.terminal import HelpFormatter
from gsgd.results import check_writable

BENCH: dict[str, tuple[Any, str]] = {
    "step": ("training.bench.cli", "what selection adds to a training step, beside its arithmetic"),
    "gpu": ("training.bench.gpu", "the same of the cases that matter on a GPU, in one go"),
    "simulate": ("gsgd.commands.bench", "simulation speed against the alternatives"),
}
COMMANDS: dict[str, tuple[Any, str]] = {
    "reproduce": ("gsgd.commands.reproduce", "all of it, resumable: checks, small comparisons, figures, report"),
    "verify": ("theory.cli", "check every statement of the paper: what holds, and how tightly"),
    "examine": ("theory.examination.cli", "what the theorems promise on your own data, beside runs"),
    "train": ("training.cli", "train BERT or ResNet by a configuration, with or without selection"),
    "compare": ("training.comparison.cli", "train several methods on one budget and report with intervals"),
    "diagnose": ("training.diagnose.cli", "measure whether selection can help a model, and at which exit"),
    "figures": ("figures.cli", "draw figures and tables of results, the paper's numbers beside ours"),
    "report": ("figures.report.cli", "make one page of all results: statements, errata, figures, runs"),
    "bench": (BENCH, "measure a training step (step, gpu) or simulation (simulate)"),
}
"""Command -> (its module, or its own commands; one line of help)."""
IMPORTED = {"training": ("training", "theory")}
"""Package of a command -> what it imports of ours, where that is more than itself."""

EXAMPLES = """\
examples:
  gsgd reproduce                        all of it, about five minutes on two cores
  gsgd verify                           all statements, a minute at most on two cores
  gsgd verify --only "Theorem 5.7"      one statement
  gsgd verify --list                    what would be checked
  gsgd examine data.csv --loss logistic --target y --ridge 0.1
  gsgd train bert-tiny                  a small BERT on what comes with the package, two minutes
  gsgd compare resnet-tiny --methods baseline,random,loss@1 --budget 60s
  gsgd diagnose bert-tiny               whether selection can help it, and at which exit
  gsgd bench step                       what selection costs a step of BERT-base
  gsgd bench simulate                   simulation speed against plain NumPy

`gsgd COMMAND --help` explains a command.
"""


class Command(argparse.ArgumentParser):
    """A parser whose options are added by a module when it is called, or which has commands of its own.

    Args:
        inside: the name of the module, or the commands.
    """

    def __init__(self, inside: str | Mapping[str, tuple[Any, str]], epilog: str = "", **settings: Any):
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **settings)
        self.inside = inside
        if not isinstance(inside, str):
            commands = self.add_subparsers(metavar="COMMAND", required=True, help=argparse.SUPPRESS)
            for name, (its, _) in inside.items():
                commands.add_parser(name, inside=its)
            self.usage = f"{self.prog} COMMAND [options]"
            lines = [f"  {name:11}{text}\n" for name, (_, text) in inside.items()]
            self.epilog = f"commands:\n{''.join(lines)}\n{epilog}"

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As of any parser. Options that a command does not know are refused, unless they are keys that it takes."""
        if not isinstance(self.inside, str):
            if args and not args[0].startswith("-") and args[0] not in self.inside:
                near = difflib.get_close_matches(args[0], self.inside, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(self.inside)}"
                self.error(f"no command {args[0]!r}; {hint}")
            return super().parse_known_args(args, namespace)
        try:
            module = imported(self.inside)
        except ImportError as error:
            self.exit(2, f"{self.prog}: {in_words(error)}\n")
        module.add_options(self)
        has_keys = self.get_default("key_values") is not None
        if has_keys:
            name_keys(self, args)
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        if has_keys:
            take_keys(options)
        options.command = (self.prog, module)
        return options, []


def imported(name: str) -> ModuleType:
    """The module of that name, of the packages that were installed beside this one.

    Raises:
        ImportError: if another folder or file hides one of them, naming it and the remedy; or if something is missing.
    """
    home, package = Path(__file__).resolve().parents[1], name.partition(".")[0]
    for wanted in IMPORTED.get(package, (package,)):
        spec = importlib.util.find_spec(wanted)
        place = Path(spec.origin).resolve() if spec and spec.origin else home / wanted
        if not place.is_relative_to(home / wanted):
            place = place.parent if place.name == "__init__.py" else place
            raise ImportError(
                f"{place} hides gsgd's own package `{wanted}`: set PYTHONSAFEPATH=1, or call from another folder"
            )
    return importlib.import_module(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; 2 for bad usage, and for what is missing or malformed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    about = "Greedy SGD with approximate losses: the theory checked, and the tools to use it."
    parser = Command(COMMANDS, EXAMPLES, prog="gsgd", description=about)
    parser.add_argument("--version", action="version", version=f"gsgd {__version__}")
    if not words:
        parser.print_help()
        return 2
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # torch, which is not imported yet, would print its stack where another process is gone, before our sentence.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        options = parser.parse_args(words)
        prog, module = vars(options).pop("command")
        if (path := getattr(options, "json", None)) is not None:
            check_writable(path)
        code: int = module.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("gsgd: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python would say so once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ModuleNotFoundError) as error:
        # Of several processes one speaks, unless that one may be gone.
        if os.environ.get("RANK", "0") == "0" or isinstance(error, ConnectionError):
            print(f"{prog}: {in_words(error)}", file=sys.stderr)
        return 2
