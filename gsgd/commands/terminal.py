"""Text that fits a terminal: prose is filled, and lines of two columns keep these or stand below each other.

Where there is no terminal, 80 columns are taken for its width, or what COLUMNS says.
"""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

WIDEST = 120
"""Longer lines are hard to read, however wide a terminal is."""
NARROWEST_SECOND = 34
"""Columns that the second of two needs at least; else it stands below the first."""
BELOW = 6
"""The indentation of what a usage goes on with."""
TIED = "\N{NO-BREAK SPACE}"


def columns() -> int:
    """Columns of a line."""
    return min(WIDEST, shutil.get_terminal_size((80, 24)).columns)


def fitted(text: str, width: int | None = None) -> str:
    """A text whose lines have at most so many columns, but for single words that are longer.

    Unindented lines are prose and are filled. Indented ones stand for themselves: what follows a gap of two blanks or
    more is a second column, which goes on in lines below that begin where it does. A command goes on in the next line
    after a backslash.

    Args:
        width: the number of columns; by default the terminal's.
    """
    width = columns() if width is None else width
    return "\n".join(line for block in _blocks(text.rstrip("\n").split("\n")) for line in _fitted_block(block, width))


def two_columns(rows: Iterable[tuple[str, str]], width: int | None = None, indent: int = 0) -> str:
    """Lines of two columns, the second of which goes on below itself, or below the first if there is no room.

    Args:
        width: as of `fitted`.
        indent: of the first column.
    """
    return "\n".join(_in_columns([(indent, *row) for row in rows], columns() if width is None else width))


class HelpFormatter(argparse.HelpFormatter):
    """Descriptions and examples of a command as they were written, if they fit the terminal; else fitted to it."""

    def __init__(self, prog: str):
        super().__init__(prog, width=columns() - 2)

    def _format_usage(self, *given: Any) -> str:
        usage = super()._format_usage(*given)
        return "\n".join(_usage(line, self._width) for line in usage.split("\n"))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.indent(fitted(text, width - len(indent)), indent)


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Lines that belong together: of prose, or indented ones."""
    block: list[str] = []
    for line in lines:
        if block and (not line.strip() or not block[0].strip() or line.startswith(" ") != block[0].startswith(" ")):
            yield block
            block = []
        block.append(line)
    if block:
        yield block


def _fitted_block(block: list[str], width: int) -> list[str]:
    if all(len(line) <= width for line in block):
        return block
    if not block[0].startswith(" "):
        return _filled(" ".join(block), width, "", "")
    return _in_columns(_rows(block), width)


def _rows(block: list[str]) -> list[tuple[int, str, str]]:
    """(indentation, first column, second or nothing) of each entry of a block of indented lines."""
    rows: list[tuple[int, str, str]] = []
    second_at = -1
    for line in block:
        indent = _indent(line)
        found = re.match(r"(.*?\S)(?: {2,}(\S.*))?$", line.strip())
        left, right = (found[1], found[2] or "") if found else ("", "")
        if rows and rows[-1][1].endswith("\\"):
            before, first, _ = rows.pop()
            indent, left = before, f"{first[:-1].rstrip()} {left}"
        elif rows and indent == second_at:
            before, first, second = rows.pop()
            rows.append((before, first, f"{second} {line.strip()}"))
            continue
        second_at = line.rindex(right) if right else -1
        rows.append((indent, left, right))
    return rows


def _in_columns(rows: list[tuple[int, str, str]], width: int) -> list[str]:
    at = 2 + max((indent + len(left) for indent, left, right in rows if right), default=0)
    beside = width - at >= NARROWEST_SECOND
    lines: list[str] = []
    for indent, left, right in rows:
        first = _command(indent, left, width)
        if not right:
            lines += first
        elif beside:
            second = _wrapped(right, width, at)
            lines += [first[0].ljust(at) + second[0].lstrip(), *second[1:]]
        else:
            lines += [*first, *_wrapped(right, width, indent + 4)]
    return lines


def _command(indent: int, text: str, width: int) -> list[str]:
    """A line, or several that a shell takes for one."""
    if indent + len(text) <= width:
        return [" " * indent + text]
    # An option stays with its value.
    joined = re.sub(r"(?<= )(--?[A-Za-z]\S*) (?=[^-\s])", rf"\1{TIED}", text)
    *lines, last = _filled(joined, width - 2, " " * indent, " " * (indent + 4))
    return [*(f"{line} \\" for line in lines), last]


def _usage(line: str, width: int) -> str:
    """A line of usage in lines in which no option in brackets is broken; they begin behind the command's name."""
    if len(line) <= width:
        return line
    joined = re.sub(r"\[[^][]*\]|--\S+ [A-Z]\S*", lambda found: found[0].replace(" ", TIED), line)
    name = re.match(r"(usage: | *)(gsgd( [a-z]+)*) ", line)
    return "\n".join(_filled(joined.strip(), width, " " * _indent(line), " " * (name.end() if name else BELOW)))


def _wrapped(text: str, width: int, indent: int) -> list[str]:
    return _filled(text, width, " " * indent, " " * indent)


def _filled(text: str, width: int, first: str, others: str) -> list[str]:
    lines = textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(TIED, " ") for line in lines]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
