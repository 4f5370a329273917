"""What the command lines share: keys of a configuration, numbers with their ranges, and what to install."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from gsgd.results import disk_trouble

EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "accelerate", "pyarrow", "PIL", "tensorboard"), "train"),
    **dict.fromkeys(("datasets", "pydantic"), "train"),
    **dict.fromkeys(("matplotlib", "pandas"), "figures"),
    "jinja2": "figures",
    **{"numba": "fast", "flint": "rigorous", "PEPit": "worst-case", "cvxpy": "worst-case", "clarabel": "worst-case"},
}
"""Package -> the extra that installs it."""


def add_keys(parser: argparse.ArgumentParser, help: str) -> None:
    """Let a command take every key of a configuration as an option: `name_keys` and `take_keys` read them."""
    parser.add_argument("--KEY", metavar="VALUE", help=help)
    parser.set_defaults(key_values={})


def name_keys(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Make options of all `--key` among the words that the parser does not know, wherever they stand."""
    names = dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--"))
    for name in names:
        if name not in ("--", *parser._option_string_actions):
            parser.add_argument(name, dest=f"key {name}", metavar="VALUE", help=argparse.SUPPRESS)


def take_keys(options: argparse.Namespace) -> None:
    """Collect the keys that were given in `options.key_values`, key -> value; dashes in a key count as underscores."""
    named = {name: value for name, value in vars(options).items() if name.startswith("key --")}
    for name in named:
        delattr(options, name)
    literal = vars(options).pop("KEY")  # it stands for others in the help, and is none itself
    options.key_values = {name.removeprefix("key --").replace("-", "_"): value for name, value in named.items()}
    options.key_values |= {} if literal is None else {"KEY": literal}


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


def in_words(error: Exception) -> str:
    """What an error says, in one sentence, and what helps: the line that installs a package, the room on a disk."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return disk_trouble(error)
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return f"{error} ({install(EXTRAS[missing])})" if missing in EXTRAS else str(error)
