"""What the command lines share: how they are described, numbers with their ranges, and how they refuse."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "accelerate", "pyarrow", "PIL", "tensorboard"), "train"),
    **dict.fromkeys(("datasets", "pydantic"), "train"),
    **dict.fromkeys(("matplotlib", "pandas"), "figures"),
    **{"numba": "fast", "flint": "rigorous", "PEPit": "worst-case", "cvxpy": "worst-case", "clarabel": "worst-case"},
}
"""Package -> the extra that installs it."""


def command(name: str, description: str, examples: str, usage: str | None = None) -> argparse.ArgumentParser:
    """The parser of `gsgd NAME`; its help ends with examples. Options are not abbreviated: `--seed` may be a key."""
    return argparse.ArgumentParser(
        prog=f"gsgd {name}",
        usage=usage,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def parse_keys(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """(the parser's own options, key -> value of every other `--key value`); dashes in a key count as underscores."""
    rest = parser.parse_known_args(arguments)[1]
    names = dict.fromkeys(word.partition("=")[0] for word in rest if word.startswith("--"))
    for name in names:
        parser.add_argument(name, dest=f"key {name}", metavar="VALUE")
    options = parser.parse_args(arguments)
    keys = {name[2:].replace("-", "_"): vars(options).pop(f"key {name}") for name in names}
    return options, keys


def whole(least: int) -> Callable[[str], int]:
    """Reads a whole number of at least `least`, for argparse."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least {least}")
        return int(text)

    return read


def wholes(least: int) -> Callable[[str], list[int]]:
    """Reads such numbers with commas between them."""
    return lambda text: [whole(least)(part.strip()) for part in text.split(",")]


def number(rule: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    """Reads a number for which `holds` is true; `rule` says so in words, such as "in [0, 1)"."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} must be a number {rule}")
        return value

    return read


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'gsgd[{extra}]'"


def refuse(name: str, error: Exception) -> int:
    """Say on standard error why `gsgd NAME` cannot be carried out, and what to install; returns the exit code, 2."""
    hint = ""
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").partition(".")[0])):
        hint = f" ({install(extra)})"
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        print(f"gsgd {name}: {error}{hint}", file=sys.stderr)
    return 2
