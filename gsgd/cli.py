"""The front door: `gsgd COMMAND ...` hands over to the command line of the room that does the work.

Rooms are imported only when their command is called, so `gsgd --help` is quick and needs none of their extras.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from gsgd import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "reproduce": ("gsgd.reproduce.cli", "all of it, resumable: checks, small comparisons, figures, the report"),
    "verify": ("theory.cli", "check every statement of the paper and print what holds, and how tightly"),
    "train": ("training.cli", "train BERT or ResNet, with or without selection, by a configuration"),
    "compare": ("training.comparison.cli", "train several methods on one budget and report with intervals"),
    "diagnose": (
        "training.diagnose.cli",
        "measure whether selection can help a model, and at which exit, beside the theory",
    ),
    "figures": ("figures.cli", "draw figures and tables from recorded results, with the paper's numbers beside ours"),
    "report": ("figures.report.cli", "make one page of all recorded results: statements, errata, figures and runs"),
    "bench step": ("training.bench.cli", "measure what selection adds to a training step, beside its arithmetic"),
    "bench simulate": ("gsgd.bench", "measure simulation speed against the alternatives"),
}
"""Command -> (module with `main(arguments) -> exit code`, one line of help)."""


def usage() -> str:
    """What `gsgd --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gsgd COMMAND [options]",
            "",
            "Greedy SGD with approximate losses: the theory checked, and the tools to use it.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            "  gsgd reproduce                        all of it, under six minutes on two cores",
            "  gsgd verify                           all statements, a minute at most on two cores",
            '  gsgd verify --only "Theorem 5.7"      one statement',
            "  gsgd verify --list                    what would be checked",
            "  gsgd train bert-tiny                  a small BERT on what comes with the package, two minutes",
            "  gsgd compare resnet-tiny --methods baseline,random,loss@1 --budget 60s",
            "  gsgd diagnose bert-tiny               whether selection can help it, and at which exit",
            "  gsgd bench step                       what selection costs a step of BERT-base",
            "  gsgd bench simulate                 simulation speed against plain NumPy",
            "",
            "`gsgd COMMAND --help` explains a command. `gsgd --version` prints the version.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; 2 for a command that does not exist."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"gsgd {__version__}")
        return 0
    words = 2 if any(command.startswith(f"{arguments[0]} ") for command in COMMANDS) else 1
    command = " ".join(arguments[:words])
    if command not in COMMANDS:
        print(f"gsgd: no command {command!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    room = importlib.import_module(COMMANDS[command][0])
    try:
        code = room.main(arguments[words:])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("gsgd: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python would say so once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
